//! What must be true of a write when it is applied. Under the partition's lock.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::row::Rows as KeyRows;
use arrow::util::display::{ArrayFormatter, FormatOptions};

use super::place::{holder, is_current, is_there, is_tombstone};
use super::prepare::{Claim, Prepared, key_columns};
use crate::catalog::{Catalog, Guard, Table};
use crate::error::{Error, Result};
use crate::ids::ColumnId;
use crate::partition::Version;
use crate::view::Place;

impl Prepared {
    /// True if a flush or compaction came since [`Prepared::look_up`], so that keys or rows must be looked up again.
    /// Under the lock.
    pub(super) fn is_stale(&self, version: &Version) -> bool {
        !self.claims.is_empty() && !Arc::ptr_eq(&self.segments, &version.segments)
            || !self.superseded.iter().all(|place| is_there(version, place))
    }

    /// Checks for conflicts and taken keys, and returns the tombstones that new rows replace. Under the lock.
    pub(super) fn check(&self, version: &Version) -> Result<Vec<Place>> {
        if !self.superseded.iter().all(|place| is_current(version, place)) {
            return Err(Error::Conflict);
        }
        let rows = |keys: &Option<KeyRows>| keys.as_ref().map_or(0, KeyRows::num_rows);
        let live = rows(&self.inserted) + rows(&self.updated);
        if !version.active.live.has_room(live) || !version.active.tombstones.has_room(rows(&self.deleted)) {
            return Err(Error::Overloaded("too many rows in memory"));
        }
        let leaving: HashSet<Place> = match self.claims.is_empty() {
            true => HashSet::new(),
            false => self.leaving.iter().map(|at| self.superseded[*at]).collect(),
        };
        let mut replaced = Vec::new();
        for claim in &self.claims {
            match holder(version, self.key(claim), claim.found) {
                Some(tombstone) if is_tombstone(&tombstone, claim.found) => replaced.push(tombstone),
                Some(row) if !leaving.contains(&row) => return Err(self.violation(claim)),
                _ => {}
            }
        }
        Ok(replaced)
    }

    /// Fails unless the table is what the catalog says, and while it is being altered if the change is in the way of
    /// that. Under the lock.
    pub(super) fn check_table(&self, catalog: &Catalog) -> Result<()> {
        let table = &self.table;
        match catalog.table_by_id(table.id) {
            None => return Err(Error::TableNotFound(table.qualified_name())),
            Some(now) if now.schema.version() != table.schema.version() => return Err(Error::Conflict),
            Some(_) => {}
        }
        match catalog.guard_of(table.id) {
            None => Ok(()),
            Some(Guard::Closed) => Err(Error::Conflict),
            Some(Guard::NotNull(ids)) => self.check_not_null(ids),
        }
    }

    fn check_not_null(&self, ids: &[ColumnId]) -> Result<()> {
        let written = self.body.inserted.iter().chain(self.body.updated.iter().map(|(.., new)| new));
        for rows in written {
            for at in ids.iter().filter_map(|id| self.table.schema.position(*id)) {
                if rows.column(at).logical_null_count() > 0 {
                    let column = self.table.schema.columns()[at].name.clone();
                    return Err(Error::NotNullViolation { table: self.table.qualified_name(), column });
                }
            }
        }
        Ok(())
    }

    pub(super) fn violation(&self, claim: &Claim) -> Error {
        match self.claimed_rows(claim) {
            Some(rows) => violation(&self.table, rows, claim.row),
            None => Error::internal("commit", "a claim without rows"),
        }
    }
}

/// The key of a row is taken.
pub(crate) fn violation(table: &Table, rows: &RecordBatch, row: usize) -> Error {
    let show = |column: &ArrayRef| {
        let formatter = ArrayFormatter::try_new(column.as_ref(), &FormatOptions::default());
        formatter.map(|f| f.value(row).to_string()).unwrap_or_default()
    };
    let columns = key_columns(table, rows);
    let names = table.schema.key_indices().iter().map(|i| &table.schema.columns()[*i].name);
    let key = names.zip(&columns).map(|(name, column)| format!("{name} = {}", show(column)));
    Error::UniqueViolation { table: table.qualified_name(), key: key.collect::<Vec<_>>().join(", ") }
}
