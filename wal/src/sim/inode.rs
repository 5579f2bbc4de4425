//! One simulated file: what is durable, what the running process sees, and the operations between the two.

use super::random::SimRandom;

/// What a disk writes as a whole.
pub(super) const SECTOR: usize = 512;

#[derive(Debug, Clone)]
enum Change {
    Write { offset: usize, bytes: Vec<u8> },
    SetLen(usize),
}

#[derive(Debug, Clone, Default)]
pub(super) struct Inode {
    durable: Vec<u8>,
    current: Vec<u8>,
    /// Not synced yet, in order.
    pending: Vec<Change>,
    /// What a failed sync should have made durable. The process still sees it, but no later sync will write it; after
    /// a power cut it may or may not be there.
    lost: Vec<Change>,
}

impl Inode {
    pub(super) fn current(&self) -> &[u8] {
        &self.current
    }

    pub(super) fn write(&mut self, offset: usize, bytes: &[u8]) {
        let change = Change::Write { offset, bytes: bytes.to_vec() };
        apply(&mut self.current, &change);
        self.pending.push(change);
    }

    pub(super) fn set_len(&mut self, len: usize) {
        let change = Change::SetLen(len);
        apply(&mut self.current, &change);
        self.pending.push(change);
    }

    pub(super) fn sync(&mut self) {
        for change in std::mem::take(&mut self.pending) {
            apply(&mut self.durable, &change);
        }
    }

    pub(super) fn fail_sync(&mut self) {
        self.lost.append(&mut self.pending);
    }

    /// After a power cut that kept nothing that was not synced.
    pub(super) fn lose_unsynced(&mut self) {
        self.settle_on(self.durable.clone());
    }

    /// After a power cut that came when everything had happened to reach the disk.
    pub(super) fn keep_unsynced(&mut self) {
        self.settle_on(self.current.clone());
    }

    /// After a power cut that kept any subset of what was not synced, sector by sector.
    pub(super) fn tear(&mut self, random: &mut SimRandom) {
        let mut bytes = self.durable.clone();
        let unsynced: Vec<Change> = self.lost.iter().chain(&self.pending).cloned().collect();
        for change in unsynced {
            match change {
                Change::SetLen(_) if random.coin() => apply(&mut bytes, &change),
                Change::SetLen(_) => {}
                Change::Write { offset, bytes: written } => tear_write(&mut bytes, offset, &written, random),
            }
        }
        self.settle_on(bytes);
    }

    /// Changes what is durable, as if it had always been so.
    pub(super) fn settle_on(&mut self, bytes: Vec<u8>) {
        *self = Self { current: bytes.clone(), durable: bytes, pending: Vec::new(), lost: Vec::new() };
    }
}

fn apply(bytes: &mut Vec<u8>, change: &Change) {
    match change {
        Change::SetLen(len) => bytes.resize(*len, 0),
        Change::Write { offset, bytes: written } => put(bytes, *offset, written),
    }
}

fn put(bytes: &mut Vec<u8>, offset: usize, written: &[u8]) {
    let end = offset + written.len();
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    bytes[offset..end].copy_from_slice(written);
}

fn tear_write(bytes: &mut Vec<u8>, offset: usize, written: &[u8], random: &mut SimRandom) {
    let mut at = 0;
    while at < written.len() {
        let sector_end = (offset + at) / SECTOR * SECTOR + SECTOR;
        let end = written.len().min(sector_end - offset);
        if random.coin() {
            put(bytes, offset + at, &written[at..end]);
        }
        at = end;
    }
}
