//! The partition views that one statement reads: each partition is looked at once, so that every scan of a statement,
//! and the row addresses of one that writes, refer to the same chunks.

use std::collections::HashMap;
use std::sync::Arc;

use kalamdb_engine::{PartitionView, Table, TableId, UserId};
use tokio::sync::Mutex;

use crate::error::Result;
use crate::statement::StatementContext;

type Key = (TableId, Option<UserId>);

/// The views opened so far.
#[derive(Debug, Default)]
pub(crate) struct Scans {
    views: Mutex<HashMap<Key, Arc<PartitionView>>>,
}

impl Scans {
    /// The partition at the statement's snapshot, with the changes of the transaction it is in.
    ///
    /// # Errors
    /// The engine's, if the partition is damaged.
    pub(crate) async fn view(
        &self,
        ctx: &StatementContext,
        table: &Arc<Table>,
        user: Option<&UserId>,
    ) -> Result<Arc<PartitionView>> {
        let mut views = self.views.lock().await;
        let key = (table.id, user.cloned());
        if let Some(view) = views.get(&key) {
            return Ok(view.clone());
        }
        let view = match &ctx.transaction {
            Some(transaction) => transaction.view(table, user).await?,
            None => Arc::new(ctx.instance.database().view(&ctx.snapshot, table, user).await?),
        };
        views.insert(key, view.clone());
        Ok(view)
    }
}
