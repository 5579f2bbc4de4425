//! What becomes of the files of dropped tables.
//!
//! A table is dropped when its rows in the `system` tables are: from then on no commit and no flush touches it. Its
//! directory then loses its name at one stroke and is removed; in an object store, where no other table ever gets it, it keeps
//! the name meanwhile. A crash between those steps leaves a directory that the
//! next open removes; nothing else is ever removed, since what the catalog does not know it may only have lost.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kalamdb_wal::{Disk, durable};

use crate::catalog::Table;
use crate::database::Database;
use crate::error::{Error, Result};
use crate::ids::TableId;
use crate::read::tombstone_rows;
use crate::store;
use crate::system::{self, Row};

/// Part of the name that the directory of a dropped table has until it is removed. Names of tables have no dot there.
pub(crate) const DROPPED: &str = ".dropped-";

impl Database {
    /// Forgets the partitions of a table that was dropped and removes its files.
    pub(crate) async fn remove_table_files(self: &Arc<Self>, table: &Arc<Table>) -> Result<()> {
        let gone: Vec<_> = {
            let mut partitions = self.partitions.write();
            partitions.extract_if(|id, _| id.table == table.id).map(|(_, slot)| slot).collect()
        };
        self.compacting().cancel_table(table.id);
        for partition in gone.iter().filter_map(|slot| slot.get()?.as_ref().ok()) {
            // Wait for a compaction and a flush that are under way; the next ones will not find the table.
            drop(partition.compacting.lock().await);
            drop(partition.flushing.lock().await);
            partition.trash.close();
            // The same for a commit.
            drop(partition.commit.lock());
            partition.version().memtables().for_each(|memtable| self.hot().discount(memtable));
        }
        self.forget_packs(table.id).await;
        self.hot().forget(table.id);
        self.failures().forget(table.id);
        let (database, dir, id) = (self.clone(), self.table_dir(table), table.id);
        let removed =
            tokio::task::spawn_blocking(move || remove_table_dir(database.disk().as_ref(), &dir, id));
        removed.await.unwrap_or_else(|e| Err(Error::internal("drop a table", e)))
    }
}

/// Removes the directory of a dropped table. It loses its name first, at one stroke: whatever is left of it after a
/// failure cannot be taken for a new table's of the same name.
fn remove_table_dir(disk: &dyn Disk, dir: &Path, id: TableId) -> Result<()> {
    if !disk.exists(dir).map_err(|e| Error::io(format!("look for {}", dir.display()), e))? {
        return Ok(());
    }
    if dir.components().any(|part| part.as_os_str().to_str().is_some_and(store::is_mounted)) {
        return remove_dir(disk, dir);
    }
    let mut aside = dir.as_os_str().to_owned();
    aside.push(format!("{DROPPED}{id}"));
    let aside = Path::new(&aside);
    durable::rename(disk, dir, aside)?;
    remove_dir(disk, aside)
}

fn remove_dir(disk: &dyn Disk, dir: &Path) -> Result<()> {
    match durable::remove_dir(disk, dir) {
        Err(kalamdb_wal::Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => Ok(other?),
    }
}

/// Removes what a crash left of dropped tables. Only directories of which the catalog knows that they are: what it does
/// not know is left alone, since it may be the catalog that has lost something. Best effort, it is only space.
pub(crate) fn remove_dropped_tables(database: &Database) -> Result<()> {
    let catalog = database.catalog();
    let table =
        catalog.table_by_id(system::TABLES).ok_or_else(|| Error::internal("recover", "no system table"))?;
    let view = database.view_now(&database.snapshot(), table, None)?;
    let current: BTreeSet<&str> = catalog.tables().map(|t| t.path.as_str()).collect();
    for located in tombstone_rows(&view)? {
        for row in 0..located.addresses.len() {
            let path = Row::new(&located.rows.rows, row).required_text("path")?;
            let dir = database.tables_dir().join(path);
            if current.contains(path) || !database.disk().exists(&dir).unwrap_or(false) {
                continue;
            }
            tracing::info!(path, "removing what is left of a dropped table");
            let id = TableId(Row::new(&located.rows.rows, row).int("table_id")? as u64);
            if let Err(error) = remove_table_dir(database.disk().as_ref(), &dir, id) {
                tracing::warn!(path, %error, "cannot remove what is left of a dropped table");
            }
        }
    }
    remove_renamed(database);
    Ok(())
}

/// Removes directories that had lost their table's name already.
fn remove_renamed(database: &Database) {
    let dirs = |path: &Path| {
        let entries = database.disk().read_dir(path).unwrap_or_default();
        entries.into_iter().filter(|e| e.is_dir).map(|e| path.join(e.name)).collect::<Vec<_>>()
    };
    let tables = dirs(&database.tables_dir()).into_iter().flat_map(|namespace| dirs(&namespace));
    let renamed =
        |dir: &PathBuf| dir.file_name().is_some_and(|name| name.to_string_lossy().contains(DROPPED));
    for dir in tables.filter(renamed) {
        if let Err(error) = remove_dir(database.disk().as_ref(), &dir) {
            tracing::warn!(dir = %dir.display(), %error, "cannot remove what is left of a dropped table");
        }
    }
}
