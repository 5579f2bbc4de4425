//! What takes memory: hot rows, and what a loaded partition costs beside them.

use std::mem::{size_of, size_of_val};
use std::sync::OnceLock;

use crate::database::Database;
use crate::error::Error;
use crate::ids::{PartitionId, Seq};
use crate::manifest::{Manifest, SegmentMeta};
use crate::memtable::Memtable;
use crate::partition::{Frozen, Partition, Version};
use crate::segment::Trash;

/// The counts in front of what an `Arc` holds.
const COUNTS: usize = 2 * size_of::<usize>();

/// How much memory a database's partitions take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemoryReport {
    /// Loaded partitions.
    pub partitions: usize,
    /// Those of them with rows that are in memory and in the log only.
    pub hot_partitions: usize,
    /// Bytes of rows in memtables with their marks and the index of their keys.
    pub row_bytes: usize,
    /// Bytes that loaded partitions take beside rows: their own fields, manifests, delete marks, parsed footers and the
    /// keys of segments that were searched, pages of rows that were read one by one, indexes of packs. Mapped files are not
    /// counted, they are the system's cache.
    pub overhead_bytes: usize,
}

impl Database {
    /// What takes memory now, summed up over all loaded partitions.
    pub fn memory(&self) -> MemoryReport {
        let mut report = MemoryReport::default();
        for slot in self.partitions.read().values() {
            let Some(Ok(partition)) = slot.get() else { continue };
            let version = partition.version();
            report.partitions += 1;
            report.hot_partitions += usize::from(version.first_unflushed().is_some());
            report.row_bytes += version.memtables().map(|m| m.bytes()).sum::<usize>();
            report.overhead_bytes += partition.overhead_bytes();
        }
        let packs = self.packs.read();
        let packs = packs.values().filter_map(|slot| slot.get()?.as_ref().ok());
        report.overhead_bytes += packs.map(|packs| packs.memory()).sum::<usize>();
        report.overhead_bytes += self.pages.bytes();
        report
    }
}

impl Partition {
    /// Bytes the partition takes beside its rows, its places in the database's map and among the hot ones included.
    pub(crate) fn overhead_bytes(&self) -> usize {
        let version = self.version();
        let memtables = version.memtables().map(|_| size_of::<Memtable>());
        let frozen = version.frozen.iter().map(|_| size_of::<Frozen>());
        let segments = version.segments.iter().map(|segment| segment.memory());
        let name = self.id.user.as_ref().map(|user| user.as_str().len());
        let parts = [
            size_of::<OnceLock<Result<usize, Box<Error>>>>(),
            size_of::<Self>(),
            size_of::<Trash>(),
            size_of::<OnceLock<String>>(),
            size_of::<Version>(),
            size_of_val(&*version.segments),
            version.manifest.memory(),
        ];
        let parts = parts.into_iter().chain(memtables).chain(frozen).chain(segments).chain(name);
        // Maps are about half full.
        let known = 2 * size_of::<(PartitionId, usize)>();
        let hot = if version.first_unflushed().is_some() { 2 * size_of::<(Seq, PartitionId)>() } else { 0 };
        known + hot + self.dir.as_os_str().len() + parts.map(|bytes| COUNTS + bytes).sum::<usize>()
    }
}

impl Manifest {
    fn memory(&self) -> usize {
        size_of::<Self>() + self.segments.iter().map(SegmentMeta::memory).sum::<usize>()
    }
}

impl SegmentMeta {
    /// Bytes in memory.
    pub(crate) fn memory(&self) -> usize {
        let names = self.path.len() + self.deletes_path.as_ref().map_or(0, String::len);
        let columns = self.columns.len() * size_of::<crate::stats::ColumnStats>();
        size_of::<Self>() + names + self.min_key.len() + self.max_key.len() + columns
    }
}
