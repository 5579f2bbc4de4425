//! A segmented, group-committed append log with exact recovery and tailing readers.
//!
//! Records are opaque bytes, numbered 1, 2, 3, ... without gaps. The end of the log has one owner at a time, a
//! thread of its own or a caller that is alone: whatever is queued while one sync runs goes out as the next group, with
//! one write and one `fdatasync`, and every waiter hears when *its* record is durable. The bytes on disk are described in `docs/log-format.md` and in the headers of
//! the modules that write them (`header`, `frame`, `mark`).
//!
//! What it promises:
//!
//! - **Durability.** A record that [`Log::wait_durable`] answered for survives `kill -9`, and under
//!   [`SyncPolicy::Always`] a power cut that keeps any subset of what was not synced.
//! - **Exactness.** Opening finds a true prefix of what was appended, or refuses with file and offset. What was durable
//!   is never dropped as a torn tail where a later record or the mark proves it; what was dropped never comes back.
//! - **Failure is final.** After a failed write or sync the log takes nothing more; what is durable can still be read.
//! - **A full disk is not a failure.** Space is allocated before a record is accepted, so [`Log::append`] says
//!   [`Error::StorageFull`] before the record has a number, and works again when there is space.
//!
//! ```
//! # use std::sync::Arc;
//! use kalamdb_wal::{Log, Options, RealDisk, Record};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = tempfile::tempdir()?;
//! let mut replayed = Vec::new();
//! let (log, _) = Log::open(Arc::new(RealDisk), dir.path(), Options::default(), &mut |lsn, payload| {
//!     replayed.push((lsn, payload.to_bytes()));
//!     Ok(())
//! })?;
//! let lsn = log.append(Record::new(b"hello".to_vec()))?;
//! log.wait_durable(lsn)?;
//! let mut reader = log.reader(lsn)?;
//! assert_eq!(reader.try_next()?, Some((lsn, "hello".into())));
//! log.close()?;
//! # Ok(())
//! # }
//! ```

#![cfg_attr(not(test), warn(clippy::unwrap_used))]

mod check;
mod clock;
mod crc;
mod disk;
pub mod durable;
mod error;
mod frame;
mod header;
mod log;
mod mark;
mod metrics;
mod names;
mod options;
mod payload;
mod progress;
mod queue;
mod queued;
mod reader;
mod real_disk;
mod record;
mod recovery;
mod retention;
mod segment;
mod segments;
mod shared;
#[cfg(feature = "sim")]
pub mod sim;
mod spare;
mod supply;
mod survey;
mod sync;
mod walk;
mod writer;

pub use check::{CheckReport, SegmentReport, check};
pub use clock::{Clock, SystemClock};
pub use disk::{Access, DirEntry, Disk, DiskFile};
pub use error::Error;
pub use header::VERSION as FORMAT;
pub use log::Log;
pub use metrics::{Histogram, Metrics};
pub use options::{Mode, Observer, Options, Retain, SyncPolicy};
pub use payload::Payload;
pub use queued::Queued;
pub use reader::Reader;
pub use real_disk::RealDisk;
pub use record::Record;
pub use recovery::{Recovered, Replay, Verdict};

/// The number of a record: 1, 2, 3, ... without gaps. 0 means "before the first".
pub type Lsn = u64;

/// The largest payload, in bytes.
pub const MAX_RECORD: usize = 64 << 20;

/// The smallest segment, in bytes.
pub const MIN_SEGMENT: u64 = 8 << 10;
