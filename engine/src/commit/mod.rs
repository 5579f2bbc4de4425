//! The commit pipeline.
//!
//! 1. Without locks: encode keys, look new keys up in the segments, encode the log record.
//! 2. Under the locks of the partitions, taken in order: check that no touched row was changed since it was read and no
//!    new key is taken; enqueue the record, which gives the commit its sequence; append rows and marks to memory.
//! 3. Without locks: wait until the log has synced the record and every earlier commit is visible.
//!
//! Memory is written before the sync, so that commits of one hot partition share syncs; it is not visible before it. A
//! crash before the sync loses the commit as a whole, after it replay applies it as a whole: it is one record.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::row::Rows as KeyRows;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use parking_lot::MutexGuard;

use crate::catalog::{Catalog, Guard, Table};
use crate::codec::record::{PartBody, Replaced, Target};
use crate::database::Database;
use crate::error::{Error, Result};
use crate::feed::{Commit, PartitionChange};
use crate::fit;
use crate::ids::{ColumnId, Seq};
use crate::memtable::{Memtable, Slot};
use crate::partition::{CommitState, Partition, Version};
use crate::segment::find::Found;
use crate::segment::{Relocated, Segment};
use crate::sequencer::Answer;
use crate::tombstones;
use crate::view::{ChunkView, PartitionView, Place};
use crate::write::PartitionWrite;

/// A commit that is durable and visible.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Committed {
    /// Its sequence.
    pub seq: Seq,
    /// Its time, microseconds since the epoch.
    pub time_us: i64,
}

/// One partition's write, ready for the locks.
pub(crate) struct Prepared {
    partition: Arc<Partition>,
    table: Arc<Table>,
    body: PartBody,
    /// What the addresses came from; its memtables and segments know where their rows went.
    view: Option<Arc<PartitionView>>,
    /// Where the rows to be superseded are: updated ones, then deleted ones.
    superseded: Vec<Place>,
    /// Those of them that give their key up: deleted ones, and updated ones that change it.
    leaving: Vec<usize>,
    inserted: Option<KeyRows>,
    updated: Option<KeyRows>,
    deleted: Option<KeyRows>,
    /// Keys that must be free: of inserted rows and of updates that change the key.
    claims: Vec<Claim>,
    /// The tombstones that hold claimed keys, as far as is known; `body` has what they hold.
    replaced: Vec<Place>,
    /// The segments in which the claims were looked up.
    segments: Arc<[Arc<Segment>]>,
    /// Segments that rows of the view were followed to.
    followed: Vec<Arc<Segment>>,
}

struct Claim {
    /// True for a row of `inserted`, false for one of `updated`.
    insert: bool,
    row: usize,
    /// Which segment holds the key, if one does.
    found: Option<(u64, Found)>,
}

impl Prepared {
    pub(crate) fn new(partition: Arc<Partition>, write: PartitionWrite) -> Result<Self> {
        let PartitionWrite { table, view, insert, update, delete, .. } = write;
        if view.as_ref().is_some_and(|view| view.partition != partition.id) {
            return Err(Error::internal("commit", "the addresses are of another partition"));
        }
        let mut superseded = Vec::new();
        let inserted =
            insert.filter(|rows| rows.num_rows() > 0).map(|rows| fit::new_rows(&table, rows)).transpose()?;
        let updated = match update.filter(|changed| !changed.addresses.is_empty()) {
            Some(changed) => {
                let count = changed.addresses.len();
                let (old, new) =
                    (fit::old_rows(&table, changed.old, count)?, fit::new_rows(&table, changed.new)?);
                fit::same_length(count, new.num_rows())?;
                Some((locate(view.as_deref(), &changed.addresses, &mut superseded)?, old, new))
            }
            None => None,
        };
        let deleted = match delete.filter(|removed| !removed.addresses.is_empty()) {
            Some(removed) => {
                let old = fit::old_rows(&table, removed.old, removed.addresses.len())?;
                Some((locate(view.as_deref(), &removed.addresses, &mut superseded)?, old))
            }
            None => None,
        };
        fit::no_place_twice(&superseded)?;
        let body = PartBody { inserted, replaced: Replaced::default(), updated, deleted };
        let mut prepared = Self {
            segments: Arc::new([]),
            followed: Vec::new(),
            replaced: Vec::new(),
            inserted: body.inserted.as_ref().map(|rows| keys(&table, rows)).transpose()?,
            updated: body.updated.as_ref().map(|(.., new)| keys(&table, new)).transpose()?,
            deleted: body.deleted.as_ref().map(|(_, old)| keys(&table, &old.rows)).transpose()?,
            leaving: Vec::new(),
            claims: Vec::new(),
            view,
            partition,
            table,
            body,
            superseded,
        };
        prepared.claim()?;
        Ok(prepared)
    }

    /// Lists the keys that must be free, and refuses one that is claimed twice.
    fn claim(&mut self) -> Result<()> {
        let inserts = self.inserted.as_ref().map_or(0, KeyRows::num_rows);
        self.claims.extend((0..inserts).map(|row| Claim { insert: true, row, found: None }));
        if let (Some((_, old, _)), Some(new)) = (&self.body.updated, &self.updated) {
            let old = keys(&self.table, &old.rows)?;
            let changed = (0..new.num_rows()).filter(|row| old.row(*row) != new.row(*row));
            self.leaving.extend(changed.clone());
            self.claims.extend(changed.map(|row| Claim { insert: false, row, found: None }));
        }
        let updates = self.updated.as_ref().map_or(0, KeyRows::num_rows);
        self.leaving.extend(updates..self.superseded.len());
        let ascending = self.claims.windows(2).all(|pair| self.key(&pair[0]) < self.key(&pair[1]));
        if !ascending {
            let mut seen = HashSet::with_capacity(self.claims.len());
            if let Some(twice) = self.claims.iter().find(|claim| !seen.insert(self.key(claim))) {
                return Err(self.violation(twice));
            }
        }
        Ok(())
    }

    fn key(&self, claim: &Claim) -> &[u8] {
        let rows = if claim.insert { &self.inserted } else { &self.updated };
        rows.as_ref().map_or(&[], |rows| rows.row(claim.row).data())
    }

    fn claimed_rows(&self, claim: &Claim) -> Option<&RecordBatch> {
        if claim.insert {
            self.body.inserted.as_ref()
        } else {
            self.body.updated.as_ref().map(|(.., new)| new)
        }
    }

    /// Looks the claimed keys up in the segments, where memory does not already know them, and reads the tombstones that
    /// hold some of them.
    pub(crate) fn look_up(&mut self) -> Result<()> {
        let version = self.partition.version();
        self.follow(&version)?;
        self.segments = version.segments.clone();
        if !self.segments.is_empty() {
            self.look_up_segments()?;
        }
        self.find_tombstones(&version)
    }

    /// Says which tombstones hold claimed keys. One that comes or goes before the locks are taken makes it stale.
    fn find_tombstones(&mut self, version: &Version) -> Result<()> {
        self.replaced.clear();
        self.body.replaced = Replaced::default();
        let cold = |claim: &Claim| claim.found.is_some_and(|(_, found)| found.tombstone);
        let hot = version.memtables().any(|memtable| !memtable.tombstones.is_empty());
        for claim in self.claims.iter().filter(|claim| hot || cold(claim)) {
            let holder = holder(version, self.key(claim), claim.found);
            self.replaced.extend(holder.filter(|place| is_tombstone(place, claim.found)));
        }
        if !self.replaced.is_empty() {
            let (targets, old) = tombstones::read(&self.table, version, &self.replaced)?;
            self.body.replaced = Replaced { targets, old: Some(old) };
        }
        Ok(())
    }

    fn look_up_segments(&mut self) -> Result<()> {
        let mut claims = std::mem::take(&mut self.claims);
        let insert_columns = self.body.inserted.as_ref().map(|rows| key_columns(&self.table, rows));
        let update_columns = self.body.updated.as_ref().map(|(.., new)| key_columns(&self.table, new));
        for claim in &mut claims {
            claim.found = None;
            let columns = if claim.insert { &insert_columns } else { &update_columns };
            let key = self.key(claim);
            // The newest segment first: at most one holds the key unsuperseded.
            for segment in self.segments.iter().rev() {
                let found = segment.find(key, columns.as_deref().unwrap_or(&[]), claim.row)?;
                if let Some(found) = found {
                    claim.found = Some((segment.meta().id, found));
                    break;
                }
            }
        }
        self.claims = claims;
        Ok(())
    }

    /// Follows rows to where flushes and compactions moved them since they were read.
    fn follow(&mut self, version: &Version) -> Result<()> {
        let updated = self.body.updated.iter_mut().flat_map(|(targets, ..)| targets);
        let targets = updated.chain(self.body.deleted.iter_mut().flat_map(|(targets, _)| targets));
        for (place, target) in self.superseded.iter_mut().zip(targets) {
            if is_there(version, place) {
                continue;
            }
            let view = self.view.as_deref().ok_or(Error::Conflict)?;
            let (segment, row) = moved(version, view, &self.followed, place).ok_or(Error::Conflict)?;
            let id = segment.meta().id;
            (*place, *target) = (Place::Segment { id, row }, Target::Segment { id, row });
            if !self.followed.iter().any(|known| known.meta().id == id) {
                self.followed.push(segment);
            }
        }
        Ok(())
    }

    pub(crate) fn partition(&self) -> &Arc<Partition> {
        &self.partition
    }

    pub(crate) fn body(&self) -> &PartBody {
        &self.body
    }

    pub(crate) fn schema_version(&self) -> u32 {
        self.table.schema.version()
    }

    /// True if a flush or compaction came since [`Prepared::look_up`], so that keys or rows must be looked up again.
    /// Under the lock.
    fn is_stale(&self, version: &Version) -> bool {
        !self.claims.is_empty() && !Arc::ptr_eq(&self.segments, &version.segments)
            || !self.superseded.iter().all(|place| is_there(version, place))
    }

    /// Checks for conflicts and taken keys, and returns the tombstones that new rows replace. Under the lock.
    fn check(&self, version: &Version) -> Result<Vec<Place>> {
        if !self.superseded.iter().all(|place| is_current(version, place)) {
            return Err(Error::Conflict);
        }
        let rows = |keys: &Option<KeyRows>| keys.as_ref().map_or(0, KeyRows::num_rows);
        let live = rows(&self.inserted) + rows(&self.updated);
        if !version.active.live.has_room(live) || !version.active.tombstones.has_room(rows(&self.deleted)) {
            return Err(Error::Overloaded("too many rows in memory"));
        }
        let leaving: HashSet<Place> = match self.claims.is_empty() {
            true => HashSet::new(),
            false => self.leaving.iter().map(|at| self.superseded[*at]).collect(),
        };
        let mut replaced = Vec::new();
        for claim in &self.claims {
            match holder(version, self.key(claim), claim.found) {
                Some(tombstone) if is_tombstone(&tombstone, claim.found) => replaced.push(tombstone),
                Some(row) if !leaving.contains(&row) => return Err(self.violation(claim)),
                _ => {}
            }
        }
        Ok(replaced)
    }

    /// Applies the change. Under the lock; everything that could fail was checked before.
    fn apply(
        &self,
        version: &Version,
        replaced: &[Place],
        seq: Seq,
        time_us: i64,
        horizon: Seq,
    ) -> Result<()> {
        for place in self.superseded.iter().chain(replaced) {
            mark(version, place, seq, horizon);
        }
        let (active, schema) = (&version.active, &self.table.schema);
        // Tombstones first: a key that is deleted and inserted again by one commit ends as the live row.
        if let (Some((_, old)), Some(keys)) = (&self.body.deleted, &self.deleted) {
            active.append_tombstones(old.rows.clone(), schema, keys, seq, time_us)?;
            for claim in &self.claims {
                if let Some(Slot::Tombstone(ordinal)) = active.find(self.key(claim)) {
                    active.tombstones.marks.add(ordinal, seq, horizon);
                }
            }
        }
        if let (Some(rows), Some(keys)) = (&self.body.inserted, &self.inserted) {
            active.append_live(rows.clone(), schema, keys, seq, time_us)?;
        }
        if let (Some((.., new)), Some(keys)) = (&self.body.updated, &self.updated) {
            active.append_live(new.clone(), schema, keys, seq, time_us)?;
        }
        Ok(())
    }

    /// Fails unless the table is what the catalog says, and while it is being altered if the change is in the way of
    /// that. Under the lock.
    fn check_table(&self, catalog: &Catalog) -> Result<()> {
        let table = &self.table;
        match catalog.table_by_id(table.id) {
            None => return Err(Error::TableNotFound(table.qualified_name())),
            Some(now) if now.schema.version() != table.schema.version() => return Err(Error::Conflict),
            Some(_) => {}
        }
        match catalog.guard_of(table.id) {
            None => Ok(()),
            Some(Guard::Closed) => Err(Error::Conflict),
            Some(Guard::NotNull(ids)) => self.check_not_null(ids),
        }
    }

    fn check_not_null(&self, ids: &[ColumnId]) -> Result<()> {
        let written = self.body.inserted.iter().chain(self.body.updated.iter().map(|(.., new)| new));
        for rows in written {
            for at in ids.iter().filter_map(|id| self.table.schema.position(*id)) {
                if rows.column(at).logical_null_count() > 0 {
                    let column = self.table.schema.columns()[at].name.clone();
                    return Err(Error::NotNullViolation { table: self.table.qualified_name(), column });
                }
            }
        }
        Ok(())
    }

    fn change(&self) -> PartitionChange {
        PartitionChange {
            partition: self.partition.id.clone(),
            schema_version: self.schema_version(),
            inserted: self.body.inserted.clone(),
            updated: self.body.updated.as_ref().map(|(_, old, new)| (old.clone(), new.clone())),
            deleted: self.body.deleted.as_ref().map(|(_, old)| old.clone()),
            replaced: self.body.replaced.old.clone(),
        }
    }

    fn violation(&self, claim: &Claim) -> Error {
        match self.claimed_rows(claim) {
            Some(rows) => violation(&self.table, rows, claim.row),
            None => Error::internal("commit", "a claim without rows"),
        }
    }
}

/// The key of a row is taken.
pub(crate) fn violation(table: &Table, rows: &RecordBatch, row: usize) -> Error {
    let show = |column: &ArrayRef| {
        let formatter = ArrayFormatter::try_new(column.as_ref(), &FormatOptions::default());
        formatter.map(|f| f.value(row).to_string()).unwrap_or_default()
    };
    let columns = key_columns(table, rows);
    let names = table.schema.key_indices().iter().map(|i| &table.schema.columns()[*i].name);
    let key = names.zip(&columns).map(|(name, column)| format!("{name} = {}", show(column)));
    Error::UniqueViolation { table: table.qualified_name(), key: key.collect::<Vec<_>>().join(", ") }
}

/// Checks, sequences and applies prepared writes, which are sorted by partition. `None` if a flush came between and keys
/// or rows must be looked up again.
///
/// # Errors
/// [`Error::Conflict`], [`Error::UniqueViolation`], or what the log says; nothing was changed then.
pub(crate) fn apply(
    database: &Database,
    prepared: &[Prepared],
    record: kalamdb_wal::Record,
    time_us: i64,
) -> Result<Option<(Seq, Answer)>> {
    let mut locks: Vec<MutexGuard<'_, CommitState>> =
        prepared.iter().map(|p| p.partition.commit.lock()).collect();
    let catalog = database.catalog();
    prepared.iter().try_for_each(|p| p.check_table(&catalog))?;
    prepared.iter().try_for_each(|p| database.check_not_purged(&p.partition))?;
    let versions: Vec<Arc<Version>> = prepared.iter().map(|p| p.partition.version()).collect();
    if prepared.iter().zip(&versions).any(|(p, version)| p.is_stale(version)) {
        return Ok(None);
    }
    let replaced: Vec<Vec<Place>> =
        prepared.iter().zip(&versions).map(|(p, v)| p.check(v)).collect::<Result<_>>()?;
    // The record has been encoded with what the tombstones held.
    if prepared.iter().zip(&replaced).any(|(p, replaced)| p.replaced != *replaced) {
        return Ok(None);
    }
    let (seq, answer) = database.sequencer().begin(|| Ok(database.log().append(record)?))?;
    let mut promise = Promise { seq, kept: false };
    let horizon = database.horizon();
    for ((prepared, version), replaced) in prepared.iter().zip(&versions).zip(&replaced) {
        let was_flushed = version.active.is_flushed();
        if let Err(error) = prepared.apply(version, replaced, seq, time_us, horizon) {
            tracing::error!(%error, seq, "a checked commit could not be applied");
            return Err(error);
        }
        if was_flushed {
            database.hot().add(seq, prepared.partition.id.clone());
        }
        database.hot().count(&version.active);
        prepared.partition.note_hot(time_us);
    }
    locks.iter_mut().for_each(|state| state.last_seq = seq);
    drop(locks);
    let changes = prepared.iter().map(Prepared::change).collect();
    database.sequencer().applied_commit(Arc::new(Commit { seq, time_us, changes }));
    promise.kept = true;
    Ok(Some((seq, answer)))
}

/// A record is enqueued: memory must follow, or the two would differ for good and no later commit become visible.
struct Promise {
    seq: Seq,
    kept: bool,
}

impl Drop for Promise {
    fn drop(&mut self) {
        if !self.kept {
            tracing::error!(
                seq = self.seq,
                "a commit in the log is not in memory: the process ends, and recovers at its start"
            );
            std::process::abort();
        }
    }
}

/// Encodes the key columns of some rows.
pub(crate) fn keys(table: &Table, rows: &RecordBatch) -> Result<KeyRows> {
    table
        .schema
        .keys()
        .convert_columns(&key_columns(table, rows))
        .map_err(|e| Error::internal("encode a key", e))
}

pub(crate) fn key_columns(table: &Table, rows: &RecordBatch) -> Vec<ArrayRef> {
    table.schema.key_indices().iter().map(|i| rows.column(*i).clone()).collect()
}

fn locate(view: Option<&PartitionView>, addresses: &[u64], places: &mut Vec<Place>) -> Result<Vec<Target>> {
    let view = view.ok_or_else(|| Error::internal("find a row", "addresses without a view"))?;
    let mut targets = Vec::with_capacity(addresses.len());
    for address in addresses {
        let (chunk, row) = view.chunk_of(*address)?;
        let (place, target) = match chunk {
            ChunkView::Segment(chunk) => {
                let id = chunk.segment.meta().id;
                (Place::Segment { id, row }, Target::Segment { id, row })
            }
            ChunkView::Rows(chunk) => {
                let located = chunk
                    .locate(row)
                    .ok_or_else(|| Error::internal("find a row", "no such row in memory"))?;
                let (place, seq, index) = located;
                let target = if chunk.tombstones {
                    Target::Tombstone { seq, index }
                } else {
                    Target::Live { seq, index }
                };
                (place, target)
            }
        };
        places.push(place);
        targets.push(target);
    }
    Ok(targets)
}

fn memtable(version: &Version, generation: u64) -> Option<&Arc<Memtable>> {
    version.memtables().find(|m| m.generation == generation)
}

/// True if what holds the row is part of the version.
fn is_there(version: &Version, place: &Place) -> bool {
    match *place {
        Place::Live { generation, .. } | Place::Tombstone { generation, .. } => {
            memtable(version, generation).is_some()
        }
        Place::Segment { id, .. } => version.segment(id).is_some(),
    }
}

/// Where a row that a view (or an earlier search) found at `place` is now: a flush moved it to a segment, and compactions
/// from one segment to the next. `None` if it is nowhere: no reader could see it any more.
fn moved(
    version: &Version,
    view: &PartitionView,
    followed: &[Arc<Segment>],
    place: &Place,
) -> Option<(Arc<Segment>, u32)> {
    let (mut segment, mut row) = match *place {
        Place::Segment { id, row } => {
            let known = followed.iter().rev().find(|segment| segment.meta().id == id);
            (known.or_else(|| view.segment(id))?, row)
        }
        Place::Live { generation, .. } | Place::Tombstone { generation, .. } => {
            place.moved(view.memtable(generation)?.moved.get()?)?
        }
    };
    while version.segment(segment.meta().id).is_none() {
        let relocated = segment.relocated()?;
        row = relocated.rows.get(row as usize).copied().filter(|row| *row != Relocated::DROPPED)?;
        segment = &relocated.to;
    }
    Some((segment.clone(), row))
}

/// True if the row is where it was and nobody superseded it.
fn is_current(version: &Version, place: &Place) -> bool {
    match *place {
        Place::Live { generation, ordinal } => {
            memtable(version, generation).is_some_and(|m| !m.live.marks.contains(ordinal))
        }
        Place::Tombstone { generation, ordinal } => {
            memtable(version, generation).is_some_and(|m| !m.tombstones.marks.contains(ordinal))
        }
        Place::Segment { id, row } => version.segment(id).is_some_and(|s| !s.marks.contains(row)),
    }
}

/// Marks a row as superseded.
pub(crate) fn mark(version: &Version, place: &Place, seq: Seq, horizon: Seq) {
    match *place {
        Place::Live { generation, ordinal } => {
            memtable(version, generation).map(|m| m.live.marks.add(ordinal, seq, horizon))
        }
        Place::Tombstone { generation, ordinal } => {
            memtable(version, generation).map(|m| m.tombstones.marks.add(ordinal, seq, horizon))
        }
        Place::Segment { id, row } => version.segment(id).map(|s| s.marks.add(row, seq, horizon)),
    };
}

/// The current row of a key, live or tombstone: memory first, newest memtable first, then what the segments were found
/// to hold.
pub(crate) fn holder(version: &Version, key: &[u8], found: Option<(u64, Found)>) -> Option<Place> {
    for memtable in version.memtables() {
        let generation = memtable.generation;
        let place = match memtable.find(key) {
            Some(Slot::Live(ordinal)) => Place::Live { generation, ordinal },
            Some(Slot::Tombstone(ordinal)) => Place::Tombstone { generation, ordinal },
            None => continue,
        };
        // A marked entry is a row that moved to another key; what an older chunk has of this key is older still.
        return is_current(version, &place).then_some(place);
    }
    let (id, found) = found?;
    let place = Place::Segment { id, row: found.row };
    is_current(version, &place).then_some(place)
}

fn is_tombstone(place: &Place, found: Option<(u64, Found)>) -> bool {
    match place {
        Place::Live { .. } => false,
        Place::Tombstone { .. } => true,
        Place::Segment { .. } => found.is_some_and(|(_, found)| found.tombstone),
    }
}
