//! What a test can tell a simulated disk to do, and ask it about.

use std::io;
use std::path::Path;

/// One kind of call on a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// A read, or a map.
    Read,
    /// A write, or a change of length.
    Write,
    /// A sync of a file, data or all.
    Sync,
    /// A sync of a directory.
    SyncDir,
    /// A new name: of a file, a directory or a lock.
    Create,
    /// A rename.
    Rename,
    /// A removal.
    Remove,
    /// An open, a listing, a look for a name.
    Look,
}

/// What a power cut does to what was not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crash {
    /// None of it is there.
    LoseUnsynced,
    /// All of it is there.
    KeepUnsynced,
    /// Any subset of it is there, by seed: every sector of every write, every length and every name for itself.
    Torn(u64),
    /// No power cut: only the process is gone. All of it is there, and still not synced.
    KillProcess,
}

/// When a disk stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freeze {
    /// Before the nth sync of a file or directory, counted from the disk's beginning; the first is 1.
    Sync(u64),
    /// Before the nth operation that changes something; the first is 1.
    Change(u64),
}

/// An error to come.
#[derive(Debug, Clone)]
pub struct Fault {
    /// Which calls it befalls.
    pub operation: Operation,
    /// Only those on a path that contains this; empty means any.
    pub path_contains: String,
    /// How many such calls go well first.
    pub after: u64,
    /// How many fail then; `u64::MAX` means all.
    pub times: u64,
    /// What they return.
    pub error: io::ErrorKind,
}

impl Fault {
    /// The next such call, on any path, fails with an I/O error; the ones after it go well.
    pub fn next(operation: Operation) -> Self {
        let error = io::ErrorKind::Other;
        Self { operation, path_contains: String::new(), after: 0, times: 1, error }
    }

    /// The same for a path that contains `part`.
    pub fn next_on(operation: Operation, part: &str) -> Self {
        Self { path_contains: part.into(), ..Self::next(operation) }
    }

    /// Counts a call; true if it must fail.
    pub(super) fn strikes(&mut self, operation: Operation, path: &Path) -> bool {
        let about = operation == self.operation && path.to_string_lossy().contains(&self.path_contains);
        if !about || self.times == 0 {
            return false;
        }
        if self.after > 0 {
            self.after -= 1;
            return false;
        }
        self.times = self.times.saturating_sub(u64::from(self.times != u64::MAX));
        true
    }
}

/// How often a disk was called.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Reads and maps.
    pub reads: u64,
    /// Writes and changes of length.
    pub writes: u64,
    /// Bytes written.
    pub bytes_written: u64,
    /// Syncs of files.
    pub syncs: u64,
    /// Syncs of directories.
    pub dir_syncs: u64,
    /// Operations that change something, syncs among them.
    pub changes: u64,
}

impl Counts {
    /// Syncs of files and directories: what [`Freeze::Sync`] counts.
    pub fn all_syncs(&self) -> u64 {
        self.syncs + self.dir_syncs
    }

    pub(super) fn count(&mut self, operation: Operation) {
        match operation {
            Operation::Read => self.reads += 1,
            Operation::Write => self.writes += 1,
            Operation::Sync => self.syncs += 1,
            Operation::SyncDir => self.dir_syncs += 1,
            _ => {}
        }
        self.changes += u64::from(!matches!(operation, Operation::Read | Operation::Look));
    }
}
