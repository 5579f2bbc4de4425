//! Transactions of several statements: a write set over one snapshot, with read-your-writes.
//!
//! A transaction reads the database as of its snapshot plus what it wrote itself. What it wrote is in memory of its own
//! until the commit, which writes the *net* change of every row as one log record: an update of a row that was updated
//! before is one update from the row as it was in the snapshot, a delete of a row that the transaction inserted leaves
//! nothing, and a row that is deleted and inserted again is updated. A crash before that record is durable leaves
//! nothing of the transaction, one after it leaves all of it.
//!
//! Statements are all or nothing ([`Transaction::write`]): keys are checked against the snapshot and the transaction's
//! own rows before anything changes. The commit checks again against everybody else: the first committer wins.
//!
//! `_seq` and `_updated` of rows that the transaction itself wrote are not known before the commit. Until then they show
//! the sequence after the snapshot, and the time when the transaction began.

mod changes;
mod statement;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::catalog::Table;
use crate::commit::Committed;
use crate::database::Database;
use crate::error::{Error, Result};
use crate::ids::{PartitionId, Seq, UserId};
use crate::snapshot::Snapshot;
use crate::view::PartitionView;
use crate::write::PartitionWrite;
use changes::Changes;

/// Bytes of rows that a transaction may write: as many as one log record holds. Versions that the transaction itself
/// replaced count too.
const MAX_BYTES: usize = kalamdb_wal::MAX_RECORD;

/// A transaction. Dropping it, or [`Transaction::rollback`], leaves nothing of it.
#[derive(Debug)]
pub struct Transaction {
    database: Arc<Database>,
    snapshot: Snapshot,
    time_us: i64,
    /// The partitions written to.
    parts: BTreeMap<PartitionId, Changes>,
    bytes: usize,
}

impl Database {
    /// Begins a transaction at the newest durable commit.
    pub fn begin(self: &Arc<Self>) -> Transaction {
        Transaction {
            database: self.clone(),
            snapshot: self.snapshot(),
            time_us: self.clock().now_micros(),
            parts: BTreeMap::new(),
            bytes: 0,
        }
    }
}

impl Transaction {
    /// The last commit of others that it sees.
    pub fn seq(&self) -> Seq {
        self.snapshot.seq()
    }

    /// When it began, microseconds since the epoch.
    pub fn time_us(&self) -> i64 {
        self.time_us
    }

    /// The owners of a USER table's partitions, sorted; those that it has written to first included.
    ///
    /// # Errors
    /// An I/O error.
    pub async fn users_of(&self, table: &Table) -> Result<Vec<UserId>> {
        let mut users: BTreeSet<UserId> = self.database.users_of(table).await?.into_iter().collect();
        users.extend(self.parts.keys().filter(|id| id.table == table.id).filter_map(|id| id.user.clone()));
        Ok(users.into_iter().collect())
    }

    /// Its snapshot.
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// A partition at the snapshot with the transaction's own changes so far. What it wrote later is not in it.
    ///
    /// # Errors
    /// [`Error::PartitionDamaged`] if the partition's files are not what was written; [`Error::Conflict`] if the table was
    /// altered since the transaction wrote to it.
    pub fn view(&mut self, table: &Arc<Table>, user: Option<&UserId>) -> Result<Arc<PartitionView>> {
        let id = PartitionId { table: table.id, user: user.cloned() };
        match self.parts.get_mut(&id) {
            Some(changes) => {
                changes.check_version(table)?;
                changes.view()
            }
            None => Ok(Arc::new(self.database.view_now(&self.snapshot, table, user)?)),
        }
    }

    /// Takes in what one statement writes, at most one entry per partition. Addresses are those of a
    /// [`Transaction::view`] that was taken after the statement before.
    ///
    /// # Errors
    /// [`Error::UniqueViolation`], [`Error::NotNullViolation`]; [`Error::Conflict`] if somebody else is known to have
    /// changed a key meanwhile; [`Error::TooLarge`] if the transaction would not fit one log record. The statement has
    /// changed nothing then, and the transaction can go on.
    pub async fn write(&mut self, writes: Vec<PartitionWrite>) -> Result<()> {
        match self.write_now(writes) {
            // The refusal may rest on a commit that is not durable yet; the client must not hear of it before.
            Err(error @ Error::UniqueViolation { .. }) => {
                self.database.until_visible(self.database.sequencer().applied()).await?;
                Err(error)
            }
            other => other,
        }
    }

    fn write_now(&mut self, writes: Vec<PartitionWrite>) -> Result<()> {
        let mut planned = BTreeMap::new();
        let mut bytes = self.bytes;
        for write in writes {
            let id = PartitionId { table: write.table.id, user: write.user.clone() };
            let (fresh, plan) = match self.parts.get(&id) {
                Some(changes) => (None, changes.plan(write)?),
                None => {
                    let base = match &write.view {
                        Some(view) => view.clone(),
                        None => Arc::new(self.database.view_now(
                            &self.snapshot,
                            &write.table,
                            write.user.as_ref(),
                        )?),
                    };
                    let changes = Changes::new(base, write.table.clone(), self.time_us);
                    let plan = changes.plan(write)?;
                    (Some(changes), plan)
                }
            };
            bytes += plan.bytes();
            if bytes > MAX_BYTES {
                return Err(Error::TooLarge(format!(
                    "a transaction can write {} MiB of rows, and this one would write more",
                    MAX_BYTES >> 20
                )));
            }
            if planned.insert(id, (fresh, plan)).is_some() {
                return Err(Error::internal("write", "two writes to one partition"));
            }
        }
        self.bytes = bytes;
        for (id, (fresh, plan)) in planned {
            let changes = match fresh {
                Some(changes) => self.parts.entry(id).or_insert(changes),
                None => self.parts.get_mut(&id).ok_or_else(|| Error::internal("write", "no partition"))?,
            };
            changes.apply(plan)?;
        }
        Ok(())
    }

    /// Commits; `None` if there is nothing to commit. When this returns the commit is durable and visible.
    ///
    /// # Errors
    /// [`Error::Conflict`] if a row that the transaction changed was changed by a commit after its snapshot, or a table
    /// was; [`Error::UniqueViolation`] if a key was taken meanwhile; otherwise as [`Database::commit`].
    pub async fn commit(self) -> Result<Option<Committed>> {
        let mut writes = Vec::with_capacity(self.parts.len());
        for changes in self.parts.into_values() {
            writes.extend(changes.into_write()?);
        }
        if writes.is_empty() {
            return Ok(None);
        }
        self.database.commit(writes).await.map(Some)
    }

    /// Ends the transaction without a trace.
    pub fn rollback(self) {}
}
