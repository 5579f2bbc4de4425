//! How far a job is, and whether it is to stop.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use kalamdb_engine::{Database, PartitionId};
use parking_lot::Mutex;

use crate::error::{Error, ErrorCode, Result};

/// Shared between the work, who writes its row, and who may want it to stop.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    total: AtomicU64,
    done: AtomicU64,
    read: AtomicU64,
    written: AtomicU64,
    /// What `has_moved` saw last.
    shown: AtomicU64,
    cancelled: AtomicBool,
    compacting: Mutex<Option<PartitionId>>,
}

impl Progress {
    /// Says how many steps there will be.
    pub(crate) fn expect(&self, steps: usize) {
        self.total.store(steps as u64, Ordering::Relaxed);
    }

    /// Counts a step that is done. Between two of them a job can be stopped.
    ///
    /// # Errors
    /// [`ErrorCode::Cancelled`] if it is to stop.
    pub(crate) fn step(&self) -> Result<()> {
        self.done.fetch_add(1, Ordering::Relaxed);
        self.go_on()
    }

    /// Says how far it is.
    pub(super) fn set(&self, done: u64, total: u64) {
        self.done.store(done, Ordering::Relaxed);
        self.total.store(total, Ordering::Relaxed);
    }

    /// Refuses to go on if the job is to stop.
    ///
    /// # Errors
    /// [`ErrorCode::Cancelled`].
    pub(crate) fn go_on(&self) -> Result<()> {
        match self.cancelled.load(Ordering::Relaxed) {
            true => Err(Error::new(ErrorCode::Cancelled, "the job was killed")),
            false => Ok(()),
        }
    }

    /// Says which partition is compacted next, so that this can be stopped halfway.
    ///
    /// # Errors
    /// [`ErrorCode::Cancelled`] if the job is to stop.
    pub(super) fn compacts(&self, partition: PartitionId) -> Result<()> {
        *self.compacting.lock() = Some(partition);
        self.go_on()
    }

    /// Counts bytes read.
    pub(crate) fn add_read(&self, bytes: u64) {
        self.read.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts bytes written.
    pub(crate) fn add_written(&self, bytes: u64) {
        self.written.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn cancel(&self, database: &Database) {
        self.cancelled.store(true, Ordering::Relaxed);
        let Some(partition) = self.compacting.lock().clone() else { return };
        for compaction in database.compactions() {
            if compaction.partition == partition {
                database.cancel_compaction(compaction.id);
            }
        }
    }

    /// True if a step was done since this was asked last.
    pub(super) fn has_moved(&self) -> bool {
        let done = self.done.load(Ordering::Relaxed);
        self.shown.swap(done, Ordering::Relaxed) != done
    }

    /// The part that is done, from 0 to 1.
    pub(super) fn fraction(&self) -> f64 {
        let (done, total) = (self.done.load(Ordering::Relaxed), self.total.load(Ordering::Relaxed));
        if total == 0 { 0.0 } else { (done as f64 / total as f64).min(1.0) }
    }

    /// Bytes read so far.
    pub(super) fn read(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }

    /// Bytes written so far.
    pub(super) fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }
}
