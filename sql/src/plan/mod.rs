//! The leaves of every plan over an engine table: [`MemtableScanExec`] for rows in memory, [`SegmentScanExec`] for rows
//! in Parquet, [`KeyLookupExec`] for the few rows of either that have some keys, and [`UsersScanExec`] for many small users
//! of a USER table together.
//!
//! The first three read chunks pinned by a partition view and leave out exactly the rows that the view hides, before any filter or
//! limit sees them; which pushdowns are legal over hidden rows is decided in [`segment_files`] alone.
//!
//! [`PassingExec`] stands between nodes of DataFusion that would hold memory or threads without saying so.

mod compact;
mod dynamic_filter;
mod key_lookup;
mod memtable_scan;
mod optional_side;
mod pace;
mod passing;
mod pruning;
mod segment_files;
mod segment_reader;
mod segment_scan;
mod users_scan;

use std::fmt;

use arrow::datatypes::Schema;

pub(crate) use compact::bytes_of;
pub(crate) use key_lookup::{FoundRows, KeyLookupExec, LookupShape};
pub(crate) use memtable_scan::{HotChunk, MemtableScanExec};
pub(crate) use optional_side::OptionalSideExec;
pub(crate) use pace::Pace;
pub(crate) use passing::{Passing, PassingExec};
pub(crate) use pruning::prune_segments;
pub(crate) use segment_files::ColdChunk;
pub(crate) use segment_scan::{SegmentScan, SegmentScanExec};
pub(crate) use users_scan::UsersScanExec;

/// Shows in EXPLAIN what a leaf gives: its columns, and how many rows at most.
fn show_output(f: &mut fmt::Formatter<'_>, schema: &Schema, limit: Option<usize>) -> fmt::Result {
    let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
    write!(f, ", projection=[{}]", names.join(", "))?;
    match limit {
        Some(limit) => write!(f, ", limit={limit}"),
        None => Ok(()),
    }
}

/// Where one output column of a scan comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ScanColumn {
    /// A column of the stored schema (declared columns, then the system columns), by position.
    Stored(usize),
    /// `_user`: the owner of the partition.
    User,
    /// `_row_address`: where the row is in the partition view, for statements that change it.
    RowAddress,
}
