//! What the log's handle, its threads and its readers have in common.

use std::fmt;
use std::ops::Deref;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::Lsn;
use crate::clock::Clock;
use crate::disk::Disk;
use crate::error::Error;
use crate::mark::Mark;
use crate::metrics::{Counters, Metrics};
use crate::options::{Mode, Observer, Retain, SyncPolicy};
use crate::progress::Progress;
use crate::queue::{Queue, Work};
use crate::segments::Segments;
use crate::supply::Supply;
use crate::sync::Mutex;
use crate::writer::Tail;

/// How often the writer lets others run without anything having come before it stops waiting for more.
const QUIET_YIELDS: usize = 3;

/// Syncs up to this long are worth less than the two hand-overs between threads that they can do without.
const QUICK_SYNC: Duration = Duration::from_micros(300);

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) dir: PathBuf,
    pub(crate) policy: SyncPolicy,
    pub(crate) retain: Retain,
    pub(crate) mode: Mode,
    /// Callers may write. On a single processor they would keep each other from forming groups.
    pub(crate) helpers: bool,
    pub(crate) segment_capacity: u64,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) observer: Option<Arc<dyn Observer>>,
    pub(crate) queue: Queue,
    pub(crate) progress: Progress,
    pub(crate) segments: Segments,
    pub(crate) supply: Supply,
    pub(crate) tail: Mutex<Tail>,
    pub(crate) mark: Mutex<Mark>,
    pub(crate) counters: Counters,
    pub(crate) failed: OnceLock<Error>,
    pub(crate) lock: Mutex<Option<LockGuard>>,
}

impl Shared {
    /// Poisons the log for good; returns what every caller gets from now on, which is the first failure.
    pub(crate) fn fail(&self, error: Error) -> Error {
        let mut first = false;
        let poison = self.failed.get_or_init(|| {
            first = true;
            error.poison()
        });
        if first {
            tracing::error!(error = %poison, "the log has stopped");
            self.queue.end(poison.clone(), true);
            if let Some(observer) = &self.observer {
                observer.failed(poison);
            }
            self.progress.end(poison.clone());
        }
        poison.clone()
    }

    /// Publishes that everything up to `upto` is durable: to the observer first, then to whoever waits.
    pub(crate) fn publish(&self, upto: Lsn) {
        if upto == self.progress.durable() {
            return;
        }
        if let Some(observer) = &self.observer {
            observer.durable(upto);
        }
        self.progress.advance(upto);
    }

    /// Writes what is queued on the caller's thread.
    pub(crate) fn drive(&self) -> Result<(), Error> {
        let mut tail = self.tail.lock();
        while tail.commit(self)? > 0 {}
        Ok(())
    }

    /// Sees to it that a record which the caller has queued is written: on this thread if nobody else has one and it
    /// will not take long, by the writer otherwise. See `docs/adr/017-a-lone-commit-writes-for-itself.md`.
    pub(crate) fn write_or_announce(&self) {
        if self.is_quick()
            && self.queue.is_alone()
            && let Some(mut tail) = self.tail.try_lock()
        {
            let _guard = FailOnPanic(self);
            // An error has poisoned the log and so reaches whoever waits. Anything that was queued meanwhile is announced
            // by whoever queued it.
            let _ = tail.commit(self);
            return;
        }
        self.queue.announce();
    }

    /// True if the thread that commits is held up no longer than by waking another and being woken by it.
    fn is_quick(&self) -> bool {
        self.helpers
            && match self.policy {
                SyncPolicy::Always => self.counters.recent_sync() <= QUICK_SYNC,
                // Somebody has to wake up in time for the sync.
                SyncPolicy::Interval(_) => false,
                SyncPolicy::Never => true,
            }
    }

    /// The writer thread.
    pub(crate) fn write_until_ended(&self) {
        let mut expected = 0;
        loop {
            let patience = self.tail.lock().patience(self);
            self.gather(expected);
            let done = match self.queue.wait(patience) {
                Work::Queued => {
                    self.gather(expected);
                    self.tail.lock().commit(self)
                }
                Work::Idle => self.tail.lock().sync(self).map(|()| 0),
                Work::Ended => return,
            };
            match done {
                Ok(entries) => expected = entries,
                Err(_) => return,
            }
        }
    }

    /// Lets those whom the last group answered come back with their next records before another group begins: as many
    /// as there were, or until none comes any more. Costs a few microseconds at most when nobody does, and nothing
    /// where groups are of one record: then there is nobody to wait for.
    fn gather(&self, expected: usize) {
        if expected < 2 {
            return;
        }
        let (mut queued, mut quiet) = (self.queue.depth().0, 0);
        while queued < expected && quiet < QUIET_YIELDS {
            std::thread::yield_now();
            let now = self.queue.depth().0;
            quiet = if now == queued { quiet + 1 } else { 0 };
            queued = now;
        }
    }

    /// The allocator thread: keeps segments ready, used ones first.
    pub(crate) fn supply_until_ended(&self) {
        while let Some(wish) = self.queue.next_wish() {
            if let Err(error) = self.collect() {
                tracing::warn!(%error, "cannot recycle old segments of the log");
            }
            if self.queue.satisfied(wish) {
                self.queue.answer(wish, None);
                continue;
            }
            let made = self.supply.make(wish);
            if let Err(error) = &made {
                tracing::warn!(%error, "cannot allocate a segment for the log");
            }
            self.queue.answer(wish, Some(made));
        }
    }

    pub(crate) fn metrics(&self) -> Metrics {
        let (queued_records, queued_bytes) = self.queue.depth();
        let (segments, retained_bytes) = self.segments.size();
        Metrics {
            queued_records: queued_records as u64,
            queued_bytes: queued_bytes as u64,
            segments: segments as u64,
            retained_bytes,
            spares: self.queue.ready() as u64,
            ..self.counters.read()
        }
    }
}

/// Holds the lock file while the log is open.
pub(crate) struct LockGuard(
    #[expect(dead_code, reason = "held for its Drop")] pub(crate) Box<dyn Send + Sync>,
);

impl fmt::Debug for LockGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LockGuard")
    }
}

/// Poisons the log if the thread that holds it panics: nobody may wait for a thread that is gone.
#[derive(Debug)]
pub(crate) struct FailOnPanic<S: Deref<Target = Shared>>(pub(crate) S);

impl<S: Deref<Target = Shared>> Drop for FailOnPanic<S> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let source = Arc::new(std::io::Error::other("a thread of the log panicked"));
            self.0.fail(Error::Io { op: "write", path: self.0.dir.clone(), source });
        }
    }
}
