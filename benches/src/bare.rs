//! The physical limit of a log: the same bytes written and synced by a loop that does nothing else.

use std::io;
use std::path::Path;
use std::sync::Arc;

use kalamdb_wal::{Disk, DiskFile};

/// A file whose blocks are allocated and written, so that a sync has no metadata to write.
#[derive(Debug)]
pub struct BareFile {
    file: Arc<dyn DiskFile>,
    len: u64,
    at: u64,
}

impl BareFile {
    /// Writes `len` zeros and syncs them.
    ///
    /// # Errors
    /// From the disk.
    pub fn preallocated(disk: &dyn Disk, path: &Path, len: u64) -> io::Result<Self> {
        let file = disk.create(path)?;
        let zeros = vec![0; 1 << 20];
        for at in (0..len).step_by(zeros.len()) {
            file.write_all_at(&zeros, at)?;
        }
        file.sync_all()?;
        Ok(Self { file, len, at: 0 })
    }

    /// One `pwrite` behind the last one (from the start again at the end) and one `fdatasync`.
    ///
    /// # Errors
    /// From the disk.
    pub fn commit(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.at + bytes.len() as u64 > self.len {
            self.at = 0;
        }
        self.file.write_all_at(bytes, self.at)?;
        self.at += bytes.len() as u64;
        self.file.sync_data()
    }
}
