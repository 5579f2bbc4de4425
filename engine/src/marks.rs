//! Which rows of one chunk source were superseded or deleted, and by which commit.
//!
//! Marks only ever get added, in commit order, so readers at an older snapshot share the structure with writers: they
//! ignore marks newer than theirs. Marks that every open snapshot sees are folded into a plain bitmap.

use std::sync::Arc;

use parking_lot::RwLock;
use roaring::RoaringBitmap;

use crate::ids::Seq;

/// Recent marks kept before folding is tried.
const FOLD_AT: usize = 256;

/// Delete marks of one memtable store or segment.
#[derive(Debug, Default)]
pub struct Marks {
    inner: RwLock<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Every marked row.
    all: RoaringBitmap,
    /// Rows whose mark is seen by every open snapshot.
    folded: Arc<RoaringBitmap>,
    /// The other marks, by rising sequence.
    recent: Vec<(Seq, u32)>,
    /// The answer last given, and how many recent marks are in it.
    cached: Option<(usize, Arc<RoaringBitmap>)>,
}

impl Marks {
    /// Marks that a manifest recorded; every reader sees them.
    pub fn folded(rows: RoaringBitmap) -> Self {
        let inner = Inner { all: rows.clone(), folded: Arc::new(rows), ..Inner::default() };
        Self { inner: RwLock::new(inner) }
    }

    /// True if the row is marked by any commit, visible or not.
    pub fn contains(&self, row: u32) -> bool {
        self.inner.read().all.contains(row)
    }

    /// Marks a row as superseded by commit `seq`, which is not lower than that of any mark before. False if it already was.
    pub fn add(&self, row: u32, seq: Seq, horizon: Seq) -> bool {
        let mut inner = self.inner.write();
        if !inner.all.insert(row) {
            return false;
        }
        inner.recent.push((seq, row));
        if inner.recent.len().is_multiple_of(FOLD_AT) {
            inner.fold(horizon);
        }
        true
    }

    /// The rows marked at or before `snapshot`; `None` if there are none.
    pub fn at(&self, snapshot: Seq) -> Option<Arc<RoaringBitmap>> {
        let inner = self.inner.read();
        let seen = inner.recent.partition_point(|(seq, _)| *seq <= snapshot);
        if seen == 0 {
            return (!inner.folded.is_empty()).then(|| inner.folded.clone());
        }
        if let Some((count, bitmap)) = &inner.cached
            && *count == seen
        {
            return Some(bitmap.clone());
        }
        let mut rows = RoaringBitmap::clone(&inner.folded);
        rows.extend(inner.recent[..seen].iter().map(|(_, row)| *row));
        let rows = Arc::new(rows);
        drop(inner);
        self.inner.write().remember(seen, snapshot, &rows);
        Some(rows)
    }

    /// Marks newer than `snapshot`, oldest first.
    pub fn after(&self, snapshot: Seq) -> Vec<(Seq, u32)> {
        let inner = self.inner.read();
        inner.recent[inner.recent.partition_point(|(seq, _)| *seq <= snapshot)..].to_vec()
    }

    /// How many rows are marked, visibly or not.
    pub fn len(&self) -> u64 {
        self.inner.read().all.len()
    }

    /// True if no row is marked.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Inner {
    fn fold(&mut self, horizon: Seq) {
        let count = self.recent.partition_point(|(seq, _)| *seq <= horizon);
        if count > 0 {
            let folded = Arc::make_mut(&mut self.folded);
            folded.extend(self.recent.drain(..count).map(|(_, row)| row));
            self.cached = None;
        }
    }

    /// Keeps an answer, unless a fold or newer marks at the same snapshot came between.
    fn remember(&mut self, seen: usize, snapshot: Seq, rows: &Arc<RoaringBitmap>) {
        let still = self.recent.partition_point(|(seq, _)| *seq <= snapshot) == seen;
        if still && self.folded.len() + seen as u64 == rows.len() {
            self.cached = Some((seen, rows.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_sees_the_marks_of_its_snapshot_and_no_others() {
        let marks = Marks::default();
        assert!(marks.at(100).is_none());
        marks.add(7, 10, 0);
        marks.add(3, 12, 0);
        assert!(marks.at(9).is_none());
        assert_eq!(marks.at(10).unwrap().iter().collect::<Vec<_>>(), [7]);
        assert_eq!(marks.at(12).unwrap().iter().collect::<Vec<_>>(), [3, 7]);
        assert_eq!(
            marks.at(11).unwrap().iter().collect::<Vec<_>>(),
            [7],
            "an older snapshot after a newer one"
        );
    }

    #[test]
    fn a_row_is_marked_once() {
        let marks = Marks::default();
        assert!(marks.add(1, 5, 0));
        assert!(!marks.add(1, 6, 0));
    }

    #[test]
    fn folding_keeps_what_open_snapshots_need() {
        let marks = Marks::default();
        for row in 0..1_000u32 {
            marks.add(row, u64::from(row) + 1, 300);
        }
        for snapshot in [300, 301, 500, 999, 1_000] {
            assert_eq!(marks.at(snapshot).unwrap().len(), snapshot, "at {snapshot}");
        }
        assert_eq!(marks.after(990).len(), 10);
    }
}
