//! An append-only sequence of rows in columnar chunks, with the commit that wrote each and the marks of those gone.
//!
//! A row is named by its ordinal, the count of rows appended before it, which never changes: small chunks are merged
//! into larger ones as they gather (each row is copied at most three times), and a merge moves no ordinal. A merged or
//! full chunk is not merged again, so readers share it. Chunks keep the schema version they were written with; the first
//! reader with a newer one puts chunks of that version in their place.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::DataType;
use parking_lot::RwLock;

use crate::error::{Error, Result};
use crate::ids::Seq;
use crate::marks::Marks;
use crate::project::Projection;
use crate::schema::TableSchema;

/// Chunks smaller than a power of this are merged once their sum reaches that power.
const FAN_IN: usize = 16;
/// Chunks of this many rows or more are never merged.
const FULL: usize = FAN_IN * FAN_IN * FAN_IN;

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
    inner: RwLock<Inner>,
    /// Rows superseded or deleted since.
    pub marks: Marks,
}

#[derive(Debug, Default)]
struct Inner {
    chunks: Vec<Arc<Chunk>>,
    commits: Vec<CommitRange>,
    rows: u32,
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
        let first = inner.rows;
        let count =
            u32::try_from(batch.num_rows()).map_err(|_| Error::Overloaded("a commit of too many rows"))?;
        let rows = first.checked_add(count).ok_or(Error::Overloaded("too many rows in memory"))?;
        if inner.commits.last().is_none_or(|last| last.seq != seq) {
            inner.commits.push(CommitRange { first, seq, time_us });
        }
        inner.bytes += memory(&batch) + size_of::<CommitRange>();
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
        self.inner.read().rows
    }

    /// True if no row was ever appended.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes the rows take in memory, about.
    pub fn bytes(&self) -> usize {
        self.inner.read().bytes
    }

    /// The first commit after another one that wrote rows here.
    pub fn first_seq_after(&self, seq: Seq) -> Option<Seq> {
        let inner = self.inner.read();
        inner.commits.get(inner.commits.partition_point(|c| c.seq <= seq)).map(|c| c.seq)
    }

    /// The rows visible at a snapshot, in chunks of one schema version.
    ///
    /// # Errors
    /// [`Error::Conflict`] if rows are newer than the schema and do not fit it.
    pub fn visible(&self, snapshot: Seq, schema: &Arc<TableSchema>) -> Result<VisibleRows> {
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
        if !older.is_empty() {
            self.inner.write().replace(older);
        }
        Ok(visible)
    }

    fn chunks_at(&self, snapshot: Seq) -> VisibleRows {
        let inner = self.inner.read();
        let newer = inner.commits.partition_point(|c| c.seq <= snapshot);
        let rows = inner.commits.get(newer).map_or(inner.rows, |c| c.first);
        let chunks = inner.chunks.partition_point(|c| c.first < rows);
        VisibleRows { chunks: inner.chunks[..chunks].to_vec(), rows }
    }

    /// The commit and time of every row in `first..end`.
    pub fn versions(&self, first: u32, end: u32) -> Vec<(Seq, i64)> {
        let inner = self.inner.read();
        let mut versions = Vec::with_capacity((end - first) as usize);
        let start = inner.commits.partition_point(|c| c.first <= first).saturating_sub(1);
        for (at, range) in inner.commits[start..].iter().enumerate() {
            let until = inner.commits.get(start + at + 1).map_or(inner.rows, |next| next.first).min(end);
            let from = range.first.max(first);
            versions.extend((from..until.max(from)).map(|_| (range.seq, range.time_us)));
            if until >= end {
                break;
            }
        }
        versions
    }

    /// Which commit wrote a row, and its place among that commit's rows.
    pub fn place(&self, ordinal: u32) -> Option<(Seq, u32)> {
        let inner = self.inner.read();
        let range = inner.commits[..inner.commits.partition_point(|c| c.first <= ordinal)].last()?;
        (ordinal < inner.rows).then_some((range.seq, ordinal - range.first))
    }

    /// The ordinal of the `index`-th row of a commit; the inverse of [`Rows::place`].
    pub fn ordinal(&self, seq: Seq, index: u32) -> Option<u32> {
        let inner = self.inner.read();
        let at = inner.commits.binary_search_by_key(&seq, |c| c.seq).ok()?;
        let end = inner.commits.get(at + 1).map_or(inner.rows, |next| next.first);
        let ordinal = inner.commits[at].first.checked_add(index)?;
        (ordinal < end).then_some(ordinal)
    }
}

impl Inner {
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
            if total >= size && count > 1 {
                let from = self.chunks.len() - count;
                // The commit is in the log already. Chunks that cannot be one array stay as they are.
                let Ok(merged) = merge(&self.chunks[from..]) else { return };
                let before: usize = self.chunks[from..].iter().map(|c| memory(&c.batch)).sum();
                self.bytes = (self.bytes + memory(&merged.batch)).saturating_sub(before);
                self.chunks.truncate(from);
                self.chunks.push(Arc::new(merged));
            }
            size *= FAN_IN;
        }
    }
}

/// Bytes that a chunk of these rows takes.
fn memory(rows: &RecordBatch) -> usize {
    batch_memory(rows) + size_of::<Chunk>() + 2 * size_of::<usize>()
}

fn merge(chunks: &[Arc<Chunk>]) -> Result<Chunk> {
    let schema = chunks[0].batch.schema();
    let merged = arrow::compute::concat_batches(&schema, chunks.iter().map(|c| &c.batch))
        .map_err(|e| Error::internal("merge chunks", e))?;
    let columns = merged.columns().iter().map(compacted).collect();
    let batch = RecordBatch::try_new(schema, columns).map_err(|e| Error::internal("merge chunks", e))?;
    Ok(Chunk { first: chunks[0].first, schema: chunks[0].schema.clone(), batch })
}

/// What Arrow counts, and what it does not: the allocations that hold a column and its buffers together.
fn batch_memory(rows: &RecordBatch) -> usize {
    const COLUMN: usize = 144;
    rows.get_array_memory_size() + rows.num_columns() * COLUMN
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
