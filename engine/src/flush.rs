//! Flush: a partition's hot rows become a Parquet segment, and the log may forget them.
//!
//! The order that makes every crash point safe:
//!
//! 1. freeze the memtable (new commits go to a fresh one) and wait until its last commit is durable: a segment never
//!    holds a commit that a crash could take back;
//! 2. write the delete vectors of older segments as of that commit, then the segment; sync them and the directory. A
//!    crash here leaves orphans; the manifest does not name them and the log still has the rows;
//! 3. replace the manifest, which states the partition as of exactly that commit. Recovery replays later commits only;
//! 4. install the version that reads the segment instead of the frozen memtable, moving the marks that came meanwhile
//!    to the rows' new addresses (those marks' commits are after the manifest's, so replay would set them again);
//! 5. move the log's low-water mark. A crash before it replays more than needed and skips what the manifest covers.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use kalamdb_wal::{Disk, durable};
use roaring::RoaringBitmap;

use crate::catalog::Table;
use crate::database::Database;
use crate::error::{Error, Result};
use crate::failures::BackgroundWork;
use crate::ids::Seq;
use crate::manifest::{FILE_NAME, Manifest, SegmentMeta};
use crate::marks::Marks;
use crate::memtable::{Memtable, Moved};
use crate::partition::{Frozen, Partition, Version};
use crate::rows::Rows;
use crate::segment::Segment;
use crate::segment::facts::Finish;
use crate::segment::write::{SegmentWriter, Spec};
use crate::sorted::{Sorted, StoredRows};
use crate::vectors::Vectors;

/// What a flush did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FlushOutcome {
    /// Partitions that had rows to write.
    pub partitions: u64,
    /// Rows written, tombstones included.
    pub rows: u64,
    /// Bytes of Parquet written.
    pub bytes: u64,
    /// Segments written.
    pub segments: u64,
    /// Every commit up to this one is in Parquet.
    pub flushed_seq: Seq,
}

impl FlushOutcome {
    /// Adds another flush's figures.
    pub fn add(&mut self, other: Self) {
        self.partitions += other.partitions;
        self.rows += other.rows;
        self.bytes += other.bytes;
        self.segments += other.segments;
        self.flushed_seq = self.flushed_seq.max(other.flushed_seq);
    }
}

/// Flushes a partition, everything applied so far included. A caller that goes away does not stop it.
///
/// # Errors
/// [`Error::StorageFull`] and other I/O errors: the rows stay in memory and in the log, and the next flush tries again.
/// [`Error::PartitionDamaged`], [`Error::Closed`].
pub(crate) async fn flush(database: &Arc<Database>, partition: &Arc<Partition>) -> Result<FlushOutcome> {
    let (database, partition) = (database.clone(), partition.clone());
    // A task of its own: dropped halfway, it would give up its locks while its files are still being written.
    let task = tokio::spawn(async move { flush_all(&database, &partition).await });
    task.await.unwrap_or_else(|e| Err(Error::internal("flush", e)))
}

async fn flush_all(database: &Arc<Database>, partition: &Arc<Partition>) -> Result<FlushOutcome> {
    let _open = database.stay_open().await?;
    let _one_at_a_time = partition.flushing.lock().await;
    // Whatever comes of this one, the next that is due is a new request.
    partition.flush_requested.store(false, Ordering::Release);
    let mut outcome = FlushOutcome::default();
    // Not there if it was dropped or purged meanwhile: its directory must not come back.
    if database.catalog().table_by_id(partition.id.table).is_none() || partition.gone.load(Ordering::Acquire)
    {
        return Ok(outcome);
    }
    partition.check_open()?;
    // A flush that failed left its memtable frozen; it goes first.
    if let Some(frozen) = partition.version().frozen.clone() {
        outcome.add(flush_newest(database, partition, frozen).await?);
    }
    if let Some(frozen) = freeze(database, partition) {
        outcome.add(flush_newest(database, partition, frozen).await?);
    }
    outcome.flushed_seq = partition.version().manifest.flushed_seq;
    database.failures().clear(BackgroundWork::Flush, &partition.id);
    if outcome.segments > 0 {
        database.compacting().consider(&partition.id);
    }
    Ok(outcome)
}

fn freeze(database: &Database, partition: &Partition) -> Option<Arc<Frozen>> {
    let mut state = partition.commit.lock();
    let version = partition.version();
    // Nothing new: what a pack has stays there.
    version.active.first_unflushed()?;
    // Taken under the lock, so that every mark of a later commit stays apart until it has been translated.
    let (boundary, pin) = (state.last_seq, database.pin(state.last_seq));
    let frozen = Arc::new(Frozen { memtable: version.active.clone(), boundary, pin });
    let active = Arc::new(Memtable::new(boundary));
    partition.hot_since.store(0, Ordering::Relaxed);
    partition
        .install(&mut state, Version { active, frozen: Some(frozen.clone()), ..Version::clone(&version) });
    Some(frozen)
}

/// Flushes with the table's newest schema. A reader that has a newer one than a flush puts rows of that version in the
/// place of the frozen ones: the flush begins again then.
async fn flush_newest(
    database: &Arc<Database>,
    partition: &Arc<Partition>,
    frozen: Arc<Frozen>,
) -> Result<FlushOutcome> {
    let found = database.catalog().table_by_id(partition.id.table).cloned();
    // Not there if it was dropped meanwhile.
    let Some(mut table) = found else { return Ok(FlushOutcome::default()) };
    loop {
        match flush_frozen(database, &table, partition, frozen.clone()).await {
            Err(Error::Conflict) => table = database.newer(&table).ok_or(Error::Conflict)?,
            other => return other,
        }
    }
}

async fn flush_frozen(
    database: &Arc<Database>,
    table: &Arc<Table>,
    partition: &Arc<Partition>,
    frozen: Arc<Frozen>,
) -> Result<FlushOutcome> {
    database.sequencer().until_visible(frozen.boundary).await?;
    let (db, table, partition) = (database.clone(), table.clone(), partition.clone());
    let written = tokio::task::spawn_blocking(move || {
        let outcome = write_out(&db, &table, &partition, &frozen)?;
        if let Err(error) = db.truncate_log() {
            // The rows are in Parquet; the log is only longer than it need be until the next flush.
            tracing::warn!(%error, "the log could not be truncated");
        }
        Ok(outcome)
    });
    written.await.unwrap_or_else(|e| Err(Error::internal("flush", e)))
}

/// Files and facts of one attempt, before a manifest names them.
struct Attempt {
    manifest: Manifest,
    segment: Arc<Segment>,
    moved: Moved,
    /// Superseded rows that some snapshot still sees, by file row, with the commit that superseded them.
    superseded: Vec<(Seq, u32)>,
    outcome: FlushOutcome,
    /// Delete vectors that the new manifest no longer names.
    replaced: Vec<String>,
}

fn write_out(
    database: &Database,
    table: &Table,
    partition: &Partition,
    frozen: &Frozen,
) -> Result<FlushOutcome> {
    let disk = database.disk().as_ref();
    // A manifest must not be ahead of the log, whose commits would get the same numbers again after a power cut.
    database.sync_log()?;
    ensure_dir(disk, partition, &partition.version().manifest)?;
    let mut made = Vec::new();
    let attempt = match prepare(database, table, partition, frozen, &mut made) {
        Ok(attempt) => attempt,
        Err(error) => {
            remove(disk, partition, made);
            return Err(error);
        }
    };
    if let Err(error) = attempt.manifest.store(disk, &partition.dir) {
        // It may be in place nevertheless, and name these files.
        partition.leftovers.lock().extend(made);
        return Err(error);
    }
    let outcome = attempt.outcome;
    let mut unnamed = partition.leftovers.lock().split_off(0);
    unnamed.extend(attempt.replaced.iter().cloned());
    install(database, partition, frozen, attempt);
    remove(disk, partition, unnamed);
    Ok(outcome)
}

/// Best effort: what no manifest names is an orphan, which the next load removes.
pub(crate) fn remove(disk: &dyn Disk, partition: &Partition, names: Vec<String>) {
    for name in names {
        let _ = disk.remove_file(&partition.dir.join(name));
    }
}

/// Writes the delete vectors, then the segment, all durable when this returns. Notes the files it makes in `made`. The
/// segment gets its name last, so that a whole one tells `repair` that its delete vectors are whole as well.
fn prepare(
    database: &Database,
    table: &Table,
    partition: &Partition,
    frozen: &Frozen,
    made: &mut Vec<String>,
) -> Result<Attempt> {
    let disk = database.disk().as_ref();
    let version = partition.version();
    let now = database.clock().now_micros();
    let id = partition.new_segment_id(frozen.boundary);
    let mut manifest = Manifest::clone(&version.manifest);
    manifest.version += 1;
    manifest.schema_version = table.schema.version();
    manifest.updated_at = now;
    manifest.flushed_seq = frozen.boundary;
    manifest.next_segment_id = id + 1;
    let sorted = SortedRows::new(table, frozen)?;
    let superseded: RoaringBitmap = sorted.superseded.iter().map(|(_, row)| *row).collect();
    let mut vectors = Vectors { disk, partition, attempt: id, made };
    let replaced = vectors.persist_marks(&version, &mut manifest)?;
    let own = vectors.persist(id, &superseded)?;
    let mut outcome = FlushOutcome { partitions: 1, flushed_seq: frozen.boundary, ..FlushOutcome::default() };
    let place = Finish {
        id,
        level: 0,
        flushed_seq: frozen.boundary,
        beside: &manifest.segments,
        deletes: (own, superseded.len()),
        now,
    };
    let meta = write_segment(database, table, partition, &sorted, place)?;
    made.push(meta.path.clone());
    outcome.add(FlushOutcome {
        partitions: 0,
        rows: meta.rows,
        bytes: meta.bytes,
        segments: 1,
        flushed_seq: 0,
    });
    manifest.segments.push(meta.clone());
    let (id, disk, shared) = (partition.id.clone(), database.disk().clone(), partition.shared.clone());
    let (schema, dir) = (table.schema.clone(), &partition.dir);
    let segment = Arc::new(Segment::new(meta, schema, Marks::default(), id, dir, disk, shared));
    let SortedRows { live, tombstones, superseded, first_tombstone } = sorted;
    let moved = Moved {
        segment: segment.clone(),
        live: live.moves(0),
        tombstones: tombstones.moves(first_tombstone),
    };
    Ok(Attempt { manifest, segment, moved, superseded, outcome, replaced })
}

/// The partition's directory, with an empty manifest before any segment: see [`crate::manifest`].
fn ensure_dir(disk: &dyn Disk, partition: &Partition, manifest: &Manifest) -> Result<()> {
    let path = partition.dir.join(FILE_NAME);
    if !disk.exists(&path).map_err(|e| Error::io(format!("look for {}", path.display()), e))? {
        durable::create_dir(disk, &partition.dir)?;
        manifest.store(disk, &partition.dir)?;
    }
    Ok(())
}

fn write_segment(
    database: &Database,
    table: &Table,
    partition: &Partition,
    rows: &SortedRows<'_>,
    place: Finish<'_>,
) -> Result<SegmentMeta> {
    let spec = Spec {
        partition: &partition.id,
        schema: &table.schema,
        compression: table.options.compression(),
        rows: rows.live.len().max(rows.tombstones.len()),
        purpose: "flush",
    };
    let mut writer = SegmentWriter::create(database.disk(), &partition.dir, &spec)?;
    writer.write(&StoredRows::new(table, &rows.live, false), false)?;
    writer.write(&StoredRows::new(table, &rows.tombstones, true), true)?;
    writer.finish(place)
}

/// The rows of a frozen memtable in the order they get in the file.
struct SortedRows<'a> {
    live: Sorted<'a>,
    tombstones: Sorted<'a>,
    /// The file row of the first tombstone.
    first_tombstone: u32,
    /// Superseded rows that some snapshot still sees, by file row, with the commit that superseded them.
    superseded: Vec<(Seq, u32)>,
}

impl<'a> SortedRows<'a> {
    fn new(table: &Table, frozen: &'a Frozen) -> Result<Self> {
        let (boundary, horizon) = (frozen.boundary, frozen.pin.seq());
        let live = Sorted::new(table, &frozen.memtable.live, boundary, horizon)?;
        let tombstones = Sorted::new(table, &frozen.memtable.tombstones, boundary, horizon)?;
        let first_tombstone = live.len() as u32;
        let mut superseded = live.superseded(0);
        superseded.extend(tombstones.superseded(first_tombstone));
        superseded.sort_unstable();
        Ok(Self { live, tombstones, first_tombstone, superseded })
    }
}

fn install(database: &Database, partition: &Partition, frozen: &Frozen, attempt: Attempt) {
    let Attempt { manifest, segment, moved, superseded, .. } = attempt;
    let mut state = partition.commit.lock();
    let (version, horizon) = (partition.version(), database.horizon());
    let late = |rows: &Rows, moves: &[u32]| {
        let marks = rows.marks.after(frozen.boundary).into_iter();
        marks.map(|(seq, ordinal)| (seq, moves[ordinal as usize])).collect::<Vec<_>>()
    };
    let mut marks = superseded;
    marks.extend(late(&frozen.memtable.live, &moved.live));
    marks.extend(late(&frozen.memtable.tombstones, &moved.tombstones));
    marks.sort_unstable();
    for (seq, row) in marks {
        debug_assert_ne!(row, Moved::DROPPED, "a row marked after the boundary was there at the boundary");
        segment.marks.add(row, seq, horizon);
    }
    let segments: Vec<Arc<Segment>> = version.segments.iter().cloned().chain([segment]).collect();
    // The manifest has the older ones.
    let known = frozen.boundary.min(partition.needed_marks.load(Ordering::Relaxed));
    segments.iter().for_each(|segment| segment.marks.forget(known, horizon));
    let next = Version {
        active: version.active.clone(),
        frozen: None,
        segments: segments.into(),
        manifest: Arc::new(manifest),
    };
    // Only the flush under way sets it.
    let _ = frozen.memtable.moved.set(Box::new(moved));
    partition.install(&mut state, next);
    drop(state);
    database.hot().flushed(&frozen.memtable, &partition.id);
}
