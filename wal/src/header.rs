//! The first block of a segment file. It is written and synced before the file gets its `.wal` name and never again
//! while it has it, so a bad one is always damage, never a torn write.
//!
//! ```text
//!  0  [u8; 8]   magic       "KALAMWAL"
//!  8  u32       version     1
//! 12  u32       flags       none defined: zero
//! 16  [u8; 16]  log id      the same in every file of a log: a stray segment of another log is refused
//! 32  u64       first LSN   of this segment; also its file name
//! 40  u64       capacity    the file is at least this long: a shorter one has been cut
//! 48  i64       created     microseconds since 1970; the previous segment ended then
//! 56  u32       salt        begins the CRC of every frame in this segment
//! 60  u32       CRC-32 of bytes 0..60
//! 64            zeros up to 4096, where the frames begin
//! ```
//!
//! The checksum covers the same 60 bytes in every version to come, so that "newer" can be told from "damaged".

use std::path::Path;

use crate::Lsn;
use crate::error::Error;

/// Where the frames begin. A whole block, so that no later write touches the header's sectors.
pub(crate) const SEGMENT_HEADER: usize = 4096;

const MAGIC: &[u8; 8] = b"KALAMWAL";
/// The version of the file format this code writes, and the newest it reads.
pub const VERSION: u32 = 1;
const USED: usize = 64;

/// Identifies a log.
pub(crate) type LogId = [u8; 16];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) log: LogId,
    pub(crate) first: Lsn,
    pub(crate) capacity: u64,
    pub(crate) created: i64,
    pub(crate) salt: u32,
}

impl SegmentHeader {
    /// A header with a salt of its own. A first LSN can be used again only by the same file after its torn frames were
    /// zeroed, so id and LSN would do; the time makes copies of one log that went on separately differ too.
    pub(crate) fn new(log: LogId, first: Lsn, capacity: u64, created: i64) -> Self {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&log);
        hasher.update(&first.to_le_bytes());
        hasher.update(&created.to_le_bytes());
        Self { log, first, capacity, created, salt: hasher.finalize() }
    }

    pub(crate) fn encode(&self) -> [u8; USED] {
        let mut bytes = begin(MAGIC, VERSION, self.log);
        bytes[32..40].copy_from_slice(&self.first.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.capacity.to_le_bytes());
        bytes[48..56].copy_from_slice(&self.created.to_le_bytes());
        bytes[56..60].copy_from_slice(&self.salt.to_le_bytes());
        seal(bytes)
    }

    pub(crate) fn decode(bytes: &[u8], path: &Path) -> Result<Self, Error> {
        let bytes = open(bytes, MAGIC, VERSION, path)?;
        Ok(Self {
            log: array(bytes, 16),
            first: u64::from_le_bytes(array(bytes, 32)),
            capacity: u64::from_le_bytes(array(bytes, 40)),
            created: i64::from_le_bytes(array(bytes, 48)),
            salt: u32::from_le_bytes(array(bytes, 56)),
        })
    }
}

/// The fields that both kinds of file begin with.
pub(crate) fn begin(magic: &[u8; 8], version: u32, log: LogId) -> [u8; USED] {
    let mut bytes = [0; USED];
    bytes[..8].copy_from_slice(magic);
    bytes[8..12].copy_from_slice(&version.to_le_bytes());
    bytes[16..32].copy_from_slice(&log);
    bytes
}

/// Puts the checksum at the end.
pub(crate) fn seal(mut bytes: [u8; USED]) -> [u8; USED] {
    let crc = crc32fast::hash(&bytes[..60]);
    bytes[60..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// Checks magic, checksum and version, in this order, and returns the block.
pub(crate) fn open<'a>(
    bytes: &'a [u8],
    magic: &[u8; 8],
    version: u32,
    path: &Path,
) -> Result<&'a [u8; USED], Error> {
    let Some(block) = bytes.first_chunk::<USED>() else {
        return Err(Error::corrupt(path, bytes.len() as u64, "the file ends inside its header"));
    };
    if &block[..8] != magic {
        return Err(Error::corrupt(path, 0, "the header does not begin with the magic bytes"));
    }
    if u32::from_le_bytes(array(block, 60)) != crc32fast::hash(&block[..60]) {
        return Err(Error::corrupt(path, 0, "the header's checksum is wrong"));
    }
    let found = u32::from_le_bytes(array(block, 8));
    let flags = u32::from_le_bytes(array(block, 12));
    if found != version || flags != 0 {
        return Err(Error::NewerFormat { path: path.to_owned(), version: found.max(version + 1) });
    }
    Ok(block)
}

/// `N` bytes from `at`; `at + N` is within the block at every call.
pub(crate) fn array<const N: usize>(block: &[u8; USED], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&block[at..at + N]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> SegmentHeader {
        SegmentHeader::new([3; 16], 42, 65536, 1_700_000_000_000_000)
    }

    #[test]
    fn a_header_reads_back() {
        let header = sample();
        assert_eq!(SegmentHeader::decode(&header.encode(), Path::new("x")).expect("valid"), header);
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        for bit in 0..USED * 8 {
            let mut bytes = sample().encode();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let read = SegmentHeader::decode(&bytes, Path::new("x"));
            assert!(matches!(read, Err(Error::Corrupt { .. })), "bit {bit}: {read:?}");
        }
    }

    #[test]
    fn a_newer_version_is_told_from_damage() {
        let mut bytes = sample().encode();
        bytes[8] = 2;
        let read = SegmentHeader::decode(&seal(bytes), Path::new("x"));
        assert!(matches!(read, Err(Error::NewerFormat { version: 2, .. })), "{read:?}");
    }
}
