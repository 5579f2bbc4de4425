//! Who holds a key at a view's snapshot: the key index of memory first, then the segments, newest first, without reading
//! more of them than the key column of one row group.

use std::sync::Arc;

use arrow::array::ArrayRef;
use roaring::RoaringBitmap;

use crate::error::{Error, Result};
use crate::memtable::{Memtable, Slot};
use crate::view::{ChunkView, PartitionView, Place, SegmentChunk};

/// The row that has a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Holder {
    /// A row.
    Live(Place),
    /// The last version of a row that is deleted: the key is free.
    Tombstone(Place),
    /// A row that was committed after the snapshot.
    Newer,
}

/// Finds keys in the chunks of a view.
pub(crate) struct Lookup<'a> {
    view: &'a PartitionView,
    /// Newest first.
    memtables: Vec<Hot<'a>>,
}

struct Hot<'a> {
    memtable: &'a Arc<Memtable>,
    hidden_live: Option<&'a RoaringBitmap>,
    hidden_tombstones: Option<&'a RoaringBitmap>,
}

impl<'a> Lookup<'a> {
    pub(crate) fn new(view: &'a PartitionView) -> Self {
        let mut memtables: Vec<Hot<'a>> = Vec::new();
        for chunk in view.chunks.iter().rev() {
            let ChunkView::Rows(chunk) = chunk else { continue };
            let memtable = chunk.memtable();
            if memtables.last().is_none_or(|last| last.memtable.generation != memtable.generation) {
                memtables.push(Hot { memtable, hidden_live: None, hidden_tombstones: None });
            }
            if let Some(last) = memtables.last_mut() {
                let hidden =
                    if chunk.tombstones { &mut last.hidden_tombstones } else { &mut last.hidden_live };
                *hidden = chunk.hidden();
            }
        }
        Self { view, memtables }
    }

    /// The holder of a key; `columns` are the key's columns and `at` its place in them.
    ///
    /// # Errors
    /// [`Error::Conflict`] if the key was given up after the snapshot, so that memory no longer says who held it.
    /// [`Error::PartitionDamaged`].
    pub(crate) fn holder(&self, key: &[u8], columns: &[ArrayRef], at: usize) -> Result<Option<Holder>> {
        for hot in &self.memtables {
            if let Some(slot) = hot.memtable.find(key) {
                return hot.holder(slot, self.view.seq);
            }
        }
        let segments = self.view.chunks.iter().rev().filter_map(|chunk| match chunk {
            ChunkView::Segment(chunk) => Some(chunk),
            ChunkView::Rows(_) => None,
        });
        let mut tombstone = None;
        for chunk in segments {
            match self.in_segment(chunk, key, columns, at)? {
                // A file that has rows after the snapshot may hold a newer version of a key than an older file.
                Some(Holder::Tombstone(place)) if chunk.newer_than_snapshot => {
                    tombstone.get_or_insert(Holder::Tombstone(place));
                }
                Some(holder) => return Ok(Some(holder)),
                None => {}
            }
        }
        Ok(tombstone)
    }

    fn in_segment(
        &self,
        chunk: &SegmentChunk,
        key: &[u8],
        columns: &[ArrayRef],
        at: usize,
    ) -> Result<Option<Holder>> {
        let visible = |row: u32| chunk.hidden.as_ref().is_none_or(|hidden| !hidden.contains(row));
        let found = chunk.segment.find_where(key, columns, at, visible)?;
        Ok(found.map(|found| {
            let place = Place::Segment { id: chunk.segment.meta().id, row: found.row };
            if found.tombstone { Holder::Tombstone(place) } else { Holder::Live(place) }
        }))
    }
}

impl PartitionView {
    /// True if [`PartitionView::find`] would take all that it needs from memory. Otherwise it may wait for a disk.
    ///
    /// # Errors
    /// If the keys cannot be encoded.
    pub fn finds_in_memory(&self, keys: &[ArrayRef]) -> Result<bool> {
        let encoded = self.table.schema.keys().convert_columns(keys);
        let encoded = encoded.map_err(|e| Error::internal("encode a key", e))?;
        Ok(self.chunks.iter().all(|chunk| match chunk {
            ChunkView::Segment(chunk) => {
                encoded.iter().enumerate().all(|(at, key)| chunk.segment.knows(key.as_ref(), keys, at))
            }
            ChunkView::Rows(_) => true,
        }))
    }

    /// Finds the live rows that have some keys, without a scan: their addresses, `None` where there is no such row.
    /// `keys` are the key's columns, in the order of the key.
    ///
    /// `None` if only a scan can tell: somebody has changed a row of one of the keys since the snapshot, so that the key
    /// index points past it.
    ///
    /// # Errors
    /// [`Error::PartitionDamaged`] if a segment cannot be read.
    pub fn find(&self, keys: &[ArrayRef]) -> Result<Option<Vec<Option<u64>>>> {
        let encoded = self.table.schema.keys().convert_columns(keys);
        let encoded = encoded.map_err(|e| Error::internal("encode a key", e))?;
        let lookup = Lookup::new(self);
        let mut found = Vec::with_capacity(encoded.num_rows());
        for (at, key) in encoded.iter().enumerate() {
            let holder = match lookup.holder(key.as_ref(), keys, at) {
                Err(Error::Conflict) => return Ok(None),
                other => other?,
            };
            found.push(match holder {
                None => None,
                Some(Holder::Live(place) | Holder::Tombstone(place)) if self.may_be_newer(place) => {
                    return Ok(None);
                }
                Some(Holder::Live(place)) => Some(self.address_of(place)?),
                Some(Holder::Tombstone(_)) => None,
                Some(Holder::Newer) => return Ok(None),
            });
        }
        Ok(Some(found))
    }

    /// True if the place is in a file that has rows of commits after the snapshot: it may be one of them.
    fn may_be_newer(&self, place: Place) -> bool {
        let Place::Segment { id, .. } = place else { return false };
        self.chunks.iter().any(|chunk| match chunk {
            ChunkView::Segment(chunk) => chunk.newer_than_snapshot && chunk.segment.meta().id == id,
            ChunkView::Rows(_) => false,
        })
    }

    fn address_of(&self, place: Place) -> Result<u64> {
        let (source, row) = place.source();
        let at = |(index, chunk): (usize, &ChunkView)| {
            let row = match chunk {
                _ if chunk.source() != source => None,
                ChunkView::Segment(_) => Some(row),
                ChunkView::Rows(chunk) => chunk.row_of(row),
            };
            row.map(|row| Self::address(index, row))
        };
        let address = self.chunks.iter().enumerate().find_map(at);
        address.ok_or_else(|| Error::internal("find a row", "it is in none of the view's chunks"))
    }
}

impl Hot<'_> {
    fn holder(&self, slot: Slot, snapshot: u64) -> Result<Option<Holder>> {
        let generation = self.memtable.generation;
        let (store, ordinal, hidden) = match slot {
            Slot::Live(ordinal) => (&self.memtable.live, ordinal, self.hidden_live),
            Slot::Tombstone(ordinal) => (&self.memtable.tombstones, ordinal, self.hidden_tombstones),
        };
        if store.place(ordinal).is_none_or(|(seq, _)| seq > snapshot) {
            let taken = matches!(slot, Slot::Live(_)) && !store.marks.contains(ordinal);
            return if taken { Ok(Some(Holder::Newer)) } else { Err(Error::Conflict) };
        }
        if hidden.is_some_and(|hidden| hidden.contains(ordinal)) {
            // A row that moved to another key; what an older chunk has of this key is older still.
            return Ok(None);
        }
        Ok(Some(match slot {
            Slot::Live(_) => Holder::Live(Place::Live { generation, ordinal }),
            Slot::Tombstone(_) => Holder::Tombstone(Place::Tombstone { generation, ordinal }),
        }))
    }
}
