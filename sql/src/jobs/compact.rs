//! `COMPACT TABLE`.

use std::sync::Arc;

use kalamdb_engine::CompactionOutcome;
use serde_json::json;

use super::targets::targets;
use super::{About, start};
use crate::auth::Role;
use crate::dialect::Compact;
use crate::error::{Error, Result};
use crate::names;
use crate::session::Outcome;
use crate::statement::StatementContext;

/// Merges the Parquet files of a table, partition by partition, and drops what no snapshot sees any more.
///
/// # Errors
/// [`crate::ErrorCode::PermissionDenied`], [`crate::ErrorCode::TableNotFound`]; the engine's if a partition cannot be
/// compacted.
pub(crate) async fn compact(ctx: &Arc<StatementContext>, wanted: &Compact) -> Result<Outcome> {
    ctx.require(Role::Dba, "COMPACT")?;
    let work = targets(ctx, Some(&wanted.table), wanted.user.as_deref(), true).await?;
    let table = names::engine_table(ctx, &wanted.table)?;
    let about = About {
        kind: "compact",
        namespace: Some(table.namespace.to_string()),
        table: Some(table.name.to_string()),
        parameters: json!({"user": wanted.user, "partitions": work.len()}),
    };
    let instance = ctx.instance.clone();
    start(ctx, about, wanted.nowait, |progress| async move {
        progress.expect(work.len());
        let mut total = CompactionOutcome::default();
        for (table, user) in &work {
            let compacted = instance.database().compact(table, user.as_ref()).await.map_err(Error::from)?;
            total.add(compacted);
            progress.add_read(compacted.bytes_read);
            progress.add_written(compacted.bytes_written);
            progress.step()?;
        }
        Ok(json!({
            "partitions": work.len(),
            "segments_in": total.segments_in,
            "segments_out": total.segments_out,
            "rows_in": total.rows_in,
            "rows_out": total.rows_out,
            "bytes_read": total.bytes_read,
            "bytes_written": total.bytes_written,
        }))
    })
    .await
}
