//! Files of an object store: those that are objects, and those that are still on the local disk.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt;
use kalamdb_wal::{Access, DiskFile};
use object_store::ObjectStoreExt;
use object_store::path::Path as Key;

use super::object::{Shared, Spool};

/// A file of the spool; its name goes with it.
#[derive(Debug)]
pub(super) struct Spooled {
    spool: Arc<Spool>,
    path: PathBuf,
    file: Arc<dyn DiskFile>,
}

impl Spooled {
    pub(super) fn new(spool: Arc<Spool>, path: PathBuf, file: Arc<dyn DiskFile>) -> Self {
        Self { spool, path, file }
    }

    pub(super) fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    pub(super) fn file(&self) -> Arc<dyn DiskFile> {
        self.file.clone()
    }
}

impl Drop for Spooled {
    fn drop(&mut self) {
        self.spool.remove(&self.path);
    }
}

/// A file that is no object yet.
#[derive(Debug)]
pub(super) struct Unsaved {
    shared: Arc<Shared>,
    path: PathBuf,
    file: Arc<Spooled>,
}

impl Unsaved {
    pub(super) fn new(shared: Arc<Shared>, path: PathBuf, file: Arc<Spooled>) -> Self {
        Self { shared, path, file }
    }

    /// Makes it an object, unless it is to get another name first.
    fn save(&self) -> io::Result<()> {
        match self.path.extension().is_some_and(|end| end == "tmp") {
            true => Ok(()),
            false => {
                self.shared.put(&self.path, &self.file)?;
                self.shared.saved(&self.path);
                Ok(())
            }
        }
    }
}

impl DiskFile for Unsaved {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.file.read_at(buf, offset)
    }

    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.file.file.write_all_at(buf, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.save()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.save()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.file.set_len(len)
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn map(&self, access: Access) -> io::Result<Bytes> {
        self.file.file.map(access)
    }
}

/// An object, which does not change: another of the same name is another file.
#[derive(Debug)]
pub(super) struct Stored {
    shared: Arc<Shared>,
    key: Key,
    size: u64,
}

impl Stored {
    pub(super) fn new(shared: Arc<Shared>, key: Key, size: u64) -> Self {
        Self { shared, key, size }
    }
}

impl DiskFile for Stored {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let end = self.size.min(offset.saturating_add(buf.len() as u64));
        if offset >= end {
            return Ok(0);
        }
        let (store, key) = (self.shared.store(), self.key.clone());
        let bytes = self.shared.wait(async move { store.get_range(&key, offset..end).await })?;
        let read = bytes.len().min(buf.len());
        buf[..read].copy_from_slice(&bytes[..read]);
        Ok(read)
    }

    fn write_all_at(&self, _: &[u8], _: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn sync_all(&self) -> io::Result<()> {
        Ok(())
    }

    fn set_len(&self, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.size)
    }

    /// A local copy without a name, which goes when the last user of its bytes does.
    fn map(&self, access: Access) -> io::Result<Bytes> {
        if self.size == 0 {
            return Ok(Bytes::new());
        }
        let copy = self.shared.spool.file()?;
        let (store, key, to) = (self.shared.store(), self.key.clone(), copy.file());
        let written = self.shared.wait(async move {
            let mut pieces = store.get(&key).await?.into_stream();
            let mut at = 0;
            while let Some(piece) = pieces.try_next().await? {
                let spool =
                    |source| object_store::Error::Generic { store: "spool", source: Box::new(source) };
                to.write_all_at(&piece, at).map_err(spool)?;
                at += piece.len() as u64;
            }
            Ok(at)
        })?;
        if written != self.size {
            // Not what the object is like, but what came of it.
            return Err(io::Error::other(format!("{}: {written} of {} bytes came", self.key, self.size)));
        }
        copy.file().map(access)
    }
}
