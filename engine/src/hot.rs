//! What is in memory and in the log only: which memtables, how many bytes of memory, how many bytes of log.
//!
//! Commits keep it up at a cost that does not depend on how many partitions there are: the set changes only with a
//! memtable's first row and its flush. From it follow the log's low-water mark and what to flush first.

use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use crate::error::{Error, Result};
use crate::ids::{PartitionId, Seq, TableId};
use crate::memtable::Memtable;

/// The log's length is noted this often within the limit for it.
const STEPS: u64 = 32;

/// See the module.
#[derive(Debug)]
pub struct Hot {
    /// Memtables with rows by their oldest commit; and closed partitions whose commits only the log has.
    memtables: Mutex<BTreeSet<(Seq, PartitionId)>>,
    bytes: AtomicUsize,
    relieved: Notify,
    log: Mutex<Span>,
    log_limit: u64,
}

/// How long the log was when some commits were appended.
#[derive(Debug, Default)]
struct Span {
    total: u64,
    noted: VecDeque<(Seq, u64)>,
}

impl Hot {
    /// Begins with nothing; `log_limit` is how many bytes of log recovery may have to replay.
    pub fn new(log_limit: u64) -> Self {
        let (memtables, log) = (Mutex::default(), Mutex::default());
        Self { memtables, bytes: AtomicUsize::new(0), relieved: Notify::new(), log, log_limit }
    }

    /// Says that a partition has commits from `first` on that only memory and log have.
    pub fn add(&self, first: Seq, id: PartitionId) {
        self.memtables.lock().insert((first, id));
    }

    /// Says that a memtable's rows are in Parquet.
    pub fn flushed(&self, memtable: &Memtable, id: &PartitionId) {
        if let Some(first) = memtable.first_unflushed() {
            self.memtables.lock().remove(&(first, id.clone()));
        }
        memtable.count_out(&self.bytes);
        self.relieved.notify_waiters();
    }

    /// Says that a memtable's rows up to a commit are in a pack. True if those are all. Under its partition's lock.
    pub fn durable(&self, memtable: &Memtable, upto: Seq, id: &PartitionId) -> bool {
        // One step: the log's low-water mark must not be looked for in between.
        let mut memtables = self.memtables.lock();
        if let Some(first) = memtable.first_unflushed() {
            memtables.remove(&(first, id.clone()));
        }
        memtable.set_durable(upto);
        let first = memtable.first_unflushed();
        if let Some(first) = first {
            memtables.insert((first, id.clone()));
        }
        drop(memtables);
        if first.is_none() {
            memtable.count_out(&self.bytes);
            self.relieved.notify_waiters();
        }
        first.is_none()
    }

    /// Forgets what belongs to a dropped table.
    pub fn forget(&self, table: TableId) {
        self.memtables.lock().retain(|(_, id)| id.table != table);
        self.relieved.notify_waiters();
    }

    /// Brings the total up to date with what a memtable takes now. Under its partition's lock.
    pub fn count(&self, memtable: &Memtable) {
        memtable.count_in(&self.bytes);
    }

    /// Takes a memtable of a dropped table out of the total.
    pub fn discount(&self, memtable: &Memtable) {
        memtable.count_out(&self.bytes);
    }

    /// Bytes of rows that are not in Parquet, about.
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// The oldest commit that the log must keep.
    pub fn first(&self) -> Option<Seq> {
        self.memtables.lock().first().map(|(seq, _)| *seq)
    }

    /// The partitions with such rows, the one that holds back the log most first.
    pub fn partitions(&self) -> Vec<(Seq, PartitionId)> {
        self.memtables.lock().iter().cloned().collect()
    }

    /// Counts a record of the log. True if what recovery would have to replay has just been found longer than the limit.
    pub fn appended(&self, seq: Seq, bytes: u64) -> bool {
        let mut log = self.log.lock();
        log.total += bytes;
        if log.noted.back().is_some_and(|(_, at)| log.total - at < self.log_limit / STEPS) {
            return false;
        }
        let total = log.total;
        log.noted.push_back((seq, total));
        let first = self.first().unwrap_or(seq);
        while log.noted.get(1).is_some_and(|(seq, _)| *seq <= first) {
            log.noted.pop_front();
        }
        log.before(first).is_some_and(|at| total - at > self.log_limit)
    }

    /// Counts a record that recovery replays.
    pub fn replayed(&self, seq: Seq, bytes: u64) {
        let mut log = self.log.lock();
        log.total += bytes;
        if log.noted.back().is_none_or(|(_, at)| log.total - at >= self.log_limit / STEPS) {
            let total = log.total;
            log.noted.push_back((seq, total));
        }
    }

    /// The first commit of the newest `bytes` of the log, about.
    pub fn newest(&self, bytes: u64) -> Seq {
        let log = self.log.lock();
        let at = log.total.saturating_sub(bytes);
        log.noted.iter().find(|(_, noted)| *noted >= at).map_or(Seq::MAX, |(seq, _)| *seq)
    }

    /// Waits until rows in memory take at most `limit` bytes.
    ///
    /// # Errors
    /// [`Error::Overloaded`] if they still take more after `patience`.
    pub async fn wait_below(&self, limit: usize, patience: Duration) -> Result<()> {
        let deadline = Instant::now() + patience;
        loop {
            let relieved = self.relieved.notified();
            tokio::pin!(relieved);
            relieved.as_mut().enable();
            if self.bytes() <= limit {
                return Ok(());
            }
            if timeout_at(deadline, relieved).await.is_err() {
                return Err(Error::Overloaded("rows come faster than they can be written to Parquet"));
            }
        }
    }
}

impl Span {
    /// How long the log was, about, when a commit was appended.
    fn before(&self, seq: Seq) -> Option<u64> {
        let after = self.noted.partition_point(|(noted, _)| *noted <= seq);
        self.noted.get(after.saturating_sub(1)).map(|(_, at)| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(table: u64) -> PartitionId {
        PartitionId { table: TableId(table), user: None }
    }

    #[test]
    fn the_log_is_too_long_when_the_oldest_hot_row_is_far_back() {
        let hot = Hot::new(3_200);
        hot.add(1, id(1));
        let over: Vec<Seq> = (1..60).filter(|seq| hot.appended(*seq, 100)).collect();
        assert_eq!(over.first(), Some(&34), "{over:?}");
        assert!((40..45).contains(&hot.newest(1_600)), "{}", hot.newest(1_600));
        hot.forget(TableId(1));
        assert!(!hot.appended(60, 100), "nothing holds the log back");
    }

    #[test]
    fn records_may_be_counted_a_little_out_of_order() {
        let hot = Hot::new(320);
        hot.add(1, id(1));
        for seq in [2, 1, 4, 3, 6, 5] {
            hot.appended(seq, 100);
        }
        assert!(hot.appended(7, 100));
    }
}
