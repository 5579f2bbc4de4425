//! Where rows are: found by address or key, current or superseded, moved or not.

use std::sync::Arc;

use crate::codec::record::Target;
use crate::error::{Error, Result};
use crate::ids::Seq;
use crate::memtable::{Memtable, Slot};
use crate::partition::Version;
use crate::segment::find::Found;
use crate::segment::{Relocated, Segment};
use crate::view::{ChunkView, PartitionView, Place};

pub(super) fn locate(
    view: Option<&PartitionView>,
    addresses: &[u64],
    places: &mut Vec<Place>,
) -> Result<Vec<Target>> {
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
pub(super) fn is_there(version: &Version, place: &Place) -> bool {
    match *place {
        Place::Live { generation, .. } | Place::Tombstone { generation, .. } => {
            memtable(version, generation).is_some()
        }
        Place::Segment { id, .. } => version.segment(id).is_some(),
    }
}

/// Where a row that a view (or an earlier search) found at `place` is now: a flush moved it to a segment, and compactions
/// from one segment to the next. `None` if it is nowhere: no reader could see it any more.
pub(super) fn moved(
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
pub(super) fn is_current(version: &Version, place: &Place) -> bool {
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

pub(super) fn is_tombstone(place: &Place, found: Option<(u64, Found)>) -> bool {
    match place {
        Place::Live { .. } => false,
        Place::Tombstone { .. } => true,
        Place::Segment { .. } => found.is_some_and(|(_, found)| found.tombstone),
    }
}
