//! A partition at one snapshot: everything a scan needs, pinned.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, BooleanBufferBuilder, Int64Array, RecordBatch, TimestampMicrosecondArray,
};
use roaring::RoaringBitmap;

use crate::catalog::Table;
use crate::error::{Error, Result};
use crate::ids::{PartitionId, Seq};
use crate::memtable::{Memtable, Moved};
use crate::partition::Version;
use crate::project::Projection;
use crate::rows::{Chunk, Rows};
use crate::segment::Segment;
use crate::types::TIMEZONE;

/// A partition at one snapshot. Rows are addressed by chunk and row number; see [`PartitionView::address`].
#[derive(Debug)]
pub struct PartitionView {
    /// The partition.
    pub partition: PartitionId,
    /// Its table, as of the statement's catalog.
    pub table: Arc<Table>,
    /// The snapshot: the last commit seen.
    pub seq: Seq,
    /// Segments first, then memory, each oldest first.
    pub chunks: Vec<ChunkView>,
}

/// Some rows of a partition.
#[derive(Debug, Clone)]
pub enum ChunkView {
    /// Rows in memory.
    Rows(RowsChunk),
    /// Rows in Parquet.
    Segment(SegmentChunk),
}

/// Rows in memory.
#[derive(Debug, Clone)]
pub struct RowsChunk {
    /// True if all of them are soft-deleted versions.
    pub tombstones: bool,
    /// Shared, not copied: what a view costs does not depend on how many columns there are.
    chunk: Arc<Chunk>,
    /// How many rows of the chunk are there at the snapshot: the first ones.
    rows: u32,
    hidden: Option<Arc<RoaringBitmap>>,
    memtable: Arc<Memtable>,
}

/// Rows in Parquet.
#[derive(Debug, Clone)]
pub struct SegmentChunk {
    /// The file.
    pub segment: Arc<Segment>,
    /// File row numbers superseded at the snapshot.
    pub hidden: Option<Arc<RoaringBitmap>>,
    /// True if the file has rows of commits after the snapshot, so that `_seq` must be checked too.
    pub newer_than_snapshot: bool,
}

/// Where a row is, in terms that stay valid while its memtable or segment does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Place {
    /// A live row of a memtable.
    Live {
        /// The memtable.
        generation: u64,
        /// The row.
        ordinal: u32,
    },
    /// A tombstone of a memtable.
    Tombstone {
        /// The memtable.
        generation: u64,
        /// The row.
        ordinal: u32,
    },
    /// A row of a segment.
    Segment {
        /// The segment's id.
        id: u64,
        /// The row's number in the file.
        row: u32,
    },
}

/// A store of rows whose row numbers stay what they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Source {
    /// The live rows of the memtable of a generation.
    Live(u64),
    /// The tombstones of the memtable of a generation.
    Tombstones(u64),
    /// The segment with an id.
    Segment(u64),
}

impl Place {
    /// The store it is in, and the row's number there.
    pub(crate) fn source(self) -> (Source, u32) {
        match self {
            Self::Live { generation, ordinal } => (Source::Live(generation), ordinal),
            Self::Tombstone { generation, ordinal } => (Source::Tombstones(generation), ordinal),
            Self::Segment { id, row } => (Source::Segment(id), row),
        }
    }

    /// The segment and file row that a flush moved it to; `None` if it went nowhere.
    pub(crate) fn moved<'a>(&self, moved: &'a Moved) -> Option<(&'a Arc<Segment>, u32)> {
        let row = match *self {
            Self::Live { ordinal, .. } => moved.live.get(ordinal as usize),
            Self::Tombstone { ordinal, .. } => moved.tombstones.get(ordinal as usize),
            Self::Segment { .. } => None,
        };
        row.filter(|row| **row != Moved::DROPPED).map(|row| (&moved.segment, *row))
    }
}

impl ChunkView {
    /// Where its rows are.
    pub(crate) fn source(&self) -> Source {
        match self {
            Self::Segment(chunk) => Source::Segment(chunk.segment.meta().id),
            Self::Rows(chunk) if chunk.tombstones => Source::Tombstones(chunk.memtable.generation),
            Self::Rows(chunk) => Source::Live(chunk.memtable.generation),
        }
    }

    fn hidden_mut(&mut self) -> &mut Option<Arc<RoaringBitmap>> {
        match self {
            Self::Segment(chunk) => &mut chunk.hidden,
            Self::Rows(chunk) => &mut chunk.hidden,
        }
    }
}

impl RowsChunk {
    /// How many rows there are at the snapshot, superseded ones included.
    pub fn num_rows(&self) -> usize {
        self.rows as usize
    }

    /// How many declared columns they have.
    pub fn num_columns(&self) -> usize {
        self.chunk.batch.num_columns()
    }

    /// A declared column of these rows; shares their memory.
    pub fn column(&self, at: usize) -> ArrayRef {
        let column = self.chunk.batch.column(at);
        if self.is_whole() { column.clone() } else { column.slice(0, self.num_rows()) }
    }

    /// All declared columns of these rows; shares their memory. Costs something for each column: see
    /// [`RowsChunk::column`].
    pub fn batch(&self) -> RecordBatch {
        let batch = &self.chunk.batch;
        if self.is_whole() { batch.clone() } else { batch.slice(0, self.num_rows()) }
    }

    fn is_whole(&self) -> bool {
        self.num_rows() == self.chunk.batch.num_rows()
    }

    fn first(&self) -> u32 {
        self.chunk.first
    }

    fn end(&self) -> u32 {
        self.chunk.first + self.rows
    }

    /// The number in this chunk of a row of its memtable, if it is here.
    pub(crate) fn row_of(&self, ordinal: u32) -> Option<u32> {
        let row = ordinal.checked_sub(self.first())?;
        (row < self.rows).then_some(row)
    }

    pub(crate) fn memtable(&self) -> &Arc<Memtable> {
        &self.memtable
    }

    /// The rows of its memtable that are superseded, those of this chunk among them.
    pub(crate) fn hidden(&self) -> Option<&RoaringBitmap> {
        self.hidden.as_deref()
    }

    fn store(&self) -> &Rows {
        if self.tombstones { &self.memtable.tombstones } else { &self.memtable.live }
    }

    /// Per row, false if it is superseded; `None` if none is.
    pub fn visible(&self) -> Option<BooleanArray> {
        let hidden = self.hidden.as_ref()?;
        let (first, end) = (self.first(), self.end());
        if hidden.range_cardinality(first..end) == 0 {
            return None;
        }
        let mut mask = BooleanBufferBuilder::new(self.num_rows());
        mask.append_n(self.num_rows(), true);
        hidden.range(first..end).for_each(|row| mask.set_bit((row - first) as usize, false));
        Some(BooleanArray::new(mask.finish(), None))
    }

    /// How many rows are superseded.
    pub fn hidden_rows(&self) -> u64 {
        self.hidden.as_ref().map_or(0, |hidden| hidden.range_cardinality(self.first()..self.end()))
    }

    /// `_seq` and `_updated` of every row; built on each call.
    pub fn versions(&self) -> (Int64Array, TimestampMicrosecondArray) {
        let versions = self.store().versions(self.first(), self.end());
        let seqs = versions.iter().map(|(seq, _)| *seq as i64).collect::<Vec<_>>();
        let times = versions.iter().map(|(_, time)| *time).collect::<Vec<_>>();
        (Int64Array::from(seqs), TimestampMicrosecondArray::from(times).with_timezone(TIMEZONE))
    }

    /// `_seq` and `_updated` of one row.
    pub(crate) fn version(&self, row: u32) -> Option<(Seq, i64)> {
        let ordinal = self.first() + row;
        self.store().versions(ordinal, ordinal + 1).pop()
    }

    /// The memtable that holds a row, its place among that commit's rows, and its address.
    pub(crate) fn locate(&self, row: u32) -> Option<(Place, Seq, u32)> {
        let ordinal = self.first() + row;
        let (seq, index) = self.store().place(ordinal)?;
        let generation = self.memtable.generation;
        let place = match self.tombstones {
            true => Place::Tombstone { generation, ordinal },
            false => Place::Live { generation, ordinal },
        };
        Some((place, seq, index))
    }
}

impl PartitionView {
    /// The address of a row: `chunk` is its place in `chunks`, `row` the row's number within it (in the file, for a
    /// segment). Valid together with this view.
    pub fn address(chunk: usize, row: u32) -> u64 {
        (chunk as u64) << 32 | u64::from(row)
    }

    /// A view of a partition that does not exist.
    pub fn empty(partition: PartitionId, table: Arc<Table>, seq: Seq) -> Self {
        Self { partition, table, seq, chunks: Vec::new() }
    }

    /// # Errors
    /// [`Error::Conflict`] if rows are newer than the table's schema and do not fit it.
    pub(crate) fn new(
        partition: PartitionId,
        table: Arc<Table>,
        seq: Seq,
        version: &Version,
    ) -> Result<Self> {
        let mut chunks = Vec::with_capacity(version.segments.len() + 8);
        for segment in version.segments.iter().filter(|segment| segment.meta().rows > 0) {
            // Whoever reads it projects it, which can fail only if it is newer than what the statement knows.
            if segment.schema().version() > table.schema.version() {
                Projection::new(segment.schema(), &table.schema)?;
            }
            let newer_than_snapshot = segment.meta().max_seq > seq;
            let hidden = segment.marks.at(seq);
            chunks.push(ChunkView::Segment(SegmentChunk {
                segment: segment.clone(),
                hidden,
                newer_than_snapshot,
            }));
        }
        let frozen = version.frozen.iter().map(|f| &f.memtable);
        for memtable in frozen.chain(std::iter::once(&version.active)) {
            add_rows(&mut chunks, memtable, &table, false, seq)?;
            add_rows(&mut chunks, memtable, &table, true, seq)?;
        }
        Ok(Self { partition, table, seq, chunks })
    }

    /// True if a row is visible that is not deleted.
    pub(crate) fn has_live_rows(&self) -> bool {
        self.chunks.iter().any(|chunk| match chunk {
            ChunkView::Rows(rows) => !rows.tombstones && rows.hidden_rows() < u64::from(rows.rows),
            ChunkView::Segment(chunk) => {
                let live = chunk.segment.meta().live_rows();
                chunk.hidden.as_ref().map_or(0, |hidden| hidden.range_cardinality(0..live as u32)) < live
            }
        })
    }

    /// The same with more rows hidden, and with all rows of `own` behind; `hidden` says of both which are superseded.
    /// Addresses stay what they were.
    ///
    /// # Errors
    /// None if `own` has rows of the view's schema version.
    pub(crate) fn with_changes(
        &self,
        hidden: HashMap<Source, RoaringBitmap>,
        own: &Arc<Memtable>,
    ) -> Result<Self> {
        let mut chunks = self.chunks.clone();
        add_rows(&mut chunks, own, &self.table, false, Seq::MAX)?;
        add_rows(&mut chunks, own, &self.table, true, Seq::MAX)?;
        let mut merged: HashMap<Source, Arc<RoaringBitmap>> = HashMap::new();
        for chunk in &mut chunks {
            let source = chunk.source();
            let Some(more) = hidden.get(&source).filter(|more| !more.is_empty()) else { continue };
            let before = chunk.hidden_mut();
            let all = merged.entry(source).or_insert_with(|| match before {
                Some(before) => Arc::new(&**before | more),
                None => Arc::new(more.clone()),
            });
            *before = Some(all.clone());
        }
        let (partition, table) = (self.partition.clone(), self.table.clone());
        Ok(Self { partition, table, seq: self.seq, chunks })
    }

    /// A memtable that the view has rows of.
    pub(crate) fn memtable(&self, generation: u64) -> Option<&Arc<Memtable>> {
        self.chunks.iter().find_map(|chunk| match chunk {
            ChunkView::Rows(chunk) if chunk.memtable.generation == generation => Some(&chunk.memtable),
            _ => None,
        })
    }

    /// A segment that the view has rows of.
    pub(crate) fn segment(&self, id: u64) -> Option<&Arc<Segment>> {
        self.chunks.iter().find_map(|chunk| match chunk {
            ChunkView::Segment(chunk) if chunk.segment.meta().id == id => Some(&chunk.segment),
            _ => None,
        })
    }

    pub(crate) fn chunk_of(&self, address: u64) -> Result<(&ChunkView, u32)> {
        let chunk = self.chunks.get((address >> 32) as usize);
        chunk
            .map(|c| (c, address as u32))
            .ok_or_else(|| Error::internal("find a row", "its address is of another view"))
    }
}

fn add_rows(
    chunks: &mut Vec<ChunkView>,
    memtable: &Arc<Memtable>,
    table: &Table,
    tombstones: bool,
    seq: Seq,
) -> Result<()> {
    let store = if tombstones { &memtable.tombstones } else { &memtable.live };
    let visible = store.visible(seq, &table.schema)?;
    if visible.rows == 0 {
        return Ok(());
    }
    // Rows and marks are read one after the other, yet fit together: both are cut at the same commit.
    let hidden = store.marks.at(seq);
    for chunk in visible.chunks {
        let rows = chunk.end().min(visible.rows) - chunk.first;
        let (hidden, memtable) = (hidden.clone(), memtable.clone());
        chunks.push(ChunkView::Rows(RowsChunk { tombstones, chunk, rows, hidden, memtable }));
    }
    Ok(())
}
