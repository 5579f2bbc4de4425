//! Parquet segments: writing one ([`write`], its row groups by [`encode`]), what it says of itself ([`facts`]), reading one ([`read`], its rows one by one
//! by `few` with the help of `pages`), and finding a key in one ([`find`]).
//!
//! A segment is immutable. Its file is written whole and synced, with its directory, before a manifest names it; a file
//! no manifest names is an orphan of a crash and is removed when the partition is next loaded. A segment that a compaction
//! replaced stays readable for those who have it, and knows where its rows went.

pub(crate) mod encode;
pub mod facts;
mod few;
pub mod find;
mod pages;
pub mod read;
mod trash;
pub mod write;

pub use pages::PageCache;
pub use read::{Damage, Relocated, Segment, SegmentReader, Shared};
pub use trash::Trash;
