//! A simulated disk and clock, for tests of this crate and of everything that is built on [`Disk`](crate::Disk).
//!
//! [`SimDisk`] keeps, per file, the bytes that are durable and the operations that are not synced yet; names are
//! durable only after their directory's sync. It can
//!
//! - **lose power**: [`SimDisk::crash`] gives the disk as it would be found after a restart, with all, none or an
//!   arbitrary subset of the unsynced 512-byte sectors, lengths and names, by seed;
//! - **lose power at an exact instant**: [`SimDisk::freeze_at`] stops the disk before the nth sync or the nth
//!   operation; everything from there on fails, so nothing later can be taken for durable;
//! - **fail**: [`SimDisk::inject`] makes chosen operations return an error; a failed sync loses what it should have
//!   synced, for later syncs too, as Linux does; [`SimDisk::set_capacity`] makes the disk full;
//! - **be slow**: [`SimDisk::set_hook`] is called before every operation and may block;
//! - **rot**: [`SimDisk::flip_bit`], [`SimDisk::truncate`], [`SimDisk::overwrite`] change what is durable.
//!
//! Together with [`Mode::Inline`](crate::Mode::Inline) a run is deterministic: no thread, no time, no randomness but
//! the seed.
//!
//! ```
//! use std::path::Path;
//! use std::sync::Arc;
//! use kalamdb_wal::sim::{Crash, SimDisk};
//! use kalamdb_wal::{Log, Mode, Options, Record};
//!
//! # fn main() -> Result<(), kalamdb_wal::Error> {
//! let disk = SimDisk::new();
//! let options = Options { mode: Mode::Inline, ..Options::default() };
//! let (log, _) = Log::open(Arc::new(disk.clone()), Path::new("/log"), options.clone(), &mut |_, _| Ok(()))?;
//! let lsn = log.append(Record::new(b"kept".to_vec()))?;
//! log.wait_durable(lsn)?;
//! log.append(Record::new(b"not waited for".to_vec()))?;
//!
//! let after = disk.crash(Crash::LoseUnsynced);
//! let mut replayed = Vec::new();
//! Log::open(Arc::new(after), Path::new("/log"), options, &mut |_, payload| {
//!     replayed.push(payload.to_bytes());
//!     Ok(())
//! })?;
//! assert_eq!(replayed, ["kept"]);
//! # Ok(())
//! # }
//! ```

mod clock;
mod control;
mod disk;
pub mod fuzz;
mod inode;
mod names;
mod random;

pub use clock::SimClock;
pub use control::{Counts, Crash, Fault, Freeze, Operation};
pub use disk::SimDisk;
pub use random::SimRandom;
