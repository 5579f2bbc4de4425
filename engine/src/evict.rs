//! Eviction: a partition that nobody uses and whose state is all on disk leaves memory, and is loaded again on demand.
//!
//! A partition is taken out of the map only while nobody else holds it, its version's memtables or its segments, which
//! `Arc::get_mut` and the counts prove under the map's write lock: a commit, a flush or a compaction holds the partition, a
//! reader its memtables and segments. So nobody is ever left with a copy that is not the partition any more, and loading
//! it again finds a manifest that nobody is replacing.
//!
//! Loading takes every mark of the manifest as seen by everybody. Therefore a partition also stays while a snapshot is
//! open that is older than its last commit.

use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};

use crate::database::Database;
use crate::ids::{PartitionId, Seq};
use crate::partition::{Partition, Version};
use crate::system::FIRST_USER_TABLE;

/// After so many loads the total is looked at again; more if more are loaded anyway, so that looking stays cheap.
const LOADS: usize = 1_024;

impl Database {
    /// Evicts the partitions that were not used for [`crate::Config::evict_after`] and, if loaded partitions take more than
    /// [`crate::Config::loaded_bytes`], the longest unused others. Returns how many. Runs by itself once in a while.
    pub fn evict(&self) -> usize {
        let now = self.clock().now_micros();
        self.evictions.swept_at.store(now, Ordering::Relaxed);
        self.evictions.loads.store(0, Ordering::Relaxed);
        let idle = i64::try_from(self.config.evict_after.as_micros()).unwrap_or(i64::MAX);
        let (mut unused, total) = self.unused_partitions();
        unused.sort_unstable_by_key(|(used_at, _, _)| *used_at);
        let limit = self.config.loaded_bytes;
        // Somewhat below the limit, so that the next load does not begin it all again.
        let mut excess = if total > limit { total - limit / 4 * 3 } else { 0 };
        let mut evicted = 0;
        for (used_at, bytes, id) in unused {
            if excess == 0 && now.saturating_sub(used_at) < idle {
                break;
            }
            if self.evict_one(&id) {
                evicted += 1;
                excess = excess.saturating_sub(bytes);
            }
        }
        if evicted > 0 {
            let mut partitions = self.partitions.write();
            if partitions.capacity() / 4 > partitions.len() {
                partitions.shrink_to_fit();
            }
            tracing::debug!(evicted, loaded = partitions.len(), "evicted partitions that nobody uses");
        }
        evicted
    }

    /// The same if partitions were loaded since, or the last time is long enough ago.
    pub(crate) fn evict_if_due(&self) {
        let since = self.clock().now_micros().saturating_sub(self.evictions.swept_at.load(Ordering::Relaxed));
        let idle = u128::try_from(since).unwrap_or(0) >= self.config.evict_after.as_micros() / 4;
        if idle || self.evictions.loads.load(Ordering::Relaxed) > 0 {
            self.evict();
        }
    }

    /// Counts a partition that was loaded; asks for a look at the total once in a while.
    pub(crate) fn count_load(&self) {
        let loads = self.evictions.loads.fetch_add(1, Ordering::Relaxed) + 1;
        if loads >= LOADS && loads >= self.partitions.read().len() / 8 {
            self.requests().loaded();
        }
    }

    /// The partitions that may be evicted as far as one can see without stopping others, with the time of their last use
    /// and their bytes; and the bytes of all.
    fn unused_partitions(&self) -> (Vec<(i64, usize, PartitionId)>, usize) {
        let horizon = self.horizon();
        let partitions = self.partitions.read();
        let mut total = 0;
        let mut unused = Vec::new();
        for partition in partitions.values().filter_map(|slot| slot.get()?.as_ref().ok()) {
            let version = partition.version();
            // Rows that wait for a flush are counted elsewhere.
            let rows = if version.first_unflushed().is_none() { version.active.bytes() } else { 0 };
            let bytes = partition.overhead_bytes() + rows;
            total += bytes;
            if partition.id.table.0 >= FIRST_USER_TABLE && is_on_disk(partition, horizon) {
                unused.push((partition.used_at.load(Ordering::Relaxed), bytes, partition.id.clone()));
            }
        }
        (unused, total)
    }

    fn evict_one(&self, id: &PartitionId) -> bool {
        let mut partitions = self.partitions.write();
        let free = partitions
            .get_mut(id)
            .and_then(|slot| Arc::get_mut(slot))
            .and_then(OnceLock::get_mut)
            .and_then(|loaded| loaded.as_mut().ok())
            .and_then(Arc::get_mut)
            // The horizon only rises, and snapshots to come are not older.
            .is_some_and(|partition| {
                is_on_disk(partition, self.horizon()) && is_unread(&partition.version())
            });
        let slot = if free { partitions.remove(id) } else { None };
        drop(partitions);
        slot.is_some()
    }
}

/// True if loading the partition from disk gives every snapshot what it gives now.
fn is_on_disk(partition: &Partition, horizon: Seq) -> bool {
    let version = partition.version();
    version.first_unflushed().is_none()
        && version.frozen.is_none()
        && partition.shared.damage.get().is_none()
        && partition.leftovers.lock().is_empty()
        // Somebody still reads a segment that was replaced: loading would take its file for an orphan.
        && Arc::strong_count(&partition.trash) == 1
        // Somebody who holds the lock is about to use it.
        && partition.commit.try_lock().is_some_and(|state| state.last_seq <= horizon)
}

/// True if no view holds rows or files of it. Of an exclusively held partition: its version is held here once more.
fn is_unread(version: &Arc<Version>) -> bool {
    Arc::strong_count(version) == 2
        && Arc::strong_count(&version.active) == 1
        && Arc::strong_count(&version.segments) == 1
        && version.segments.iter().all(|segment| Arc::strong_count(segment) == 1)
}

/// What was loaded since when.
#[derive(Debug, Default)]
pub(crate) struct Evictions {
    swept_at: std::sync::atomic::AtomicI64,
    loads: std::sync::atomic::AtomicUsize,
}
