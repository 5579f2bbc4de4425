//! One segment of a merge, read batch by batch in key order, without the rows that are dropped.

use std::sync::Arc;

use arrow::array::{AsArray, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::TimestampMicrosecondType;
use arrow::row::Rows as KeyRows;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
};
use roaring::RoaringBitmap;

use crate::error::{Error, Result};
use crate::ids::Seq;
use crate::project::Projection;
use crate::schema::{TableSchema, system_fields};
use crate::segment::{Relocated, Segment};

/// Rows per batch.
pub(super) const BATCH_ROWS: usize = 8_192;
/// Bytes per batch, about, for rows so long that so many of them would take too much memory.
const BATCH_BYTES: usize = 4 << 20;

/// A segment that is being read. Begins before its first batch.
pub(super) struct Input {
    segment: Arc<Segment>,
    /// How its rows become rows of the new segment's schema, if they are not.
    projection: Option<Projection>,
    /// Rows that are left out.
    gone: RoaringBitmap,
    reader: Option<ParquetRecordBatchReader>,
    /// The file row that the next batch begins with.
    next_row: u32,
    /// Where each file row went.
    moved: Vec<u32>,
    batch: Option<Batch>,
}

/// Rows of a segment, in key order.
pub(super) struct Batch {
    pub(super) rows: RecordBatch,
    /// Their keys, where more than one segment is merged.
    pub(super) keys: Option<KeyRows>,
    /// Their rows in the file.
    file_rows: Vec<u32>,
    /// The first row that is still to be merged.
    pub(super) at: usize,
}

impl Input {
    /// `pin`: rows superseded up to this commit are left out. The file is held against its checksum.
    pub(super) fn new(segment: &Arc<Segment>, schema: &TableSchema, pin: Seq) -> Result<Self> {
        segment.verify()?;
        let rows = usize::try_from(segment.meta().rows).map_err(|e| Error::internal("compact", e))?;
        Ok(Self {
            gone: segment.marks.up_to(pin),
            projection: Projection::new(segment.schema(), schema)?,
            segment: segment.clone(),
            reader: None,
            next_row: 0,
            moved: vec![Relocated::DROPPED; rows],
            batch: None,
        })
    }

    /// Goes to the first live row, or to the first tombstone.
    pub(super) fn start(&mut self, tombstones: bool) -> Result<()> {
        let failed = |e: &dyn std::fmt::Display| self.segment.damaged(e);
        let loaded = self.segment.load()?;
        let (live, all) = (self.segment.meta().live_row_groups as usize, loaded.parquet.num_row_groups());
        let groups: Vec<usize> = if tombstones { live..all } else { 0..live }.collect();
        self.next_row = if tombstones { self.segment.meta().live_rows() as u32 } else { 0 };
        let longest = groups.iter().map(|group| {
            let group = loaded.parquet.row_group(*group);
            group.total_byte_size().max(1) as usize / group.num_rows().max(1) as usize
        });
        let rows = BATCH_BYTES / longest.max().unwrap_or(0).max(1);
        let metadata = ArrowReaderMetadata::try_new(loaded.parquet.clone(), ArrowReaderOptions::new())
            .map_err(|e| failed(&e))?;
        let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(loaded.bytes.clone(), metadata)
            .with_row_groups(groups)
            .with_batch_size(rows.clamp(1, BATCH_ROWS))
            .build()
            .map_err(|e| failed(&e))?;
        (self.reader, self.batch) = (Some(reader), None);
        Ok(())
    }

    /// Reads the next batch that has rows to keep; `None` at the end. Adds the bytes read, about, to `read`. Tombstones of
    /// `cutoff` or older are left out.
    pub(super) fn advance(
        &mut self,
        schema: &TableSchema,
        cutoff: Option<i64>,
        with_keys: bool,
        read: &mut u64,
    ) -> Result<Option<&Batch>> {
        self.batch = None;
        while self.batch.is_none() {
            let Some(rows) = self.reader.as_mut().and_then(Iterator::next) else { break };
            let rows = rows.map_err(|e| self.segment.damaged(e))?;
            let meta = self.segment.meta();
            *read += meta.bytes * rows.num_rows() as u64 / meta.rows.max(1);
            self.batch = self.kept(schema, rows, cutoff, with_keys)?;
        }
        Ok(self.batch.as_ref())
    }

    fn kept(
        &mut self,
        schema: &TableSchema,
        rows: RecordBatch,
        cutoff: Option<i64>,
        with_keys: bool,
    ) -> Result<Option<Batch>> {
        let first = self.next_row;
        let end = first + rows.num_rows() as u32;
        self.next_row = end;
        let tombstones = first >= self.segment.meta().live_rows() as u32;
        let times = rows.column(rows.num_columns() - 2).as_primitive::<TimestampMicrosecondType>();
        let expired = |at: usize| tombstones && cutoff.is_some_and(|cutoff| times.value(at) <= cutoff);
        let wanted = |row: &u32| !self.gone.contains(*row) && !expired((*row - first) as usize);
        let all_there = self.gone.range_cardinality(first..end) == 0 && !(tombstones && cutoff.is_some());
        let file_rows: Vec<u32> =
            if all_there { (first..end).collect() } else { (first..end).filter(wanted).collect() };
        if file_rows.is_empty() {
            return Ok(None);
        }
        let failed = |e| Error::internal("compact", e);
        let rows = match file_rows.len() == rows.num_rows() {
            true => rows,
            false => {
                let mut mask = vec![false; rows.num_rows()];
                file_rows.iter().for_each(|row| mask[(*row - first) as usize] = true);
                filter_record_batch(&rows, &BooleanArray::from(mask)).map_err(failed)?
            }
        };
        let rows = self.projected(schema, rows)?;
        let columns: Vec<_> = schema.key_indices().iter().map(|i| rows.column(*i).clone()).collect();
        let keys = with_keys.then(|| schema.keys().convert_columns(&columns)).transpose().map_err(failed)?;
        Ok(Some(Batch { rows, keys, file_rows, at: 0 }))
    }

    /// Stored rows of the segment's schema as ones of the new segment's.
    fn projected(&self, schema: &TableSchema, rows: RecordBatch) -> Result<RecordBatch> {
        let columns = match &self.projection {
            None => rows.columns().to_vec(),
            Some(projection) => {
                let mut columns = projection.columns(rows.columns(), rows.num_rows())?;
                columns.extend_from_slice(&rows.columns()[rows.num_columns() - system_fields().len()..]);
                columns
            }
        };
        RecordBatch::try_new(schema.storage().clone(), columns).map_err(|e| Error::internal("compact", e))
    }

    /// The batch under way.
    pub(super) fn batch(&self) -> Option<&Batch> {
        self.batch.as_ref()
    }

    /// Takes the rows of the batch up to `end`, which go to row `to` of the new segment and the following ones.
    pub(super) fn take(&mut self, end: usize, to: u32) {
        if let Some(batch) = &mut self.batch {
            for (row, to) in batch.file_rows[batch.at..end].iter().zip(to..) {
                self.moved[*row as usize] = to;
            }
            batch.at = end;
        }
    }

    /// Where each row of the segment went.
    pub(super) fn into_moved(self) -> Vec<u32> {
        self.moved
    }
}

impl Batch {
    /// The end of the run of rows, from the next one on, whose keys are not greater than `limit`; at least one row.
    pub(super) fn run_until(&self, limit: Option<&[u8]>) -> usize {
        let len = self.rows.num_rows();
        let (Some(limit), Some(keys)) = (limit, &self.keys) else { return len };
        let fits = |row: usize| keys.row(row).data() <= limit;
        // Twice as far each time, then halving: cheap for rows that alternate, and for long runs.
        let (mut low, mut step) = (self.at + 1, 1);
        while low + step <= len && fits(low + step - 1) {
            low += step;
            step *= 2;
        }
        let mut high = (low + step).min(len + 1);
        while low + 1 < high {
            let middle = low + (high - low) / 2;
            if fits(middle - 1) { low = middle } else { high = middle }
        }
        low
    }

    /// The key of the next row.
    pub(super) fn key(&self) -> &[u8] {
        self.keys.as_ref().map_or(&[], |keys| keys.row(self.at).data())
    }
}
