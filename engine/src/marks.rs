//! Which rows of one chunk source were superseded or deleted, and by which commit.
//!
//! Marks only ever get added, in commit order, so readers at an older snapshot share the structure with writers: they
//! ignore marks newer than theirs. Marks that every open snapshot sees are folded into a plain bitmap.

use std::sync::Arc;

use roaring::RoaringBitmap;

use crate::ids::Seq;
use crate::sync::RwLock;

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
