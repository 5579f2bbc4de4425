//! A record on its way into the log.

use crate::crc::hash;

/// A payload and its checksum. Building one does the hashing, so that it happens on the caller's thread and not on
/// the one that writes for everybody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    payload: Vec<u8>,
    crc: u32,
}

impl Record {
    /// Takes the payload and computes its checksum.
    pub fn new(payload: Vec<u8>) -> Self {
        let crc = hash(&payload);
        Self { payload, crc }
    }

    /// The bytes that readers will get.
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }

    pub(crate) fn crc(&self) -> u32 {
        self.crc
    }
}

impl From<Vec<u8>> for Record {
    fn from(payload: Vec<u8>) -> Self {
        Self::new(payload)
    }
}
