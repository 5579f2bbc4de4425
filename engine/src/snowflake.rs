//! Unique, ever-growing 63-bit ids: 41 bits of milliseconds, 10 bits of node, 12 bits of counter.

use parking_lot::Mutex;

/// 2024-01-01T00:00:00Z, in milliseconds: where our 69 years begin.
const EPOCH_MILLIS: i64 = 1_704_067_200_000;
const NODE_BITS: u32 = 10;
const COUNTER_BITS: u32 = 12;

/// A generator. Ids of one generator grow strictly, even if the clock stands still or jumps back: time then moves on
/// by itself.
#[derive(Debug)]
pub struct Snowflakes {
    node: i64,
    last: Mutex<i64>,
}

impl Snowflakes {
    /// A generator for one node (its low 10 bits count).
    pub fn new(node: u16) -> Self {
        Self { node: i64::from(node) & ((1 << NODE_BITS) - 1), last: Mutex::new(0) }
    }

    /// Makes sure that ids to come are greater than `id`.
    pub fn advance_past(&self, id: i64) {
        let mut last = self.last.lock();
        *last = (*last).max(Self::tick_of(id));
    }

    /// The millisecond of the newest id, in microseconds since the epoch; 0 before the first. Where ids are taken faster
    /// than 4,096 a millisecond it is ahead of the clock.
    pub fn reached(&self) -> i64 {
        match *self.last.lock() {
            0 => 0,
            tick => ((tick >> COUNTER_BITS) + EPOCH_MILLIS) * 1_000,
        }
    }

    /// The next id.
    pub fn next(&self, now_micros: i64) -> i64 {
        self.take(now_micros, 1)
    }

    /// The first of `count` ids reserved at once; the others are given by [`Snowflakes::nth`].
    pub fn take(&self, now_micros: i64, count: usize) -> i64 {
        let now = ((now_micros / 1_000 - EPOCH_MILLIS).max(0)) << COUNTER_BITS;
        let mut last = self.last.lock();
        let first = now.max(*last + 1);
        *last = first + count.max(1) as i64 - 1;
        self.id_of(first)
    }

    /// The id `n` after `first`, where `first` and at least `n` more were reserved by [`Snowflakes::take`].
    pub fn nth(&self, first: i64, n: usize) -> i64 {
        self.id_of(Self::tick_of(first) + n as i64)
    }

    /// An id without its node bits: a count of milliseconds with the counter below.
    fn tick_of(id: i64) -> i64 {
        (id >> (NODE_BITS + COUNTER_BITS) << COUNTER_BITS) | (id & ((1 << COUNTER_BITS) - 1))
    }

    fn id_of(&self, tick: i64) -> i64 {
        let millis = tick >> COUNTER_BITS;
        let counter = tick & ((1 << COUNTER_BITS) - 1);
        (millis << (NODE_BITS + COUNTER_BITS)) | (self.node << COUNTER_BITS) | counter
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_grow_when_the_clock_jumps_back() {
        let ids = Snowflakes::new(3);
        let first = ids.next(1_800_000_000_000_000);
        let second = ids.next(1_700_000_000_000_000);
        assert!(second > first);
    }

    #[test]
    fn reserved_ids_grow_across_millisecond_borders_and_never_overlap() {
        let ids = Snowflakes::new(1);
        let now = 1_800_000_000_000_000;
        let first = ids.take(now, 10_000);
        let reserved: Vec<i64> = (0..10_000).map(|n| ids.nth(first, n)).collect();
        assert!(reserved.windows(2).all(|w| w[0] < w[1]));
        assert!(ids.next(now) > reserved[9_999]);
    }

    #[test]
    fn ids_after_a_restart_with_a_slow_clock_continue_after_the_known_ones() {
        let before = Snowflakes::new(1).next(1_800_000_000_000_000);
        let ids = Snowflakes::new(1);
        ids.advance_past(before);
        assert!(ids.next(0) > before);
    }
}
