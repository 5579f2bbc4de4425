//! Decoded pages of columns, kept for those who read single rows.
//!
//! One row of a segment costs decoding the page it is in, of every column: thousands of values for one. Rows that are read
//! one by one are read again, and so are their neighbours, so the pages are kept, of all segments together up to a number
//! of bytes. Which page goes is decided as by the hand of a clock: it passes over those that were used since it last came
//! by. Scans neither use the pages nor add to them.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::ArrayRef;
use parking_lot::Mutex;

/// A page of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Page {
    /// The column's place in the file.
    pub(crate) column: u32,
    /// The page's first row in the file.
    pub(crate) first_row: u32,
}

/// See the module.
#[derive(Debug)]
pub struct PageCache {
    limit: usize,
    next_segment: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    bytes: usize,
    segments: HashMap<u64, HashMap<Page, Kept>>,
    /// Every page that is kept, in the order in which the hand comes by.
    clock: VecDeque<(u64, Page)>,
}

#[derive(Debug)]
struct Kept {
    values: ArrayRef,
    bytes: usize,
    used: bool,
}

impl PageCache {
    /// A cache for this many bytes of values.
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, next_segment: AtomicU64::new(0), state: Mutex::default() }
    }

    /// A number for a segment, by which the cache knows its pages.
    pub(crate) fn number(&self) -> u64 {
        self.next_segment.fetch_add(1, Ordering::Relaxed)
    }

    /// Bytes of the values that are kept.
    pub(crate) fn bytes(&self) -> usize {
        self.state.lock().bytes
    }

    /// The values of a page, if they are kept.
    pub(crate) fn get(&self, segment: u64, page: Page) -> Option<ArrayRef> {
        let mut state = self.state.lock();
        let kept = state.segments.get_mut(&segment)?.get_mut(&page)?;
        kept.used = true;
        Some(kept.values.clone())
    }

    /// Keeps the values of a page. One that would take a large part of the room is not worth it.
    pub(crate) fn keep(&self, segment: u64, page: Page, values: ArrayRef) {
        let bytes = values.get_array_memory_size();
        if bytes > self.limit / 16 {
            return;
        }
        let mut state = self.state.lock();
        let kept = Kept { values, bytes, used: false };
        state.bytes += bytes;
        if let Some(same) = state.segments.entry(segment).or_default().insert(page, kept) {
            // Two have read it at once.
            state.bytes -= same.bytes;
            return;
        }
        state.clock.push_back((segment, page));
        while state.bytes > self.limit {
            state.advance();
        }
    }

    /// Lets all pages of a segment go.
    pub(crate) fn forget(&self, segment: u64) {
        let mut state = self.state.lock();
        if let Some(pages) = state.segments.remove(&segment) {
            state.bytes -= pages.values().map(|kept| kept.bytes).sum::<usize>();
            state.clock.retain(|(other, _)| *other != segment);
        }
    }
}

impl State {
    /// Moves the hand by one page: lets it go if it was not used since the hand was here.
    fn advance(&mut self) {
        let Some((segment, page)) = self.clock.pop_front() else { return };
        let Some(pages) = self.segments.get_mut(&segment) else { return };
        match pages.get_mut(&page) {
            Some(kept) if kept.used => {
                kept.used = false;
                self.clock.push_back((segment, page));
            }
            _ => {
                self.bytes -= pages.remove(&page).map_or(0, |kept| kept.bytes);
                if pages.is_empty() {
                    self.segments.remove(&segment);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::Int64Array;

    use super::*;

    fn values(n: i64) -> ArrayRef {
        Arc::new(Int64Array::from(vec![n; 100]))
    }

    fn page(n: u32) -> Page {
        Page { column: 0, first_row: n }
    }

    #[test]
    fn what_is_used_stays_and_what_is_not_goes_within_the_limit() {
        let size = values(0).get_array_memory_size();
        let cache = PageCache::new(20 * size);
        cache.keep(0, page(0), values(0));
        for n in 1..200 {
            cache.keep(0, page(n), values(n.into()));
            assert!(cache.get(0, page(0)).is_some(), "{n}");
            assert!(cache.bytes() <= 20 * size, "{n}");
        }
        assert!(cache.get(0, page(1)).is_none() && cache.get(0, page(199)).is_some());
    }

    #[test]
    fn a_segment_that_is_gone_leaves_nothing() {
        let cache = PageCache::new(1 << 20);
        let (one, other) = (cache.number(), cache.number());
        for n in 0..5 {
            cache.keep(one, page(n), values(1));
            cache.keep(other, page(n), values(2));
            // Kept by two at once.
            cache.keep(other, page(n), values(2));
        }
        cache.forget(one);
        assert!(cache.get(one, page(0)).is_none() && cache.get(other, page(4)).is_some());
        cache.forget(other);
        cache.forget(other);
        assert_eq!((cache.bytes(), cache.state.lock().clock.len()), (0, 0));
    }

    #[test]
    fn nothing_is_kept_where_there_is_no_room() {
        let cache = PageCache::new(0);
        cache.keep(0, page(0), values(0));
        assert!(cache.get(0, page(0)).is_none());
        let small = PageCache::new(values(0).get_array_memory_size() * 15);
        small.keep(0, page(0), values(0));
        assert_eq!(small.bytes(), 0);
    }
}
