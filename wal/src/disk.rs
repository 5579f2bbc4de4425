//! The seam between the storage code and the machine: every file call of the log and of the engine goes through
//! [`Disk`], so that tests can run the whole database on a simulated disk that loses power at will.
//!
//! The trait promises exactly what POSIX promises and no more: a write is durable after `sync_data` or `sync_all` of
//! its file, a new or renamed or removed name is durable after `sync_dir` of its directory, and nothing else is.

use std::fmt::Debug;
use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

/// A filesystem. Paths are absolute or relative to the process; implementations do not interpret them.
pub trait Disk: Debug + Send + Sync + 'static {
    /// Creates an empty file for reading and writing; `AlreadyExists` if the name is taken.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;
    /// Opens an existing file for reading and writing.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;
    /// Atomically gives `from` the name `to`, replacing what had it. Durable after `sync_dir` of both parents.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file's name. Open handles and maps stay readable.
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// Removes a directory and all it holds.
    fn remove_dir_all(&self, path: &Path) -> io::Result<()>;
    /// Creates a directory and its missing parents. Durable after `sync_dir` of each parent.
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;
    /// The entries of a directory, in no particular order; `NotFound` if there is none.
    fn read_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>>;
    /// Makes the names in a directory durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// True if something has this name.
    fn exists(&self, path: &Path) -> io::Result<bool>;
    /// Takes the exclusive lock of a file, creating it; `WouldBlock` if another process (or handle) holds it.
    /// The lock is held until the returned guard is dropped.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>>;
}

/// One name in a directory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct DirEntry {
    /// The last component of the path.
    pub name: String,
    /// True for a directory.
    pub is_dir: bool,
}

/// How a mapped file will be read; only speed depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// All of it, soon: worth having the pages at hand before the first is touched, since one fault per few pages costs
    /// about as much as checking what they hold.
    Whole,
    /// Some places, in any order.
    Parts,
}

/// An open file. All calls take an offset, so one handle serves many threads.
pub trait DiskFile: Debug + Send + Sync {
    /// Reads up to `buf.len()` bytes; 0 only at or past the end of the file.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes all of `buf`, extending the file if needed.
    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()>;
    /// Makes the file's contents durable, and its length if that changed (`fdatasync`).
    fn sync_data(&self) -> io::Result<()>;
    /// Makes the file's contents and all its metadata durable (`fsync`).
    fn sync_all(&self) -> io::Result<()>;
    /// Cuts or zero-extends the file.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// The file's length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// True if the file holds no byte.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// A read-only view of the file as long as it is now. The caller promises that nobody writes to the mapped range
    /// while the view lives; removing the name is fine.
    fn map(&self, access: Access) -> io::Result<Bytes>;
}
