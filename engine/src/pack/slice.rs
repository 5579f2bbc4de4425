//! One user's rows out of a pack, and how they become a memtable.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, TimestampMicrosecondArray, UInt32Array,
};
use arrow::compute::{filter, filter_record_batch};

use crate::error::{Error, Result};
use crate::ids::Seq;
use crate::memtable::Memtable;
use crate::project::Projection;
use crate::rows::compacted;
use crate::schema::TableSchema;

/// The complete state of a partition as of one commit.
#[derive(Debug)]
pub(crate) struct Slice {
    /// That commit.
    pub(crate) state: Seq,
    /// The declared columns, in the pack's schema version.
    pub(crate) rows: RecordBatch,
    pub(crate) seqs: Int64Array,
    pub(crate) updated: TimestampMicrosecondArray,
    pub(crate) deleted: BooleanArray,
}

impl Slice {
    /// The time of its newest commit, microseconds since the epoch.
    pub(crate) fn newest(&self) -> i64 {
        self.updated.values().iter().copied().max().unwrap_or(0)
    }

    /// The same rows in another schema version.
    pub(crate) fn project(self, from: &TableSchema, to: &TableSchema) -> Result<Self> {
        match Projection::new(from, to)? {
            Some(projection) => Ok(Self { rows: projection.apply(&self.rows)?, ..self }),
            None => Ok(self),
        }
    }

    /// Some of the rows.
    pub(crate) fn filtered(&self, wanted: &BooleanArray) -> Result<Self> {
        let failed = |e| Error::internal("filter a slice", e);
        let column = |column: &dyn Array| filter(column, wanted).map_err(failed);
        Ok(Self {
            state: self.state,
            rows: filter_record_batch(&self.rows, wanted).map_err(failed)?,
            seqs: column(&self.seqs)?.as_primitive().clone(),
            updated: column(&self.updated)?.as_primitive().clone(),
            deleted: column(&self.deleted)?.as_boolean().clone(),
        })
    }

    /// A memtable with these rows, which are of this schema version.
    pub(crate) fn memtable(&self, schema: &Arc<TableSchema>) -> Result<Memtable> {
        let memtable = Memtable::new(self.state);
        for tombstones in [true, false] {
            self.append(&memtable, schema, tombstones)?;
        }
        Ok(memtable)
    }

    /// A memtable has its rows in the order of their commits.
    fn append(&self, memtable: &Memtable, schema: &Arc<TableSchema>, tombstones: bool) -> Result<()> {
        let failed = |e| Error::internal("load a slice", e);
        let mut order: Vec<u32> =
            (0..self.seqs.len() as u32).filter(|at| self.deleted.value(*at as usize) == tombstones).collect();
        order.sort_by_key(|at| self.seqs.value(*at as usize));
        let indices = UInt32Array::from(order);
        let taken = arrow::compute::take_record_batch(&self.rows, &indices).map_err(failed)?;
        // The slice shares its buffers with others of the pack, which must not stay in memory with it.
        let columns: Vec<ArrayRef> = taken.columns().iter().map(compacted).collect();
        let rows = RecordBatch::try_new(schema.rows().clone(), columns).map_err(failed)?;
        let mut first = 0;
        while first < indices.len() {
            let at = |row: usize| indices.value(row) as usize;
            let seq = self.seqs.value(at(first));
            let same = (first..indices.len()).take_while(|row| self.seqs.value(at(*row)) == seq).count();
            let part = rows.slice(first, same);
            let key_columns: Vec<ArrayRef> =
                schema.key_indices().iter().map(|i| part.column(*i).clone()).collect();
            let keys = schema.keys().convert_columns(&key_columns).map_err(failed)?;
            let time = self.updated.value(at(first));
            match tombstones {
                true => memtable.append_tombstones(part, schema, &keys, seq as Seq, time)?,
                false => memtable.append_live(part, schema, &keys, seq as Seq, time)?,
            }
            first += same;
        }
        Ok(())
    }
}

impl Slice {
    /// The rows as they are stored, with their system columns.
    pub(crate) fn stored(&self, schema: &TableSchema) -> Result<RecordBatch> {
        let mut columns: Vec<ArrayRef> = self.rows.columns().to_vec();
        columns.push(Arc::new(self.seqs.clone()));
        columns.push(Arc::new(self.updated.clone()));
        columns.push(Arc::new(self.deleted.clone()));
        RecordBatch::try_new(schema.storage().clone(), columns)
            .map_err(|e| Error::internal("read a slice", e))
    }
}
