//! Rows of a memtable in the order of their keys, as files have them.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, Int64Array, RecordBatch, TimestampMicrosecondArray};
use arrow::compute::interleave;
use arrow::row::Rows as KeyRows;

use crate::array_memory;
use crate::catalog::Table;
use crate::commit::key_columns;
use crate::error::{Error, Result};
use crate::ids::Seq;
use crate::memtable::Moved;
use crate::order;
use crate::rows::{Chunk, Rows, VisibleRows};
use crate::segment::encode::Columns;
use crate::types::TIMEZONE;

/// Rows per batch.
const BATCH_ROWS: usize = 8_192;

/// Rows of a memtable store in key order, without those that no snapshot sees any more.
pub(crate) struct Sorted<'a> {
    store: &'a Rows,
    chunks: Vec<Arc<Chunk>>,
    total: u32,
    /// Chunk and row, in key order.
    order: Vec<(usize, usize)>,
    /// Per ordinal superseded at or before the boundary, but not for every snapshot: by which commit.
    kept: HashMap<u32, Seq>,
}

impl<'a> Sorted<'a> {
    pub(crate) fn new(table: &Table, store: &'a Rows, boundary: Seq, horizon: Seq) -> Result<Self> {
        let visible = store.visible(boundary, &table.schema)?;
        // The pin keeps marks after the horizon from being folded, so none of them moves between these two calls.
        let gone = store.marks.at(horizon);
        let kept = store.marks.after(horizon).into_iter().filter(|(seq, _)| *seq <= boundary);
        let kept = kept.map(|(seq, row)| (row, seq)).collect();
        let keys = encoded_keys(table, &visible)?;
        let ordinals: Vec<u32> = match &gone {
            None => (0..visible.rows).collect(),
            Some(gone) => (0..visible.rows).filter(|row| !gone.contains(*row)).collect(),
        };
        let mut chunk = 0;
        let place = |ordinal: u32| {
            // Neighbours in the order are mostly of one chunk.
            if ordinal < visible.chunks[chunk].first || ordinal >= visible.chunks[chunk].end() {
                chunk = visible.chunks.partition_point(|c| c.end() <= ordinal);
            }
            (chunk, (ordinal - visible.chunks[chunk].first) as usize)
        };
        let order = order::by_key(&keys, ordinals).into_iter().map(place).collect();
        Ok(Self { store, chunks: visible.chunks, total: visible.rows, order, kept })
    }

    /// How many rows.
    pub(crate) fn len(&self) -> usize {
        self.order.len()
    }

    fn ordinal(&self, (chunk, row): (usize, usize)) -> u32 {
        self.chunks[chunk].first + row as u32
    }

    /// Per ordinal, the file row it went to, if the first of these is file row `first`.
    pub(crate) fn moves(&self, first: u32) -> Vec<u32> {
        let mut moves = vec![Moved::DROPPED; self.total as usize];
        for (at, place) in self.order.iter().enumerate() {
            moves[self.ordinal(*place) as usize] = first + at as u32;
        }
        moves
    }

    /// The file rows that were superseded but are still seen by a snapshot, each with the commit that superseded it.
    pub(crate) fn superseded(&self, first: u32) -> Vec<(Seq, u32)> {
        if self.kept.is_empty() {
            return Vec::new();
        }
        let rows = self.order.iter().enumerate();
        rows.filter_map(|(at, place)| Some((*self.kept.get(&self.ordinal(*place))?, first + at as u32)))
            .collect()
    }
}

/// The same rows with their system columns.
pub(crate) struct StoredRows<'a> {
    table: &'a Table,
    rows: &'a Sorted<'a>,
    /// Commit and time, by ordinal.
    versions: Vec<(Seq, i64)>,
    tombstones: bool,
}

impl<'a> StoredRows<'a> {
    pub(crate) fn new(table: &'a Table, rows: &'a Sorted<'a>, tombstones: bool) -> Self {
        Self { table, rows, versions: rows.store.versions(0, rows.total), tombstones }
    }

    /// All of them, batch by batch.
    pub(crate) fn batches(&self) -> impl Iterator<Item = Result<RecordBatch>> {
        (0..self.len()).step_by(BATCH_ROWS).map(|first| {
            let rows = first..self.len().min(first + BATCH_ROWS);
            let schema = self.table.schema.storage();
            let columns = (0..schema.fields().len()).map(|at| self.column(at, rows.clone()));
            RecordBatch::try_new(schema.clone(), columns.collect::<Result<_>>()?).map_err(failed)
        })
    }
}

impl Columns for StoredRows<'_> {
    fn len(&self) -> usize {
        self.rows.len()
    }

    fn bytes(&self) -> usize {
        self.rows.chunks.iter().map(|chunk| array_memory::of_batch(&chunk.batch)).sum()
    }

    fn column(&self, at: usize, rows: Range<usize>) -> Result<ArrayRef> {
        let places = &self.rows.order[rows];
        let versions = places.iter().map(|place| self.versions[self.rows.ordinal(*place) as usize]);
        Ok(match at.checked_sub(self.table.schema.columns().len()) {
            None => {
                let sources: Vec<&dyn Array> =
                    self.rows.chunks.iter().map(|chunk| chunk.batch.column(at).as_ref()).collect();
                interleave(&sources, places).map_err(failed)?
            }
            Some(0) => Arc::new(versions.map(|(seq, _)| seq as i64).collect::<Int64Array>()),
            Some(1) => {
                let times: TimestampMicrosecondArray = versions.map(|(_, time)| Some(time)).collect();
                Arc::new(times.with_timezone(TIMEZONE))
            }
            Some(_) => Arc::new(BooleanArray::from(vec![self.tombstones; places.len()])),
        })
    }
}

fn failed(error: arrow::error::ArrowError) -> Error {
    Error::internal("sort rows", error)
}

/// The keys of rows, by ordinal.
fn encoded_keys(table: &Table, rows: &VisibleRows) -> Result<KeyRows> {
    let keys = table.schema.keys();
    let mut encoded = keys.empty_rows(rows.rows as usize, 0);
    for (at, chunk) in rows.chunks.iter().enumerate() {
        let columns = key_columns(table, &chunk.batch);
        keys.append(&mut encoded, &columns).map_err(|e| Error::internal("encode a key", e))?;
        if at == 0 {
            // How long keys are is seen from the first ones. Growing step by step would copy all of them each time.
            let (count, bytes) = encoded.iter().fold((0, 0), |(n, sum), key| (n + 1, sum + key.data().len()));
            encoded.reserve(0, bytes.div_ceil(count.max(1)) * (rows.rows as usize - count));
        }
    }
    Ok(encoded)
}
