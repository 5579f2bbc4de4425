//! Parquet segments: writing one ([`write`]), reading one ([`read`]), and finding a key in one ([`find`]).
//!
//! A segment is immutable. Its file is written whole and synced, with its directory, before a manifest names it; a file
//! no manifest names is an orphan of a crash and is removed when the partition is next loaded.

pub mod find;
pub mod read;
pub mod write;

pub use read::{Damage, Segment, SegmentReader};
