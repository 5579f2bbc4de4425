//! The segments that are retained, oldest first, and who stands in them.

use std::collections::VecDeque;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::Lsn;
use crate::error::Error;
use crate::options::Retain;
use crate::segment::Segment;
use crate::sync::Mutex;

#[derive(Debug)]
pub(crate) struct Segments {
    /// Never empty; the last one is being written.
    list: Mutex<VecDeque<Arc<Segment>>>,
}

impl Segments {
    pub(crate) fn new(list: impl IntoIterator<Item = Arc<Segment>>) -> Self {
        Self { list: Mutex::new(list.into_iter().collect()) }
    }

    /// The oldest retained record.
    pub(crate) fn first(&self) -> Lsn {
        self.list.lock().front().map_or(1, |s| s.header.first)
    }

    /// Number of segments and their size in bytes.
    pub(crate) fn size(&self) -> (usize, u64) {
        let list = self.list.lock();
        (list.len(), list.iter().map(|s| s.header.capacity).sum())
    }

    /// Adds the segment that is written from now on. One that begins at the same record has replaced the last one, also
    /// on disk: its first record was too large for it.
    pub(crate) fn push(&self, segment: Arc<Segment>) {
        let mut list = self.list.lock();
        if list.back().is_some_and(|last| last.header.first == segment.header.first) {
            list.pop_back();
        }
        list.push_back(segment);
    }

    /// The segment that holds, or will hold, the record; it stays as long as the pin lives.
    pub(crate) fn pin(&self, lsn: Lsn) -> Result<Pinned, Error> {
        let list = self.list.lock();
        let after = list.partition_point(|s| s.header.first <= lsn);
        match after.checked_sub(1).and_then(|at| list.get(at)) {
            Some(segment) => Ok(Pinned::new(segment)),
            None => Err(Error::Expired { first: list.front().map_or(1, |s| s.header.first) }),
        }
    }

    /// Takes out the oldest segment if recovery (which begins at `low_water`), retention and readers all let it go.
    pub(crate) fn pop(&self, low_water: Lsn, retain: Retain, now: i64) -> Option<Arc<Segment>> {
        let mut list = self.list.lock();
        let history = |s: &&Arc<Segment>| s.sealed().is_some_and(|sealed| sealed.last < low_water);
        let bytes: u64 = list.iter().take_while(history).map(|s| s.header.capacity).sum();
        let oldest = list.front()?;
        let sealed = oldest.sealed().filter(|sealed| sealed.last < low_water)?;
        let age = u128::try_from(now.saturating_sub(sealed.at)).unwrap_or(0);
        let kept = bytes <= retain.bytes && age <= retain.age.as_micros();
        if kept || oldest.pins.load(Ordering::Relaxed) > 0 {
            return None;
        }
        list.pop_front()
    }
}

impl Segments {
    /// Takes out the oldest segment if all its records are before `lsn`, whoever reads it and however young it is.
    pub(crate) fn pop_before(&self, lsn: Lsn) -> Option<Arc<Segment>> {
        let mut list = self.list.lock();
        list.front()?.sealed().filter(|sealed| sealed.last < lsn)?;
        list.pop_front()
    }
}

/// A segment that will not be removed while this lives.
#[derive(Debug)]
pub(crate) struct Pinned(Arc<Segment>);

impl Pinned {
    fn new(segment: &Arc<Segment>) -> Self {
        segment.pins.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(segment))
    }
}

impl Deref for Pinned {
    type Target = Segment;

    fn deref(&self) -> &Segment {
        &self.0
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        self.0.pins.fetch_sub(1, Ordering::Release);
    }
}
