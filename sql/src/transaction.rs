//! The transaction that `BEGIN` opened: what the statements up to `COMMIT` read and write.
//!
//! All of them see one catalog, one snapshot and one time, and what the statements before wrote. It lives in the session:
//! a request that ends, an error and a client that goes away leave nothing of it.

use std::sync::Arc;

use kalamdb_engine::{Catalog, Committed, Database, PartitionView, PartitionWrite, Snapshot, Table, UserId};
use tokio::sync::Mutex;

use crate::error::{Error, ErrorCode, Result};

/// See the module.
#[derive(Debug)]
pub(crate) struct Transaction {
    /// The tables there were when it began.
    pub(crate) catalog: Arc<Catalog>,
    /// What it sees of others.
    pub(crate) snapshot: Arc<Snapshot>,
    /// When it began: `NOW()` in all its statements.
    pub(crate) now_micros: i64,
    /// `None` once it ended.
    inner: Mutex<Option<kalamdb_engine::Transaction>>,
}

impl Transaction {
    /// Begins one at the newest durable commit.
    pub(crate) fn begin(database: &Arc<Database>) -> Self {
        // The catalog first, so that every table in it can be read at the snapshot.
        let catalog = database.catalog();
        let inner = database.begin();
        let snapshot = Arc::new(inner.snapshot().clone());
        Self { catalog, snapshot, now_micros: inner.time_us(), inner: Mutex::new(Some(inner)) }
    }

    /// A partition as the next statement sees it.
    ///
    /// # Errors
    /// The engine's, if the partition is damaged.
    pub(crate) async fn view(&self, table: &Arc<Table>, user: Option<&UserId>) -> Result<Arc<PartitionView>> {
        Ok(self.inner.lock().await.as_mut().ok_or_else(ended)?.view(table, user)?)
    }

    /// The owners of a USER table's partitions, those that it wrote to first included.
    ///
    /// # Errors
    /// An I/O error.
    pub(crate) async fn users_of(&self, table: &Table) -> Result<Vec<UserId>> {
        Ok(self.inner.lock().await.as_ref().ok_or_else(ended)?.users_of(table).await?)
    }

    /// Takes in what a statement writes. Until the commit its rows show the sequence and time returned.
    ///
    /// # Errors
    /// The engine's; the statement has changed nothing then.
    pub(crate) async fn write(
        &self,
        writes: Vec<PartitionWrite>,
    ) -> Result<Committed, kalamdb_engine::Error> {
        let mut inner = self.inner.lock().await;
        let inner = inner.as_mut().ok_or(kalamdb_engine::Error::Closed)?;
        inner.write(writes).await?;
        Ok(Committed { seq: inner.seq() + 1, time_us: inner.time_us() })
    }

    /// Commits; `None` if nothing was written.
    ///
    /// # Errors
    /// [`ErrorCode::Conflict`], [`ErrorCode::UniqueViolation`]; the transaction is rolled back then.
    pub(crate) async fn commit(&self) -> Result<Option<Committed>> {
        let inner = self.inner.lock().await.take().ok_or_else(ended)?;
        inner.commit().await.map_err(|error| advise(error.into()))
    }
}

/// Says of a conflict what to do: the client has answers of the transaction already, so it cannot begin anew by itself.
pub(crate) fn advise(error: Error) -> Error {
    match error.code {
        ErrorCode::Conflict => error.with_hint("run the transaction again, from BEGIN on"),
        _ => error,
    }
}

fn ended() -> Error {
    Error::new(ErrorCode::InvalidStatement, "the transaction has ended")
}
