//! A partition's rows that are not yet in Parquet: live rows, tombstones, and an index of their keys.
//!
//! A memtable is written under its partition's commit lock and read by anybody. It is replaced as a whole by a flush,
//! so an address in it names its generation too.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use arrow::array::RecordBatch;
use arrow::row::Rows as KeyRows;
use hashbrown::HashMap;
use parking_lot::RwLock;
use smallvec::SmallVec;

use crate::error::Result;
use crate::ids::Seq;
use crate::rows::Rows;
use crate::schema::TableSchema;
use crate::segment::Segment;

/// A primary key in its order-preserving byte encoding.
pub type Key = SmallVec<[u8; 24]>;

/// Where the newest version of a key is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slot {
    /// A live row's ordinal.
    Live(u32),
    /// A tombstone's ordinal.
    Tombstone(u32),
}

/// The hot rows of one partition since its last flush.
#[derive(Debug)]
pub struct Memtable {
    /// Names this memtable among those of its partition, also of an earlier time that it was loaded: it is greater than
    /// every commit before.
    pub generation: u64,
    /// Rows that are not deleted, old versions included (they are marked).
    pub live: Rows,
    /// Last values of deleted rows.
    pub tombstones: Rows,
    /// Where its rows went, once they are in a segment.
    pub moved: OnceLock<Box<Moved>>,
    /// Commits up to this one are in Parquet, their rows here or not.
    durable: AtomicU64,
    keys: RwLock<HashMap<Key, Slot>>,
    /// Bytes of keys too long for their place in the index.
    spilled: AtomicUsize,
    /// Bytes that are counted in the database's total.
    counted: AtomicUsize,
}

/// Where the rows of a memtable went when it was flushed: per ordinal the file row.
#[derive(Debug)]
pub struct Moved {
    /// The segment.
    pub segment: Arc<Segment>,
    /// Where the live rows went.
    pub live: Vec<u32>,
    /// Where the tombstones went.
    pub tombstones: Vec<u32>,
}

impl Moved {
    /// A row that no snapshot saw any more and that went nowhere.
    pub const DROPPED: u32 = u32::MAX;
}

impl Memtable {
    /// An empty memtable for the commits after `durable`, up to which everything is in Parquet.
    pub fn new(durable: Seq) -> Self {
        Self {
            generation: durable + 1,
            durable: AtomicU64::new(durable),
            live: Rows::default(),
            tombstones: Rows::default(),
            moved: OnceLock::new(),
            keys: RwLock::default(),
            spilled: AtomicUsize::new(0),
            counted: AtomicUsize::new(0),
        }
    }

    /// Brings a total up to date with what the memtable takes now; one caller at a time.
    pub fn count_in(&self, total: &AtomicUsize) {
        let now = self.bytes();
        let before = self.counted.swap(now, Ordering::Relaxed);
        total.fetch_add(now, Ordering::Relaxed);
        total.fetch_sub(before, Ordering::Relaxed);
    }

    /// Takes what was counted out of a total again.
    pub fn count_out(&self, total: &AtomicUsize) {
        total.fetch_sub(self.counted.swap(0, Ordering::Relaxed), Ordering::Relaxed);
    }

    /// True if nothing was ever written to it.
    pub fn is_empty(&self) -> bool {
        self.live.is_empty() && self.tombstones.is_empty()
    }

    /// Rows appended, tombstones included.
    pub fn rows(&self) -> u64 {
        u64::from(self.live.len()) + u64::from(self.tombstones.len())
    }

    /// Bytes taken beside the structure itself: rows, marks and keys.
    pub fn bytes(&self) -> usize {
        self.live.bytes()
            + self.tombstones.bytes()
            + self.live.marks.memory()
            + self.tombstones.marks.memory()
            + self.keys.read().allocation_size()
            + self.spilled.load(Ordering::Relaxed)
    }

    /// The commit up to which Parquet has the partition. Rows of earlier commits are here as well if a pack has them.
    pub fn durable(&self) -> Seq {
        self.durable.load(Ordering::Acquire)
    }

    /// Says that commits up to this one are in Parquet. Under the partition's commit lock.
    pub(crate) fn set_durable(&self, seq: Seq) {
        self.durable.store(seq, Ordering::Release);
    }

    /// The oldest commit with rows here that Parquet does not have: what the log must keep.
    pub fn first_unflushed(&self) -> Option<Seq> {
        let durable = self.durable();
        let stores = [&self.live, &self.tombstones];
        stores.into_iter().filter_map(|rows| rows.first_seq_after(durable)).min()
    }

    /// True if Parquet has every commit with rows here: there is no [first one](Memtable::first_unflushed) that it has not.
    pub fn is_flushed(&self) -> bool {
        let durable = self.durable();
        let newest = [&self.live, &self.tombstones].into_iter().filter_map(|rows| rows.last_seq()).max();
        newest.is_none_or(|newest| newest <= durable)
    }

    /// Where the newest version of a key is, if it is here.
    pub fn find(&self, key: &[u8]) -> Option<Slot> {
        self.keys.read().get(key).copied()
    }

    /// True if no key was ever indexed here.
    pub fn has_no_keys(&self) -> bool {
        self.keys.read().is_empty()
    }

    /// Appends live rows under their keys.
    pub fn append_live(
        &self,
        rows: RecordBatch,
        schema: &Arc<TableSchema>,
        keys: &KeyRows,
        seq: Seq,
        time_us: i64,
    ) -> Result<()> {
        let first = self.live.append(rows, schema, seq, time_us)?;
        self.index(keys, |at| Slot::Live(first + at));
        Ok(())
    }

    /// Appends tombstones under their keys.
    pub fn append_tombstones(
        &self,
        rows: RecordBatch,
        schema: &Arc<TableSchema>,
        keys: &KeyRows,
        seq: Seq,
        time_us: i64,
    ) -> Result<()> {
        let first = self.tombstones.append(rows, schema, seq, time_us)?;
        self.index(keys, |at| Slot::Tombstone(first + at));
        Ok(())
    }

    fn index(&self, keys: &KeyRows, slot: impl Fn(u32) -> Slot) {
        let mut index = self.keys.write();
        index.reserve(keys.num_rows());
        for (at, key) in keys.iter().enumerate() {
            let key = Key::from_slice(key.as_ref());
            let spilled = if key.spilled() { key.len() } else { 0 };
            if index.insert(key, slot(at as u32)).is_none() {
                self.spilled.fetch_add(spilled, Ordering::Relaxed);
            }
        }
    }
}
