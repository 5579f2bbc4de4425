//! `log.mark`: where replay starts, and how far the log is known to be durable whatever its tail looks like.
//!
//! ```text
//!  0  [u8; 8]   magic      "KALAMMRK"
//!  8  u32       version    1
//! 12  u32       flags      zero
//! 16  [u8; 16]  log id
//! 32  u64       low water  replay starts at this LSN
//! 40  u64       durable    everything up to this LSN was durable when the file was written
//! 48            zeros
//! 60  u32       CRC-32 of bytes 0..60
//! ```
//!
//! It is replaced atomically when the log is created, truncated or closed. A tail that is bad at or before `durable`
//! is damage: it cannot be a torn write.

use std::path::{Path, PathBuf};

use crate::disk::Disk;
use crate::durable;
use crate::error::Error;
use crate::header::{self, LogId};
use crate::{Lsn, names};

const MAGIC: &[u8; 8] = b"KALAMMRK";
const VERSION: u32 = 1;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) log: LogId,
    pub(crate) low_water: Lsn,
    pub(crate) durable: Lsn,
}

impl Mark {
    /// The mark of a log that holds nothing. The id comes from the entropy the caller was given and the time.
    pub(crate) fn fresh(entropy: u64, now: i64) -> Self {
        let mut log = [0; 16];
        log[..8].copy_from_slice(&entropy.to_le_bytes());
        log[8..].copy_from_slice(&now.to_le_bytes());
        Self { log, low_water: 1, durable: 0 }
    }

    /// Everything up to here was durable at some time: nothing is truncated before it is.
    pub(crate) fn known_durable(&self) -> Lsn {
        self.durable.max(self.low_water.saturating_sub(1))
    }

    pub(crate) fn path(dir: &Path) -> PathBuf {
        dir.join(names::MARK)
    }

    pub(crate) fn write(&self, disk: &dyn Disk, dir: &Path) -> Result<(), Error> {
        durable::replace_file(disk, &Self::path(dir), &self.encode())
    }

    pub(crate) fn read(disk: &dyn Disk, dir: &Path) -> Result<Self, Error> {
        let path = Self::path(dir);
        Self::decode(&durable::read_file(disk, &path)?, &path)
    }

    pub(crate) fn encode(&self) -> [u8; 64] {
        let mut bytes = header::begin(MAGIC, VERSION, self.log);
        bytes[32..40].copy_from_slice(&self.low_water.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.durable.to_le_bytes());
        header::seal(bytes)
    }

    pub(crate) fn decode(bytes: &[u8], path: &Path) -> Result<Self, Error> {
        let block = header::open(bytes, MAGIC, VERSION, path)?;
        Ok(Self {
            log: header::array(block, 16),
            low_water: u64::from_le_bytes(header::array(block, 32)),
            durable: u64::from_le_bytes(header::array(block, 40)),
        })
    }
}
