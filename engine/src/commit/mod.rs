//! The commit pipeline.
//!
//! 1. Without locks: encode keys, look new keys up in the segments, encode the log record.
//! 2. Under the locks of the partitions, taken in order: check that no touched row was changed since it was read and no
//!    new key is taken; enqueue the record, which gives the commit its sequence; append rows and marks to memory.
//! 3. Without locks: wait until the log has synced the record and every earlier commit is visible.
//!
//! Memory is written before the sync, so that commits of one hot partition share syncs; it is not visible before it. A
//! crash before the sync loses the commit as a whole, after it replay applies it as a whole: it is one record.

mod apply;
mod check;
mod look_up;
mod place;
mod prepare;

use crate::ids::Seq;

pub(crate) use apply::apply;
pub(crate) use check::violation;
pub(crate) use place::{holder, mark};
pub(crate) use prepare::{Prepared, key_columns, keys};

/// A commit that is durable and visible.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Committed {
    /// Its sequence.
    pub seq: Seq,
    /// Its time, microseconds since the epoch.
    pub time_us: i64,
}
