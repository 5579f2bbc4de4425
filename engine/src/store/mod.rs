//! The segment store: where the files of tables are. That is the local disk, or an object store for tables that say so.
//!
//! An object store is mounted: the directory of a table in the store `S` is `DATA/tables/_store-S/<namespace>/<table>-<id>`, and
//! [`Volumes`] hands every call on a path below `DATA/tables/_store-S` to the [`Disk`] that stands for `S`. Nothing else in the
//! engine knows where a file is, so flush, compaction, packs, purge, repair and their orders of durability are the same
//! everywhere. The log and the `system` tables are always local. Names are
//! percent-encoded in paths, and none begins with an underscore there, so no namespace can be taken for a store.
//!
//! What `S` means is up to [`Stores`], which finds it out from configuration alone: recovery needs the files of a table
//! before anybody can ask the catalog.

mod location;
#[cfg(feature = "object-stores")]
mod object;
#[cfg(feature = "object-stores")]
mod object_file;
#[cfg(feature = "object-stores")]
mod s3;

use std::collections::HashMap;
use std::fmt::Debug;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kalamdb_wal::{DirEntry, Disk, DiskFile, durable};
use parking_lot::Mutex;

pub use location::S3Location;
#[cfg(feature = "object-stores")]
pub use object::{ObjectDisk, Spool};
#[cfg(feature = "object-stores")]
pub use s3::Credentials;

use crate::ids::{from_path_component, path_component};

/// What the directory of a store begins with, below `DATA/tables`.
const MOUNT: &str = "_store-";

/// Finds object stores by the names that tables know them by.
pub trait Stores: Debug + Send + Sync + 'static {
    /// Opens the store; `mounted` is the path that its files are below, `spool` a local directory of its own.
    ///
    /// # Errors
    /// Whatever keeps it from being used, in words that say what to configure. Asked again the next time.
    fn open(&self, name: &str, mounted: &Path, spool: &Path) -> io::Result<Arc<dyn Disk>>;
}

/// There are none.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoStores;

impl Stores for NoStores {
    fn open(&self, name: &str, _: &Path, _: &Path) -> io::Result<Arc<dyn Disk>> {
        let message = format!("the object store {name:?} cannot be reached: none is configured");
        Err(io::Error::new(io::ErrorKind::Unsupported, message))
    }
}

/// The path, below `DATA/tables`, that the files of a store are below.
pub(crate) fn mount_of(store: &str) -> String {
    format!("{MOUNT}{}", path_component(store))
}

/// True for a table's path in an object store.
pub(crate) fn is_mounted(path: &str) -> bool {
    path.starts_with(MOUNT)
}

/// The local disk with object stores mounted below one of its directories. A store that ever held a table has an empty local
/// directory there, like any mount point: tools that go through all files find it by that.
#[derive(Debug)]
pub struct Volumes {
    local: Arc<dyn Disk>,
    /// The directory that stores are mounted in, and what they may use for files on their way.
    tables: PathBuf,
    spool: PathBuf,
    stores: Arc<dyn Stores>,
    open: Mutex<HashMap<String, Arc<dyn Disk>>>,
}

impl Volumes {
    /// The volumes of a data directory. What an earlier process left in the spool is removed by whoever uses it first.
    pub fn new(local: Arc<dyn Disk>, data: &Path, stores: Arc<dyn Stores>) -> Self {
        let (tables, spool, open) = (data.join("tables"), data.join("spool"), Mutex::default());
        Self { local, tables, spool, stores, open }
    }

    fn disk(&self, path: &Path) -> io::Result<Arc<dyn Disk>> {
        let Some(mount) = self.mount(path) else { return Ok(self.local.clone()) };
        let mut open = self.open.lock();
        if let Some(disk) = open.get(mount) {
            return Ok(disk.clone());
        }
        let name = mount.strip_prefix(MOUNT).and_then(from_path_component);
        let name =
            name.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "not the name of a store"))?;
        let disk = self.stores.open(&name, &self.tables.join(mount), &self.spool.join(mount))?;
        open.insert(mount.to_owned(), disk.clone());
        Ok(disk)
    }

    /// The store's directory that a path is in.
    fn mount<'a>(&self, path: &'a Path) -> Option<&'a str> {
        let below = path.strip_prefix(&self.tables).ok()?;
        below.components().next()?.as_os_str().to_str().filter(|first| is_mounted(first))
    }
}

impl Disk for Volumes {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.disk(path)?.create(path)
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.disk(path)?.open(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        match self.mount(from) == self.mount(to) {
            true => self.disk(from)?.rename(from, to),
            false => Err(io::ErrorKind::CrossesDevices.into()),
        }
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.disk(path)?.remove_file(path)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.disk(path)?.remove_dir_all(path)
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let disk = self.disk(path)?;
        if let Some(mount) = self.mount(path) {
            durable::create_dir(&*self.local, &self.tables.join(mount)).map_err(io::Error::other)?;
        }
        disk.create_dir_all(path)
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        self.disk(path)?.read_dir(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.disk(path)?.sync_dir(path)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.disk(path)?.exists(path)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        self.local.lock(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_namespace_is_taken_for_a_store() {
        for name in ["_store-x", "@x", "_x", "store-x", "%5Fstore-x", "_"] {
            assert!(!is_mounted(&path_component(name)), "{name}");
        }
        assert!(is_mounted(&mount_of("env:A s3://data/app")));
        let volumes =
            Volumes::new(Arc::new(kalamdb_wal::RealDisk), Path::new("/nowhere"), Arc::new(NoStores));
        let mounted = Path::new("/nowhere/tables").join(mount_of("s")).join("a/b");
        assert_eq!(volumes.exists(&mounted).unwrap_err().kind(), io::ErrorKind::Unsupported);
        for local in ["/nowhere/tables/a/_store-s/b", "/nowhere/_store-s/b", "/elsewhere/tables/_store-s"] {
            assert!(!volumes.exists(Path::new(local)).unwrap(), "{local}");
        }
    }
}
