//! Who holds a key at a transaction's snapshot.

use std::sync::Arc;

use arrow::array::ArrayRef;
use roaring::RoaringBitmap;

use crate::error::{Error, Result};
use crate::memtable::{Memtable, Slot};
use crate::view::{ChunkView, PartitionView, Place, SegmentChunk};

/// The row that has a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Holder {
    /// A row.
    Live(Place),
    /// The last version of a row that is deleted: the key is free.
    Tombstone(Place),
    /// A row that was committed after the snapshot.
    Newer,
}

/// Finds keys in the chunks of a view.
pub(super) struct Lookup<'a> {
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
    pub(super) fn new(view: &'a PartitionView) -> Self {
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
    pub(super) fn holder(&self, key: &[u8], columns: &[ArrayRef], at: usize) -> Result<Option<Holder>> {
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
