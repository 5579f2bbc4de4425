//! `kalamdb check` and `kalamdb repair`: looking a closed database over, and rebuilding manifests that are lost.
//!
//! Both take the directory's lock, so neither meets a running server. [`check`] reads everything (the log, every
//! manifest, segment and delete vector) and changes nothing. [`repair`] writes manifests and nothing else: it never
//! touches the log, a segment or a delete vector, and keeps the manifest it replaces as `manifest.json.damaged`.

mod check;
mod packs;
mod repair;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use kalamdb_wal::{Access, Disk, RealDisk, Verdict};

use crate::dropped::DROPPED;
use crate::error::{Error, Result};
use crate::manifest::FILE_NAME;
use crate::pack;
use crate::partition::is_data_file;
use crate::store::{Stores, Volumes};

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The file.
    pub file: PathBuf,
    /// Where in it, in bytes from its start, if that is known.
    pub offset: Option<u64>,
    /// What is wrong.
    pub what: String,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(offset) = self.offset {
            write!(f, " at byte {offset}")?;
        }
        write!(f, ": {}", self.what)
    }
}

/// How a database is, on the whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// Everything is as it was written.
    Clean,
    /// The last write to the log was cut off; opening drops it. No acknowledged commit is concerned.
    TornTail,
    /// Something that was written is not there any more.
    Damaged,
}

impl Condition {
    /// The exit code of `kalamdb check`: 0, 1 or 2.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Clean => 0,
            Self::TornTail => 1,
            Self::Damaged => 2,
        }
    }
}

/// What [`check`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckReport {
    /// The log, segment by segment.
    pub log: kalamdb_wal::CheckReport,
    /// Partitions with files.
    pub partitions: u64,
    /// Parquet files that manifests name, packs included.
    pub segments: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Damage outside of the log, by file.
    pub damage: Vec<Finding>,
    /// Files that nothing names, left over from a crash. They are removed when their partition is next used.
    pub orphans: Vec<PathBuf>,
}

impl CheckReport {
    /// How the database is, on the whole.
    pub fn condition(&self) -> Condition {
        match self.log.verdict {
            Verdict::Corrupt { .. } => Condition::Damaged,
            _ if !self.damage.is_empty() => Condition::Damaged,
            Verdict::TornTail { .. } => Condition::TornTail,
            _ => Condition::Clean,
        }
    }
}

/// What [`repair`] did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RepairReport {
    /// Manifests that were rebuilt.
    pub rebuilt: Vec<PathBuf>,
    /// Damage that it cannot mend.
    pub left: Vec<Finding>,
    /// What whoever relies on a rebuilt manifest should know.
    pub notes: Vec<Finding>,
}

/// Looks a closed database over and changes nothing.
///
/// # Errors
/// [`Error::Locked`] if a server runs on it; an I/O error, which says nothing about the contents, also if a store that
/// tables were in cannot be reached.
pub fn check(dir: &Path, stores: Arc<dyn Stores>) -> Result<CheckReport> {
    check_on(&Volumes::new(Arc::new(RealDisk), dir, stores), dir)
}

/// The same on any disk.
///
/// # Errors
/// See [`check`].
pub fn check_on(disk: &dyn Disk, dir: &Path) -> Result<CheckReport> {
    let _lock = lock(disk, dir)?;
    check::check(disk, dir)
}

/// Rebuilds the manifests of a closed database that are missing or damaged from what the segments say of themselves.
///
/// # Errors
/// [`Error::Locked`] if a server runs on it; an I/O error, as of [`check`].
pub fn repair(dir: &Path, stores: Arc<dyn Stores>) -> Result<RepairReport> {
    let disk: Arc<dyn Disk> = Arc::new(Volumes::new(Arc::new(RealDisk), dir, stores));
    repair_on(&disk, &kalamdb_wal::SystemClock, dir)
}

/// The same on any disk.
///
/// # Errors
/// See [`repair`].
pub fn repair_on(disk: &Arc<dyn Disk>, clock: &dyn kalamdb_wal::Clock, dir: &Path) -> Result<RepairReport> {
    let _lock = lock(disk.as_ref(), dir)?;
    repair::repair(disk.as_ref(), clock.now_micros(), dir)
}

fn lock(disk: &dyn Disk, dir: &Path) -> Result<Box<dyn Send + Sync>> {
    let path = dir.join("kalamdb.lock");
    disk.lock(&path).map_err(|e| match e.kind() {
        std::io::ErrorKind::WouldBlock => Error::Locked(dir.to_owned()),
        _ => Error::io(format!("lock {}", path.display()), e),
    })
}

/// A directory of a partition or of packs: with a manifest, or with files that should have one, and the names of its files.
struct PartitionDir {
    path: PathBuf,
    files: Vec<String>,
}

impl PartitionDir {
    /// True if it is not one user's, but holds the packs of a table.
    fn is_of_packs(&self) -> bool {
        self.path.file_name().is_some_and(|name| name == pack::DIR)
    }
}

/// Every such directory below `DATA/tables`, sorted.
fn partition_dirs(disk: &dyn Disk, dir: &Path) -> Result<Vec<PartitionDir>> {
    let mut found = Vec::new();
    let mut waiting = vec![dir.join("tables")];
    while let Some(path) = waiting.pop() {
        let entries = match disk.read_dir(&path) {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            Err(e) => return Err(Error::io(format!("read {}", path.display()), e)),
        };
        // What is left of a dropped table is not damaged, it is going.
        let dirs = entries.iter().filter(|e| e.is_dir && !e.name.contains(DROPPED));
        waiting.extend(dirs.map(|e| path.join(&e.name)));
        let mut files: Vec<String> = entries.into_iter().filter(|e| !e.is_dir).map(|e| e.name).collect();
        files.sort_unstable();
        let is_ours = |name: &String| name == FILE_NAME || is_data_file(name) || pack::is_pack(name);
        if files.iter().any(is_ours) {
            found.push(PartitionDir { path, files });
        }
    }
    found.sort_unstable_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

/// A file's bytes; what is wrong with it, in words, if it cannot be had.
fn read(disk: &dyn Disk, path: &Path) -> Result<bytes::Bytes, String> {
    disk.open(path).and_then(|file| file.map(Access::Whole)).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => "the file is missing".into(),
        _ => e.to_string(),
    })
}
