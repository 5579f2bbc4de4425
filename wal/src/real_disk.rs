//! The machine's own filesystem behind the [`Disk`] trait.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use memmap2::{Advice, Mmap};

use crate::disk::{Access, DirEntry, Disk, DiskFile};

/// The machine's own filesystem.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealDisk;

#[derive(Debug)]
struct RealFile(File);

impl Disk for RealDisk {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
        Ok(Arc::new(RealFile(file)))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(RealFile(OpenOptions::new().read(true).write(true).open(path)?)))
    }

    #[expect(clippy::disallowed_methods, reason = "this is the call that durable::rename is built on")]
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir_all(path)
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        fs::create_dir_all(path)
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            entries.push(DirEntry { name, is_dir: entry.file_type()?.is_dir() });
        }
        Ok(entries)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        path.try_exists()
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Box::new(file)),
            Err(TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

impl DiskFile for RealFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        loop {
            match self.0.read_at(buf, offset) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }

    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(buf, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.0.sync_all()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn map(&self, access: Access) -> io::Result<Bytes> {
        if self.is_empty()? {
            return Ok(Bytes::new());
        }
        #[expect(unsafe_code, reason = "a file can be mapped no other way")]
        // SAFETY: the trait makes the caller promise that nobody writes to or shortens the mapped range while the
        // view lives; the log maps sealed segments only and never reuses one whose view is alive.
        let map = unsafe { Mmap::map(&self.0)? };
        if access == Access::Whole {
            bring_in(&map)?;
        }
        Ok(Bytes::from_owner(map))
    }
}

/// Brings a whole map into memory. A disk that cannot be read is an error here; it would be the end of the process at
/// the first touch of the page.
#[cfg(target_os = "linux")]
fn bring_in(map: &Mmap) -> io::Result<()> {
    match map.advise(Advice::PopulateRead) {
        // Kernels before 5.14 do not know it.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => map.advise(Advice::Sequential),
        other => other,
    }
}

#[cfg(not(target_os = "linux"))]
fn bring_in(map: &Mmap) -> io::Result<()> {
    map.advise(Advice::Sequential)
}
