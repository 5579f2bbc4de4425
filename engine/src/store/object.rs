//! An object store as a [`Disk`].
//!
//! A store has whole objects: it takes one at one stroke, durably, and shows the old one or the new one. That is more than
//! the engine asks of a disk, which writes aside, syncs and renames. So a file that is being written is *spooled* to the
//! local disk and becomes an object when it gets its name (the rename), or when it is synced under a name that is its last
//! one (anything but `*.tmp`, which nobody looks for after a crash). What this gives up: nothing. What it means for the
//! order of durability:
//!
//! - an object is durable once the call that put it returns, so syncing a directory has nothing to do;
//! - a name never shows a part of a file. Large ones go up in parts, which count when the last call says so; what a crash
//!   leaves of those is the store's to clear (a lifecycle rule for unfinished uploads);
//! - directories are prefixes: they are there while an object is, and removing one removes objects, one by one. A crash
//!   leaves some of them, as it may on a disk. Some stores list empty objects that stand for directories; these are no files,
//!   and go with what was below them.
//!
//! The calls are synchronous, as of every disk; a runtime of its own does the work, so that they can be made from anywhere.
//! Requests that fail in a way that may pass (timeouts, 5xx) are tried again by the store's client for a while; what is
//! still failing then is an I/O error, which closes no partition (see [`crate::Unread`]) and makes a flush try again later.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::{StreamExt, TryStreamExt};
use kalamdb_wal::{DirEntry, Disk, DiskFile};
use object_store::path::Path as Key;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload, WriteMultipart};
use parking_lot::Mutex;
use tokio::runtime::Runtime;

use super::object_file::{Spooled, Stored};

/// Larger files go up in parts of this size.
const PART_BYTES: usize = 8 << 20;

/// A local directory for files on their way. Files in it mean nothing after a restart.
#[derive(Debug)]
pub struct Spool {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    next: AtomicU64,
}

impl Spool {
    /// Empties the directory.
    ///
    /// # Errors
    /// An I/O error.
    pub fn new(disk: Arc<dyn Disk>, dir: &Path) -> io::Result<Self> {
        match disk.remove_dir_all(dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        disk.create_dir_all(dir)?;
        Ok(Self { disk, dir: dir.to_owned(), next: AtomicU64::new(1) })
    }

    pub(super) fn file(self: &Arc<Self>) -> io::Result<Spooled> {
        let path = self.dir.join(format!("{}.tmp", self.next.fetch_add(1, Ordering::Relaxed)));
        let file = self.disk.create(&path)?;
        Ok(Spooled::new(self.clone(), path, file))
    }

    pub(super) fn remove(&self, path: &Path) {
        // Best effort: the next start empties the directory.
        let _ = self.disk.remove_file(path);
    }
}

/// What files and their disk share.
#[derive(Debug)]
pub(super) struct Shared {
    store: Arc<dyn ObjectStore>,
    pub(super) spool: Arc<Spool>,
    /// Files that are no objects yet.
    unsaved: Mutex<HashMap<PathBuf, Arc<Spooled>>>,
    mounted: PathBuf,
    prefix: String,
    runtime: Option<Runtime>,
}

/// See the module.
#[derive(Debug)]
pub struct ObjectDisk(Arc<Shared>);

impl ObjectDisk {
    /// Shows the objects below `prefix` as files below the directory `mounted`.
    ///
    /// # Errors
    /// An I/O error if there is no thread to be had.
    pub fn new(store: Arc<dyn ObjectStore>, prefix: &str, mounted: &Path, spool: Spool) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("kalamdb-store")
            .enable_all()
            .build()?;
        Ok(Self(Arc::new(Shared {
            store,
            spool: Arc::new(spool),
            unsaved: Mutex::default(),
            mounted: mounted.to_owned(),
            prefix: prefix.trim_matches('/').to_owned(),
            runtime: Some(runtime),
        })))
    }
}

impl ObjectDisk {
    /// The object that a path means, and its store.
    pub(super) fn place(&self, path: &Path) -> io::Result<(Key, Arc<dyn ObjectStore>)> {
        Ok((self.0.key(path)?, self.0.store()))
    }

    /// Does some work there.
    pub(super) fn run(
        &self,
        work: impl Future<Output = object_store::Result<()>> + Send + 'static,
    ) -> io::Result<()> {
        self.0.wait(work)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // May be in an asynchronous context, which must not wait for it.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Shared {
    /// Has the runtime do some work and waits for it.
    pub(super) fn wait<T: Send + 'static>(
        &self,
        work: impl Future<Output = object_store::Result<T>> + Send + 'static,
    ) -> io::Result<T> {
        let gone = || io::Error::other("the object store is closed");
        let runtime = self.runtime.as_ref().ok_or_else(gone)?;
        let (answer, answered) = std::sync::mpsc::sync_channel(1);
        runtime.spawn(async move {
            // Whoever asked waits below.
            let _ = answer.send(work.await);
        });
        answered.recv().map_err(|_| gone())?.map_err(io_error)
    }

    fn key(&self, path: &Path) -> io::Result<Key> {
        let invalid = |e: &dyn std::fmt::Display| io::Error::new(io::ErrorKind::InvalidInput, e.to_string());
        let below = path.strip_prefix(&self.mounted).map_err(|e| invalid(&e))?;
        let below = below.to_str().ok_or_else(|| invalid(&"a path that is no text"))?;
        Key::parse(format!("{}/{below}", self.prefix)).map_err(|e| invalid(&e))
    }

    pub(super) fn store(&self) -> Arc<dyn ObjectStore> {
        self.store.clone()
    }

    /// Makes an object of a spooled file.
    pub(super) fn put(&self, path: &Path, file: &Spooled) -> io::Result<()> {
        let (key, store, len) = (self.key(path)?, self.store(), file.len()?);
        let reader = file.file();
        if len <= PART_BYTES as u64 {
            let payload = PutPayload::from(read(&*reader, 0, len as usize)?);
            return self.wait(async move { store.put(&key, payload).await }).map(drop);
        }
        self.wait(async move {
            let mut upload =
                WriteMultipart::new_with_chunk_size(store.put_multipart(&key).await?, PART_BYTES);
            let mut at = 0;
            while at < len {
                // Bounds what is in memory; parts go one by one.
                upload.wait_for_capacity(1).await?;
                let wanted = usize::try_from(len - at).map_or(PART_BYTES, |rest| rest.min(PART_BYTES));
                match read(&*reader, at, wanted) {
                    Ok(part) => upload.write(&part),
                    Err(source) => {
                        upload.abort().await?;
                        return Err(object_store::Error::Generic {
                            store: "spool",
                            source: Box::new(source),
                        });
                    }
                }
                at += wanted as u64;
            }
            upload.finish().await.map(drop)
        })
    }

    /// Says that a file is an object now.
    pub(super) fn saved(&self, path: &Path) {
        self.unsaved.lock().remove(path);
    }

    fn list(&self, path: &Path) -> io::Result<Vec<Key>> {
        let (prefix, store) = (self.key(path)?, self.store());
        self.wait(async move { store.list(Some(&prefix)).map_ok(|found| found.location).try_collect().await })
    }
}

fn read(file: &dyn DiskFile, at: u64, len: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    let mut filled = 0;
    while filled < len {
        match file.read_at(&mut bytes[filled..], at + filled as u64)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            more => filled += more,
        }
    }
    Ok(bytes)
}

pub(super) fn io_error(error: object_store::Error) -> io::Error {
    use object_store::Error as Store;
    let kind = match &error {
        Store::NotFound { .. } => io::ErrorKind::NotFound,
        Store::AlreadyExists { .. } => io::ErrorKind::AlreadyExists,
        Store::PermissionDenied { .. } | Store::Unauthenticated { .. } => io::ErrorKind::PermissionDenied,
        Store::InvalidPath { .. } => io::ErrorKind::InvalidInput,
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, error.to_string())
}

impl Disk for ObjectDisk {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        if self.exists(path)? {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let file = Arc::new(self.0.spool.file()?);
        self.0.unsaved.lock().insert(path.to_owned(), file.clone());
        Ok(Arc::new(super::object_file::Unsaved::new(self.0.clone(), path.to_owned(), file)))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        if let Some(file) = self.0.unsaved.lock().get(path).cloned() {
            return Ok(Arc::new(super::object_file::Unsaved::new(self.0.clone(), path.to_owned(), file)));
        }
        let (key, store) = (self.0.key(path)?, self.0.store());
        let head = key.clone();
        let found = self.0.wait(async move { store.head(&head).await })?;
        Ok(Arc::new(Stored::new(self.0.clone(), key, found.size)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let unsaved = self.0.unsaved.lock().get(from).cloned();
        if let Some(file) = unsaved {
            self.0.put(to, &file)?;
            self.0.saved(from);
            return Ok(());
        }
        let (from, to, store) = (self.0.key(from)?, self.0.key(to)?, self.0.store());
        self.0.wait(async move {
            store.copy(&from, &to).await?;
            store.delete(&from).await
        })
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        if self.0.unsaved.lock().remove(path).is_some() {
            return Ok(());
        }
        let (key, store) = (self.0.key(path)?, self.0.store());
        self.0.wait(async move {
            // Stores do not say whether there was something to delete.
            store.head(&key).await?;
            store.delete(&key).await
        })
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        let unsaved = self.0.unsaved.lock().extract_if(|file, _| file.starts_with(path)).count();
        let keys = self.0.list(path)?;
        if keys.is_empty() && unsaved == 0 {
            return Err(io::ErrorKind::NotFound.into());
        }
        let store = self.0.store();
        self.0.wait(async move {
            let keys = futures::stream::iter(keys.into_iter().map(Ok)).boxed();
            store.delete_stream(keys).try_for_each(|_| std::future::ready(Ok(()))).await
        })
    }

    fn create_dir_all(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        let (prefix, store) = (self.0.key(path)?, self.0.store());
        let itself = prefix.clone();
        let found = self.0.wait(async move { store.list_with_delimiter(Some(&prefix)).await })?;
        let name = |key: &Key, is_dir| Some(DirEntry { name: key.filename()?.to_owned(), is_dir });
        let in_it = found.objects.iter().filter(|object| object.location != itself);
        let files = in_it.filter_map(|object| name(&object.location, false));
        let dirs = found.common_prefixes.iter().filter_map(|prefix| name(prefix, true));
        let entries: Vec<DirEntry> = files.chain(dirs).collect();
        if entries.is_empty() { Err(io::ErrorKind::NotFound.into()) } else { Ok(entries) }
    }

    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        // The store itself is there, whatever it holds.
        if path == self.0.mounted || self.0.unsaved.lock().contains_key(path) {
            return Ok(true);
        }
        let (key, store) = (self.0.key(path)?, self.0.store());
        self.0.wait(async move {
            match store.head(&key).await {
                Ok(_) => return Ok(true),
                Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
            let itself = key.clone();
            let below =
                store.list(Some(&key)).try_filter(|found| std::future::ready(found.location != itself));
            Ok(std::pin::pin!(below).next().await.transpose()?.is_some())
        })
    }

    fn lock(&self, _: &Path) -> io::Result<Box<dyn Send + Sync>> {
        Err(io::ErrorKind::Unsupported.into())
    }
}
