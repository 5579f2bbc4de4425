//! Purging a user: every byte of one person's rows is gone when it returns, in files, in packs, in memory, in the log.
//!
//! 1. Close the user's partitions to writers, and begin a new segment of the log with an empty commit, *E*: from here on
//!    no record of the user's comes, and no file of the log that held one is used again.
//! 2. Flush everything up to E, so that recovery needs none of the older records. A failure up to here changes nothing.
//! 3. Write the intent, `purge.json`, durably: from here on the purge happens, if need be when the database is next opened.
//! 4. Remove the user's directories; write the packs that hold the user anew, without; forget the partitions in memory.
//! 5. Remove the log's segments before E, although live queries may want to resume there: they are told that their
//!    position has expired.
//! 6. Remove the intent, and open the partitions, which are empty now, to writers.
//!
//! Steps 4 and 5 can be done over and over. Replay needs no exception: before the intent is durable, the low-water mark is
//! past every record of the user's. What a view that was opened before has mapped it may go on reading; what it has not
//! read from disk yet it does not find any more. Backups and copies elsewhere are out of reach, and so are the blocks that
//! a file system does not overwrite when a file is removed.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use kalamdb_wal::durable;
use serde::{Deserialize, Serialize};

use crate::catalog::{Table, TableKind};
use crate::database::Database;
use crate::dropped::remove_dropped_tables;
use crate::error::{Error, Result};
use crate::ids::{PartitionId, Seq, UserId};
use crate::pack::merge::{Wanted, merge};
use crate::partition::Partition;
use crate::sealed;

const INTENT: &str = "purge.json";
const FORMAT: u32 = 1;

/// A purge that must be finished.
#[derive(Debug, Serialize, Deserialize)]
struct Intent {
    format_version: u32,
    user_id: UserId,
    /// All records of the log before this one go.
    before: Seq,
}

/// What a purge removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PurgeOutcome {
    /// Directories of the user's own that were removed.
    pub partitions: u64,
    /// Packs that were written anew without the user.
    pub packs: u64,
    /// The log begins here now, or later.
    pub log_begins: Seq,
}

impl Database {
    /// Removes every byte of a user's rows in all USER tables: files, packs, memory and the history of the log. Rows of
    /// others are flushed first. While it runs, commits that touch the user's partitions wait. Feeds that have not read the
    /// log up to here get [`Error::Expired`]; a view that was opened before may fail with [`Error::PartitionDamaged`].
    /// A crash leaves all of it done, once the database was opened again, or none.
    ///
    /// # Errors
    /// An I/O error, or [`Error::PartitionDamaged`] if some partition's rows can only be had from the log: nothing was
    /// removed if the error comes before the purge is noted on disk. If it comes later, the user's partitions stay closed to
    /// writers and the next open of the database finishes it; another call tries again.
    pub async fn purge_user(self: &Arc<Self>, user: &UserId) -> Result<PurgeOutcome> {
        let (database, user) = (self.clone(), user.clone());
        let task = tokio::spawn(async move { database.purge(&user).await });
        task.await.unwrap_or_else(|e| Err(Error::internal("purge a user", e)))
    }

    async fn purge(self: &Arc<Self>, user: &UserId) -> Result<PurgeOutcome> {
        let _open = self.stay_open().await?;
        let _no_ddl = self.ddl.lock().await;
        let _one_at_a_time = self.purge.running.lock().await;
        if self.purge.user.read().as_ref().is_some_and(|other| other != user) {
            return Err(Error::Overloaded("another purge has to be finished first, by a restart"));
        }
        *self.purge.user.write() = Some(user.clone());
        let before = match self.settle_log(user).await {
            Ok(before) => before,
            Err(error) => {
                // Files of the log may be recycled again.
                self.log().purge_before(0)?;
                *self.purge.user.write() = None;
                return Err(error);
            }
        };
        let partitions = self.partitions_of_user(user);
        // What they write is removed anyway.
        self.compacting().cancel(|running| running.partition.user.as_ref() == Some(user));
        // Held to the end: nothing writes files of theirs any more.
        let mut held = Vec::with_capacity(partitions.len());
        for partition in &partitions {
            held.push((partition.compacting.lock().await, partition.flushing.lock().await));
        }
        let intent = Intent { format_version: FORMAT, user_id: user.clone(), before };
        self.store_intent(&intent)?;
        let outcome = self.carry_out(&intent).await?;
        self.forget_partitions(user);
        self.remove_intent()?;
        *self.purge.user.write() = None;
        Ok(outcome)
    }

    /// Steps 1 and 2; returns E.
    async fn settle_log(self: &Arc<Self>, user: &UserId) -> Result<Seq> {
        for partition in self.partitions_of_user(user) {
            // A commit that came before the user was closed has its record in the log now.
            drop(partition.commit.lock());
        }
        self.log().end_segment()?;
        let before = self.commit(Vec::new()).await?.seq;
        let tables: Vec<Arc<Table>> = self.catalog().tables().cloned().collect();
        for table in tables.iter().filter(|table| table.kind != TableKind::Stream) {
            self.flush_table(table).await?;
        }
        self.truncate_log()?;
        match self.log().low_water() {
            low_water if low_water >= before => Ok(before),
            low_water => {
                Err(Error::internal("purge a user", format!("the log is needed from {low_water} on")))
            }
        }
    }

    /// Steps 4 and 5, but for what is in memory.
    async fn carry_out(self: &Arc<Self>, intent: &Intent) -> Result<PurgeOutcome> {
        let tables: Vec<Arc<Table>> = self.catalog().tables().cloned().collect();
        let mut outcome = PurgeOutcome { log_begins: intent.before, ..PurgeOutcome::default() };
        for table in tables.into_iter().filter(|table| table.kind == TableKind::User) {
            let packs = self.packs(&table)?;
            let _one_at_a_time = packs.writing.lock().await;
            let (database, user) = (self.clone(), intent.user_id.clone());
            let removed = tokio::task::spawn_blocking(move || purge_table(&database, &table, &user));
            let (partitions, packs) =
                removed.await.unwrap_or_else(|e| Err(Error::internal("purge a user", e)))?;
            outcome.partitions += partitions;
            outcome.packs += packs;
        }
        remove_dropped_tables(self)?;
        self.log().purge_before(intent.before)?;
        self.hub().forget_before(intent.before);
        Ok(outcome)
    }

    /// Finishes what a crash interrupted. Before anybody uses the database.
    pub(crate) async fn finish_purge(self: &Arc<Self>) -> Result<()> {
        let path = self.intent_path();
        if !self.disk().exists(&path).map_err(|e| Error::io(format!("look for {}", path.display()), e))? {
            return Ok(());
        }
        let bytes = durable::read_file(self.disk().as_ref(), &path)?;
        let intent: Intent = sealed::decode(&bytes, FORMAT)
            .map_err(|reason| Error::Corrupt(format!("{}: {reason}", path.display())))?;
        tracing::info!(user = %intent.user_id, "finishing the purge of a user");
        self.carry_out(&intent).await?;
        self.remove_intent()
    }

    /// Waits while a user to whose partitions somebody writes is being purged.
    pub(crate) async fn wait_for_purge<'a>(&self, mut users: impl Iterator<Item = &'a UserId>) {
        let purged = self.purge.user.read().clone();
        if let Some(purged) = purged
            && users.any(|user| *user == purged)
        {
            drop(self.purge.running.lock().await);
        }
    }

    /// Fails if the partition must not be written to. Under its commit lock.
    pub(crate) fn check_not_purged(&self, partition: &Partition) -> Result<()> {
        let user = self.purge.user.read();
        let closed = user.is_some() && partition.id.user == *user;
        if closed || partition.gone.load(Ordering::Acquire) { Err(Error::Conflict) } else { Ok(()) }
    }

    /// Whoever still has one of the user's partitions can do nothing with it any more.
    fn forget_partitions(&self, user: &UserId) {
        let slots: Vec<_> = {
            let mut partitions = self.partitions.write();
            partitions.extract_if(|id, _| id.user.as_ref() == Some(user)).map(|(_, slot)| slot).collect()
        };
        for slot in slots {
            // Waits for one that is being loaded; whoever was about to has to look for it anew.
            let Ok(partition) = slot.get_or_init(|| Err(Box::new(Error::Conflict))) else { continue };
            let _no_commit = partition.commit.lock();
            partition.gone.store(true, Ordering::Release);
            partition.trash.close();
            partition.version().memtables().for_each(|memtable| self.hot().discount(memtable));
        }
    }

    fn partitions_of_user(&self, user: &UserId) -> Vec<Arc<Partition>> {
        let partitions = self.partitions.read();
        let loaded = partitions.iter().filter(|(id, _)| id.user.as_ref() == Some(user));
        loaded.filter_map(|(_, slot)| slot.get()?.as_ref().ok().cloned()).collect()
    }

    fn intent_path(&self) -> PathBuf {
        self.config().dir.join(INTENT)
    }

    fn store_intent(&self, intent: &Intent) -> Result<()> {
        Ok(durable::replace_file(self.disk().as_ref(), &self.intent_path(), &sealed::encode(intent)?)?)
    }

    fn remove_intent(&self) -> Result<()> {
        Ok(durable::remove_file(self.disk().as_ref(), &self.intent_path())?)
    }
}

/// Removes a user's files in one table; returns how many directories and how many packs.
fn purge_table(database: &Database, table: &Table, user: &UserId) -> Result<(u64, u64)> {
    let id = PartitionId { table: table.id, user: Some(user.clone()) };
    let dir = database.partition_dir(table, &id);
    let there =
        database.disk().exists(&dir).map_err(|e| Error::io(format!("look for {}", dir.display()), e))?;
    if there {
        durable::remove_dir(database.disk().as_ref(), &dir)?;
    }
    let packs = database.packs(table)?;
    let mut rewritten = 0;
    for pack in &packs.current().packs {
        if pack.meta.may_hold(user) && pack.holds(user)? {
            merge(database, table, &packs, std::slice::from_ref(pack), Wanted::Without(user))?;
            rewritten += 1;
        }
    }
    packs.remove_unnamed()?;
    Ok((u64::from(there), rewritten))
}

/// What is being purged.
#[derive(Debug, Default)]
pub(crate) struct Purge {
    running: tokio::sync::Mutex<()>,
    user: parking_lot::RwLock<Option<UserId>>,
}
