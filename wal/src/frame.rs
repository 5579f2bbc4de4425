//! One record in a segment, byte for byte. All numbers are little-endian; frames begin at multiples of four bytes.
//!
//! ```text
//!  0  u32  header CRC   CRC-32 of bytes 4..28, begun from the segment's salt
//!  4  u32  payload CRC  CRC-32 of the payload, computed by whoever appended it
//!  8  u32  length       of the payload, at most 64 MiB
//! 12  u32  undurable    LSN minus the newest LSN known durable when this was written; all ones claim nothing
//! 16  u64  LSN
//! 24  u32  flags        none defined: zero
//! 28       payload, then zeros up to a multiple of four
//! ```
//!
//! The header CRC vouches for the payload CRC, so the two together are a salted checksum of the whole frame, and the
//! thread that writes hashes 24 bytes per record, whatever the payload. The salt makes a frame that an earlier user of
//! the file left behind invalid. Every group of frames is followed by [`TERMINATOR`] zero bytes, which the next group
//! overwrites: zeros where a header should be are the end of the log.

use super::Lsn;
use super::crc::crc32;
use super::record::Record;

/// Bytes before the payload.
pub(crate) const FRAME_HEADER: usize = 28;
/// Zero bytes after the last frame: a header that no frame has.
pub(crate) const TERMINATOR: usize = FRAME_HEADER;
/// Frames begin at multiples of this.
pub(crate) const ALIGN: usize = 4;

const CLAIMS_NOTHING: u32 = u32::MAX;

/// A header whose checksum is right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FrameHeader {
    pub(crate) payload_crc: u32,
    pub(crate) len: u32,
    undurable: u32,
    pub(crate) lsn: Lsn,
    pub(crate) flags: u32,
}

impl FrameHeader {
    /// Everything up to here was durable when the frame was written.
    pub(crate) fn durable(&self) -> Lsn {
        if self.undurable == CLAIMS_NOTHING { 0 } else { self.lsn.saturating_sub(self.undurable.into()) }
    }

    /// Bytes of the whole frame.
    pub(crate) fn stored_len(&self) -> usize {
        stored_len(self.len as usize)
    }
}

/// Bytes that a payload of this size takes in a segment.
pub(crate) fn stored_len(payload: usize) -> usize {
    FRAME_HEADER + payload.next_multiple_of(ALIGN)
}

/// Appends a frame to `out`. `durable` must be a bound that really is durable: recovery believes it.
pub(crate) fn encode(out: &mut Vec<u8>, salt: u32, lsn: Lsn, durable: Lsn, record: &Record) {
    let payload = record.payload();
    let mut header = [0; FRAME_HEADER];
    let undurable = u32::try_from(lsn - durable).unwrap_or(CLAIMS_NOTHING);
    // Appends are refused above MAX_RECORD, which is far below 4 GiB.
    let len = payload.len() as u32;
    header[4..8].copy_from_slice(&record.crc().to_le_bytes());
    header[8..12].copy_from_slice(&len.to_le_bytes());
    header[12..16].copy_from_slice(&undurable.to_le_bytes());
    header[16..24].copy_from_slice(&lsn.to_le_bytes());
    let crc = header_crc(&header, salt);
    header[..4].copy_from_slice(&crc.to_le_bytes());
    out.extend_from_slice(&header);
    out.extend_from_slice(payload);
    out.resize(out.len().next_multiple_of(ALIGN), 0);
}

/// The header at the start of `bytes`, if its checksum is right. Says nothing about the payload.
pub(crate) fn decode(bytes: &[u8], salt: u32) -> Option<FrameHeader> {
    let header: &[u8; FRAME_HEADER] = bytes.first_chunk()?;
    (word(header, 0) == header_crc(header, salt)).then(|| peek(header))
}

/// The fields of a header, unchecked.
pub(crate) fn peek(header: &[u8; FRAME_HEADER]) -> FrameHeader {
    FrameHeader {
        payload_crc: word(header, 4),
        len: word(header, 8),
        undurable: word(header, 12),
        lsn: u64::from(word(header, 16)) | u64::from(word(header, 20)) << 32,
        flags: word(header, 24),
    }
}

fn header_crc(header: &[u8; FRAME_HEADER], salt: u32) -> u32 {
    let mut protected = [0; FRAME_HEADER - 4];
    protected.copy_from_slice(&header[4..]);
    crc32(salt, &protected)
}

fn word(header: &[u8; FRAME_HEADER], at: usize) -> u32 {
    u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_reads_back_and_knows_its_bound() {
        let mut bytes = Vec::new();
        encode(&mut bytes, 7, 12, 9, &Record::new(b"abcde".to_vec()));
        assert_eq!(bytes.len(), stored_len(5));
        let header = decode(&bytes, 7).expect("valid");
        assert_eq!((header.lsn, header.len, header.durable(), header.flags), (12, 5, 9, 0));
        assert_eq!(header.stored_len(), bytes.len());
    }

    #[test]
    fn another_salt_does_not_accept_it() {
        let mut bytes = Vec::new();
        encode(&mut bytes, 7, 12, 9, &Record::new(b"abcde".to_vec()));
        assert_eq!(decode(&bytes, 8), None);
    }

    #[test]
    fn a_bound_too_far_back_claims_nothing() {
        let mut bytes = Vec::new();
        encode(&mut bytes, 0, 1 << 40, 1, &Record::new(Vec::new()));
        assert_eq!(decode(&bytes, 0).expect("valid").durable(), 0);
    }
}
