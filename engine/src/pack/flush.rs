//! Flushing many small partitions of a USER table at once: one pack instead of a directory, a manifest and a file for each.
//!
//! The order that makes every crash point safe:
//!
//! 1. hold every partition's `flushing` lock (those that are busy are left out), so that none gets files of its own
//!    meanwhile; choose one boundary, the newest commit applied, with a snapshot that keeps marks after it apart; wait
//!    until it is durable: a pack never holds a commit that a crash could take back;
//! 2. write every partition's rows as of the boundary; sync the file and the directory. A crash here leaves an orphan;
//! 3. replace the packs' manifest. From here on the slices count: replay skips what they have;
//! 4. tell each partition that its commits up to the boundary are durable, and move the log's low-water mark.
//!
//! The rows stay in memory until the partition is evicted. Versions that were superseded before the boundary but are seen
//! by an older snapshot are in memory only: no eviction before that snapshot closes, and a crash closes it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrow::array::RecordBatch;
use tokio::sync::MutexGuard;

use super::list::Packs;
use super::merge;
use super::write::PackWriter;
use crate::catalog::{Table, TableKind};
use crate::database::Database;
use crate::error::{Error, Result};
use crate::failures::BackgroundWork;
use crate::flush::FlushOutcome;
use crate::ids::{PartitionId, Seq, TableId};
use crate::partition::Partition;
use crate::snapshot::Snapshot;
use crate::sorted::{Sorted, StoredRows};

/// A pack gets no more than about so many bytes; further users go to the next one.
const PACK_BYTES: usize = 64 << 20;
/// Nor more users than this.
const PACK_USERS: usize = 50_000;

/// True for a partition that is better off in a pack than with files of its own.
pub(crate) fn is_packable(database: &Database, table: &Table, partition: &Partition) -> bool {
    let version = partition.version();
    let limit = table.options.flush_rows.unwrap_or(database.config().flush_rows);
    table.kind == TableKind::User
        && !partition.gone.load(Ordering::Acquire)
        && version.segments.is_empty()
        && version.frozen.is_none()
        && version.active.rows() < limit.min(database.config().pack_rows)
}

/// Writes the hot rows of these partitions of one table to packs, everything applied so far included. Those that are not
/// packable (any more) or busy are left out. A caller that goes away does not stop it.
///
/// # Errors
/// [`Error::StorageFull`] and other I/O errors: the rows stay in memory and in the log.
pub(crate) async fn pack(
    database: &Arc<Database>,
    table: TableId,
    mut partitions: Vec<Arc<Partition>>,
) -> Result<FlushOutcome> {
    partitions.sort_by(|a, b| a.id.cmp(&b.id));
    let database = database.clone();
    let task = tokio::spawn(async move {
        let mut outcome = FlushOutcome::default();
        for part in partitions.chunks(PACK_USERS) {
            outcome.add(pack_some(&database, table, part).await?);
        }
        database.failures().clear(BackgroundWork::Flush, &PartitionId { table, user: None });
        merge::merge_if_due(&database, table).await?;
        Ok(outcome)
    });
    task.await.unwrap_or_else(|e| Err(Error::internal("write a pack", e)))
}

async fn pack_some(
    database: &Arc<Database>,
    table: TableId,
    partitions: &[Arc<Partition>],
) -> Result<FlushOutcome> {
    let _open = database.stay_open().await?;
    let Some(packs) = database.packs_of(table)? else { return Ok(FlushOutcome::default()) };
    let _one_at_a_time = packs.writing.lock().await;
    let held: Vec<(&Arc<Partition>, MutexGuard<'_, ()>)> =
        partitions.iter().filter_map(|p| Some((p, p.flushing.try_lock().ok()?))).collect();
    // Its marks stay apart from those of later commits from here on.
    let boundary = database.write_snapshot();
    // Not there if it was dropped meanwhile.
    let Some(table) = database.catalog().table_by_id(table).cloned() else {
        return Ok(FlushOutcome::default());
    };
    let ours: Vec<Arc<Partition>> = held
        .iter()
        .map(|(partition, _)| (*partition).clone())
        .filter(|p| is_packable(database, &table, p) && p.version().first_unflushed().is_some())
        .collect();
    database.sequencer().until_visible(boundary.seq()).await?;
    let (db, packs) = (database.clone(), packs.clone());
    let written = tokio::task::spawn_blocking(move || write_packs(&db, table, &packs, &ours, &boundary));
    written.await.unwrap_or_else(|e| Err(Error::internal("write a pack", e)))
}

fn write_packs(
    database: &Database,
    mut table: Arc<Table>,
    packs: &Packs,
    partitions: &[Arc<Partition>],
    boundary: &Snapshot,
) -> Result<FlushOutcome> {
    // A pack must not be ahead of the log, whose commits would get the same numbers again after a power cut.
    database.sync_log()?;
    let mut outcome = FlushOutcome { flushed_seq: boundary.seq(), ..FlushOutcome::default() };
    let mut rest = partitions;
    while !rest.is_empty() {
        match write_pack(database, &table, packs, rest, boundary.seq()) {
            Ok((packed, written)) => {
                outcome.add(written);
                rest = &rest[packed..];
            }
            // A reader has put rows of a newer schema version in the place of these.
            Err(Error::Conflict) => table = database.newer(&table).ok_or(Error::Conflict)?,
            Err(error) => return Err(error),
        }
    }
    if let Err(error) = database.truncate_log() {
        // The rows are in a pack; the log is only longer than it need be until the next flush.
        tracing::warn!(%error, "the log could not be truncated");
    }
    Ok(outcome)
}

/// Writes one pack and returns how many of the partitions it took.
fn write_pack(
    database: &Database,
    table: &Table,
    packs: &Packs,
    partitions: &[Arc<Partition>],
    boundary: Seq,
) -> Result<(usize, FlushOutcome)> {
    packs.ensure_dir()?;
    let (disk, id, now) = (database.disk().as_ref(), packs.new_id(), database.clock().now_micros());
    let mut writer = PackWriter::create(disk, &packs.dir, table, id, partitions.len())?;
    let mut taken = 0;
    let mut packed = Vec::new();
    for partition in partitions {
        taken += 1;
        let Some(user) = &partition.id.user else { continue };
        let rows = rows_at(table, partition, boundary)?;
        if rows.iter().any(|batch| batch.num_rows() > 0) {
            writer.push(user, boundary, &rows)?;
            packed.push(partition);
        }
        if writer.size().1 >= PACK_BYTES {
            break;
        }
    }
    if packed.is_empty() {
        return Ok((taken, FlushOutcome::default()));
    }
    let meta = writer.finish(&[], now)?;
    let outcome = FlushOutcome {
        partitions: meta.users,
        rows: meta.rows,
        bytes: meta.bytes,
        segments: 1,
        flushed_seq: boundary,
    };
    packs.replace(&[], vec![meta], now)?;
    for partition in packed {
        let _held = partition.commit.lock();
        partition.flush_requested.store(false, Ordering::Release);
        if database.hot().durable(&partition.version().active, boundary, &partition.id) {
            partition.hot_since.store(0, Ordering::Relaxed);
        }
    }
    Ok((taken, outcome))
}

/// What a snapshot at the boundary sees: live rows in key order, then tombstones in key order.
fn rows_at(table: &Table, partition: &Partition, boundary: Seq) -> Result<Vec<RecordBatch>> {
    let version = partition.version();
    let mut rows = Vec::new();
    for (store, tombstones) in [(&version.active.live, false), (&version.active.tombstones, true)] {
        let sorted = Sorted::new(table, store, boundary, boundary)?;
        for batch in StoredRows::new(table, &sorted, tombstones).batches() {
            rows.push(batch?);
        }
    }
    Ok(rows)
}
