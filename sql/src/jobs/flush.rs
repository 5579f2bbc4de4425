//! `FLUSH TABLE` and `FLUSH ALL`.

use std::sync::Arc;

use kalamdb_engine::FlushOutcome;
use serde_json::json;

use super::targets::targets;
use super::{About, start};
use crate::auth::Role;
use crate::dialect::Flush;
use crate::error::{Error, Result};
use crate::names;
use crate::session::Outcome;
use crate::statement::StatementContext;

/// Flushes what the statement names, partition by partition.
///
/// # Errors
/// [`crate::ErrorCode::PermissionDenied`], [`crate::ErrorCode::TableNotFound`]; the engine's if a partition cannot be
/// flushed.
pub(crate) async fn flush(ctx: &Arc<StatementContext>, flush: &Flush) -> Result<Outcome> {
    ctx.require(Role::Dba, "FLUSH")?;
    let work = targets(ctx, flush.table.as_ref(), flush.user.as_deref())?;
    let table = flush.table.as_ref().map(|written| names::engine_table(ctx, written)).transpose()?;
    let about = About {
        kind: "flush",
        namespace: table.as_ref().map(|table| table.namespace.to_string()),
        table: table.as_ref().map(|table| table.name.to_string()),
        parameters: json!({"user": flush.user, "partitions": work.len()}),
    };
    let instance = ctx.instance.clone();
    start(ctx, about, flush.nowait, |progress| async move {
        progress.expect(work.len());
        let mut total = FlushOutcome::default();
        for (table, user) in &work {
            let flushed = match user {
                Some(_) => instance.database().flush(table, user.as_ref()).await,
                // All partitions of it, whoever owns them.
                None => instance.database().flush_table(table).await,
            };
            let flushed = flushed.map_err(Error::from)?;
            total.add(flushed);
            progress.add_written(flushed.bytes);
            progress.step()?;
        }
        Ok(json!({
            "partitions": total.partitions,
            "rows": total.rows,
            "bytes": total.bytes,
            "segments": total.segments,
            "flushed_seq": total.flushed_seq,
        }))
    })
    .await
}
