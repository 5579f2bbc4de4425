//! What one statement does to a transaction's write set of a partition, checked before anything changes.

use std::collections::HashSet;

use arrow::array::{Array, RecordBatch};
use arrow::row::Rows as KeyRows;

use super::changes::{Changes, OWN};
use crate::catalog::Table;
use crate::commit::{key_columns, keys, violation};
use crate::error::{Error, Result};
use crate::fit;
use crate::lookup::{Holder, Lookup};
use crate::memtable::Key;
use crate::view::{ChunkView, PartitionView, Place, Source};
use crate::write::{OldRows, PartitionWrite};

/// A row that a statement changes.
#[derive(Debug, Clone, Copy)]
pub(super) enum Spot {
    /// A row of the snapshot.
    Base { address: u64, source: Source, row: u32 },
    /// A row that the transaction wrote.
    Own(u32),
    /// The tombstone of a row that the transaction deleted.
    Grave(u32),
}

/// A statement's changes to one partition, ready to be applied.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) inserted: Option<(RecordBatch, KeyRows)>,
    pub(super) updated: Option<Updated>,
    pub(super) deleted: Option<(Vec<Spot>, OldRows, KeyRows)>,
    /// Tombstones of the snapshot whose keys new rows take.
    pub(super) covered: Vec<(Key, Place)>,
}

#[derive(Debug)]
pub(super) struct Updated {
    pub(super) spots: Vec<Spot>,
    pub(super) old: OldRows,
    pub(super) old_keys: KeyRows,
    pub(super) new: RecordBatch,
    pub(super) new_keys: KeyRows,
}

impl Plan {
    /// Bytes of rows that it adds to the transaction.
    pub(super) fn bytes(&self) -> usize {
        let inserted = self.inserted.as_ref().map_or(0, |(rows, _)| rows.get_array_memory_size());
        let updated = self.updated.as_ref().map_or(0, |updated| {
            old_bytes(&updated.spots, &updated.old) + updated.new.get_array_memory_size()
        });
        let deleted = self.deleted.as_ref().map_or(0, |(spots, old, _)| old_bytes(spots, old));
        inserted + updated + deleted
    }
}

/// Old images are kept of rows of the snapshot alone.
fn old_bytes(spots: &[Spot], old: &OldRows) -> usize {
    let base = spots.iter().any(|spot| matches!(spot, Spot::Base { .. }));
    let versions = old.seqs.get_array_memory_size() + old.updated.get_array_memory_size();
    if base { old.rows.get_array_memory_size() + versions } else { 0 }
}

impl Changes {
    /// Checks a statement's write and says what it comes to.
    ///
    /// # Errors
    /// See [`super::Transaction::write`].
    pub(super) fn plan(&self, write: PartitionWrite) -> Result<Plan> {
        let PartitionWrite { table, view, insert, update, delete, .. } = write;
        self.check_version(&table)?;
        let mut places = Vec::new();
        let mut locate = |addresses: &[u64]| self.locate(view.as_deref(), addresses, &mut places);
        let inserted = insert.filter(|rows| rows.num_rows() > 0).map(|rows| -> Result<_> {
            let rows = fit::new_rows(&table, rows)?;
            let keys = keys(&table, &rows)?;
            Ok((rows, keys))
        });
        let updated = update.filter(|changed| !changed.addresses.is_empty()).map(|changed| -> Result<_> {
            let count = changed.addresses.len();
            let (old, new) =
                (fit::old_rows(&table, changed.old, count)?, fit::new_rows(&table, changed.new)?);
            fit::same_length(count, new.num_rows())?;
            let (old_keys, new_keys) = (keys(&table, &old.rows)?, keys(&table, &new)?);
            Ok(Updated { spots: locate(&changed.addresses)?, old, old_keys, new, new_keys })
        });
        let updated = updated.transpose()?;
        let deleted = delete.filter(|removed| !removed.addresses.is_empty()).map(|removed| -> Result<_> {
            let old = fit::old_rows(&table, removed.old, removed.addresses.len())?;
            let keys = keys(&table, &old.rows)?;
            Ok((locate(&removed.addresses)?, old, keys))
        });
        let deleted = deleted.transpose()?;
        fit::no_place_twice(&places)?;
        let mut plan = Plan { inserted: inserted.transpose()?, updated, deleted, covered: Vec::new() };
        plan.covered = self.check_keys(&table, &plan)?;
        Ok(plan)
    }

    fn locate(
        &self,
        view: Option<&PartitionView>,
        addresses: &[u64],
        places: &mut Vec<Place>,
    ) -> Result<Vec<Spot>> {
        let view = view.ok_or_else(|| Error::internal("find a row", "addresses without a view"))?;
        let spot = |address: &u64| {
            let (chunk, row) = view.chunk_of(*address)?;
            let gone = || Error::internal("find a row", "the transaction has changed it since it was read");
            let place = match chunk {
                ChunkView::Segment(chunk) => Place::Segment { id: chunk.segment.meta().id, row },
                ChunkView::Rows(chunk) => chunk.locate(row).ok_or_else(gone)?.0,
            };
            places.push(place);
            let (source, row) = place.source();
            let spot = match source {
                Source::Live(OWN) if !self.is_replaced(row) => Spot::Own(row),
                Source::Tombstones(OWN) if self.is_grave(row) => Spot::Grave(row),
                // A view that was taken before a flush, and before the transaction first wrote here, has other chunks.
                _ if self.is_base(*address, source) && !self.is_hidden(source, row) => {
                    Spot::Base { address: *address, source, row }
                }
                _ => return Err(gone()),
            };
            Ok(spot)
        };
        addresses.iter().map(spot).collect()
    }

    /// Refuses a key that is taken; returns the tombstones of the snapshot that new rows take the place of.
    fn check_keys(&self, table: &Table, plan: &Plan) -> Result<Vec<(Key, Place)>> {
        let mut leaving: HashSet<&[u8]> = HashSet::new();
        let mut claims: Vec<(&RecordBatch, &KeyRows, usize)> = Vec::new();
        if let Some((rows, keys)) = &plan.inserted {
            claims.extend((0..rows.num_rows()).map(|row| (rows, keys, row)));
        }
        if let Some(updated) = &plan.updated {
            for (row, spot) in updated.spots.iter().enumerate() {
                let (old, new) = (updated.old_keys.row(row), updated.new_keys.row(row));
                let revived =
                    matches!(spot, Spot::Grave(_) | Spot::Base { source: Source::Tombstones(_), .. });
                if old != new {
                    leaving.insert(updated.old_keys.row(row).data());
                }
                if old != new || revived {
                    claims.push((&updated.new, &updated.new_keys, row));
                }
            }
        }
        if let Some((_, _, keys)) = &plan.deleted {
            leaving.extend((0..keys.num_rows()).map(|row| keys.row(row).data()));
        }
        let (mut seen, mut covered) = (HashSet::with_capacity(claims.len()), Vec::new());
        let lookup = Lookup::new(self.base());
        for (rows, keys, row) in claims {
            let key = keys.row(row).data();
            if !seen.insert(key) {
                return Err(violation(table, rows, row));
            }
            if leaving.contains(key) {
                continue;
            }
            match self.holder(&lookup, table, key, rows, row)? {
                Some(Holder::Live(_) | Holder::Newer) => return Err(violation(table, rows, row)),
                Some(Holder::Tombstone(place)) => covered.push((Key::from_slice(key), place)),
                None => {}
            }
        }
        Ok(covered)
    }

    fn holder(
        &self,
        lookup: &Lookup<'_>,
        table: &Table,
        key: &[u8],
        rows: &RecordBatch,
        row: usize,
    ) -> Result<Option<Holder>> {
        match self.own_holder(key) {
            Some(taken) => Ok(taken),
            None => {
                let holder = lookup.holder(key, &key_columns(table, rows), row)?;
                // A row that the transaction deleted or moved to another key holds it no longer.
                let freed = |place: Place| {
                    let (source, row) = place.source();
                    self.is_hidden(source, row)
                };
                Ok(holder.filter(|holder| !matches!(holder, Holder::Live(place) if freed(*place))))
            }
        }
    }
}
