//! An append-only sequence of rows in columnar chunks, with the commit that wrote each and the marks of those gone.
//!
//! A row is named by its ordinal, the count of rows appended before it, which never changes: small chunks are merged
//! into larger ones as they gather, and a merge moves no ordinal. Writers merge seldom (each row is copied at most three
//! times), so that memory is not taken up by chunks of one row. A reader that still meets many short ones merges them to
//! chunks each of which is at least as long as all behind it: whoever reads after it has few, and a row is copied by
//! readers only when the chunk it is in doubles. Full chunks are not merged again. Chunks keep the schema version they
//! were written with; the first reader with a newer one puts chunks of that version in their place.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::DataType;
use parking_lot::RwLock;

use crate::array_memory;
use crate::error::{Error, Result};
use crate::ids::Seq;
use crate::marks::Marks;
use crate::project::Projection;
use crate::schema::TableSchema;

/// Chunks smaller than a power of this are merged once their sum reaches that power.
const FAN_IN: usize = 16;
/// Chunks of this many rows or more are never merged.
const FULL: usize = FAN_IN * FAN_IN * FAN_IN;
/// A reader merges chunks if that many become one.
const SCATTERED: usize = 4;

/// Rows appended together or merged since.
#[derive(Debug)]
pub struct Chunk {
    /// The ordinal of its first row.
    pub first: u32,
    /// The schema version of the rows.
    pub schema: Arc<TableSchema>,
    /// The rows, declared columns only.
    pub batch: RecordBatch,
}

impl Chunk {
    /// The ordinal after its last row.
    pub fn end(&self) -> u32 {
        self.first + self.batch.num_rows() as u32
    }
}

/// The rows that one commit appended.
#[derive(Debug, Clone, Copy)]
pub struct CommitRange {
    /// The ordinal of the first of them; the next range says where they end.
    pub first: u32,
    /// The commit.
    pub seq: Seq,
    /// Its time, microseconds since the epoch.
    pub time_us: i64,
}

/// The append-only sequence. One writer at a time (the partition's commit lock), any number of readers.
#[derive(Debug, Default)]
pub struct Rows {
    /// Nothing before the first row: of the stores of tombstones most are empty.
    inner: RwLock<Option<Box<Inner>>>,
    /// Rows superseded or deleted since.
    pub marks: Marks,
}

#[derive(Debug, Default)]
struct Inner {
    chunks: Vec<Arc<Chunk>>,
    commits: Vec<CommitRange>,
    rows: u32,
    /// What the chunks take.
    bytes: usize,
}

/// The rows of a [`Rows`] that were there at one snapshot.
#[derive(Debug, Clone)]
pub struct VisibleRows {
    /// The chunks; the last may hold newer rows too.
    pub chunks: Vec<Arc<Chunk>>,
    /// How many rows are visible: those with lower ordinals.
    pub rows: u32,
}

impl Rows {
    /// Appends the rows of commit `seq`, which is newer than all before. Returns the first ordinal. Schema versions never
    /// go back.
    ///
    /// # Errors
    /// [`Error::Overloaded`] if there are more rows than ordinals; see [`Rows::has_room`].
    pub fn append(
        &self,
        batch: RecordBatch,
        schema: &Arc<TableSchema>,
        seq: Seq,
        time_us: i64,
    ) -> Result<u32> {
        let mut inner = self.inner.write();
        let inner = inner.get_or_insert_default();
        let first = inner.rows;
        let count =
            u32::try_from(batch.num_rows()).map_err(|_| Error::Overloaded("a commit of too many rows"))?;
        let rows = first.checked_add(count).ok_or(Error::Overloaded("too many rows in memory"))?;
        if inner.chunks.is_empty() {
            // Of many partitions there are many with one commit.
            inner.chunks.reserve_exact(1);
            inner.commits.reserve_exact(1);
        }
        if inner.commits.last().is_none_or(|last| last.seq != seq) {
            inner.commits.push(CommitRange { first, seq, time_us });
        }
        inner.bytes += memory(&batch);
        inner.rows = rows;
        inner.chunks.push(Arc::new(Chunk { first, schema: schema.clone(), batch }));
        inner.merge_tail();
        Ok(first)
    }

    /// True if this many more rows can be appended.
    pub fn has_room(&self, more: usize) -> bool {
        u32::try_from(more).is_ok_and(|more| self.len().checked_add(more).is_some())
    }

    /// Rows appended so far, visible or not.
    pub fn len(&self) -> u32 {
        self.look(|inner| inner.rows)
    }

    /// True if no row was ever appended.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes the rows take in memory beside the structure itself.
    pub fn bytes(&self) -> usize {
        self.inner.read().as_ref().map_or(0, |inner| {
            let chunks = inner.chunks.capacity() * size_of::<Arc<Chunk>>();
            let commits = inner.commits.capacity() * size_of::<CommitRange>();
            size_of::<Inner>() + inner.bytes + chunks + commits
        })
    }

    /// The newest commit that wrote rows here.
    pub fn last_seq(&self) -> Option<Seq> {
        self.look(|inner| inner.commits.last().map(|c| c.seq))
    }

    /// The first commit after another one that wrote rows here.
    pub fn first_seq_after(&self, seq: Seq) -> Option<Seq> {
        self.look(|inner| {
            let newer = inner.commits.partition_point(|c| c.seq <= seq);
            inner.commits.get(newer).map(|c| c.seq)
        })
    }

    /// The rows visible at a snapshot, in chunks of one schema version.
    ///
    /// # Errors
    /// [`Error::Conflict`] if rows are newer than the schema and do not fit it.
    pub fn visible(&self, snapshot: Seq, schema: &Arc<TableSchema>) -> Result<VisibleRows> {
        self.gather();
        let mut visible = self.chunks_at(snapshot);
        let mut older = Vec::new();
        for chunk in &mut visible.chunks {
            if let Some(projection) = Projection::new(&chunk.schema, schema)? {
                let batch = projection.apply(&chunk.batch)?;
                let projected = Arc::new(Chunk { first: chunk.first, schema: schema.clone(), batch });
                let replaced = std::mem::replace(chunk, projected.clone());
                if replaced.schema.version() < schema.version() {
                    older.push((replaced, projected));
                }
            }
        }
        if !older.is_empty()
            && let Some(inner) = &mut *self.inner.write()
        {
            inner.replace(older);
        }
        Ok(visible)
    }

    /// Merges short chunks at the end if there are many.
    fn gather(&self) {
        if self.look(Inner::scattered) < SCATTERED {
            return;
        }
        if let Some(inner) = &mut *self.inner.write() {
            // Another reader may have been first.
            let count = inner.scattered();
            if count >= SCATTERED {
                inner.merge_last(count);
            }
        }
    }

    fn chunks_at(&self, snapshot: Seq) -> VisibleRows {
        self.look(|inner| {
            let newer = inner.commits.partition_point(|c| c.seq <= snapshot);
            let rows = inner.commits.get(newer).map_or(inner.rows, |c| c.first);
            let chunks = inner.chunks.partition_point(|c| c.first < rows);
            VisibleRows { chunks: inner.chunks[..chunks].to_vec(), rows }
        })
    }

    /// The commit and time of every row in `first..end`.
    pub fn versions(&self, first: u32, end: u32) -> Vec<(Seq, i64)> {
        self.look(|inner| inner.versions(first, end))
    }

    /// Which commit wrote a row, and its place among that commit's rows.
    pub fn place(&self, ordinal: u32) -> Option<(Seq, u32)> {
        self.look(|inner| {
            let range = inner.commits[..inner.commits.partition_point(|c| c.first <= ordinal)].last()?;
            (ordinal < inner.rows).then_some((range.seq, ordinal - range.first))
        })
    }

    /// The ordinal of the `index`-th row of a commit; the inverse of [`Rows::place`].
    pub fn ordinal(&self, seq: Seq, index: u32) -> Option<u32> {
        self.look(|inner| {
            let at = inner.commits.binary_search_by_key(&seq, |c| c.seq).ok()?;
            let end = inner.commits.get(at + 1).map_or(inner.rows, |next| next.first);
            let ordinal = inner.commits[at].first.checked_add(index)?;
            (ordinal < end).then_some(ordinal)
        })
    }

    fn look<T>(&self, at: impl FnOnce(&Inner) -> T) -> T {
        match &*self.inner.read() {
            Some(inner) => at(inner),
            None => at(&Inner::default()),
        }
    }
}

impl Inner {
    fn versions(&self, first: u32, end: u32) -> Vec<(Seq, i64)> {
        let mut versions = Vec::with_capacity((end - first) as usize);
        let start = self.commits.partition_point(|c| c.first <= first).saturating_sub(1);
        for (at, range) in self.commits[start..].iter().enumerate() {
            let until = self.commits.get(start + at + 1).map_or(self.rows, |next| next.first).min(end);
            let from = range.first.max(first);
            versions.extend((from..until.max(from)).map(|_| (range.seq, range.time_us)));
            if until >= end {
                break;
            }
        }
        versions
    }

    /// Puts chunks that a reader brought to a newer schema version in the place of the old ones, so that it is done once.
    fn replace(&mut self, chunks: Vec<(Arc<Chunk>, Arc<Chunk>)>) {
        for (old, new) in chunks {
            // It may have been merged, or replaced by another reader, since.
            let at = self.chunks.partition_point(|c| c.first < old.first);
            if let Some(chunk) = self.chunks.get_mut(at).filter(|chunk| Arc::ptr_eq(chunk, &old)) {
                let (before, after) = (memory(&old.batch), memory(&new.batch));
                self.bytes = (self.bytes + after).saturating_sub(before);
                *chunk = new;
            }
        }
    }

    /// Merges the chunks at the end whose rows together fill the next size, smallest size first. Only those of one schema
    /// version: others wait until a reader brings them to it.
    fn merge_tail(&mut self) {
        let Some(version) = self.chunks.last().map(|chunk| chunk.schema.version()) else { return };
        let mut size = FAN_IN;
        while size <= FULL {
            let mergeable = |c: &&Arc<Chunk>| c.batch.num_rows() < size && c.schema.version() == version;
            let small = self.chunks.iter().rev().take_while(mergeable);
            let (count, total) = small.fold((0, 0), |(n, rows), c| (n + 1, rows + c.batch.num_rows()));
            if total >= size && count > 1 && !self.merge_last(count) {
                return;
            }
            size *= FAN_IN;
        }
    }

    /// How many chunks at the end a reader would make one: from the first that is shorter than all behind it are together,
    /// but none before one that is full. Writers wait meanwhile.
    fn scattered(&self) -> usize {
        let Some(last) = self.chunks.last() else { return 0 };
        let (version, mut behind, mut count) = (last.schema.version(), 0, 0);
        for (at, chunk) in (1..).zip(self.chunks.iter().rev()) {
            let rows = chunk.batch.num_rows();
            if rows.max(behind) >= FULL || chunk.schema.version() != version {
                break;
            }
            if rows <= behind {
                count = at;
            }
            behind += rows;
        }
        count
    }

    /// Makes one of the last chunks, of one schema version. False if they cannot be one array; they stay as they are then,
    /// for their commits are in the log already.
    fn merge_last(&mut self, count: usize) -> bool {
        let from = self.chunks.len() - count;
        let Ok(merged) = merge(&self.chunks[from..]) else { return false };
        let before: usize = self.chunks[from..].iter().map(|c| memory(&c.batch)).sum();
        self.bytes = (self.bytes + memory(&merged.batch)).saturating_sub(before);
        self.chunks.truncate(from);
        self.chunks.push(Arc::new(merged));
        true
    }
}

/// Bytes that a chunk of these rows takes.
fn memory(rows: &RecordBatch) -> usize {
    array_memory::of_batch(rows) + size_of::<Chunk>() + 2 * size_of::<usize>()
}

fn merge(chunks: &[Arc<Chunk>]) -> Result<Chunk> {
    let schema = chunks[0].batch.schema();
    let merged = arrow::compute::concat_batches(&schema, chunks.iter().map(|c| &c.batch))
        .map_err(|e| Error::internal("merge chunks", e))?;
    let columns = merged.columns().iter().map(compacted).collect();
    let batch = RecordBatch::try_new(schema, columns).map_err(|e| Error::internal("merge chunks", e))?;
    Ok(Chunk { first: chunks[0].first, schema: chunks[0].schema.clone(), batch })
}

/// A view array after `concat` still refers to every buffer of its parts; this copies what is used into one.
pub(crate) fn compacted(column: &ArrayRef) -> ArrayRef {
    match column.data_type() {
        DataType::Utf8View if !column.as_string_view().data_buffers().is_empty() => {
            Arc::new(column.as_string_view().gc())
        }
        DataType::BinaryView if !column.as_binary_view().data_buffers().is_empty() => {
            Arc::new(column.as_binary_view().gc())
        }
        _ => column.clone(),
    }
}
