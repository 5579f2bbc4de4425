//! The compactions under way: how many at a time, how fast, shown and cancelled.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tokio::sync::{Semaphore, SemaphorePermit, mpsc};

use super::CompactionOutcome;
use crate::config::CompactionConfig;
use crate::error::{Error, Result};
use crate::ids::{PartitionId, TableId};

/// Waits shorter than this are saved up.
const SHORTEST_WAIT: Duration = Duration::from_millis(10);

/// A compaction that is running.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompactionStatus {
    /// For [`crate::Database::cancel_compaction`]; not used again while the process runs.
    pub id: u64,
    /// What is compacted.
    pub partition: PartitionId,
    /// When it began, microseconds since the epoch.
    pub started_at: i64,
    /// Bytes of segments read so far.
    pub bytes_done: u64,
    /// Bytes of the segments that it has found to be read so far.
    pub bytes_total: u64,
}

/// What becomes of a compaction that the background began, once it has found something to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CompactionEvent {
    /// It has begun.
    Began(CompactionStatus),
    /// The one with this id has ended.
    Ended {
        /// As [`CompactionStatus::id`].
        id: u64,
        /// How.
        end: CompactionEnd,
    },
}

/// How a compaction ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CompactionEnd {
    /// What it did.
    Completed(CompactionOutcome),
    /// Somebody wanted it to.
    Cancelled,
    /// Why it could not go on.
    Failed(String),
}

impl From<&Result<CompactionOutcome>> for CompactionEnd {
    fn from(result: &Result<CompactionOutcome>) -> Self {
        match result {
            Ok(outcome) => Self::Completed(*outcome),
            Err(Error::Cancelled(_) | Error::Closed) => Self::Cancelled,
            Err(error) => Self::Failed(error.to_string()),
        }
    }
}

/// The compactions of a database.
#[derive(Debug)]
pub(crate) struct Compactions {
    workers: Semaphore,
    pace: Pace,
    running: Mutex<BTreeMap<u64, Arc<State>>>,
    next: AtomicU64,
    stopped: AtomicBool,
    totals: Mutex<CompactionOutcome>,
    requests: mpsc::UnboundedSender<PartitionId>,
    watcher: Mutex<Option<mpsc::UnboundedSender<CompactionEvent>>>,
}

impl Compactions {
    /// The budget, and the requests for the background.
    pub(crate) fn new(config: &CompactionConfig) -> (Self, mpsc::UnboundedReceiver<PartitionId>) {
        let (requests, requested) = mpsc::unbounded_channel();
        let compactions = Self {
            // Commanded ones run even where the background does not.
            workers: Semaphore::new(config.workers.max(1)),
            pace: Pace { bytes_per_second: config.bytes_per_second, free_at: Mutex::new(None) },
            running: Mutex::default(),
            next: AtomicU64::new(1),
            stopped: AtomicBool::new(false),
            totals: Mutex::default(),
            requests,
            watcher: Mutex::default(),
        };
        (compactions, requested)
    }

    /// Has the background look whether something is to be compacted.
    pub(crate) fn consider(&self, partition: &PartitionId) {
        // Nobody listens where there is no background.
        let _ = self.requests.send(partition.clone());
    }

    /// Waits for a worker; it is free again when the permit is dropped.
    pub(crate) async fn worker(&self) -> Result<SemaphorePermit<'_>> {
        self.workers.acquire().await.map_err(|_| Error::Closed)
    }

    /// The same without waiting, if one is free.
    pub(crate) fn free_worker(&self) -> Option<SemaphorePermit<'_>> {
        self.workers.try_acquire().ok()
    }

    /// Lists a compaction until the result is dropped.
    pub(crate) fn begin(self: &Arc<Self>, partition: &PartitionId, now: i64) -> Running {
        let mut running = self.running.lock();
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let state = Arc::new(State {
            id,
            partition: partition.clone(),
            started_at: now,
            done: AtomicU64::new(0),
            total: AtomicU64::new(0),
            // Under the list's lock, like `stop`: one of the two sees the other.
            cancelled: Mutex::new(self.stopped.load(Ordering::Relaxed)),
            wake: Condvar::new(),
        });
        running.insert(id, state.clone());
        Running { state, all: self.clone(), announced: Cell::new(false) }
    }

    /// What the background does from now on. Whoever watched before watches no more.
    pub(crate) fn watch(&self) -> mpsc::UnboundedReceiver<CompactionEvent> {
        let (sender, events) = mpsc::unbounded_channel();
        *self.watcher.lock() = Some(sender);
        events
    }

    fn tell(&self, event: CompactionEvent) {
        if let Some(watcher) = &*self.watcher.lock() {
            // Nobody is there any more while the database is closed.
            let _ = watcher.send(event);
        }
    }

    pub(crate) fn list(&self) -> Vec<CompactionStatus> {
        self.running.lock().values().map(|state| state.status()).collect()
    }

    /// Cancels those that `chosen` says; true if there was one.
    pub(crate) fn cancel(&self, chosen: impl Fn(&CompactionStatus) -> bool) -> bool {
        let running = self.running.lock();
        let cancelled = running.values().filter(|state| chosen(&state.status()));
        cancelled.map(|state| state.cancel()).count() > 0
    }

    /// Cancels the compactions of a table.
    pub(crate) fn cancel_table(&self, table: TableId) {
        self.cancel(|running| running.partition.table == table);
    }

    /// Cancels all, and every one to come.
    pub(crate) fn stop(&self) {
        let running = self.running.lock();
        self.stopped.store(true, Ordering::Relaxed);
        running.values().for_each(|state| state.cancel());
    }

    /// Counts what was installed.
    pub(crate) fn count(&self, outcome: CompactionOutcome) {
        self.totals.lock().add(outcome);
    }

    /// What was installed so far.
    pub(crate) fn totals(&self) -> CompactionOutcome {
        *self.totals.lock()
    }

    /// Accounts for bytes read. Waits if that was faster than is allowed.
    ///
    /// # Errors
    /// [`Error::Cancelled`].
    pub(crate) fn read(&self, bytes: u64, running: &Running) -> Result<()> {
        running.state.done.fetch_add(bytes, Ordering::Relaxed);
        self.wrote(bytes, running)
    }

    /// Accounts for bytes written. Waits if that was faster than is allowed.
    ///
    /// # Errors
    /// [`Error::Cancelled`].
    pub(crate) fn wrote(&self, bytes: u64, running: &Running) -> Result<()> {
        if let Some(until) = self.pace.take(bytes, Instant::now()) {
            running.state.wait(until);
        }
        running.check()
    }
}

/// A compaction's entry in the list of those running.
#[derive(Debug)]
pub(crate) struct Running {
    state: Arc<State>,
    all: Arc<Compactions>,
    /// Its end has to be told.
    announced: Cell<bool>,
}

impl Running {
    /// Tells who watches that the background has begun it. Once is enough.
    pub(crate) fn announce(&self) {
        if !self.announced.replace(true) {
            self.all.tell(CompactionEvent::Began(self.state.status()));
        }
    }

    /// Tells its end, if its beginning was told.
    pub(crate) fn end(self, result: &Result<CompactionOutcome>) {
        self.tell_end(result.into());
    }

    fn tell_end(&self, end: CompactionEnd) {
        if self.announced.replace(false) {
            self.all.tell(CompactionEvent::Ended { id: self.state.id, end });
        }
    }

    /// # Errors
    /// [`Error::Cancelled`] once it was cancelled.
    pub(crate) fn check(&self) -> Result<()> {
        if *self.state.cancelled.lock() { Err(Error::Cancelled("compaction")) } else { Ok(()) }
    }

    /// Adds to the bytes that are to be read.
    pub(crate) fn expect(&self, bytes: u64) {
        self.state.total.fetch_add(bytes, Ordering::Relaxed);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.all.running.lock().remove(&self.state.id);
        // Without an end of its own it panicked.
        self.tell_end(CompactionEnd::Failed("it ended early; the log says why".into()));
    }
}

#[derive(Debug)]
struct State {
    id: u64,
    partition: PartitionId,
    started_at: i64,
    done: AtomicU64,
    total: AtomicU64,
    cancelled: Mutex<bool>,
    wake: Condvar,
}

impl State {
    fn status(&self) -> CompactionStatus {
        CompactionStatus {
            id: self.id,
            partition: self.partition.clone(),
            started_at: self.started_at,
            bytes_done: self.done.load(Ordering::Relaxed),
            bytes_total: self.total.load(Ordering::Relaxed),
        }
    }

    fn cancel(&self) {
        *self.cancelled.lock() = true;
        self.wake.notify_all();
    }

    fn wait(&self, until: Instant) {
        let mut cancelled = self.cancelled.lock();
        while !*cancelled && !self.wake.wait_until(&mut cancelled, until).timed_out() {}
    }
}

/// Spreads bytes over time, for all compactions together.
#[derive(Debug)]
struct Pace {
    /// 0 is no limit.
    bytes_per_second: u64,
    /// When the bytes taken so far are paid for.
    free_at: Mutex<Option<Instant>>,
}

impl Pace {
    /// Takes bytes; until when to wait, if at all.
    fn take(&self, bytes: u64, now: Instant) -> Option<Instant> {
        if self.bytes_per_second == 0 {
            return None;
        }
        let cost = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
        let mut free_at = self.free_at.lock();
        let until = free_at.map_or(now, |free_at| free_at.max(now)) + cost;
        *free_at = Some(until);
        (until > now + SHORTEST_WAIT).then_some(until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_spread_over_time_and_idle_time_is_not_saved_up() {
        let pace = Pace { bytes_per_second: 1_000, free_at: Mutex::default() };
        let begin = Instant::now();
        let after = |millis| begin + Duration::from_millis(millis);
        assert_eq!(pace.take(5, begin), None, "too short a wait");
        assert_eq!(pace.take(95, begin), Some(after(100)));
        assert_eq!(pace.take(100, after(100)), Some(after(200)));
        assert_eq!(pace.take(100, after(9_000)), Some(after(9_100)));
        assert_eq!(Pace { bytes_per_second: 0, ..pace }.take(u64::MAX, begin), None);
    }
}
