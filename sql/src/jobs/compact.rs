//! `COMPACT TABLE`.

use std::sync::Arc;

use kalamdb_engine::{CompactionOutcome, PartitionId, TableKind};
use serde_json::json;

use super::background::figures;
use super::targets::targets;
use super::{About, start};
use crate::auth::Role;
use crate::dialect::Compact;
use crate::error::{Error, Result};
use crate::names;
use crate::session::Outcome;
use crate::statement::StatementContext;

/// Merges the Parquet files of a table, partition by partition, and drops what no snapshot sees any more. Small partitions
/// of a USER table stay together in packs, which are merged last.
///
/// # Errors
/// [`crate::ErrorCode::PermissionDenied`], [`crate::ErrorCode::TableNotFound`]; the engine's if a partition cannot be
/// compacted.
pub(crate) async fn compact(ctx: &Arc<StatementContext>, wanted: &Compact) -> Result<Outcome> {
    ctx.require(Role::Dba, "COMPACT")?;
    let work = targets(ctx, Some(&wanted.table), wanted.user.as_deref())?;
    let table = names::engine_table(ctx, &wanted.table)?;
    let about = About {
        kind: "compact",
        namespace: Some(table.namespace.to_string()),
        table: Some(table.name.to_string()),
        parameters: json!({"user": wanted.user}),
    };
    let instance = ctx.instance.clone();
    start(ctx, about, wanted.nowait, |progress| async move {
        let database = instance.database();
        let mut total = CompactionOutcome::default();
        let mut add = |compacted: CompactionOutcome| {
            total.add(compacted);
            progress.add_read(compacted.bytes_read);
            progress.add_written(compacted.bytes_written);
            progress.step()
        };
        let all_users = work.iter().find(|(table, user)| table.kind == TableKind::User && user.is_none());
        let work = match all_users {
            None => work.clone(),
            Some((table, _)) => {
                // Together, so that those who have few rows get no files of their own.
                database.flush_table(table).await.map_err(Error::from)?;
                let owners = database.owners_on_disk(table).map_err(Error::from)?;
                owners.into_iter().map(|user| (table.clone(), Some(user))).collect()
            }
        };
        progress.expect(work.len() + usize::from(all_users.is_some()));
        for (table, user) in &work {
            progress.compacts(PartitionId { table: table.id, user: user.clone() })?;
            add(database.compact(table, user.as_ref()).await.map_err(Error::from)?)?;
        }
        if let Some((table, _)) = all_users {
            progress.compacts(PartitionId { table: table.id, user: None })?;
            add(database.compact_packs(table).await.map_err(Error::from)?)?;
        }
        let mut result = figures(&total);
        result["partitions"] = work.len().into();
        Ok(result)
    })
    .await
}
