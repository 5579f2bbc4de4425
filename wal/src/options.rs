//! How a log is opened.

use std::fmt::Debug;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use crate::clock::{Clock, SystemClock};
use crate::error::Error;
use crate::{Lsn, MIN_SEGMENT};

/// How a log is opened. `Options::default()` is a durable log with 64 MiB segments.
#[derive(Debug, Clone)]
pub struct Options {
    /// Size of a segment file in bytes, at least [`MIN_SEGMENT`]. The first segments of a new log are smaller, so that
    /// it starts at once; a record that does not fit gets a segment of its own size.
    pub segment_bytes: u64,
    /// When a record counts as durable.
    pub sync: SyncPolicy,
    /// Payload bytes that may wait for the writer before [`Log::append`](crate::Log::append) blocks.
    pub queue_bytes: usize,
    /// What is kept for readers after recovery no longer needs it.
    pub retain: Retain,
    /// How many empty segments are kept ready, so that going on to the next one costs no allocation.
    pub spares: usize,
    /// Who does the work.
    pub mode: Mode,
    /// A number no other log was given; it makes the id of a new log. Taken from the system by default; a simulation
    /// passes its seed.
    pub entropy: u64,
    /// Stamps segments, for retention by age.
    pub clock: Arc<dyn Clock>,
    /// Told of every group.
    pub observer: Option<Arc<dyn Observer>>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
            sync: SyncPolicy::Always,
            queue_bytes: 16 << 20,
            retain: Retain::default(),
            spares: 1,
            mode: Mode::Threads,
            entropy: RandomState::new().hash_one(0),
            clock: Arc::new(SystemClock),
            observer: None,
        }
    }
}

impl Options {
    /// Segment size with the smallest one enforced.
    pub(crate) fn segment_capacity(&self) -> u64 {
        self.segment_bytes.max(MIN_SEGMENT)
    }
}

/// When a record counts as durable: when [`Log::durable`](crate::Log::durable) reaches it, waiters are answered and
/// readers may see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncPolicy {
    /// When it survives a power cut: every group is synced.
    Always,
    /// When it survives the end of the process; a power cut takes back at most about this much time.
    Interval(Duration),
    /// When it survives the end of the process; the operating system decides when it survives a power cut. Segments are
    /// still synced before the next one begins.
    Never,
}

/// What is kept for readers after recovery no longer needs it: a segment goes when either limit is passed. Looked at
/// when a segment is begun and at each truncation, so an idle log keeps its history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retain {
    /// Bytes of segments that only readers need.
    pub bytes: u64,
    /// Time since the segment's last record.
    pub age: Duration,
}

impl Retain {
    /// Nothing is kept but what recovery or an open reader needs.
    pub const NOTHING: Self = Self { bytes: 0, age: Duration::ZERO };
}

impl Default for Retain {
    fn default() -> Self {
        Self { bytes: 1 << 30, age: Duration::from_secs(3600) }
    }
}

/// Who writes, syncs and preallocates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// A writer thread and an allocator thread of the log.
    Threads,
    /// Whoever waits for a record, or calls [`Log::sync`](crate::Log::sync): no thread is started and the order of
    /// disk operations follows from the order of calls alone. For deterministic simulations.
    Inline,
}

/// Hears of every group, from the thread that wrote it (the writer's, or that of [`Queued::write`](crate::Queued::write)), in log order, before any waiter is woken. It must be quick,
/// and must not wait for the log.
pub trait Observer: Debug + Send + Sync + 'static {
    /// Everything up to and including `upto` is durable.
    fn durable(&self, upto: Lsn);
    /// The log has stopped for good; nothing after the last `durable` will be reported. Called once.
    fn failed(&self, error: &Error);
}
