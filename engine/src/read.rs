//! Reading all visible rows of a partition without a query engine: for the catalog, for tools and for tests.

use arrow::array::{Array, AsArray, BooleanArray, Int64Array, RecordBatch, UInt64Array};
use arrow::compute::{filter, filter_record_batch};
use arrow::datatypes::{Int64Type, TimestampMicrosecondType};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};

use crate::error::{Error, Result};
use crate::project::{Projection, Source, source};
use crate::view::{ChunkView, PartitionView, RowsChunk, SegmentChunk};
use crate::write::OldRows;

/// Some rows of a view, with their addresses.
#[derive(Debug)]
pub struct Located {
    /// The rows and what their system columns hold.
    pub rows: OldRows,
    /// Their addresses, for [`crate::PartitionWrite`].
    pub addresses: Vec<u64>,
}

/// The live rows of a view, in chunk order. They are gathered in memory.
///
/// # Errors
/// [`Error::PartitionDamaged`] if a segment cannot be read.
pub fn live_rows(view: &PartitionView) -> Result<Vec<Located>> {
    rows(view, false)
}

/// The tombstones of a view, the last values of deleted rows, in chunk order.
///
/// # Errors
/// [`Error::PartitionDamaged`] if a segment cannot be read.
pub fn tombstone_rows(view: &PartitionView) -> Result<Vec<Located>> {
    rows(view, true)
}

fn rows(view: &PartitionView, tombstones: bool) -> Result<Vec<Located>> {
    let mut out = Vec::new();
    for (index, chunk) in view.chunks.iter().enumerate() {
        match chunk {
            ChunkView::Rows(chunk) if chunk.tombstones == tombstones => out.push(memory_rows(chunk, index)?),
            ChunkView::Rows(_) => {}
            ChunkView::Segment(chunk) => segment_rows(view, chunk, index, tombstones, &mut out)?,
        }
    }
    out.retain(|located| !located.addresses.is_empty());
    Ok(out)
}

fn memory_rows(chunk: &RowsChunk, index: usize) -> Result<Located> {
    let (seqs, updated) = chunk.versions();
    let rows = OldRows { rows: chunk.batch(), seqs, updated };
    let mask = chunk.visible().unwrap_or_else(|| BooleanArray::from(vec![true; chunk.num_rows()]));
    select(rows, &mask, index, 0)
}

/// Keeps the rows of a mask; `first` is the row number of the first row in chunk `index`.
fn select(rows: OldRows, mask: &BooleanArray, index: usize, first: u32) -> Result<Located> {
    let failed = |e| Error::internal("filter rows", e);
    let addresses = (0..mask.len() as u32).map(|row| PartitionView::address(index, first + row));
    let addresses = filter(&UInt64Array::from_iter_values(addresses), mask).map_err(failed)?;
    let seqs = filter(&rows.seqs, mask).map_err(failed)?;
    let updated = filter(&rows.updated, mask).map_err(failed)?;
    let rows = OldRows {
        rows: filter_record_batch(&rows.rows, mask).map_err(failed)?,
        seqs: seqs.as_primitive::<Int64Type>().clone(),
        updated: updated.as_primitive::<TimestampMicrosecondType>().clone(),
    };
    let addresses = addresses.as_primitive::<arrow::datatypes::UInt64Type>().values().to_vec();
    Ok(Located { rows, addresses })
}

fn segment_rows(
    view: &PartitionView,
    chunk: &SegmentChunk,
    index: usize,
    tombstones: bool,
    out: &mut Vec<Located>,
) -> Result<()> {
    let stored = chunk.segment.schema();
    let projection = Projection::new(stored, &view.table.schema)?;
    let (reader, mut first) = open(chunk, tombstones, None)?;
    let declared = stored.columns().len();
    for batch in reader {
        let batch = batch.map_err(failed)?;
        let seqs: Int64Array = batch.column(declared).as_primitive::<Int64Type>().clone();
        let mask = shown(view, chunk, first, &seqs);
        let updated = batch.column(declared + 1).as_primitive::<TimestampMicrosecondType>().clone();
        let rows = RecordBatch::try_new(stored.rows().clone(), batch.columns()[..declared].to_vec());
        let rows = rows.map_err(failed)?;
        let rows = match &projection {
            None => rows,
            Some(projection) => projection.apply(&rows)?,
        };
        out.push(select(OldRows { rows, seqs, updated }, &mask, index, first)?);
        first += batch.num_rows() as u32;
    }
    Ok(())
}

/// True if a live row of a segment that the view shows holds NULL in the table's column at `at`. Reads that column only.
///
/// # Errors
/// [`Error::PartitionDamaged`] if the segment cannot be read.
pub(crate) fn segment_holds_null(view: &PartitionView, chunk: &SegmentChunk, at: usize) -> Result<bool> {
    let stored = chunk.segment.schema();
    let seq = stored.columns().len();
    let (roots, place) = match source(stored, &view.table.schema, at)? {
        Source::Value(_) => return Ok(false),
        Source::Null => (vec![seq], None),
        Source::Column(there) | Source::Widened(there, _) => (vec![there, seq], Some(0)),
    };
    let (reader, mut first) = open(chunk, false, Some(&roots))?;
    for batch in reader {
        let batch = batch.map_err(failed)?;
        let shown = shown(view, chunk, first, batch.column(roots.len() - 1).as_primitive::<Int64Type>());
        let nulls = place.map(|place: usize| batch.column(place).logical_nulls());
        let is_null = |row: usize| match &nulls {
            None => true,
            Some(nulls) => nulls.as_ref().is_some_and(|nulls| nulls.is_null(row)),
        };
        if (0..batch.num_rows()).any(|row| shown.value(row) && is_null(row)) {
            return Ok(true);
        }
        first += batch.num_rows() as u32;
    }
    Ok(false)
}

fn failed(error: impl std::fmt::Display) -> Error {
    Error::internal("read a segment", error)
}

/// A reader of a segment's live rows or of its tombstones, of all stored columns or some, and the first one's row number.
fn open(
    chunk: &SegmentChunk,
    tombstones: bool,
    roots: Option<&[usize]>,
) -> Result<(ParquetRecordBatchReader, u32)> {
    let loaded = chunk.segment.load()?;
    let live_groups = chunk.segment.meta().live_row_groups as usize;
    let (groups, first) = match tombstones {
        false => (0..live_groups, 0),
        true => (live_groups..loaded.parquet.num_row_groups(), chunk.segment.meta().live_rows() as u32),
    };
    let mask = match roots {
        None => ProjectionMask::all(),
        Some(roots) => {
            ProjectionMask::roots(loaded.parquet.file_metadata().schema_descr(), roots.iter().copied())
        }
    };
    let reader =
        ParquetRecordBatchReaderBuilder::new_with_metadata(loaded.bytes.clone(), loaded.reader.clone())
            .with_row_groups(groups.collect())
            .with_projection(mask)
            .build()
            .map_err(failed)?;
    Ok((reader, first))
}

/// Per row from file row `first` on, written by the commits of `seqs`, whether the view shows it.
fn shown(view: &PartitionView, chunk: &SegmentChunk, first: u32, seqs: &Int64Array) -> BooleanArray {
    let shown = |(at, seq): (usize, &i64)| {
        let hidden = chunk.hidden.as_ref().is_some_and(|hidden| hidden.contains(first + at as u32));
        !hidden && *seq <= view.seq as i64
    };
    BooleanArray::from(seqs.values().iter().enumerate().map(shown).collect::<Vec<bool>>())
}
