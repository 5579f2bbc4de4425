//! Preparing a write: what it changes, encoded keys, and which of them must be free. Nothing is locked.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::row::Rows as KeyRows;

use super::place::locate;
use crate::catalog::Table;
use crate::codec::record::{PartBody, Replaced};
use crate::error::{Error, Result};
use crate::fit;
use crate::partition::Partition;
use crate::segment::Segment;
use crate::segment::find::Found;
use crate::view::{PartitionView, Place};
use crate::write::PartitionWrite;

/// One partition's write, ready for the locks.
pub(crate) struct Prepared {
    pub(super) partition: Arc<Partition>,
    pub(super) table: Arc<Table>,
    pub(super) body: PartBody,
    /// What the addresses came from; its memtables and segments know where their rows went.
    pub(super) view: Option<Arc<PartitionView>>,
    /// Where the rows to be superseded are: updated ones, then deleted ones.
    pub(super) superseded: Vec<Place>,
    /// Those of them that give their key up: deleted ones, and updated ones that change it.
    pub(super) leaving: Vec<usize>,
    pub(super) inserted: Option<KeyRows>,
    pub(super) updated: Option<KeyRows>,
    pub(super) deleted: Option<KeyRows>,
    /// Keys that must be free: of inserted rows and of updates that change the key.
    pub(super) claims: Vec<Claim>,
    /// The tombstones that hold claimed keys, as far as is known; `body` has what they hold.
    pub(super) replaced: Vec<Place>,
    /// The segments in which the claims were looked up.
    pub(super) segments: Arc<[Arc<Segment>]>,
    /// Segments that rows of the view were followed to.
    pub(super) followed: Vec<Arc<Segment>>,
}

pub(super) struct Claim {
    /// True for a row of `inserted`, false for one of `updated`.
    pub(super) insert: bool,
    pub(super) row: usize,
    /// Which segment holds the key, if one does.
    pub(super) found: Option<(u64, Found)>,
}

impl Prepared {
    pub(crate) fn new(partition: Arc<Partition>, write: PartitionWrite) -> Result<Self> {
        let PartitionWrite { table, view, insert, update, delete, .. } = write;
        if view.as_ref().is_some_and(|view| view.partition != partition.id) {
            return Err(Error::internal("commit", "the addresses are of another partition"));
        }
        let mut superseded = Vec::new();
        let inserted =
            insert.filter(|rows| rows.num_rows() > 0).map(|rows| fit::new_rows(&table, rows)).transpose()?;
        let updated = match update.filter(|changed| !changed.addresses.is_empty()) {
            Some(changed) => {
                let count = changed.addresses.len();
                let (old, new) =
                    (fit::old_rows(&table, changed.old, count)?, fit::new_rows(&table, changed.new)?);
                fit::same_length(count, new.num_rows())?;
                Some((locate(view.as_deref(), &changed.addresses, &mut superseded)?, old, new))
            }
            None => None,
        };
        let deleted = match delete.filter(|removed| !removed.addresses.is_empty()) {
            Some(removed) => {
                let old = fit::old_rows(&table, removed.old, removed.addresses.len())?;
                Some((locate(view.as_deref(), &removed.addresses, &mut superseded)?, old))
            }
            None => None,
        };
        fit::no_place_twice(&superseded)?;
        let body = PartBody { inserted, replaced: Replaced::default(), updated, deleted };
        let mut prepared = Self {
            segments: Arc::new([]),
            followed: Vec::new(),
            replaced: Vec::new(),
            inserted: body.inserted.as_ref().map(|rows| keys(&table, rows)).transpose()?,
            updated: body.updated.as_ref().map(|(.., new)| keys(&table, new)).transpose()?,
            deleted: body.deleted.as_ref().map(|(_, old)| keys(&table, &old.rows)).transpose()?,
            leaving: Vec::new(),
            claims: Vec::new(),
            view,
            partition,
            table,
            body,
            superseded,
        };
        prepared.claim()?;
        Ok(prepared)
    }

    /// Lists the keys that must be free, and refuses one that is claimed twice.
    fn claim(&mut self) -> Result<()> {
        let inserts = self.inserted.as_ref().map_or(0, KeyRows::num_rows);
        self.claims.extend((0..inserts).map(|row| Claim { insert: true, row, found: None }));
        if let (Some((_, old, _)), Some(new)) = (&self.body.updated, &self.updated) {
            let old = keys(&self.table, &old.rows)?;
            let changed = (0..new.num_rows()).filter(|row| old.row(*row) != new.row(*row));
            self.leaving.extend(changed.clone());
            self.claims.extend(changed.map(|row| Claim { insert: false, row, found: None }));
        }
        let updates = self.updated.as_ref().map_or(0, KeyRows::num_rows);
        self.leaving.extend(updates..self.superseded.len());
        let ascending = self.claims.windows(2).all(|pair| self.key(&pair[0]) < self.key(&pair[1]));
        if !ascending {
            let mut seen = HashSet::with_capacity(self.claims.len());
            if let Some(twice) = self.claims.iter().find(|claim| !seen.insert(self.key(claim))) {
                return Err(self.violation(twice));
            }
        }
        Ok(())
    }

    pub(super) fn key(&self, claim: &Claim) -> &[u8] {
        let rows = if claim.insert { &self.inserted } else { &self.updated };
        rows.as_ref().map_or(&[], |rows| rows.row(claim.row).data())
    }

    pub(super) fn claimed_rows(&self, claim: &Claim) -> Option<&RecordBatch> {
        if claim.insert {
            self.body.inserted.as_ref()
        } else {
            self.body.updated.as_ref().map(|(.., new)| new)
        }
    }

    pub(crate) fn partition(&self) -> &Arc<Partition> {
        &self.partition
    }

    pub(crate) fn body(&self) -> &PartBody {
        &self.body
    }

    pub(crate) fn schema_version(&self) -> u32 {
        self.table.schema.version()
    }
}

/// Encodes the key columns of some rows.
pub(crate) fn keys(table: &Table, rows: &RecordBatch) -> Result<KeyRows> {
    table
        .schema
        .keys()
        .convert_columns(&key_columns(table, rows))
        .map_err(|e| Error::internal("encode a key", e))
}

pub(crate) fn key_columns(table: &Table, rows: &RecordBatch) -> Vec<ArrayRef> {
    table.schema.key_indices().iter().map(|i| rows.column(*i).clone()).collect()
}
