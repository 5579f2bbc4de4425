//! The bytes of a record while the log is opened.

use std::ops::Deref;

use bytes::Bytes;

/// A record's payload, lent for one call of [`Replay`](crate::Replay).
///
/// Most of what is replayed is read and let go. To count who holds each payload would take as long as to check it, so
/// that is left to those who want to keep one.
#[derive(Debug, Clone, Copy)]
pub struct Payload<'a> {
    bytes: &'a [u8],
    /// What they are part of, if that may be kept.
    segment: Option<&'a Bytes>,
}

impl<'a> Payload<'a> {
    /// Bytes of a file that nothing is added to.
    pub(crate) fn sealed(bytes: &'a [u8], segment: &'a Bytes) -> Self {
        Self { bytes, segment: Some(segment) }
    }

    /// Bytes of a file that will change.
    pub(crate) fn active(bytes: &'a [u8]) -> Self {
        Self { bytes, segment: None }
    }

    /// The payload to keep. That of a sealed segment is not copied; it keeps the segment's file from being recycled.
    pub fn to_bytes(self) -> Bytes {
        self.segment
            .map_or_else(|| Bytes::copy_from_slice(self.bytes), |segment| segment.slice_ref(self.bytes))
    }
}

impl Deref for Payload<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes
    }
}
