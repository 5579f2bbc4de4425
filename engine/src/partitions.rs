//! The partitions of a database: found, loaded when they are first needed, and where their files are.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::catalog::{Table, TableKind};
use crate::database::Database;
use crate::error::{Error, Result};
use crate::ids::{PartitionId, UserId, from_path_component, path_component};
use crate::partition::{Partition, Version};
use crate::snapshot::Snapshot;
use crate::store;
use crate::view::PartitionView;

impl Database {
    /// Reads a partition at a snapshot; an empty view if it does not exist.
    ///
    /// # Errors
    /// [`Error::Conflict`] if the table was altered since, and what the statement's schema has is no longer there.
    /// [`Error::PartitionDamaged`] if its files are not what was written.
    pub async fn view(
        &self,
        snapshot: &Snapshot,
        table: &Arc<Table>,
        user: Option<&UserId>,
    ) -> Result<PartitionView> {
        self.view_now(snapshot, table, user)
    }

    pub(crate) fn view_now(
        &self,
        snapshot: &Snapshot,
        table: &Arc<Table>,
        user: Option<&UserId>,
    ) -> Result<PartitionView> {
        let id = PartitionId { table: table.id, user: user.cloned() };
        match self.existing_partition(table, &id)? {
            Some(partition) => PartitionView::new(id, table.clone(), snapshot.seq(), &partition.version()),
            None => Ok(PartitionView::empty(id, table.clone(), snapshot.seq())),
        }
    }

    /// The loaded partitions, with their current versions.
    pub fn loaded_partitions(&self) -> Vec<(PartitionId, Arc<Version>)> {
        let partitions = self.partitions.read();
        let loaded = partitions.values().filter_map(|slot| slot.get()?.as_ref().ok());
        loaded.map(|partition| (partition.id.clone(), partition.version())).collect()
    }

    /// A partition's current version, loading it if it exists.
    ///
    /// # Errors
    /// [`Error::PartitionDamaged`] if its files are not what was written.
    pub fn partition_version(&self, table: &Table, user: Option<&UserId>) -> Result<Option<Arc<Version>>> {
        let id = PartitionId { table: table.id, user: user.cloned() };
        Ok(self.existing_partition(table, &id)?.map(|partition| partition.version()))
    }

    /// The owners of a USER table's partitions, sorted.
    ///
    /// # Errors
    /// An I/O error.
    pub async fn users_of(&self, table: &Table) -> Result<Vec<UserId>> {
        let mut users = BTreeSet::new();
        for (id, slot) in self.partitions.read().iter().filter(|(id, _)| id.table == table.id) {
            // A commit that failed can leave an empty one; a damaged one does exist.
            let there = slot.get().is_some_and(|p| p.as_ref().map_or(true, |p| !p.version().is_empty()));
            if let Some(user) = id.user.as_ref().filter(|_| there) {
                users.insert(user.clone());
            }
        }
        users.extend(self.owners_on_disk(table)?);
        if table.kind == TableKind::User {
            users.extend(self.packs(table)?.users()?);
        }
        Ok(users.into_iter().collect())
    }

    /// The owners of a USER table's partitions that have files of their own, in no particular order.
    ///
    /// # Errors
    /// An I/O error.
    pub fn owners_on_disk(&self, table: &Table) -> Result<Vec<UserId>> {
        let dir = self.table_dir(table);
        match self.disk().read_dir(&dir) {
            Ok(entries) => {
                let names = entries.iter().filter(|e| e.is_dir).filter_map(|e| from_path_component(&e.name));
                Ok(names.filter_map(|name| UserId::new(&name).ok()).collect())
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(e) => Err(Error::io(format!("read {}", dir.display()), e)),
        }
    }

    /// A partition, if it is loaded and not damaged.
    pub(crate) fn loaded(&self, id: &PartitionId) -> Option<Arc<Partition>> {
        self.partitions.read().get(id)?.get()?.as_ref().ok().cloned()
    }

    /// The partition, loaded, or begun if it does not exist.
    pub(crate) fn partition(&self, table: &Table, id: &PartitionId) -> Result<Arc<Partition>> {
        if (table.kind == TableKind::User) != id.user.is_some() {
            return Err(Error::internal("find a partition", "those of USER tables have owners, others none"));
        }
        let known = self.partitions.read().get(id).cloned();
        let slot = known.unwrap_or_else(|| self.partitions.write().entry(id.clone()).or_default().clone());
        let mut loaded = false;
        let load = || {
            loaded = true;
            self.load(table, id).map(Arc::new).map_err(Box::new)
        };
        let partition = slot.get_or_init(load).clone().map_err(|error| {
            if !matches!(*error, Error::PartitionDamaged { .. }) {
                // It could not be read now; whoever comes next tries again.
                let mut partitions = self.partitions.write();
                if partitions.get(id).is_some_and(|other| Arc::ptr_eq(other, &slot)) {
                    partitions.remove(id);
                }
            }
            *error
        })?;
        partition.check_open()?;
        partition.used_at.store(self.clock().now_micros(), Ordering::Relaxed);
        if loaded {
            self.count_load();
        }
        Ok(partition)
    }

    fn load(&self, table: &Table, id: &PartitionId) -> Result<Partition> {
        let (dir, now) = (self.partition_dir(table, id), self.clock().now_micros());
        // Not the statement's: segments may be newer than that.
        let catalog = self.catalog();
        let version = table.schema.version();
        let partition = Partition::load(id.clone(), dir, self.disk(), &self.pages, &catalog, version, now)?;
        let manifest = &partition.version().manifest;
        // New commits would get numbers that the manifest says it has.
        if manifest.flushed_seq > self.visible() {
            let (flushed, last) = (manifest.flushed_seq, self.visible());
            let reason =
                format!("its manifest is at commit {flushed}, the log ends at {last}: log files are missing");
            return Err(Error::PartitionDamaged { partition: id.clone(), reason });
        }
        if !manifest.segments.is_empty() {
            self.note_time(manifest.updated_at);
        }
        self.load_slice(table, &partition)?;
        Ok(partition)
    }

    /// The partition, if it exists in memory or on disk; reading must not fill memory with empty ones.
    pub(crate) fn existing_partition(
        &self,
        table: &Table,
        id: &PartitionId,
    ) -> Result<Option<Arc<Partition>>> {
        let known = self.partitions.read().contains_key(id);
        let dir = self.partition_dir(table, id);
        if !known
            && !self.disk().exists(&dir).map_err(|e| Error::io(format!("look for {}", dir.display()), e))?
            && !id.user.as_ref().is_some_and(|user| self.may_be_packed(table, user))
        {
            return Ok(None);
        }
        self.partition(table, id).map(Some)
    }

    /// Makes sure that an object store can be used.
    ///
    /// # Errors
    /// An I/O error that says why not.
    pub async fn check_store(self: &Arc<Self>, name: &str) -> Result<()> {
        let (database, dir) = (self.clone(), self.tables_dir().join(store::mount_of(name)));
        let looked = tokio::task::spawn_blocking(move || match database.disk().read_dir(&dir) {
            // It may well be empty.
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io("reach the object store", e)),
            _ => Ok(()),
        });
        looked.await.unwrap_or_else(|e| Err(Error::internal("reach an object store", e)))
    }

    pub(crate) fn tables_dir(&self) -> PathBuf {
        self.config.dir.join("tables")
    }

    pub(crate) fn table_dir(&self, table: &Table) -> PathBuf {
        self.tables_dir().join(&table.path)
    }

    pub(crate) fn partition_dir(&self, table: &Table, id: &PartitionId) -> PathBuf {
        let dir = self.table_dir(table);
        match &id.user {
            Some(user) => dir.join(path_component(user.as_str())),
            None => dir,
        }
    }
}
