//! Reading some rows of a view by their addresses, at a cost of those rows and not of the chunks that they are in: in
//! memory a slice of the column, in a segment the pages that hold them.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Int64Array, TimestampMicrosecondArray, UInt32Array};
use arrow::compute::{concat, take};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReaderBuilder, RowSelection, RowSelector};
use parquet::file::metadata::ParquetMetaData;

use crate::error::{Error, Result};
use crate::project::{Source, source};
use crate::types::TIMEZONE;
use crate::view::{ChunkView, PartitionView, RowsChunk, SegmentChunk};

/// Up to this many rows of a chunk are read by pages that are kept. For more, reading what lies between them costs less than
/// looking each of them up, and would push the pages out that are worth keeping.
const FEW_ROWS: usize = 16;

/// Rows of one chunk.
#[derive(Debug)]
pub struct Picked {
    /// Their addresses, in the order of the columns' values.
    pub addresses: Vec<u64>,
    /// The columns that were asked for, in that order.
    pub columns: Vec<ArrayRef>,
}

impl PartitionView {
    /// Reads rows whose addresses [`PartitionView::find`] gave, chunk by chunk. `addresses` are in ascending order, none
    /// twice; `columns` are places in [`crate::TableSchema::storage`], so that the system columns can be read too.
    ///
    /// # Errors
    /// [`Error::PartitionDamaged`] if a segment cannot be read; [`Error::Conflict`] if it was written with a newer schema
    /// that lacks a column.
    pub fn pick(&self, addresses: &[u64], columns: &[usize]) -> Result<Vec<Picked>> {
        let same_chunk = |a: &u64, b: &u64| a >> 32 == b >> 32;
        addresses.chunk_by(same_chunk).map(|addresses| self.pick_from_chunk(addresses, columns)).collect()
    }

    fn pick_from_chunk(&self, addresses: &[u64], columns: &[usize]) -> Result<Picked> {
        let rows: Vec<u32> = addresses.iter().map(|address| *address as u32).collect();
        let (chunk, _) = self.chunk_of(addresses[0])?;
        let columns = match chunk {
            ChunkView::Rows(chunk) => from_memory(chunk, &rows, columns)?,
            ChunkView::Segment(chunk) => self.pick_from_segment(chunk, &rows, columns)?,
        };
        Ok(Picked { addresses: addresses.to_vec(), columns })
    }

    fn pick_from_segment(
        &self,
        chunk: &SegmentChunk,
        rows: &[u32],
        columns: &[usize],
    ) -> Result<Vec<ArrayRef>> {
        let (written, current) = (chunk.segment.schema(), &self.table.schema);
        let declared = current.columns().len();
        let from = |at: &usize| match at.checked_sub(declared) {
            Some(system) => Ok(Source::Column(written.columns().len() + system)),
            None => source(written, current, *at),
        };
        let sources = columns.iter().map(from).collect::<Result<Vec<_>>>()?;
        // What Parquet gives has the order of the file, each column once.
        let mut roots: Vec<usize> = sources.iter().filter_map(place).collect();
        roots.sort_unstable();
        roots.dedup();
        let read = read_rows(chunk, rows, &roots)?;
        let arrays = columns.iter().zip(sources).map(|(at, source)| {
            let root = |at: usize| roots.binary_search(&at).unwrap_or_default();
            let source = match source {
                Source::Column(at) => Source::Column(root(at)),
                Source::Widened(at, types) => Source::Widened(root(at), types),
                other => other,
            };
            source.array(&read, current.storage().field(*at).data_type(), rows.len())
        });
        arrays.collect()
    }
}

fn place(source: &Source) -> Option<usize> {
    match source {
        Source::Column(at) | Source::Widened(at, _) => Some(*at),
        Source::Value(_) | Source::Null => None,
    }
}

fn from_memory(chunk: &RowsChunk, rows: &[u32], columns: &[usize]) -> Result<Vec<ArrayRef>> {
    let declared = chunk.num_columns();
    let picked = (rows.len() > 1).then(|| UInt32Array::from(rows.to_vec()));
    let stored = |at: usize| -> Result<ArrayRef> {
        let column = chunk.column(at);
        match &picked {
            None => Ok(column.slice(rows[0] as usize, 1)),
            Some(picked) => take(&column, picked, None).map_err(|e| Error::internal("pick rows", e)),
        }
    };
    let versions = || rows.iter().map(|row| chunk.version(*row).unwrap_or_default());
    let columns = columns.iter().map(|at| -> Result<ArrayRef> {
        Ok(match at.checked_sub(declared) {
            None => stored(*at)?,
            Some(0) => Arc::new(Int64Array::from_iter_values(versions().map(|(seq, _)| seq as i64))),
            Some(1) => {
                let times = TimestampMicrosecondArray::from_iter_values(versions().map(|(_, time)| time));
                Arc::new(times.with_timezone(TIMEZONE))
            }
            Some(_) => Arc::new(BooleanArray::from(vec![chunk.tombstones; rows.len()])),
        })
    });
    columns.collect()
}

/// The columns of a file at `roots`, in that order, of some of its rows.
fn read_rows(chunk: &SegmentChunk, rows: &[u32], roots: &[usize]) -> Result<Vec<ArrayRef>> {
    if rows.len() <= FEW_ROWS
        && let Some(columns) = chunk.segment.few_rows(rows, roots)?
    {
        return Ok(columns);
    }
    let failed = |e: &dyn std::fmt::Display| Error::internal("read rows of a segment", e);
    let loaded = chunk.segment.load()?;
    let (groups, selection) = selected(&loaded.parquet, rows);
    let descriptor = loaded.parquet.file_metadata().schema_descr();
    let reader =
        ParquetRecordBatchReaderBuilder::new_with_metadata(loaded.bytes.clone(), loaded.reader.clone())
            .with_row_groups(groups)
            .with_row_selection(selection)
            .with_projection(ProjectionMask::roots(descriptor, roots.iter().copied()))
            .with_batch_size(rows.len())
            .build()
            .map_err(|e| failed(&e))?;
    let batches = reader.collect::<std::result::Result<Vec<_>, _>>().map_err(|e| failed(&e))?;
    if batches.iter().map(|batch| batch.num_rows()).sum::<usize>() != rows.len() {
        return Err(chunk.segment.damaged("it has fewer rows than its footer says"));
    }
    if let [batch] = batches.as_slice() {
        return Ok(batch.columns().to_vec());
    }
    let column = |at: usize| {
        let parts: Vec<_> = batches.iter().map(|batch| batch.column(at).as_ref()).collect();
        concat(&parts).map_err(|e| failed(&e))
    };
    (0..roots.len()).map(column).collect()
}

/// The row groups that hold `rows`, and which of their rows these are.
fn selected(parquet: &ParquetMetaData, rows: &[u32]) -> (Vec<usize>, RowSelection) {
    let (mut groups, mut selectors) = (Vec::new(), Vec::new());
    let (mut first, mut rest) = (0u32, rows);
    for (group, meta) in parquet.row_groups().iter().enumerate() {
        let end = first + meta.num_rows() as u32;
        let (here, later) = rest.split_at(rest.partition_point(|row| *row < end));
        if !here.is_empty() {
            groups.push(group);
            let mut next = first;
            for row in here {
                selectors.push(RowSelector::skip((row - next) as usize));
                selectors.push(RowSelector::select(1));
                next = row + 1;
            }
            selectors.push(RowSelector::skip((end - next) as usize));
        }
        (first, rest) = (end, later);
    }
    // Adjacent and empty runs are merged here.
    (groups, RowSelection::from(selectors))
}
