//! `system.live_queries`: only the columns that are asked for, one by one, since there may be tens of thousands of rows.

use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};

use arrow::array::{
    ArrayRef, Int64Array, RecordBatch, RecordBatchOptions, StringViewArray, TimestampMicrosecondArray,
};
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use kalamdb_engine::DataType::{BigInt, Json, Text, Timestamp};
use kalamdb_engine::{SYSTEM_NAMESPACE, TIMEZONE};

use super::ComputedTable;
use crate::error::Result;
use crate::grid;
use crate::live::Listed;
use crate::statement::StatementContext;

/// How many subscriptions are looked at for one column after another: as many as stay in a processor's cache.
const PART: usize = 256;

/// `system.live_queries`: a plain user sees its own.
#[derive(Debug)]
pub(super) struct LiveQueries;

#[async_trait]
impl ComputedTable for LiveQueries {
    fn namespace(&self) -> &'static str {
        SYSTEM_NAMESPACE
    }

    fn name(&self) -> &'static str {
        "live_queries"
    }

    fn schema(&self) -> SchemaRef {
        static SCHEMA: OnceLock<SchemaRef> = OnceLock::new();
        let columns = [
            ("live_id", Text),
            ("connection_id", Text),
            ("subscription_id", Text),
            ("user_id", Text),
            ("namespace_id", Text),
            ("table_name", Text),
            ("query", Text),
            ("options", Json),
            ("state", Text),
            ("position_seq", BigInt),
            ("lag", BigInt),
            ("changes", BigInt),
            ("bytes_sent", BigInt),
            ("node_id", Text),
            ("created_at", Timestamp),
            ("updated_at", Timestamp),
        ];
        SCHEMA.get_or_init(|| grid::schema(&columns)).clone()
    }

    fn everyone(&self) -> bool {
        true
    }

    async fn rows(&self, ctx: &StatementContext) -> Result<RecordBatch> {
        let all: Vec<usize> = (0..self.schema().fields().len()).collect();
        self.columns(ctx, &all).await
    }

    async fn columns(&self, ctx: &StatementContext, wanted: &[usize]) -> Result<RecordBatch> {
        let user = (!ctx.is_dba()).then_some(&ctx.identity.user);
        let listed = ctx.instance.live().list(user);
        let node = ctx.instance.database().config().node_id.to_string();
        let schema = Arc::new(self.schema().project(wanted)?);
        let batch = |part: &[Listed]| {
            let columns = schema.fields().iter().map(|field| column(field.name(), part, &node)).collect();
            let options = RecordBatchOptions::new().with_row_count(Some(part.len()));
            RecordBatch::try_new_with_options(schema.clone(), columns, &options)
        };
        let parts: Vec<RecordBatch> = listed.chunks(PART).map(batch).collect::<Result<_, _>>()?;
        Ok(concat_batches(&schema, &parts)?)
    }
}

fn column(name: &str, listed: &[Listed], node: &str) -> ArrayRef {
    match name {
        "live_id" => texts(listed, |row| row.subscription().live_id.as_str()),
        "connection_id" => texts(listed, |row| row.entry().id.as_str()),
        "subscription_id" => texts(listed, |row| row.subscription().query.name.as_ref()),
        "user_id" => texts(listed, |row| row.entry().identity.user.as_str()),
        "namespace_id" => texts(listed, |row| row.subscription().table.namespace.as_str()),
        "table_name" => texts(listed, |row| row.subscription().table.name.as_str()),
        "query" => texts(listed, |row| row.subscription().text.as_ref()),
        "options" => Arc::new(StringViewArray::from_iter_values(listed.iter().map(Listed::options))),
        "state" => texts(listed, |row| row.state()),
        "position_seq" => counts(listed, |row| row.place().0),
        "lag" => counts(listed, |row| row.place().1),
        "changes" => counts(listed, |row| row.subscription().counters.changes.load(Ordering::Relaxed)),
        "bytes_sent" => counts(listed, |row| row.subscription().counters.bytes.load(Ordering::Relaxed)),
        "node_id" => Arc::new(StringViewArray::from_iter_values(listed.iter().map(|_| node))),
        "created_at" => times(listed, |row| row.entry().created_at),
        _ => times(listed, Listed::updated_at),
    }
}

fn texts<'a>(listed: &'a [Listed], text: impl Fn(&'a Listed) -> &'a str) -> ArrayRef {
    Arc::new(StringViewArray::from_iter_values(listed.iter().map(text)))
}

fn counts(listed: &[Listed], count: impl Fn(&Listed) -> u64) -> ArrayRef {
    let counts = listed.iter().map(|row| i64::try_from(count(row)).unwrap_or(i64::MAX));
    Arc::new(Int64Array::from_iter_values(counts))
}

fn times(listed: &[Listed], time: impl Fn(&Listed) -> i64) -> ArrayRef {
    let times = TimestampMicrosecondArray::from_iter_values(listed.iter().map(time));
    Arc::new(times.with_timezone(TIMEZONE))
}
