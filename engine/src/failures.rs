//! Flushes and compactions of the background that failed: shown, and tried again after a pause that grows.
//!
//! A failure loses nothing: rows stay in memory and in the log, segments as they were. What must not happen is that it goes
//! unseen, that nobody tries again, or that many attempts a second make a full disk's troubles worse. The first pause is
//! [`crate::Config::retry_after`], each next one twice as long, up to [`LONGEST`] times the first. A success, also of one
//! that somebody commanded, ends it.

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::error::Error;
use crate::ids::{PartitionId, TableId};

/// The longest pause, in first pauses: shorter than commits wait for room by default, so that they notice nothing of a disk that
/// has room again.
const LONGEST: u32 = 8;

/// What the background does with partitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum BackgroundWork {
    /// Hot rows to Parquet.
    Flush,
    /// Merging segments or packs.
    Compaction,
}

/// Work that failed and waits for its next attempt.
#[derive(Debug, Clone)]
pub struct BackgroundFailure {
    /// What failed.
    pub work: BackgroundWork,
    /// For which partition; of a USER table, one without a user stands for its small partitions together.
    pub partition: PartitionId,
    /// Attempts so far, all of which failed.
    pub attempts: u32,
    /// The last one's error.
    pub error: Error,
    /// When the first one failed, microseconds since the epoch.
    pub since: i64,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Failures {
    first_pause: Duration,
    failed: Mutex<BTreeMap<(BackgroundWork, PartitionId), (BackgroundFailure, Instant)>>,
}

impl Failures {
    pub(crate) fn new(first_pause: Duration) -> Self {
        Self { first_pause, failed: Mutex::default() }
    }

    /// Notes a failure and says when to try again. `now`: microseconds since the epoch.
    pub(crate) fn note(
        &self,
        work: BackgroundWork,
        partition: &PartitionId,
        error: Error,
        now: i64,
    ) -> Instant {
        let mut failed = self.failed.lock();
        let again = Instant::now();
        let (failure, again) = failed.entry((work, partition.clone())).or_insert_with(|| {
            let (partition, error) = (partition.clone(), error.clone());
            (BackgroundFailure { work, partition, attempts: 0, error, since: now }, again)
        });
        *again = Instant::now() + self.first_pause * 2u32.saturating_pow(failure.attempts).min(LONGEST);
        failure.attempts = failure.attempts.saturating_add(1);
        failure.error = error;
        *again
    }

    /// Notes a success.
    pub(crate) fn clear(&self, work: BackgroundWork, partition: &PartitionId) {
        let mut failed = self.failed.lock();
        if !failed.is_empty() {
            failed.remove(&(work, partition.clone()));
        }
    }

    /// Forgets a dropped table.
    pub(crate) fn forget(&self, table: TableId) {
        self.failed.lock().retain(|(_, partition), _| partition.table != table);
    }

    /// The time of the next attempt, if that has not come yet.
    pub(crate) fn waits(&self, work: BackgroundWork, partition: &PartitionId) -> Option<Instant> {
        let failed = self.failed.lock();
        if failed.is_empty() {
            return None;
        }
        let (_, again) = failed.get(&(work, partition.clone()))?;
        (*again > Instant::now()).then_some(*again)
    }

    pub(crate) fn list(&self) -> Vec<BackgroundFailure> {
        self.failed.lock().values().map(|(failure, _)| failure.clone()).collect()
    }
}

/// What to try again, and when. Whoever is asked for meanwhile waits here as well.
#[derive(Debug, Default)]
pub(crate) struct Retries {
    waiting: BTreeMap<PartitionId, Instant>,
}

impl Retries {
    pub(crate) fn add(&mut self, at: Instant, ids: impl IntoIterator<Item = PartitionId>) {
        self.waiting.extend(ids.into_iter().map(|id| (id, at)));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Waits until the next one is due; for ever if there is none.
    pub(crate) async fn next_is_due(&self) {
        match self.waiting.values().min() {
            Some(at) => tokio::time::sleep_until(*at).await,
            None => std::future::pending().await,
        }
    }

    /// Takes those that are due.
    pub(crate) fn take_due(&mut self) -> Vec<PartitionId> {
        let now = Instant::now();
        let due = self.waiting.iter().filter(|(_, at)| **at <= now).map(|(id, _)| id.clone());
        let due: Vec<PartitionId> = due.collect();
        self.waiting.retain(|_, at| *at > now);
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_a_limit_and_a_success_ends_them() {
        let failures = Failures::new(Duration::from_secs(1));
        let id = PartitionId { table: TableId(1), user: None };
        let mut pauses = Vec::new();
        for _ in 0..8 {
            let begun = Instant::now();
            let again = failures.note(BackgroundWork::Flush, &id, Error::Conflict, 5);
            pauses.push((again - begun).as_secs());
        }
        assert_eq!(pauses, [1, 2, 4, 8, 8, 8, 8, 8]);
        assert!(failures.waits(BackgroundWork::Flush, &id).is_some());
        assert!(failures.waits(BackgroundWork::Compaction, &id).is_none());
        let list = failures.list();
        assert_eq!((list.len(), list[0].attempts, list[0].since), (1, 8, 5));
        failures.clear(BackgroundWork::Flush, &id);
        assert!(failures.list().is_empty() && failures.waits(BackgroundWork::Flush, &id).is_none());
    }
}
