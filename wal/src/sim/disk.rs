//! The simulated disk itself.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::control::{Counts, Crash, Fault, Freeze, Operation};
use super::inode::Inode;
use super::names::{InodeId, Names, Node};
use super::random::SimRandom;
use crate::{Access, DirEntry, Disk, DiskFile};

type Hook = Arc<dyn Fn(Operation, &Path) + Send + Sync>;

/// A disk in memory that forgets what was not synced. Clones are the same disk. See the [module](super).
#[derive(Clone, Default)]
pub struct SimDisk(Arc<Inner>);

#[derive(Default)]
struct Inner {
    state: Mutex<State>,
    hook: Mutex<Option<Hook>>,
}

#[derive(Debug, Clone, Default)]
struct State {
    names: Names,
    inodes: Vec<Inode>,
    locks: BTreeSet<PathBuf>,
    counts: Counts,
    faults: Vec<Fault>,
    freeze: Option<Freeze>,
    frozen: bool,
    capacity: Option<u64>,
}

impl SimDisk {
    /// An empty disk with a root directory.
    pub fn new() -> Self {
        Self::default()
    }

    /// The disk as the next process finds it. This one is dead from here on: every call on it fails.
    pub fn crash(&self, crash: Crash) -> Self {
        let mut state = self.state();
        let mut after = State { counts: state.counts, capacity: state.capacity, ..State::default() };
        after.names = state.names.clone();
        after.inodes = state.inodes.clone();
        state.frozen = true;
        drop(state);
        match crash {
            Crash::KillProcess => {}
            Crash::LoseUnsynced => after.settle(Names::lose_unsynced, Inode::lose_unsynced),
            Crash::KeepUnsynced => after.settle(Names::keep_unsynced, Inode::keep_unsynced),
            Crash::Torn(seed) => {
                let mut random = SimRandom::new(seed);
                after.names.tear(&mut random);
                after.inodes.iter_mut().for_each(|inode| inode.tear(&mut random));
            }
        }
        Self(Arc::new(Inner { state: Mutex::new(after), hook: Mutex::default() }))
    }

    /// Another disk with the same contents, synced or not, without locks, faults and hook; this one lives on.
    pub fn fork(&self) -> Self {
        let mut copy = self.state().clone();
        copy.locks.clear();
        copy.faults.clear();
        (copy.freeze, copy.frozen) = (None, false);
        Self(Arc::new(Inner { state: Mutex::new(copy), hook: Mutex::default() }))
    }

    /// Stops the disk at an instant to come: from there on every call fails.
    pub fn freeze_at(&self, freeze: Freeze) {
        self.state().freeze = Some(freeze);
    }

    /// True once the instant has come.
    pub fn is_frozen(&self) -> bool {
        self.state().frozen
    }

    /// Makes some calls fail.
    pub fn inject(&self, fault: Fault) {
        self.state().faults.push(fault);
    }

    /// No more injected errors.
    pub fn clear_faults(&self) {
        self.state().faults.clear();
    }

    /// Lets all files together hold at most this many bytes; `None` is no limit. A write beyond it writes nothing and
    /// returns `StorageFull`.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state().capacity = bytes;
    }

    /// Bytes that all files hold together.
    pub fn used(&self) -> u64 {
        self.state().used()
    }

    /// Called before every operation, on the thread that makes it, without any lock held; it may block.
    pub fn set_hook(&self, hook: impl Fn(Operation, &Path) + Send + Sync + 'static) {
        *lock(&self.0.hook) = Some(Arc::new(hook));
    }

    /// How often the disk was called, over crashes too.
    pub fn counts(&self) -> Counts {
        self.state().counts
    }

    /// Every file, sorted by path.
    pub fn files(&self) -> Vec<PathBuf> {
        self.state().names.files()
    }

    /// What the running process would read from a file; not counted as an operation.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn contents(&self, path: &Path) -> io::Result<Vec<u8>> {
        let state = self.state();
        Ok(state.inodes[state.names.file(path)?].current().to_vec())
    }

    /// Gives a file these contents, creating it if need be, as if it had always had them.
    ///
    /// # Errors
    /// If the name is a directory's or its directory does not exist.
    pub fn overwrite(&self, path: &Path, bytes: Vec<u8>) -> io::Result<()> {
        let mut state = self.state();
        let inode = match state.names.file(path) {
            Ok(inode) => inode,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let inode = state.new_inode();
                state.names.create(path, Node::File(inode))?;
                let parent = path.parent().unwrap_or(Path::new("/")).to_owned();
                state.names.sync(&parent)?;
                inode
            }
            Err(error) => return Err(error),
        };
        state.inodes[inode].settle_on(bytes);
        Ok(())
    }

    /// Inverts one bit of a file, counted from its start.
    ///
    /// # Errors
    /// `NotFound`; `UnexpectedEof` if the file is shorter.
    pub fn flip_bit(&self, path: &Path, bit: u64) -> io::Result<()> {
        let mut bytes = self.contents(path)?;
        let at = usize::try_from(bit / 8).unwrap_or(usize::MAX);
        *bytes.get_mut(at).ok_or(io::ErrorKind::UnexpectedEof)? ^= 1 << (bit % 8);
        self.overwrite(path, bytes)
    }

    /// Cuts a file.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn truncate(&self, path: &Path, len: u64) -> io::Result<()> {
        let mut bytes = self.contents(path)?;
        bytes.truncate(usize::try_from(len).unwrap_or(usize::MAX));
        self.overwrite(path, bytes)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.0.state)
    }

    /// Calls the hook, counts, and fails if it is time to.
    fn begin(&self, operation: Operation, path: &Path) -> io::Result<MutexGuard<'_, State>> {
        let hook = lock(&self.0.hook).clone();
        if let Some(hook) = hook {
            hook(operation, path);
        }
        let mut state = self.state();
        state.begin(operation, path)?;
        Ok(state)
    }

    fn handle(&self, path: &Path, inode: InodeId) -> Arc<dyn DiskFile> {
        Arc::new(SimFile { disk: self.clone(), opened_as: path.to_owned(), inode })
    }
}

impl State {
    fn begin(&mut self, operation: Operation, path: &Path) -> io::Result<()> {
        self.counts.count(operation);
        self.frozen |= match self.freeze {
            Some(Freeze::Sync(n)) => self.counts.all_syncs() >= n,
            Some(Freeze::Change(n)) => self.counts.changes >= n,
            None => false,
        };
        if self.frozen {
            return Err(io::Error::other("the simulated power is off"));
        }
        let mut struck = None;
        for fault in &mut self.faults {
            if fault.strikes(operation, path) {
                struck = struck.or(Some(fault.error));
            }
        }
        struck.map_or(Ok(()), |kind| Err(io::Error::new(kind, "injected")))
    }

    fn settle(&mut self, names: impl FnOnce(&mut Names), inode: impl FnMut(&mut Inode)) {
        names(&mut self.names);
        self.inodes.iter_mut().for_each(inode);
    }

    fn new_inode(&mut self) -> InodeId {
        self.inodes.push(Inode::default());
        self.inodes.len() - 1
    }

    fn used(&self) -> u64 {
        let files = self.names.files();
        let size =
            |path: &PathBuf| self.names.file(path).map_or(0, |inode| self.inodes[inode].current().len());
        files.iter().map(|path| size(path) as u64).sum()
    }

    fn need_room(&self, inode: InodeId, end: u64) -> io::Result<()> {
        let len = self.inodes[inode].current().len() as u64;
        match self.capacity {
            Some(limit) if end > len && self.used() + (end - len) > limit => {
                Err(io::ErrorKind::StorageFull.into())
            }
            _ => Ok(()),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimDisk").field("counts", &self.counts()).finish_non_exhaustive()
    }
}

impl Disk for SimDisk {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.begin(Operation::Create, path)?;
        let inode = state.inodes.len();
        state.names.create(path, Node::File(inode))?;
        state.new_inode();
        drop(state);
        Ok(self.handle(path, inode))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let inode = self.begin(Operation::Look, path)?.names.file(path)?;
        Ok(self.handle(path, inode))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.begin(Operation::Rename, from)?.names.rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.begin(Operation::Remove, path)?.names.remove(path)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.begin(Operation::Remove, path)?.names.remove_dir(path)
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.begin(Operation::Create, path)?.names.create_dirs(path)
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        self.begin(Operation::Look, path)?.names.list(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.begin(Operation::SyncDir, path)?.names.sync(path)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        Ok(self.begin(Operation::Look, path)?.names.get(path).is_ok())
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        let mut state = self.begin(Operation::Create, path)?;
        if state.names.get(path).is_err() {
            let inode = state.new_inode();
            state.names.create(path, Node::File(inode))?;
        }
        if !state.locks.insert(path.to_owned()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(Box::new(SimLock { disk: self.clone(), path: path.to_owned() }))
    }
}

struct SimLock {
    disk: SimDisk,
    path: PathBuf,
}

impl Drop for SimLock {
    fn drop(&mut self) {
        self.disk.state().locks.remove(&self.path);
    }
}

#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    opened_as: PathBuf,
    inode: InodeId,
}

impl SimFile {
    /// The name it has now, for faults and hooks; the last one known if it was removed.
    fn path(&self) -> PathBuf {
        self.disk.state().names.name_of(self.inode).unwrap_or(&self.opened_as).to_owned()
    }

    fn sync(&self) -> io::Result<()> {
        match self.disk.begin(Operation::Sync, &self.path()) {
            Ok(mut state) => {
                state.inodes[self.inode].sync();
                Ok(())
            }
            Err(error) => {
                let mut state = self.disk.state();
                // A disk that lost its power did not decide anything about the data; one that failed did.
                if !state.frozen {
                    state.inodes[self.inode].fail_sync();
                }
                Err(error)
            }
        }
    }
}

impl DiskFile for SimFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let state = self.disk.begin(Operation::Read, &self.path())?;
        let bytes = state.inodes[self.inode].current();
        let rest = usize::try_from(offset).ok().and_then(|at| bytes.get(at..)).unwrap_or_default();
        let n = rest.len().min(buf.len());
        buf[..n].copy_from_slice(&rest[..n]);
        Ok(n)
    }

    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.disk.begin(Operation::Write, &self.path())?;
        state.need_room(self.inode, offset + buf.len() as u64)?;
        state.counts.bytes_written += buf.len() as u64;
        let offset = usize::try_from(offset).map_err(io::Error::other)?;
        state.inodes[self.inode].write(offset, buf);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.sync()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.sync()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.disk.begin(Operation::Write, &self.path())?;
        state.need_room(self.inode, len)?;
        state.inodes[self.inode].set_len(usize::try_from(len).map_err(io::Error::other)?);
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.begin(Operation::Look, &self.path())?.inodes[self.inode].current().len() as u64)
    }

    fn map(&self, _: Access) -> io::Result<Bytes> {
        let state = self.disk.begin(Operation::Read, &self.path())?;
        Ok(Bytes::copy_from_slice(state.inodes[self.inode].current()))
    }
}
