//! Where comparisons put their files, and what a sync costs there.
//!
//! A budget is about what our code adds to the device. On a machine whose disk others use at the same time, the device
//! differs more from one second to the next than any code: there, [`Place::paced`] puts the files anywhere (in memory,
//! best) and makes every `fdatasync` of a file, ours and the bare loop's, sleep for a fixed time instead.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kalamdb_wal::{Access, DirEntry, Disk, DiskFile, RealDisk};
use tempfile::TempDir;

/// See the module.
#[derive(Debug)]
pub struct Place {
    scratch: PathBuf,
    disk: Arc<dyn Disk>,
}

impl Place {
    /// Files below `scratch`, on the device that holds it.
    pub fn real(scratch: PathBuf) -> Self {
        Self { scratch, disk: Arc::new(RealDisk) }
    }

    /// Files below `scratch`; a sync sleeps for this long and does nothing else.
    pub fn paced(scratch: PathBuf, sync: Duration) -> Self {
        Self { scratch, disk: Arc::new(PacedDisk { sync }) }
    }

    /// A new directory, removed when it is dropped; the scratch directory is made if it is not there.
    ///
    /// # Errors
    /// From the filesystem.
    pub fn dir(&self) -> io::Result<TempDir> {
        std::fs::create_dir_all(&self.scratch)?;
        tempfile::tempdir_in(&self.scratch)
    }

    /// What files are read, written and synced through.
    pub fn disk(&self) -> Arc<dyn Disk> {
        Arc::clone(&self.disk)
    }
}

#[derive(Debug)]
struct PacedDisk {
    sync: Duration,
}

#[derive(Debug)]
struct PacedFile {
    file: Arc<dyn DiskFile>,
    sync: Duration,
}

impl PacedDisk {
    fn paced(&self, file: io::Result<Arc<dyn DiskFile>>) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(PacedFile { file: file?, sync: self.sync }))
    }
}

impl Disk for PacedDisk {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.paced(RealDisk.create(path))
    }
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.paced(RealDisk.open(path))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealDisk.rename(from, to)
    }
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        RealDisk.remove_file(path)
    }
    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        RealDisk.remove_dir_all(path)
    }
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        RealDisk.create_dir_all(path)
    }
    fn read_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        RealDisk.read_dir(path)
    }
    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }
    fn exists(&self, path: &Path) -> io::Result<bool> {
        RealDisk.exists(path)
    }
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        RealDisk.lock(path)
    }
}

impl DiskFile for PacedFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buf, offset)
    }
    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(buf, offset)
    }
    fn sync_data(&self) -> io::Result<()> {
        std::thread::sleep(self.sync);
        Ok(())
    }
    fn sync_all(&self) -> io::Result<()> {
        Ok(())
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn map(&self, access: Access) -> io::Result<Bytes> {
        self.file.map(access)
    }
}
