//! Which rows of one chunk source were superseded or deleted, and by which commit.
//!
//! Marks only ever get added, in commit order, so readers at an older snapshot share the structure with writers: they
//! ignore marks newer than theirs. Marks that every open snapshot sees are folded into a plain bitmap. Which commit set
//! them is still known after that, until the marks are in a manifest: a file of the partition must be able to say what
//! was marked at exactly the manifest's commit.

use std::sync::Arc;

use roaring::RoaringBitmap;

use crate::ids::Seq;
use crate::sync::RwLock;

/// Recent marks kept before folding is tried.
const FOLD_AT: usize = 256;

/// Delete marks of one memtable store or segment.
#[derive(Debug, Default)]
pub struct Marks {
    /// Nothing before the first mark: there are many stores, and few of them have any.
    inner: RwLock<Option<Box<Inner>>>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Every marked row.
    all: RoaringBitmap,
    /// Rows whose mark is seen by every open snapshot.
    folded: Arc<RoaringBitmap>,
    /// Marks by rising sequence; the oldest may be forgotten. The first `in_folded` of them are folded too.
    log: Vec<(Seq, u32)>,
    in_folded: usize,
    /// The answer last given, and how many marks beyond the folded ones are in it.
    cached: Option<(usize, Arc<RoaringBitmap>)>,
}

impl Marks {
    /// Marks that a manifest recorded; every reader sees them.
    pub fn folded(rows: RoaringBitmap) -> Self {
        let inner = Inner { all: rows.clone(), folded: Arc::new(rows), ..Inner::default() };
        Self { inner: RwLock::new(Some(Box::new(inner))) }
    }

    /// True if the row is marked by any commit, visible or not.
    pub fn contains(&self, row: u32) -> bool {
        self.inner.read().as_ref().is_some_and(|inner| inner.all.contains(row))
    }

    /// Marks a row as superseded by commit `seq`, which is not lower than that of any mark before. False if it already was.
    pub fn add(&self, row: u32, seq: Seq, horizon: Seq) -> bool {
        let mut inner = self.inner.write();
        let inner = inner.get_or_insert_default();
        if !inner.all.insert(row) {
            return false;
        }
        inner.log.push((seq, row));
        if inner.recent().len().is_multiple_of(FOLD_AT) {
            inner.fold(horizon);
        }
        true
    }

    /// The rows marked at or before `snapshot`; `None` if there are none.
    pub fn at(&self, snapshot: Seq) -> Option<Arc<RoaringBitmap>> {
        let guard = self.inner.read();
        let inner = guard.as_ref()?;
        let seen = inner.recent().partition_point(|(seq, _)| *seq <= snapshot);
        if seen == 0 {
            return (!inner.folded.is_empty()).then(|| inner.folded.clone());
        }
        if let Some((count, bitmap)) = &inner.cached
            && *count == seen
        {
            return Some(bitmap.clone());
        }
        let mut rows = RoaringBitmap::clone(&inner.folded);
        rows.extend(inner.recent()[..seen].iter().map(|(_, row)| *row));
        let rows = Arc::new(rows);
        drop(guard);
        if let Some(inner) = &mut *self.inner.write() {
            inner.remember(seen, snapshot, &rows);
        }
        Some(rows)
    }

    /// Marks of commits after `seq`, oldest first: those that are not [forgotten](Marks::forget).
    pub fn after(&self, seq: Seq) -> Vec<(Seq, u32)> {
        let inner = self.inner.read();
        inner.as_ref().map(|inner| inner.log[inner.until(seq)..].to_vec()).unwrap_or_default()
    }

    /// The other marked rows: those of which [`Marks::after`] of the same sequence says nothing.
    pub fn up_to(&self, seq: Seq) -> RoaringBitmap {
        let guard = self.inner.read();
        let Some(inner) = guard.as_ref() else { return RoaringBitmap::new() };
        let mut rows = inner.all.clone();
        for (_, row) in &inner.log[inner.until(seq)..] {
            rows.remove(*row);
        }
        rows
    }

    /// How many those are.
    pub fn len_up_to(&self, seq: Seq) -> u64 {
        let inner = self.inner.read();
        inner.as_ref().map_or(0, |inner| inner.all.len() - (inner.log.len() - inner.until(seq)) as u64)
    }

    /// Forgets which commits set the marks up to `seq`, as far as every snapshot sees them. They stay marks.
    pub fn forget(&self, seq: Seq, horizon: Seq) {
        let mut inner = self.inner.write();
        let Some(inner) = &mut *inner else { return };
        inner.fold(horizon);
        let count = inner.until(seq).min(inner.in_folded);
        inner.log.drain(..count);
        inner.log.shrink_to(2 * FOLD_AT);
        inner.in_folded -= count;
    }

    /// How many rows are marked, visibly or not.
    pub fn len(&self) -> u64 {
        self.inner.read().as_ref().map_or(0, |inner| inner.all.len())
    }

    /// Bytes the marks take beside the structure itself.
    pub(crate) fn memory(&self) -> usize {
        let guard = self.inner.read();
        let Some(inner) = guard.as_ref() else { return 0 };
        let shared =
            |rows: &RoaringBitmap| 2 * size_of::<usize>() + size_of::<RoaringBitmap>() + bitmap_memory(rows);
        let recent = inner.log.capacity() * size_of::<(Seq, u32)>();
        let cached = inner.cached.as_ref().map_or(0, |(_, rows)| shared(rows));
        size_of::<Inner>() + bitmap_memory(&inner.all) + shared(&inner.folded) + recent + cached
    }

    /// True if no row is marked.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Inner {
    /// Marks that are not folded.
    fn recent(&self) -> &[(Seq, u32)] {
        &self.log[self.in_folded..]
    }

    /// How many of the log's marks are of commits up to `seq`.
    fn until(&self, seq: Seq) -> usize {
        self.log.partition_point(|(of, _)| *of <= seq)
    }

    fn fold(&mut self, horizon: Seq) {
        let count = self.recent().partition_point(|(seq, _)| *seq <= horizon);
        if count > 0 {
            let upto = self.in_folded + count;
            let folded = Arc::make_mut(&mut self.folded);
            folded.extend(self.log[self.in_folded..upto].iter().map(|(_, row)| *row));
            self.in_folded = upto;
            self.cached = None;
        }
    }

    /// Keeps an answer, unless a fold or newer marks at the same snapshot came between.
    fn remember(&mut self, seen: usize, snapshot: Seq, rows: &Arc<RoaringBitmap>) {
        let still = self.recent().partition_point(|(seq, _)| *seq <= snapshot) == seen;
        if still && self.folded.len() + seen as u64 == rows.len() {
            self.cached = Some((seen, rows.clone()));
        }
    }
}

/// Bytes a bitmap takes beside the structure itself, about: per 65,536 row numbers a list or a set of bits.
fn bitmap_memory(rows: &RoaringBitmap) -> usize {
    const PLACE: usize = 40;
    let of = rows.statistics();
    let bytes = of.n_bytes_array_containers / 2 + of.n_bytes_bitset_containers + of.n_bytes_run_containers;
    of.n_containers as usize * PLACE + usize::try_from(bytes).unwrap_or(usize::MAX)
}
