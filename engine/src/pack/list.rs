//! The packs of one table: which there are, who looks something up in them, who changes them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use kalamdb_wal::{Disk, durable};

use super::manifest::{PackManifest, PackMeta, damaged};
use super::read::Pack;
use super::slice::Slice;
use super::{DIR, is_pack};
use crate::catalog::Catalog;
use crate::error::{Error, Result};
use crate::ids::{Seq, TableId, UserId};
use crate::manifest::FILE_NAME;
use crate::partition::files_in;
use crate::schema::TableSchema;
use crate::unread::Unread;

/// See the module.
#[derive(Debug)]
pub(crate) struct Packs {
    pub(crate) dir: PathBuf,
    disk: Arc<dyn Disk>,
    /// Held by whoever writes packs or merges them: the only one to replace the manifest.
    pub(crate) writing: tokio::sync::Mutex<()>,
    /// The id of the next pack. A failed attempt has used its id up: whether the manifest on disk names it is not known.
    next_id: AtomicU64,
    current: ArcSwap<Current>,
}

/// What there is at one time.
#[derive(Debug)]
pub(crate) struct Current {
    pub(crate) manifest: PackManifest,
    /// Those of the manifest, the one with the newest slices first.
    pub(crate) packs: Vec<Arc<Pack>>,
}

impl Current {
    fn new(manifest: PackManifest, packs: impl Iterator<Item = Arc<Pack>>) -> Self {
        let mut packs: Vec<Arc<Pack>> = packs.collect();
        packs.sort_by_key(|pack| std::cmp::Reverse((pack.meta.max_state, pack.meta.id)));
        Self { manifest, packs }
    }
}

impl Packs {
    /// Reads a table's manifest of packs, if it has one, and removes what a crash left. No pack is opened.
    ///
    /// # Errors
    /// An I/O error; [`Error::Corrupt`] if the manifest is not what was written.
    pub(crate) fn open(disk: &Arc<dyn Disk>, table_dir: &Path, table: TableId, now: i64) -> Result<Self> {
        let dir = table_dir.join(DIR);
        let files = files_in(disk.as_ref(), &dir)?;
        let manifest = match PackManifest::load(disk.as_ref(), &dir)? {
            Some(manifest) if manifest.table_id != table => return Err(damaged("it is another table's")),
            Some(manifest) => manifest,
            None if files.iter().any(|name| is_pack(name)) => return Err(damaged("it is missing")),
            None => PackManifest::empty(table, now),
        };
        for name in files.iter().filter(|name| is_orphan(name, &manifest)) {
            if let Err(error) = disk.remove_file(&dir.join(name)) {
                tracing::warn!(file = %dir.join(name).display(), %error, "cannot remove an orphaned file");
            }
        }
        let packs = manifest.packs.iter().map(|meta| Arc::new(Pack::new(meta.clone(), &dir, disk.clone())));
        let current = Current::new(manifest.clone(), packs);
        let newest = files.iter().filter_map(|name| id_of(name)).max().unwrap_or(0);
        Ok(Self {
            writing: tokio::sync::Mutex::default(),
            next_id: AtomicU64::new(manifest.next_pack_id.max(newest + 1)),
            current: ArcSwap::from_pointee(current),
            disk: disk.clone(),
            dir,
        })
    }

    /// What there is now.
    pub(crate) fn current(&self) -> Arc<Current> {
        self.current.load_full()
    }

    /// The newest slice of a user that is newer than `than`.
    ///
    /// # Errors
    /// What is wrong with a pack that may hold it, or why it cannot be read now.
    pub(crate) fn find(
        &self,
        catalog: &Catalog,
        table: TableId,
        user: &UserId,
        than: Seq,
    ) -> Result<Option<(Slice, Arc<TableSchema>)>, Unread> {
        let mut best: Option<(Slice, Arc<TableSchema>)> = None;
        for pack in &self.current.load().packs {
            let known = best.as_ref().map_or(than, |(slice, _)| slice.state);
            // They come newest first: no later one has a newer slice.
            if pack.meta.max_state <= known {
                break;
            }
            if pack.meta.may_hold(user) {
                let schema = schema_of(catalog, table, &pack.meta)?;
                let found = pack.find(user, &schema)?.filter(|slice| slice.state > known);
                best = found.map(|slice| (slice, schema)).or(best);
            }
        }
        Ok(best)
    }

    /// True if a pack has a slice of the user, or may have one and is damaged.
    pub(crate) fn may_hold(&self, user: &UserId) -> bool {
        let current = self.current.load();
        current.packs.iter().any(|pack| pack.meta.may_hold(user) && pack.holds(user).unwrap_or(true))
    }

    /// Every user with a slice, some of them more than once.
    ///
    /// # Errors
    /// What is wrong with a pack, or why it cannot be read now.
    pub(crate) fn users(&self) -> Result<Vec<UserId>, Unread> {
        let mut users = Vec::new();
        for pack in &self.current.load().packs {
            pack.users(&mut users)?;
        }
        Ok(users)
    }

    /// An id for a pack that no attempt before had. Under `writing`.
    pub(crate) fn new_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    /// Makes the directory, with an empty manifest before any pack. Under `writing`.
    pub(crate) fn ensure_dir(&self) -> Result<()> {
        let path = self.dir.join(FILE_NAME);
        if !self.disk.exists(&path).map_err(|e| Error::io(format!("look for {}", path.display()), e))? {
            durable::create_dir(self.disk.as_ref(), &self.dir)?;
            self.current.load().manifest.store(self.disk.as_ref(), &self.dir)?;
        }
        Ok(())
    }

    /// Replaces some packs by others, durably. Under `writing`. The replaced ones' files go when nobody reads them.
    ///
    /// # Errors
    /// An I/O error: whether the manifest on disk names the new ones is not known, so their files must stay.
    pub(crate) fn replace(&self, replaced: &[u64], by: Vec<PackMeta>, now: i64) -> Result<()> {
        let current = self.current.load_full();
        let mut manifest = current.manifest.clone();
        manifest.packs.retain(|meta| !replaced.contains(&meta.id));
        manifest.packs.extend(by.iter().cloned());
        manifest.version += 1;
        manifest.updated_at = now;
        manifest.next_pack_id = self.next_id.load(Ordering::Relaxed);
        manifest.store(self.disk.as_ref(), &self.dir)?;
        let stay = current.packs.iter().filter(|pack| !replaced.contains(&pack.meta.id)).cloned();
        let new = by.into_iter().map(|meta| Arc::new(Pack::new(meta, &self.dir, self.disk.clone())));
        self.current.store(Arc::new(Current::new(manifest, stay.chain(new))));
        current.packs.iter().filter(|pack| replaced.contains(&pack.meta.id)).for_each(|pack| pack.retire());
        Ok(())
    }

    /// Removes every file that the manifest does not name, also those that somebody still reads. Under `writing`.
    pub(crate) fn remove_unnamed(&self) -> Result<()> {
        let current = self.current.load_full();
        let named =
            |name: &String| name == FILE_NAME || current.manifest.packs.iter().any(|p| p.path == *name);
        let files = files_in(self.disk.as_ref(), &self.dir)?;
        let unnamed: Vec<_> = files.iter().filter(|name| !named(name)).collect();
        for name in &unnamed {
            let path = self.dir.join(name);
            match self.disk.remove_file(&path) {
                // Its last reader did.
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                other => other.map_err(|e| Error::io(format!("remove {}", path.display()), e))?,
            }
        }
        // A crash must not bring back what was removed when its last reader went.
        if !files.is_empty() {
            self.disk
                .sync_dir(&self.dir)
                .map_err(|e| Error::io(format!("sync {}", self.dir.display()), e))?;
        }
        Ok(())
    }

    /// Bytes that the packs take in memory, mapped files apart.
    pub(crate) fn memory(&self) -> usize {
        self.current.load().packs.iter().map(|pack| pack.memory()).sum()
    }
}

/// The schema that a pack's rows are of.
pub(crate) fn schema_of(
    catalog: &Catalog,
    table: TableId,
    meta: &PackMeta,
) -> Result<Arc<TableSchema>, String> {
    let schema = catalog.schema_at(table, meta.schema_version).cloned();
    schema.ok_or_else(|| format!("{DIR}/{}: schema version {} is not known", meta.path, meta.schema_version))
}

fn id_of(name: &str) -> Option<u64> {
    name.strip_prefix("pack-")?.strip_suffix(".parquet")?.parse().ok()
}

fn is_orphan(name: &str, manifest: &PackManifest) -> bool {
    name.ends_with(".tmp") || (is_pack(name) && !manifest.packs.iter().any(|pack| pack.path == name))
}
