//! Reading the frames of one segment in order, and judging what lies behind the place where they stop.
//!
//! Works on bytes alone and changes nothing; recovery, the offline check and the fuzz targets share it.

use std::ops::Range;

use crate::crc;
use crate::frame::{self, ALIGN, FRAME_HEADER, FrameHeader};
use crate::{Lsn, MAX_RECORD};

/// What comes next in a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// A record: its number and where its payload is.
    Record(Lsn, Range<usize>),
    /// Zeros where a header would be.
    End,
    /// Something that is neither.
    Bad(&'static str),
    /// A valid frame with flags that this version does not know.
    Newer,
}

/// A position in a segment.
#[derive(Debug)]
pub(crate) struct Walk<'a> {
    data: &'a [u8],
    salt: u32,
    /// Where the next frame begins.
    pub(crate) offset: usize,
    /// The number it must have.
    pub(crate) next: Lsn,
}

impl<'a> Walk<'a> {
    pub(crate) fn new(data: &'a [u8], salt: u32, offset: usize, next: Lsn) -> Self {
        Self { data, salt, offset, next }
    }

    /// Reads one frame; moves on only if it is a record.
    pub(crate) fn step(&mut self) -> Step {
        let rest = self.data.get(self.offset..).unwrap_or_default();
        let Some(bytes) = rest.first_chunk::<FRAME_HEADER>() else { return Step::End };
        if bytes == &[0; FRAME_HEADER] {
            return Step::End;
        }
        let Some(header) = frame::decode(bytes, self.salt) else {
            return Step::Bad("the frame header's checksum is wrong");
        };
        if header.flags != 0 {
            return Step::Newer;
        }
        if header.lsn != self.next {
            return Step::Bad("the frame is not the next one");
        }
        if header.len as usize > MAX_RECORD || header.stored_len() > rest.len() {
            return Step::Bad("the frame runs past the end of its segment");
        }
        if !payload_is_right(&header, rest) {
            return Step::Bad("the payload's checksum is wrong");
        }
        let begin = self.offset + FRAME_HEADER;
        self.offset += header.stored_len();
        self.next += 1;
        Step::Record(header.lsn, begin..begin + header.len as usize)
    }
}

/// What lies behind the place where the frames stop.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Aftermath {
    /// Whole valid records.
    pub(crate) records: u64,
    /// Where the last valid frame ends; 0 if there is none.
    pub(crate) end: usize,
    /// True if a frame proves that the lost record had been durable, so that this is no torn write.
    pub(crate) proof: bool,
}

/// Looks for valid frames from `at` on, where record `lost` should have been.
///
/// A group is written with one write and one sync, and a power cut may keep any subset of its sectors: a later frame
/// of the *same* group proves nothing. But each frame says how far the log was durable when it was written; a frame of
/// a *later* group says that `lost` had been durable.
pub(crate) fn look_beyond(data: &[u8], salt: u32, at: usize, lost: Lsn) -> Aftermath {
    let mut found = Aftermath::default();
    let mut offset = at;
    let possible = lost..=lost.saturating_add((data.len().saturating_sub(at) / FRAME_HEADER) as u64);
    while let Some(bytes) = data.get(offset..).and_then(<[u8]>::first_chunk::<FRAME_HEADER>) {
        // The number is looked at first because it rules out nearly everything at the cost of two loads.
        let frame = Some(frame::peek(bytes))
            .filter(|h| possible.contains(&h.lsn))
            .and_then(|_| frame::decode(bytes, salt));
        let Some(header) = frame else {
            offset += skip(&data[offset..]);
            continue;
        };
        found.proof |= header.durable() >= lost;
        found.records += u64::from(payload_is_right(&header, &data[offset..]));
        offset = data.len().min(offset + header.stored_len());
        found.end = offset;
    }
    found
}

/// How far to the next place where a frame might begin. Blocks of zeros, which is most of a fresh segment, are passed
/// over whole.
fn skip(rest: &[u8]) -> usize {
    const BLOCK: usize = 4096;
    match rest.first_chunk::<BLOCK>() {
        Some(block) if block == &[0; BLOCK] => BLOCK - FRAME_HEADER,
        _ => ALIGN,
    }
}

fn payload_is_right(header: &FrameHeader, frame: &[u8]) -> bool {
    let payload = frame.get(FRAME_HEADER..FRAME_HEADER + header.len as usize);
    payload.is_some_and(|payload| crc::hash(payload) == header.payload_crc)
}
