//! Where the database looks for packed partitions.

use std::sync::{Arc, OnceLock};

use super::list::Packs;
use crate::catalog::Table;
use crate::database::Database;
use crate::error::{Error, Result};
use crate::ids::{TableId, UserId};
use crate::partition::Partition;

/// A table's packs, once somebody asked for them; a damaged manifest stays so until a restart.
pub(crate) type PackSlot = Arc<OnceLock<Result<Arc<Packs>, Box<Error>>>>;

impl Database {
    /// The packs of a USER table; their manifest is read on first use.
    ///
    /// # Errors
    /// An I/O error, after which the next call tries again; [`Error::Corrupt`] if the manifest is not what was written.
    pub(crate) fn packs(&self, table: &Table) -> Result<Arc<Packs>> {
        let known = self.packs.read().get(&table.id).cloned();
        let slot = known.unwrap_or_else(|| self.packs.write().entry(table.id).or_default().clone());
        let open = || Packs::open(self.disk(), &self.table_dir(table), table.id, self.clock().now_micros());
        let packs = slot.get_or_init(|| open().map(Arc::new).map_err(Box::new)).clone();
        packs.map_err(|error| {
            if !matches!(*error, Error::Corrupt(_)) {
                self.packs.write().retain(|_, other| !Arc::ptr_eq(other, &slot));
            }
            *error
        })
    }

    /// The same by the table's id; `None` if there is no such table any more.
    pub(crate) fn packs_of(&self, table: TableId) -> Result<Option<Arc<Packs>>> {
        let Some(table) = self.catalog().table_by_id(table).cloned() else { return Ok(None) };
        self.packs(&table).map(Some)
    }

    /// True if a pack may have rows of a user.
    pub(crate) fn may_be_packed(&self, table: &Table, user: &UserId) -> bool {
        // Whoever loads the partition is told what is wrong.
        self.packs(table).map_or(true, |packs| packs.may_hold(user))
    }

    /// Gives a partition that was just loaded the rows that a pack has of it. One with files of its own has none there.
    pub(crate) fn load_slice(&self, table: &Table, partition: &Partition) -> Result<()> {
        let Some(user) = &partition.id.user else { return Ok(()) };
        let version = partition.version();
        if !version.segments.is_empty() {
            return Ok(());
        }
        let damaged = |reason| Error::PartitionDamaged { partition: partition.id.clone(), reason };
        let packs = self.packs(table).map_err(|error| match error {
            Error::Corrupt(reason) => damaged(reason),
            other => other,
        })?;
        let found = packs.find(&self.catalog(), table.id, user, version.manifest.flushed_seq);
        let Some((slice, schema)) = found.map_err(|e| e.of(&partition.id))? else { return Ok(()) };
        if slice.state > self.visible() {
            let (state, last) = (slice.state, self.visible());
            return Err(damaged(format!(
                "a pack has it at commit {state}, the log ends at {last}: log files are missing"
            )));
        }
        self.note_time(slice.newest());
        // Not the statement's schema: keys are looked up as the newest has them.
        let catalog = self.catalog();
        let newest = catalog.table_by_id(table.id).map_or(&table.schema, |table| &table.schema);
        partition.begin_with(slice.project(&schema, newest)?.memtable(newest)?);
        Ok(())
    }

    /// Forgets the packs of a table that was dropped, once nobody writes to them any more.
    pub(crate) async fn forget_packs(&self, table: TableId) {
        let slot = self.packs.write().remove(&table);
        if let Some(Ok(packs)) = slot.as_ref().and_then(|slot| slot.get()) {
            drop(packs.writing.lock().await);
        }
    }
}
