//! Counters of a running log.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// A reading of the log's counters, all of them since it was opened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Metrics {
    /// Records written.
    pub appends: u64,
    /// Payload bytes written.
    pub bytes: u64,
    /// Groups written.
    pub groups: u64,
    /// Syncs of segment data by the writer.
    pub syncs: u64,
    /// Records per group.
    pub group_size: Histogram,
    /// Microseconds per sync.
    pub sync_micros: Histogram,
    /// Records that wait for the writer now.
    pub queued_records: u64,
    /// Bytes that wait for the writer now.
    pub queued_bytes: u64,
    /// Segments retained now.
    pub segments: u64,
    /// Bytes of the segments retained now.
    pub retained_bytes: u64,
    /// Segments kept ready now.
    pub spares: u64,
    /// Segments begun.
    pub rolls: u64,
    /// Segments that were truncated and are used again.
    pub recycled: u64,
    /// Segments that were truncated and removed.
    pub removed: u64,
}

/// Counts by power of two.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Histogram {
    /// `buckets[i]` counts the values of `i` significant bits: 0, 1, 2..4, 4..8, and so on; the last takes the rest.
    pub buckets: [u64; Self::BUCKETS],
    /// Number of values.
    pub count: u64,
    /// Their sum.
    pub sum: u64,
}

impl Histogram {
    /// Number of buckets.
    pub const BUCKETS: usize = 28;

    /// The largest value that bucket `index` counts, for exporters that name buckets by upper bound.
    pub fn upper_bound(index: usize) -> u64 {
        (1 << index) - 1
    }
}

#[derive(Debug)]
pub(crate) struct Counters {
    pub(crate) appends: AtomicU64,
    pub(crate) bytes: AtomicU64,
    pub(crate) rolls: AtomicU64,
    pub(crate) recycled: AtomicU64,
    pub(crate) removed: AtomicU64,
    group_size: LiveHistogram,
    sync_micros: LiveHistogram,
    recent_sync: AtomicU64,
}

/// No sync has been timed yet.
const NONE: u64 = u64::MAX;

impl Default for Counters {
    fn default() -> Self {
        Self {
            appends: AtomicU64::default(),
            bytes: AtomicU64::default(),
            rolls: AtomicU64::default(),
            recycled: AtomicU64::default(),
            removed: AtomicU64::default(),
            group_size: LiveHistogram::default(),
            sync_micros: LiveHistogram::default(),
            recent_sync: AtomicU64::new(NONE),
        }
    }
}

impl Counters {
    pub(crate) fn group(&self, records: u64, bytes: u64) {
        self.appends.fetch_add(records, Relaxed);
        self.bytes.fetch_add(bytes, Relaxed);
        self.group_size.add(records);
    }

    /// Counts a sync. One at a time.
    pub(crate) fn sync(&self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.sync_micros.add(micros);
        let recent = match self.recent_sync.load(Relaxed) {
            NONE => micros,
            recent => (recent.saturating_mul(7) + micros) / 8,
        };
        self.recent_sync.store(recent, Relaxed);
    }

    /// How long syncs take these days, the last ones counting most; for ever before the first.
    pub(crate) fn recent_sync(&self) -> Duration {
        Duration::from_micros(self.recent_sync.load(Relaxed))
    }

    /// What is counted here; the caller adds what is read elsewhere.
    pub(crate) fn read(&self) -> Metrics {
        let (group_size, sync_micros) = (self.group_size.read(), self.sync_micros.read());
        Metrics {
            appends: self.appends.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
            groups: group_size.count,
            syncs: sync_micros.count,
            group_size,
            sync_micros,
            rolls: self.rolls.load(Relaxed),
            recycled: self.recycled.load(Relaxed),
            removed: self.removed.load(Relaxed),
            ..Metrics::default()
        }
    }
}

#[derive(Debug, Default)]
struct LiveHistogram {
    buckets: [AtomicU64; Histogram::BUCKETS],
    sum: AtomicU64,
}

impl LiveHistogram {
    fn add(&self, value: u64) {
        let bits = (u64::BITS - value.leading_zeros()) as usize;
        self.buckets[bits.min(Histogram::BUCKETS - 1)].fetch_add(1, Relaxed);
        self.sum.fetch_add(value, Relaxed);
    }

    fn read(&self) -> Histogram {
        let mut buckets = [0; Histogram::BUCKETS];
        buckets.iter_mut().zip(&self.buckets).for_each(|(to, from)| *to = from.load(Relaxed));
        Histogram { buckets, count: buckets.iter().sum(), sum: self.sum.load(Relaxed) }
    }
}
