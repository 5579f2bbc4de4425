//! What of a slice is not worth writing again: rows deleted longer ago than the table's `deleted_retention`.
//!
//! A slice that only has such rows goes as a whole, but only when nothing can come of that: an older slice of the same user
//! in a pack that is not merged now would count again, and so would commits in the log that replay skips because the slice
//! has them. Until then it stays as it is.

use arrow::array::BooleanArray;
use arrow::buffer::BooleanBuffer;

use super::manifest::PackMeta;
use super::slice::Slice;
use crate::error::Result;
use crate::ids::Seq;

/// Which rows of slices go when packs are merged.
#[derive(Debug, Clone, Copy)]
pub(super) struct Expiry {
    /// Rows deleted up to this time, microseconds since the epoch; `None` keeps them for ever.
    pub(super) cutoff: Option<i64>,
    /// True if all packs of the table are merged, so that no other has a slice of the same user.
    pub(super) complete: bool,
    /// The commit that replay would begin with after a crash now.
    pub(super) low_water: Seq,
}

impl Expiry {
    /// What is kept of a slice; `None` if nothing is.
    pub(super) fn apply(self, slice: Slice) -> Result<Option<Slice>> {
        let Some(cutoff) = self.cutoff else { return Ok(Some(slice)) };
        let expired = |row: usize| slice.deleted.value(row) && slice.updated.value(row) <= cutoff;
        let kept = BooleanBuffer::collect_bool(slice.deleted.len(), |row| !expired(row));
        match kept.count_set_bits() {
            all if all == slice.deleted.len() => Ok(Some(slice)),
            0 if self.complete && slice.state < self.low_water => Ok(None),
            0 => Ok(Some(slice)),
            _ => slice.filtered(&BooleanArray::new(kept, None)).map(Some),
        }
    }
}

/// When packs are to be merged because of what they keep of deleted rows, microseconds since the epoch: tombstones past
/// their time, though not more often than once per quarter of it, and slices that newer ones replaced, which have rows as
/// they were before they were deleted.
pub(super) fn due_at<'a>(packs: impl ExactSizeIterator<Item = &'a PackMeta>, retention: i64) -> Option<i64> {
    let several = packs.len() > 1;
    let due = packs.filter_map(|pack| {
        let tombstones = pack.oldest_tombstone.map(|oldest| {
            oldest.saturating_add(retention).max(pack.created_at.saturating_add(retention / 4))
        });
        let replaced = several.then(|| pack.created_at.saturating_add(retention));
        tombstones.into_iter().chain(replaced).min()
    });
    due.min()
}
