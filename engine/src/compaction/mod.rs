//! Compaction: some segments of a partition become one, without the rows that nobody can see any more.
//!
//! Superseded rows go when no snapshot sees them, tombstones when the table's `deleted_retention` is over. [`pick`] says
//! which segments, [`merge`] streams them by key into a new one, [`install`] puts that in their place, [`running`] keeps
//! the work within its budget of workers and bytes per second, shows it and cancels it.
//!
//! A compaction holds nobody up: it has a lock of its own (`compacting`) and takes the flushes' only to install. The
//! order that makes every crash point safe:
//!
//! 1. merge into a file without a name in the partition. Rows marked after the manifest's commit are kept, whatever
//!    snapshots say, since a crash now would leave their marks to the log. A crash leaves a file that the next load
//!    removes;
//! 2. under the `flushing` lock, so that the manifest and segment ids stand still: write the new segment's delete vector
//!    as of the manifest's commit (rows superseded while the merge ran), then give the file its id and name. A crash
//!    leaves orphans, which state the partition truly nevertheless, should `repair` find them;
//! 3. replace the manifest by one of the same commit. Records after it may name rows of the old segments: replay finds
//!    those by their keys;
//! 4. under the commit lock, swap the version, with the marks of later commits moved to the rows' new places. Whoever read
//!    a row in an old segment follows it to the new one ([`crate::segment::Relocated`]);
//! 5. remove the old delete vectors, and each old file once the last version or view that has it is gone. What a crash
//!    leaves of them is no longer named and is removed by the next load.

mod input;
mod install;
mod merge;
mod pick;
mod running;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::mpsc::UnboundedReceiver;

use crate::catalog::Table;
use crate::database::Database;
use crate::error::{Error, Result};
use crate::failures::BackgroundWork;
use crate::flush;
use crate::ids::{PartitionId, Seq, UserId};
use crate::partition::Partition;
use crate::retention;
use crate::segment::Segment;
use merge::Merged;
use pick::{Candidate, Limits, pick};
pub use running::{CompactionEnd, CompactionEvent, CompactionStatus};
pub(crate) use running::{Compactions, Running};

/// What a compaction did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CompactionOutcome {
    /// Segments replaced; one that was written and replaced by the same compaction counts each time.
    pub segments_in: u64,
    /// Segments written.
    pub segments_out: u64,
    /// Rows read, superseded ones and tombstones included.
    pub rows_in: u64,
    /// Rows written.
    pub rows_out: u64,
    /// Bytes of the segments replaced.
    pub bytes_read: u64,
    /// Bytes of the segments written.
    pub bytes_written: u64,
}

impl CompactionOutcome {
    /// Adds another compaction's figures.
    pub fn add(&mut self, other: Self) {
        self.segments_in += other.segments_in;
        self.segments_out += other.segments_out;
        self.rows_in += other.rows_in;
        self.rows_out += other.rows_out;
        self.bytes_read += other.bytes_read;
        self.bytes_written += other.bytes_written;
    }
}

/// How far a compaction goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Goal {
    /// What pays: see [`pick`].
    Due,
    /// As few segments as can be, with nothing in them that need not be.
    Full,
}

impl Database {
    /// Flushes a partition and rewrites it into as few segments as their maximal size allows, without superseded rows
    /// that no snapshot sees and without tombstones past the table's `deleted_retention`. Does nothing where there is
    /// nothing to gain. Waits for a worker of the compactions' budget; reads and commits go on meanwhile.
    ///
    /// # Errors
    /// [`Error::Cancelled`]; [`Error::StorageFull`] and other I/O errors; [`Error::PartitionDamaged`],
    /// [`Error::Closed`]. The partition is as it was then, or partly compacted; no row is lost.
    pub async fn compact(
        self: &Arc<Self>,
        table: &Arc<Table>,
        user: Option<&UserId>,
    ) -> Result<CompactionOutcome> {
        let id = PartitionId { table: table.id, user: user.cloned() };
        let Some(partition) = self.existing_partition(table, &id)? else {
            return Ok(CompactionOutcome::default());
        };
        flush::flush(self, &partition).await?;
        compact(self, &partition, Goal::Full).await
    }

    /// The compactions that are running, oldest first.
    pub fn compactions(&self) -> Vec<CompactionStatus> {
        self.compacting().list()
    }

    /// What becomes of the compactions that the background begins from now on. Only the last who asked is told.
    pub fn watch_compactions(&self) -> UnboundedReceiver<CompactionEvent> {
        self.compacting().watch()
    }

    /// What all compactions did since the database was opened.
    pub fn compacted(&self) -> CompactionOutcome {
        self.compacting().totals()
    }

    /// Cancels a running compaction, soon; what it had installed stays. False if there is none with this id.
    pub fn cancel_compaction(&self, id: u64) -> bool {
        self.compacting().cancel(|running| running.id == id)
    }
}

/// Compacts a partition. A caller that goes away does not stop it.
///
/// # Errors
/// See [`Database::compact`].
pub(crate) async fn compact(
    database: &Arc<Database>,
    partition: &Arc<Partition>,
    goal: Goal,
) -> Result<CompactionOutcome> {
    let (database, partition) = (database.clone(), partition.clone());
    // A task of its own: dropped halfway, it would give up its locks while its files are still being written.
    let task = tokio::spawn(async move {
        let compactions = database.compacting();
        let (_worker, _one_at_a_time) = loop {
            let worker = compactions.worker().await?;
            if let Ok(alone) = partition.compacting.try_lock() {
                break (worker, alone);
            }
            // Waits for the one that runs, and leaves the worker to others meanwhile.
            drop(worker);
            let alone = partition.compacting.lock().await;
            if let Some(worker) = compactions.free_worker() {
                break (worker, alone);
            }
        };
        let _open = database.stay_open().await?;
        let running = database.compacting().begin(&partition.id, database.clock().now_micros());
        let (db, of) = (database.clone(), partition.clone());
        let work = tokio::task::spawn_blocking(move || {
            let result = run(&db, &of, goal, &running);
            running.end(&result);
            result
        });
        let outcome = work.await.unwrap_or_else(|e| Err(Error::internal("compact", e)))?;
        database.failures().clear(BackgroundWork::Compaction, &partition.id);
        Ok(outcome)
    });
    task.await.unwrap_or_else(|e| Err(Error::internal("compact", e)))
}

fn run(
    database: &Arc<Database>,
    partition: &Partition,
    goal: Goal,
    running: &Running,
) -> Result<CompactionOutcome> {
    let mut total = CompactionOutcome::default();
    let Some(table) = database.catalog().table_by_id(partition.id.table).cloned() else {
        // Dropped meanwhile: its directory must not come back.
        return Err(Error::Cancelled("compaction"));
    };
    let known = Known::new(database, partition);
    let now = database.clock().now_micros();
    let limits = Limits {
        max_bytes: database.config().compaction.max_segment_bytes,
        schema_version: table.schema.version(),
        retention: retention::of(&table.options)?,
        now,
    };
    // A full compaction takes what was there when it began: under steady flushes it would never end.
    let newest = partition.version().segments.iter().map(|s| s.meta().id).max().unwrap_or(0);
    let mut written = Vec::new();
    loop {
        running.check()?;
        partition.check_open()?;
        let version = partition.version();
        let candidates = version.segments.iter().filter(|segment| {
            let id = segment.meta().id;
            goal == Goal::Due || id <= newest || written.contains(&id)
        });
        let candidates: Vec<Candidate> = candidates.map(|s| Candidate::new(s, known.pin)).collect();
        let Some(picked) = pick(goal, &candidates, &limits) else { return Ok(total) };
        if goal == Goal::Due {
            running.announce();
        }
        let inputs: Vec<Arc<Segment>> = picked.iter().map(|at| candidates[*at].segment.clone()).collect();
        let merged = Merged::new(database, partition, &table, &inputs, known.pin, limits.cutoff(), running)?;
        let (id, outcome) = install::install(database, partition, &inputs, merged, known.pin, running)?;
        written.push(id);
        total.add(outcome);
        database.compacting().count(outcome);
    }
}

/// Up to which commit superseded rows may be dropped. While it lives, it is known of later marks which commits set them.
struct Known<'a> {
    partition: &'a Partition,
    /// Every snapshot, open or to come, sees this commit, and a durable manifest has it.
    pin: Seq,
}

impl<'a> Known<'a> {
    fn new(database: &Database, partition: &'a Partition) -> Self {
        // Under the lock: a flush that installs forgets marks, either before this or minding it.
        let _held = partition.commit.lock();
        let flushed = partition.version().manifest.flushed_seq;
        let pin = flushed.min(database.horizon());
        partition.needed_marks.store(pin, Ordering::Relaxed);
        Self { partition, pin }
    }
}

impl Drop for Known<'_> {
    fn drop(&mut self) {
        self.partition.needed_marks.store(Seq::MAX, Ordering::Relaxed);
    }
}
