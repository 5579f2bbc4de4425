//! What a transaction wrote to one partition so far: its own rows, and what became of the rows of its snapshot.
//!
//! A row of the snapshot that is changed for the first time is *touched*: from then on the view hides it, and either
//! one of the transaction's own rows stands for it or it is deleted. Own rows are appended and never changed; one that
//! is replaced is hidden. So a view that was taken before stays what it was.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Int64Array, RecordBatch, TimestampMicrosecondArray};
use arrow::compute::interleave_record_batch;
use roaring::RoaringBitmap;

use super::statement::{Plan, Spot, Updated};
use crate::catalog::Table;
use crate::error::{Error, Result};
use crate::ids::{Seq, UserId};
use crate::lookup::Holder;
use crate::memtable::{Key, Memtable};
use crate::rows::Rows;
use crate::types::TIMEZONE;
use crate::view::{PartitionView, Place, Source};
use crate::write::{Changed, OldRows, PartitionWrite, Removed};

/// The generation of the memory of a transaction's own rows; no partition's memtable has it.
pub(super) const OWN: u64 = u64::MAX;

/// See the module.
#[derive(Debug)]
pub(super) struct Changes {
    table: Arc<Table>,
    user: Option<UserId>,
    /// The partition at the snapshot.
    base: Arc<PartitionView>,
    /// The rows written, and the tombstones of touched rows.
    own: Arc<Memtable>,
    /// When the transaction began.
    time_us: i64,
    /// Rows of the snapshot that are touched.
    hidden: HashMap<Source, RoaringBitmap>,
    touched: Vec<Touched>,
    /// Touched rows as they were.
    old: Vec<OldRows>,
    /// Own rows that were replaced or deleted.
    replaced: RoaringBitmap,
    /// The other own rows by key.
    live: HashMap<Key, u32>,
    /// Own rows that stand for touched ones.
    stands_for: HashMap<u32, usize>,
    /// Deleted touched rows by the key they had in the snapshot.
    dead: HashMap<Key, usize>,
    /// Per own tombstone, whose it is.
    graves: Vec<usize>,
    /// Tombstones of the snapshot whose keys own rows have or had.
    covered: HashMap<Key, Place>,
    view: Option<Arc<PartitionView>>,
}

/// A row of the snapshot that the transaction changed.
#[derive(Debug)]
struct Touched {
    /// Where it is in the base view.
    address: u64,
    /// What it was: which batch of `old`, and which row.
    old: (usize, usize),
    /// Its key in the snapshot.
    key: Key,
    /// The own row that stands for it; `None` if it is deleted.
    now: Option<u32>,
    /// Its tombstone among the own ones, while it is deleted.
    grave: Option<u32>,
}

impl Changes {
    /// Nothing yet, over a partition at the snapshot.
    pub(super) fn new(base: Arc<PartitionView>, table: Arc<Table>, time_us: i64) -> Self {
        Self {
            table,
            user: base.partition.user.clone(),
            // A memtable is named by the commit after the last one in Parquet.
            own: Arc::new(Memtable::new(OWN - 1)),
            base,
            time_us,
            hidden: HashMap::new(),
            touched: Vec::new(),
            old: Vec::new(),
            replaced: RoaringBitmap::new(),
            live: HashMap::new(),
            stands_for: HashMap::new(),
            dead: HashMap::new(),
            graves: Vec::new(),
            covered: HashMap::new(),
            view: None,
        }
    }

    /// Fails unless a statement has the schema version that the changes are made with.
    ///
    /// # Errors
    /// [`Error::Conflict`]: the table was altered while the transaction went on, which therefore cannot be committed.
    pub(super) fn check_version(&self, table: &Table) -> Result<()> {
        let version = table.schema.version();
        match [&self.table, &self.base.table].iter().all(|known| known.schema.version() == version) {
            true => Ok(()),
            false => Err(Error::Conflict),
        }
    }

    pub(super) fn base(&self) -> &PartitionView {
        &self.base
    }

    pub(super) fn is_base(&self, address: u64, source: Source) -> bool {
        self.base.chunk_of(address).is_ok_and(|(chunk, _)| chunk.source() == source)
    }

    pub(super) fn is_hidden(&self, source: Source, row: u32) -> bool {
        self.hidden.get(&source).is_some_and(|hidden| hidden.contains(row))
    }

    pub(super) fn is_replaced(&self, ordinal: u32) -> bool {
        self.replaced.contains(ordinal)
    }

    /// True for the tombstone of a row that is deleted.
    pub(super) fn is_grave(&self, ordinal: u32) -> bool {
        self.graves.get(ordinal as usize).is_some_and(|at| self.touched[*at].grave == Some(ordinal))
    }

    /// Who has a key, if the transaction's own changes decide it.
    pub(super) fn own_holder(&self, key: &[u8]) -> Option<Option<Holder>> {
        match self.live.get(key) {
            Some(ordinal) => Some(Some(Holder::Live(Place::Live { generation: OWN, ordinal: *ordinal }))),
            None => self.dead.contains_key(key).then_some(None),
        }
    }

    /// The partition at the snapshot with these changes.
    ///
    /// # Errors
    /// None for a write set of one schema version.
    pub(super) fn view(&mut self) -> Result<Arc<PartitionView>> {
        if let Some(view) = &self.view {
            return Ok(view.clone());
        }
        let mut hidden = self.hidden.clone();
        for (_, place) in self.covered.iter().filter(|(key, _)| self.live.contains_key(*key)) {
            let (source, row) = place.source();
            hidden.entry(source).or_default().insert(row);
        }
        // A tombstone is not shown beside the row that has its key now.
        let shown = |at: &usize, ordinal: u32| {
            let touched = &self.touched[*at];
            touched.grave == Some(ordinal) && !self.live.contains_key(&touched.key)
        };
        let graves = self.graves.iter().zip(0..);
        let gone = graves.filter(|(at, ordinal)| !shown(at, *ordinal)).map(|(_, ordinal)| ordinal).collect();
        hidden.insert(Source::Live(OWN), self.replaced.clone());
        hidden.insert(Source::Tombstones(OWN), gone);
        let view = Arc::new(self.base.with_changes(hidden, &self.own)?);
        self.view = Some(view.clone());
        Ok(view)
    }

    /// The sequence that own rows show until the commit has one.
    fn seq(&self) -> Seq {
        self.base.seq + 1
    }

    /// Takes in a statement.
    ///
    /// # Errors
    /// None that the plan would not have found; rows beyond the number of ordinals.
    pub(super) fn apply(&mut self, plan: Plan) -> Result<()> {
        let room = |store: &Rows, rows: usize| store.has_room(rows);
        let new = plan.inserted.as_ref().map_or(0, |(rows, _)| rows.num_rows())
            + plan.updated.as_ref().map_or(0, |updated| updated.new.num_rows());
        if !room(&self.own.live, new) {
            return Err(Error::Overloaded("too many rows in a transaction"));
        }
        self.view = None;
        self.covered.extend(plan.covered);
        if let Some((spots, old, keys)) = plan.deleted {
            let batch = self.old.len();
            let mut buried = Vec::new();
            for (row, spot) in spots.iter().enumerate().filter(|(_, spot)| !matches!(spot, Spot::Grave(_))) {
                buried.extend(self.release(*spot, keys.row(row).data(), (batch, row)));
            }
            self.old.push(old);
            self.bury(&buried)?;
        }
        if let Some(updated) = plan.updated {
            self.update(updated)?;
        }
        if let Some((rows, keys)) = plan.inserted {
            let first = self.own.live.append(rows, &self.table.schema, self.seq(), self.time_us)?;
            for (key, ordinal) in keys.iter().zip(first..) {
                let key = Key::from_slice(key.as_ref());
                // A row that is inserted where the transaction deleted one is that row's new version.
                if let Some(at) = self.dead.remove(&key) {
                    self.stand_for(at, ordinal);
                }
                self.live.insert(key, ordinal);
            }
        }
        Ok(())
    }

    fn update(&mut self, updated: Updated) -> Result<()> {
        let batch = self.old.len();
        // All of them first: one may take the key that another gives up.
        let mut touched = Vec::with_capacity(updated.spots.len());
        for (row, spot) in updated.spots.iter().enumerate() {
            touched.push(self.release(*spot, updated.old_keys.row(row).data(), (batch, row)));
        }
        self.old.push(updated.old);
        let first = self.own.live.append(updated.new, &self.table.schema, self.seq(), self.time_us)?;
        for ((key, at), ordinal) in updated.new_keys.iter().zip(touched).zip(first..) {
            self.live.insert(Key::from_slice(key.as_ref()), ordinal);
            if let Some(at) = at {
                self.stand_for(at, ordinal);
            }
        }
        Ok(())
    }

    /// Takes a row away; says which touched row it was or stood for. `old` is where its image will be.
    fn release(&mut self, spot: Spot, key: &[u8], old: (usize, usize)) -> Option<usize> {
        match spot {
            Spot::Base { address, source, row } => {
                self.hidden.entry(source).or_default().insert(row);
                let key = Key::from_slice(key);
                self.touched.push(Touched { address, old, key, now: None, grave: None });
                Some(self.touched.len() - 1)
            }
            Spot::Own(ordinal) => {
                self.replaced.insert(ordinal);
                self.live.remove(key);
                self.stands_for.remove(&ordinal)
            }
            Spot::Grave(ordinal) => {
                let at = self.graves[ordinal as usize];
                self.dead.remove(&self.touched[at].key);
                Some(at)
            }
        }
    }

    fn stand_for(&mut self, at: usize, ordinal: u32) {
        self.touched[at].now = Some(ordinal);
        self.touched[at].grave = None;
        self.stands_for.insert(ordinal, at);
    }

    /// Deletes touched rows: as the commit will, each leaves a tombstone with the values it had in the snapshot.
    fn bury(&mut self, touched: &[usize]) -> Result<()> {
        if touched.is_empty() {
            return Ok(());
        }
        let rows = self.old_images(touched)?.rows;
        let first = self.own.tombstones.append(rows, &self.table.schema, self.seq(), self.time_us)?;
        for (at, ordinal) in touched.iter().zip(first..) {
            let row = &mut self.touched[*at];
            (row.now, row.grave) = (None, Some(ordinal));
            self.dead.insert(row.key.clone(), *at);
            self.graves.push(*at);
        }
        Ok(())
    }

    fn old_images(&self, touched: &[usize]) -> Result<OldRows> {
        let places: Vec<(usize, usize)> = touched.iter().map(|at| self.touched[*at].old).collect();
        let seqs = places.iter().map(|(batch, row)| self.old[*batch].seqs.value(*row));
        let times = places.iter().map(|(batch, row)| self.old[*batch].updated.value(*row));
        let (seqs, times): (Vec<i64>, Vec<i64>) = (seqs.collect(), times.collect());
        Ok(OldRows {
            rows: pick(&self.old.iter().map(|old| &old.rows).collect::<Vec<_>>(), &places)?,
            seqs: Int64Array::from(seqs),
            updated: TimestampMicrosecondArray::from(times).with_timezone(TIMEZONE),
        })
    }

    /// The net change; `None` if there is none.
    ///
    /// # Errors
    /// None in practice.
    pub(super) fn into_write(self) -> Result<Option<PartitionWrite>> {
        let rows = self.own.live.visible(Seq::MAX, &self.table.schema)?;
        let batches: Vec<&RecordBatch> = rows.chunks.iter().map(|chunk| &chunk.batch).collect();
        let place = |ordinal: u32| {
            let chunk = rows.chunks.partition_point(|chunk| chunk.end() <= ordinal);
            (chunk, (ordinal - rows.chunks[chunk].first) as usize)
        };
        let new = |ordinal: &u32| !self.replaced.contains(*ordinal) && !self.stands_for.contains_key(ordinal);
        let inserted: Vec<_> = (0..rows.rows).filter(new).map(place).collect();
        let all = 0..self.touched.len();
        let (updated, deleted): (Vec<usize>, Vec<usize>) =
            all.partition(|at| self.touched[*at].now.is_some());
        let addresses = |touched: &[usize]| touched.iter().map(|at| self.touched[*at].address).collect();
        let mut write = PartitionWrite::new(self.table.clone(), self.user.clone());
        write.view = Some(self.base.clone());
        if !inserted.is_empty() {
            write.insert = Some(pick(&batches, &inserted)?);
        }
        if !updated.is_empty() {
            let now: Vec<_> = updated.iter().filter_map(|at| self.touched[*at].now).map(place).collect();
            let (old, new) = (self.old_images(&updated)?, pick(&batches, &now)?);
            write.update = Some(Changed { addresses: addresses(&updated), old, new });
        }
        if !deleted.is_empty() {
            let old = self.old_images(&deleted)?;
            write.delete = Some(Removed { addresses: addresses(&deleted), old });
        }
        let empty = write.insert.is_none() && write.update.is_none() && write.delete.is_none();
        Ok((!empty).then_some(write))
    }
}

fn pick(batches: &[&RecordBatch], places: &[(usize, usize)]) -> Result<RecordBatch> {
    interleave_record_batch(batches, places).map_err(|e| Error::internal("gather rows", e))
}
