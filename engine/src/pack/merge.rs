//! Merging packs: when several of about the same size have gathered, they become one, user by user in a stream. Of each
//! user's slices the newest stays, without rows deleted too long ago, and none whose partition has newer files of its own.
//! The manifest is replaced once the new pack is durable; the old files go when nobody reads them.
//!
//! All packs of a table are merged by command, and when what they keep of deleted rows is past its time: see [`expire`].

use std::collections::BTreeMap;
use std::sync::Arc;

use super::expire::{self, Expiry};
use super::list::{Packs, schema_of};
use super::read::{Pack, Slices};
use super::slice::Slice;
use super::write::PackWriter;
use crate::catalog::{Catalog, Table};
use crate::compaction::{CompactionOutcome, Running};
use crate::database::Database;
use crate::error::{Error, Result};
use crate::ids::{PartitionId, Seq, TableId, UserId};
use crate::manifest::Manifest;
use crate::retention;
use crate::schema::TableSchema;

/// So many packs of one size class are merged.
const FAN_IN: usize = 4;
/// Packs of up to this size are one class; each further class is [`FAN_IN`] times as large.
const SMALLEST: u64 = 1 << 20;
/// Larger packs are left alone, and none is written that is much larger.
const LARGEST: u64 = 1 << 30;

/// Merges packs of a table until there is no class with too many.
pub(crate) async fn merge_if_due(database: &Arc<Database>, table: TableId) -> Result<()> {
    loop {
        let _open = database.stay_open().await?;
        let Some(packs) = database.packs_of(table)? else { return Ok(()) };
        let _one_at_a_time = packs.writing.lock().await;
        let Some(table) = database.catalog().table_by_id(table).cloned() else { return Ok(()) };
        let due = due(&packs.current().packs);
        if due.is_empty() {
            return Ok(());
        }
        let (db, packs) = (database.clone(), packs.clone());
        let merged = tokio::task::spawn_blocking(move || merge(&db, &table, &packs, &due, Wanted::All));
        merged.await.unwrap_or_else(|e| Err(Error::internal("merge packs", e)))?;
    }
}

/// When all packs of a table are to be merged because of what they keep of deleted rows, microseconds since the epoch.
///
/// # Errors
/// What is wrong with their manifest.
pub(crate) fn retention_due(database: &Database, table: &Table, retention: i64) -> Result<Option<i64>> {
    let current = database.packs(table)?.current();
    Ok(expire::due_at(current.manifest.packs.iter(), retention))
}

impl Database {
    /// Merges all packs of a USER table into one, or a few if that were too large, without superseded slices and without
    /// rows deleted longer ago than the table's `deleted_retention`. Waits for a worker of the compactions' budget; reads
    /// and commits go on meanwhile. A caller that goes away does not stop it.
    ///
    /// # Errors
    /// [`Error::Cancelled`]; [`Error::StorageFull`] and other I/O errors; [`Error::Corrupt`] if a pack is damaged,
    /// [`Error::Closed`]. The packs are as they were then.
    pub async fn compact_packs(self: &Arc<Self>, table: &Arc<Table>) -> Result<CompactionOutcome> {
        compact_packs(self, table, By::Statement).await
    }
}

/// Who wants packs to be merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    Statement,
    Background,
}

/// See [`Database::compact_packs`].
pub(crate) async fn compact_packs(
    database: &Arc<Database>,
    table: &Table,
    by: By,
) -> Result<CompactionOutcome> {
    let (database, table) = (database.clone(), table.id);
    // A task of its own: dropped halfway, it would give up its locks while files are still being written.
    let task = tokio::spawn(async move { merge_all(&database, table, by).await });
    task.await.unwrap_or_else(|e| Err(Error::internal("merge packs", e)))
}

async fn merge_all(database: &Arc<Database>, table: TableId, by: By) -> Result<CompactionOutcome> {
    let _worker = database.compacting().worker().await?;
    let _open = database.stay_open().await?;
    let Some(packs) = database.packs_of(table)? else { return Ok(CompactionOutcome::default()) };
    let _one_at_a_time = packs.writing.lock().await;
    // Looked up once no flush can bring rows of a later schema version.
    let Some(table) = database.catalog().table_by_id(table).cloned() else {
        return Ok(CompactionOutcome::default());
    };
    let all = packs.current().packs.clone();
    if all.is_empty() {
        return Ok(CompactionOutcome::default());
    }
    let of = PartitionId { table: table.id, user: None };
    let running = database.compacting().begin(&of, database.clock().now_micros());
    let (db, packs) = (database.clone(), packs.clone());
    let work = tokio::task::spawn_blocking(move || {
        if by == By::Background {
            running.announce();
        }
        let result = merge(&db, &table, &packs, &all, Wanted::Until(&running));
        running.end(&result);
        let outcome = result?;
        db.compacting().count(outcome);
        Ok(outcome)
    });
    work.await.unwrap_or_else(|e| Err(Error::internal("merge packs", e)))
}

/// What a merge is made for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Wanted<'a> {
    /// The slices of all users.
    All,
    /// The same, listed as a compaction, at its pace, until it is cancelled.
    Until(&'a Running),
    /// Those of all users but one.
    Without(&'a UserId),
}

/// The packs to merge now, if any.
fn due(packs: &[Arc<Pack>]) -> Vec<Arc<Pack>> {
    let mut classes: BTreeMap<u32, Vec<Arc<Pack>>> = BTreeMap::new();
    for pack in packs.iter().filter(|pack| pack.meta.bytes < LARGEST) {
        let class = (pack.meta.bytes / SMALLEST).checked_ilog(FAN_IN as u64).map_or(0, |log| log + 1);
        classes.entry(class).or_default().push(pack.clone());
    }
    classes.into_values().find(|packs| packs.len() >= FAN_IN).unwrap_or_default()
}

/// Replaces packs by one with their slices, or by several if that were too large. Under the table's `writing` lock.
///
/// # Errors
/// An I/O error, [`Error::Cancelled`], or [`Error::Corrupt`] if a pack is damaged: nothing was changed then.
pub(crate) fn merge(
    database: &Database,
    table: &Table,
    packs: &Packs,
    inputs: &[Arc<Pack>],
    wanted: Wanted<'_>,
) -> Result<CompactionOutcome> {
    let catalog = database.catalog();
    let users = inputs.iter().map(|pack| pack.meta.users).sum::<u64>() as usize;
    let (disk, now) = (database.disk().as_ref(), database.clock().now_micros());
    let expiry = Expiry {
        cutoff: retention::of(&table.options)?.map(|retention| now - retention),
        complete: inputs.len() == packs.current().packs.len(),
        low_water: database.log().low_water(),
    };
    let mut outcome = read_by(inputs);
    let mut pace = Pace::new(database, wanted, outcome);
    let new = || PackWriter::create(disk, &packs.dir, table, packs.new_id(), users);
    let (mut writer, mut merged) = (new()?, Vec::new());
    let mut merging = Merging::new(&catalog, table, inputs)?;
    while let Some((user, slice)) = merging.next()? {
        pace.keep(slice.seqs.len(), writer.size().1)?;
        let left_out = matches!(wanted, Wanted::Without(other) if *other == user);
        if left_out || is_obsolete(database, table, &user, slice.state) {
            continue;
        }
        if let Some(slice) = expiry.apply(slice)? {
            if writer.size().1 as u64 >= LARGEST {
                // Only the last one says what it replaces: without it, these do not have every slice.
                merged.push(std::mem::replace(&mut writer, new()?).finish(&[], now)?);
            }
            writer.push(&user, slice.state, &[slice.stored(&table.schema)?])?;
        }
    }
    let replaced: Vec<u64> = inputs.iter().map(|pack| pack.meta.id).collect();
    if writer.size().0 > 0 {
        merged.push(writer.finish(&replaced, now)?);
    }
    for pack in &merged {
        outcome.segments_out += 1;
        outcome.rows_out += pack.rows;
        outcome.bytes_written += pack.bytes;
    }
    packs.replace(&replaced, merged, now)?;
    Ok(outcome)
}

fn read_by(inputs: &[Arc<Pack>]) -> CompactionOutcome {
    let mut outcome = CompactionOutcome::default();
    for pack in inputs {
        outcome.segments_in += 1;
        outcome.rows_in += pack.meta.rows;
        outcome.bytes_read += pack.meta.bytes;
    }
    outcome
}

/// Accounts for what a merge reads and writes, so that it keeps to the pace of compactions.
struct Pace<'a> {
    database: &'a Database,
    running: Option<&'a Running>,
    /// About how many bytes of the inputs a row takes.
    row_bytes: f64,
    unpaid_rows: usize,
    written: usize,
}

/// Rows between two looks at the pace.
const PACE_ROWS: usize = 4_096;

impl<'a> Pace<'a> {
    fn new(database: &'a Database, wanted: Wanted<'a>, inputs: CompactionOutcome) -> Self {
        let running = match wanted {
            Wanted::Until(running) => Some(running),
            Wanted::All | Wanted::Without(_) => None,
        };
        running.into_iter().for_each(|running| running.expect(inputs.bytes_read));
        let row_bytes = inputs.bytes_read as f64 / inputs.rows_in.max(1) as f64;
        Self { database, running, row_bytes, unpaid_rows: 0, written: 0 }
    }

    /// # Errors
    /// [`Error::Cancelled`].
    fn keep(&mut self, rows: usize, written: usize) -> Result<()> {
        let Some(running) = self.running else { return Ok(()) };
        self.unpaid_rows += rows;
        if self.unpaid_rows < PACE_ROWS {
            return Ok(());
        }
        let read = (std::mem::take(&mut self.unpaid_rows) as f64 * self.row_bytes) as u64;
        let new = written.saturating_sub(std::mem::replace(&mut self.written, written));
        let compacting = self.database.compacting();
        compacting.read(read, running)?;
        compacting.wrote(new as u64, running)
    }
}

/// True if the partition's own files are newer. A manifest that cannot be read says nothing.
fn is_obsolete(database: &Database, table: &Table, user: &UserId, state: Seq) -> bool {
    let id = PartitionId { table: table.id, user: Some(user.clone()) };
    if let Some(partition) = database.loaded(&id) {
        return partition.version().manifest.flushed_seq >= state;
    }
    let manifest = Manifest::load(database.disk().as_ref(), &database.partition_dir(table, &id));
    matches!(manifest, Ok(Some(manifest)) if manifest.flushed_seq >= state)
}

/// The slices of several packs in the order of their users, the newest of each, in the table's schema version.
struct Merging {
    inputs: Vec<(Slices, Option<UserId>)>,
    schema: Arc<TableSchema>,
}

impl Merging {
    fn new(catalog: &Catalog, table: &Table, packs: &[Arc<Pack>]) -> Result<Self> {
        let mut inputs = Vec::with_capacity(packs.len());
        for pack in packs {
            let schema = schema_of(catalog, table.id, &pack.meta).map_err(Error::Corrupt)?;
            let mut slices = pack.slices(schema);
            let first = slices.next_user()?;
            inputs.push((slices, first));
        }
        Ok(Self { inputs, schema: table.schema.clone() })
    }

    fn next(&mut self) -> Result<Option<(UserId, Slice)>> {
        let Some(user) = self.inputs.iter().filter_map(|(_, user)| user.clone()).min() else {
            return Ok(None);
        };
        let mut newest: Option<Slice> = None;
        for (slices, next) in self.inputs.iter_mut().filter(|(_, next)| next.as_ref() == Some(&user)) {
            let slice = slices.slice()?.project(slices.schema(), &self.schema)?;
            if newest.as_ref().is_none_or(|newest| newest.state < slice.state) {
                newest = Some(slice);
            }
            *next = slices.next_user()?;
        }
        Ok(newest.map(|slice| (user, slice)))
    }
}
