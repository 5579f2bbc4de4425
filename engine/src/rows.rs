//! An append-only sequence of rows in columnar chunks, with the commit that wrote each and the marks of those gone.
//!
//! A row is named by its ordinal, the count of rows appended before it, which never changes: small chunks are merged
//! into larger ones as they gather (each row is copied at most three times), and a merge moves no ordinal. A merged or
//! full chunk is never touched again, so readers share it.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::DataType;
use parking_lot::RwLock;

use crate::error::{Error, Result};
use crate::ids::Seq;
use crate::marks::Marks;

/// Chunks smaller than a power of this are merged once their sum reaches that power.
const FAN_IN: usize = 16;
/// Chunks of this many rows or more are never merged.
const FULL: usize = FAN_IN * FAN_IN * FAN_IN;

/// Rows appended together or merged since.
#[derive(Debug)]
pub struct Chunk {
    /// The ordinal of its first row.
    pub first: u32,
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
    /// Appends the rows of commit `seq`, which is newer than all before. Returns the first ordinal.
    ///
    /// # Errors
    /// [`Error::Overloaded`] if there are more rows than ordinals; see [`Rows::has_room`].
    pub fn append(&self, batch: RecordBatch, seq: Seq, time_us: i64) -> Result<u32> {
        let mut inner = self.inner.write();
        let first = inner.rows;
        let count =
            u32::try_from(batch.num_rows()).map_err(|_| Error::Overloaded("a commit of too many rows"))?;
        let rows = first.checked_add(count).ok_or(Error::Overloaded("too many rows in memory"))?;
        if inner.commits.last().is_none_or(|last| last.seq != seq) {
            inner.commits.push(CommitRange { first, seq, time_us });
        }
        inner.bytes += batch.get_array_memory_size() + size_of::<CommitRange>();
        inner.rows = rows;
        inner.chunks.push(Arc::new(Chunk { first, batch }));
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

    /// The first commit that wrote rows here.
    pub fn first_seq(&self) -> Option<Seq> {
        self.inner.read().commits.first().map(|c| c.seq)
    }

    /// The rows visible at a snapshot.
    pub fn visible(&self, snapshot: Seq) -> VisibleRows {
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
    /// Merges the chunks at the end whose rows together fill the next size, smallest size first.
    fn merge_tail(&mut self) {
        let mut size = FAN_IN;
        while size <= FULL {
            let small = self.chunks.iter().rev().take_while(|c| c.batch.num_rows() < size);
            let (count, total) = small.fold((0, 0), |(n, rows), c| (n + 1, rows + c.batch.num_rows()));
            if total >= size && count > 1 {
                let from = self.chunks.len() - count;
                // The commit is in the log already. Chunks that cannot be one array stay as they are.
                let Ok(merged) = merge(&self.chunks[from..]) else { return };
                let before: usize = self.chunks[from..].iter().map(|c| c.batch.get_array_memory_size()).sum();
                self.bytes = (self.bytes + merged.batch.get_array_memory_size()).saturating_sub(before);
                self.chunks.truncate(from);
                self.chunks.push(Arc::new(merged));
            }
            size *= FAN_IN;
        }
    }
}

fn merge(chunks: &[Arc<Chunk>]) -> Result<Chunk> {
    let schema = chunks[0].batch.schema();
    let merged = arrow::compute::concat_batches(&schema, chunks.iter().map(|c| &c.batch))
        .map_err(|e| Error::internal("merge chunks", e))?;
    let columns = merged.columns().iter().map(compacted).collect();
    let batch = RecordBatch::try_new(schema, columns).map_err(|e| Error::internal("merge chunks", e))?;
    Ok(Chunk { first: chunks[0].first, batch })
}

/// A view array after `concat` still refers to every buffer of its parts; this copies what is used into one.
fn compacted(column: &ArrayRef) -> ArrayRef {
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
