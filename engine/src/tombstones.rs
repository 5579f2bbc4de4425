//! The last values of deleted rows whose keys new rows take: the feed tells of tombstones that go.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, TimestampMicrosecondArray};
use arrow::compute::interleave_record_batch;
use arrow::datatypes::{Int64Type, TimestampMicrosecondType};
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder, RowSelection,
};

use crate::catalog::Table;
use crate::codec::record::{OldRows, Target};
use crate::error::{Error, Result};
use crate::ids::Seq;
use crate::memtable::Memtable;
use crate::partition::Version;
use crate::project::Projection;
use crate::segment::Segment;
use crate::types::TIMEZONE;
use crate::view::{Place, Source};

/// Tombstones of a version by their places: what the log calls them, and what they hold.
///
/// # Errors
/// [`Error::PartitionDamaged`] if a segment cannot be read; [`Error::Conflict`] if a place is not one of the version's.
pub(crate) fn read(table: &Table, version: &Version, places: &[Place]) -> Result<(Vec<Target>, OldRows)> {
    let mut gathered = Gathered::default();
    let mut sources: Vec<Source> = places.iter().map(|place| place.source().0).collect();
    sources.dedup();
    // Few sources: one or two memtables and the segments that hold such a key.
    let mut known: Vec<Source> = Vec::new();
    for source in sources {
        if known.contains(&source) {
            continue;
        }
        known.push(source);
        let wanted: Vec<(usize, u32)> = places
            .iter()
            .enumerate()
            .filter(|(_, place)| place.source().0 == source)
            .map(|(at, place)| (at, place.source().1))
            .collect();
        match source {
            Source::Segment(id) => {
                gathered.segment(table, version.segment(id).ok_or(Error::Conflict)?, &wanted)?;
            }
            Source::Tombstones(generation) => {
                let memtable = version.memtables().find(|m| m.generation == generation);
                gathered.memory(table, memtable.ok_or(Error::Conflict)?, &wanted)?;
            }
            Source::Live(_) => return Err(Error::internal("read tombstones", "a live row")),
        }
    }
    gathered.finish()
}

/// One tombstone, of the `index`-th place asked for.
struct Found {
    index: usize,
    /// Which batch of rows, and which row of it.
    at: (usize, usize),
    seq: Seq,
    time_us: i64,
    target: Target,
}

#[derive(Default)]
struct Gathered {
    batches: Vec<RecordBatch>,
    found: Vec<Found>,
}

impl Gathered {
    fn memory(&mut self, table: &Table, memtable: &Arc<Memtable>, wanted: &[(usize, u32)]) -> Result<()> {
        let store = &memtable.tombstones;
        let visible = store.visible(Seq::MAX, &table.schema)?;
        let first = self.batches.len();
        self.batches.extend(visible.chunks.iter().map(|chunk| chunk.batch.clone()));
        for (index, ordinal) in wanted.iter().copied() {
            let chunk = visible.chunks.partition_point(|chunk| chunk.end() <= ordinal);
            let (seq, place) =
                store.place(ordinal).filter(|_| chunk < visible.chunks.len()).ok_or(Error::Conflict)?;
            let at = (first + chunk, (ordinal - visible.chunks[chunk].first) as usize);
            let time_us = store.versions(ordinal, ordinal + 1).first().map_or(0, |(_, time)| *time);
            self.found.push(Found {
                index,
                at,
                seq,
                time_us,
                target: Target::Tombstone { seq, index: place },
            });
        }
        Ok(())
    }

    fn segment(&mut self, table: &Table, segment: &Segment, wanted: &[(usize, u32)]) -> Result<()> {
        let mut rows: Vec<u32> = wanted.iter().map(|(_, row)| *row).collect();
        rows.sort_unstable();
        rows.dedup();
        let old = segment_rows(segment, table, &rows)?;
        for (index, row) in wanted.iter().copied() {
            let at = rows.binary_search(&row).map_err(|_| Error::Conflict)?;
            let (seq, time_us) = (old.seqs.value(at) as Seq, old.updated.value(at));
            let target = Target::Segment { id: segment.meta().id, row };
            self.found.push(Found { index, at: (self.batches.len(), at), seq, time_us, target });
        }
        self.batches.push(old.rows);
        Ok(())
    }

    fn finish(mut self) -> Result<(Vec<Target>, OldRows)> {
        self.found.sort_unstable_by_key(|found| found.index);
        let places: Vec<(usize, usize)> = self.found.iter().map(|found| found.at).collect();
        let batches: Vec<&RecordBatch> = self.batches.iter().collect();
        let rows = interleave_record_batch(&batches, &places).map_err(failed)?;
        let seqs: Int64Array = self.found.iter().map(|found| Some(found.seq as i64)).collect();
        let updated: TimestampMicrosecondArray = self.found.iter().map(|found| Some(found.time_us)).collect();
        let targets = self.found.iter().map(|found| found.target).collect();
        Ok((targets, OldRows { rows, seqs, updated: updated.with_timezone(TIMEZONE) }))
    }
}

/// Rows of a segment by number, in rising order, as rows of the table's schema version.
fn segment_rows(segment: &Segment, table: &Table, rows: &[u32]) -> Result<OldRows> {
    let loaded = segment.load()?;
    let metadata =
        ArrowReaderMetadata::try_new(loaded.parquet.clone(), ArrowReaderOptions::new()).map_err(failed)?;
    let ranges = rows.iter().map(|row| *row as usize..*row as usize + 1);
    let selection = RowSelection::from_consecutive_ranges(ranges, segment.meta().rows as usize);
    let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(loaded.bytes.clone(), metadata)
        .with_row_selection(selection)
        .with_batch_size(rows.len().max(1))
        .build()
        .map_err(failed)?;
    let batches = reader.collect::<Result<Vec<_>, _>>().map_err(failed)?;
    let stored = segment.schema();
    let schema = batches.first().ok_or_else(|| failed("no rows"))?.schema();
    let all = arrow::compute::concat_batches(&schema, &batches).map_err(failed)?;
    if all.num_rows() != rows.len() {
        return Err(failed("rows are missing"));
    }
    let declared = stored.columns().len();
    let columns: Vec<ArrayRef> = all.columns()[..declared].to_vec();
    let values = RecordBatch::try_new(stored.rows().clone(), columns).map_err(failed)?;
    let values = match Projection::new(stored, &table.schema)? {
        None => values,
        Some(projection) => projection.apply(&values)?,
    };
    Ok(OldRows {
        rows: values,
        seqs: all.column(declared).as_primitive::<Int64Type>().clone(),
        updated: all.column(declared + 1).as_primitive::<TimestampMicrosecondType>().clone(),
    })
}

fn failed(error: impl std::fmt::Display) -> Error {
    Error::internal("read tombstones", error)
}
