//! A partition: a list of immutable chunks plus who superseded what.
//!
//! What a reader needs is one [`Version`], swapped as a whole, so a reader sees a row neither twice nor not at all while
//! a flush installs its result. Within a version, memtable rows and marks are append-only and carry their commit, so a
//! reader ignores what is newer than its snapshot.
//!
//! Loading one from disk trusts the manifest alone: files it does not name are orphans of a crash and are removed; a
//! directory with segments but no manifest has lost it and is refused.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

use arc_swap::ArcSwap;
use kalamdb_wal::{Disk, durable};
use parking_lot::Mutex;

use crate::catalog::Catalog;
use crate::delete_vector;
use crate::error::{Error, Result};
use crate::ids::{PartitionId, Seq};
use crate::manifest::{self, Manifest, SegmentMeta};
use crate::marks::Marks;
use crate::memtable::Memtable;
use crate::segment::{Damage, PageCache, Segment, Shared, Trash};
use crate::snapshot::Snapshot;
use crate::unread::Unread;

/// A memtable that a flush is writing out.
#[derive(Debug)]
pub struct Frozen {
    /// Its rows.
    pub memtable: Arc<Memtable>,
    /// The partition's last commit when it was frozen: all its rows are at or before it.
    pub boundary: Seq,
    /// What was the horizon then, held: until the flush is installed, marks after it can be told from those before.
    pub pin: Snapshot,
}

/// The chunks of a partition at one time.
#[derive(Debug, Clone)]
pub struct Version {
    /// Where commits write.
    pub active: Arc<Memtable>,
    /// What is being flushed.
    pub frozen: Option<Arc<Frozen>>,
    /// What is in Parquet, oldest first.
    pub segments: Arc<[Arc<Segment>]>,
    /// The manifest that says so.
    pub manifest: Arc<Manifest>,
}

impl Version {
    /// The memtables, newest first.
    pub fn memtables(&self) -> impl Iterator<Item = &Arc<Memtable>> {
        std::iter::once(&self.active).chain(self.frozen.iter().map(|f| &f.memtable))
    }

    /// True if there is nothing in it, in memory or in Parquet.
    pub fn is_empty(&self) -> bool {
        self.segments.is_empty() && self.memtables().all(|m| m.is_empty())
    }

    /// The oldest commit that is in memory only: what the log must keep.
    pub fn first_unflushed(&self) -> Option<Seq> {
        self.memtables().filter_map(|m| m.first_unflushed()).min()
    }

    /// A segment by id.
    pub fn segment(&self, id: u64) -> Option<&Arc<Segment>> {
        self.segments.iter().find(|s| s.meta().id == id)
    }
}

/// What only the holder of the commit lock may touch.
#[derive(Debug)]
pub struct CommitState {
    /// The last commit applied here.
    pub last_seq: Seq,
}

/// One partition, loaded.
#[derive(Debug)]
pub struct Partition {
    /// Which one.
    pub id: PartitionId,
    /// Its directory; does not exist before the first flush.
    pub dir: PathBuf,
    /// Held while a commit is checked, sequenced and applied, and while a version is swapped.
    pub commit: Mutex<CommitState>,
    /// Held during a flush, and while a compaction installs its result: whoever holds it gives segments their ids and
    /// replaces the manifest.
    pub flushing: tokio::sync::Mutex<()>,
    /// Held during a compaction, for longer than `flushing` and before it.
    pub compacting: tokio::sync::Mutex<()>,
    /// A compaction needs to know which commits set the marks after this one; [`Seq::MAX`] if there is none.
    pub needed_marks: AtomicU64,
    /// Removes the files of replaced segments.
    pub trash: Arc<Trash>,
    /// Its damage is set once a file turns out not to be what was written: the partition is closed then.
    pub shared: Shared,
    /// The id of the next segment file. An attempt that failed has used its id up: whether the disk's manifest names
    /// its files is not known, so they must not be touched.
    pub next_segment: AtomicU64,
    /// Files of failed attempts, to be removed once a manifest that does not name them is durable.
    pub leftovers: Mutex<Vec<String>>,
    /// A flush was asked for and has not begun.
    pub flush_requested: AtomicBool,
    /// When the oldest hot row came, microseconds since the epoch; 0 if there is none.
    pub hot_since: AtomicI64,
    /// Its rows were purged: it is no longer the partition of its user.
    pub gone: AtomicBool,
    /// When somebody last looked the partition up, microseconds since the epoch.
    pub used_at: AtomicI64,
    version: ArcSwap<Version>,
}

impl Partition {
    /// Loads a partition from its directory, or begins an empty one, of that schema version, if there is none.
    ///
    /// # Errors
    /// [`Error::PartitionDamaged`] if what is there is not what was written; an I/O error if it cannot be read now.
    pub fn load(
        id: PartitionId,
        dir: PathBuf,
        disk: &Arc<dyn Disk>,
        pages: &Arc<PageCache>,
        catalog: &Catalog,
        schema_version: u32,
        now: i64,
    ) -> Result<Self> {
        let damaged = |reason: String| Error::PartitionDamaged { partition: id.clone(), reason };
        let manifest = match Manifest::load(disk.as_ref(), &dir).map_err(|e| e.of(&id))? {
            Some(manifest) => manifest,
            None => {
                if has_segments(disk.as_ref(), &dir)? {
                    return Err(damaged(format!("{} is missing", manifest::FILE_NAME)));
                }
                Manifest::empty(id.table, id.user.clone(), schema_version, now)
            }
        };
        if manifest.table_id != id.table || manifest.user_id != id.user {
            return Err(damaged(format!("{} belongs to another partition", manifest::FILE_NAME)));
        }
        let stays = remove_orphans(disk.as_ref(), &dir, &manifest);
        let shared = Shared { damage: Damage::default(), pages: pages.clone() };
        let segments = manifest.segments.iter().map(|meta| {
            check_size(disk.as_ref(), &dir, meta).map_err(|e| e.of(&id))?;
            let marks = load_marks(disk.as_ref(), &dir, meta).map_err(|e| e.of(&id))?;
            let schema = catalog.schema_at(id.table, meta.schema_version).cloned().ok_or_else(|| {
                damaged(format!("{}: schema version {} is not known", meta.path, meta.schema_version))
            })?;
            let (id, disk, shared) = (id.clone(), disk.clone(), shared.clone());
            Ok(Arc::new(Segment::new(meta.clone(), schema, marks, id, &dir, disk, shared)))
        });
        let version = Version {
            segments: segments.collect::<Result<_>>()?,
            active: Arc::new(Memtable::new(manifest.flushed_seq)),
            frozen: None,
            manifest: Arc::new(manifest),
        };
        Ok(Self {
            commit: Mutex::new(CommitState { last_seq: version.manifest.flushed_seq }),
            flushing: tokio::sync::Mutex::new(()),
            compacting: tokio::sync::Mutex::new(()),
            needed_marks: AtomicU64::new(Seq::MAX),
            trash: Arc::new(Trash::new(disk.clone())),
            shared,
            // The newest segment in the directory must be one that a manifest named: see `offline::repair`.
            next_segment: AtomicU64::new(version.manifest.next_segment_id.max(stays + 1)),
            leftovers: Mutex::default(),
            flush_requested: AtomicBool::new(false),
            hot_since: AtomicI64::new(0),
            gone: AtomicBool::new(false),
            used_at: AtomicI64::new(now),
            version: ArcSwap::from_pointee(version),
            id,
            dir,
        })
    }

    /// Begins with these rows, which a pack has. Before anybody else has the partition.
    pub(crate) fn begin_with(&self, rows: Memtable) {
        let mut state = self.commit.lock();
        state.last_seq = rows.durable();
        let version = self.version();
        self.install(&mut state, Version { active: Arc::new(rows), ..Version::clone(&version) });
    }

    /// An id for a segment file that no attempt before had.
    pub fn new_segment_id(&self, at_least: u64) -> u64 {
        // Only the holder of `flushing` comes here.
        let id = self.next_segment.load(Ordering::Relaxed).max(at_least);
        self.next_segment.store(id + 1, Ordering::Relaxed);
        id
    }

    /// Fails if a file of the partition was found damaged, or if it was purged.
    ///
    /// # Errors
    /// [`Error::PartitionDamaged`] with the file.
    pub fn check_open(&self) -> Result<()> {
        if self.gone.load(Ordering::Acquire) {
            let reason = "its rows were purged".to_owned();
            return Err(Error::PartitionDamaged { partition: self.id.clone(), reason });
        }
        match self.shared.damage.get() {
            None => Ok(()),
            Some(reason) => {
                Err(Error::PartitionDamaged { partition: self.id.clone(), reason: reason.clone() })
            }
        }
    }

    /// The current version.
    pub fn version(&self) -> Arc<Version> {
        self.version.load_full()
    }

    /// Replaces the version; the caller holds the commit lock, which `_held` proves.
    pub fn install(&self, _held: &mut CommitState, version: Version) {
        self.version.store(Arc::new(version));
    }

    /// Notes that hot rows are there since `now`.
    pub fn note_hot(&self, now: i64) {
        // Relaxed: the flusher reads it at leisure.
        let _ = self.hot_since.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed);
    }
}

/// A missing or cut file closes the partition at once; its checksum is verified when it is first read.
fn check_size(disk: &dyn Disk, dir: &Path, meta: &SegmentMeta) -> Result<(), Unread> {
    let len = disk
        .open(&dir.join(&meta.path))
        .and_then(|file| file.len())
        .map_err(|e| Unread::io(&meta.path, e))?;
    if len != meta.bytes {
        return Err(format!("{}: {len} bytes where the manifest says {}", meta.path, meta.bytes).into());
    }
    Ok(())
}

fn load_marks(disk: &dyn Disk, dir: &Path, meta: &SegmentMeta) -> Result<Marks, Unread> {
    let Some(name) = &meta.deletes_path else { return Ok(Marks::default()) };
    let bytes = durable::read_file(disk, &dir.join(name)).map_err(|e| Unread::durable(name, e))?;
    let rows = delete_vector::decode(&bytes).map_err(|reason| format!("{name}: {reason}"))?;
    if rows.len() != meta.deleted_rows {
        return Err(format!(
            "{name}: names {} rows where the manifest says {}",
            rows.len(),
            meta.deleted_rows
        )
        .into());
    }
    Ok(Marks::folded(rows))
}

/// True for the names that segments and delete vectors get.
pub(crate) fn is_data_file(name: &str) -> bool {
    name.starts_with("batch-") && (name.ends_with(".parquet") || name.ends_with(".deletes"))
}

/// A file that was being written aside when the process died.
fn is_unfinished(name: &str) -> bool {
    name.strip_suffix(".tmp").is_some_and(|name| name == manifest::FILE_NAME || is_data_file(name))
}

/// The names of the files in a directory; none if there is no directory.
pub(crate) fn files_in(disk: &dyn Disk, dir: &Path) -> Result<Vec<String>> {
    match disk.read_dir(dir) {
        Ok(entries) => Ok(entries.into_iter().filter(|e| !e.is_dir).map(|e| e.name).collect()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(Error::io(format!("read {}", dir.display()), e)),
    }
}

fn has_segments(disk: &dyn Disk, dir: &Path) -> Result<bool> {
    Ok(files_in(disk, dir)?.iter().any(|name| is_data_file(name)))
}

/// Best effort: an orphan costs space, not correctness, and the next load tries again. Returns the highest id of a
/// segment that could not be removed, or 0.
fn remove_orphans(disk: &dyn Disk, dir: &Path, manifest: &Manifest) -> u64 {
    let Ok(files) = files_in(disk, dir) else { return 0 };
    let named = |name: &str| {
        manifest.segments.iter().any(|s| s.path == name || s.deletes_path.as_deref() == Some(name))
    };
    let orphan = |name: &&String| is_unfinished(name) || (is_data_file(name) && !named(name));
    let mut stays = 0;
    for name in files.iter().filter(orphan) {
        match disk.remove_file(&dir.join(name)) {
            Ok(()) => tracing::info!(file = %dir.join(name).display(), "removed an orphaned file"),
            Err(error) => {
                let id =
                    name.strip_prefix("batch-").and_then(|name| name.strip_suffix(".parquet")?.parse().ok());
                stays = stays.max(id.unwrap_or(0));
                tracing::warn!(file = %dir.join(name).display(), %error, "cannot remove an orphaned file");
            }
        }
    }
    stays
}
