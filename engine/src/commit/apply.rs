//! Checking, sequencing and applying prepared writes, under the locks of their partitions.

use std::sync::Arc;

use parking_lot::MutexGuard;

use super::place::mark;
use super::prepare::Prepared;
use crate::database::Database;
use crate::error::Result;
use crate::feed::{Commit, PartitionChange};
use crate::ids::Seq;
use crate::memtable::Slot;
use crate::partition::{CommitState, Version};
use crate::sequencer::Answer;
use crate::view::Place;

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
    let mut queued = None;
    let (seq, answer) =
        database.sequencer().begin(|| Ok(queued.insert(database.log().enqueue(record)?).lsn()))?;
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
    if let Some(queued) = queued {
        queued.write();
    }
    Ok(Some((seq, answer)))
}

impl Prepared {
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
