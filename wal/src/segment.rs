//! One segment file of an open log: what the writer, the readers and retention share about it.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use crate::Lsn;
use crate::disk::{Access, DiskFile};
use crate::error::{Error, IoContext};
use crate::header::{SEGMENT_HEADER, SegmentHeader};
use crate::sync::Mutex;

/// One position is remembered per this many bytes.
const INDEX_STEP: u64 = 64 << 10;

#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) header: SegmentHeader,
    pub(crate) path: PathBuf,
    pub(crate) file: Arc<dyn DiskFile>,
    /// Readers may read up to here. Published before the durable point, so whoever saw that sees this.
    visible: AtomicU64,
    sealed: OnceLock<Sealed>,
    index: Mutex<Vec<(Lsn, u64)>>,
    /// Readers that stand in this segment. Changed under the lock of the list of segments only.
    pub(crate) pins: AtomicU64,
    map: Mutex<Option<Bytes>>,
}

/// What is known of a segment that nothing is added to any more.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sealed {
    /// Its last record; `first - 1` if it has none.
    pub(crate) last: Lsn,
    /// When it was sealed, microseconds since 1970.
    pub(crate) at: i64,
}

impl Segment {
    pub(crate) fn new(header: SegmentHeader, path: PathBuf, file: Arc<dyn DiskFile>) -> Self {
        Self {
            header,
            path,
            file,
            visible: AtomicU64::new(SEGMENT_HEADER as u64),
            sealed: OnceLock::new(),
            index: Mutex::new(vec![(header.first, SEGMENT_HEADER as u64)]),
            pins: AtomicU64::new(0),
            map: Mutex::new(None),
        }
    }

    pub(crate) fn visible(&self) -> u64 {
        self.visible.load(Ordering::Acquire)
    }

    pub(crate) fn publish(&self, upto: u64) {
        self.visible.store(upto, Ordering::Release);
    }

    /// Nothing is added any more.
    pub(crate) fn seal(&self, last: Lsn, at: i64) {
        // Set once: by recovery for what it finds sealed, by the roll for the others.
        let _ = self.sealed.set(Sealed { last, at });
    }

    pub(crate) fn sealed(&self) -> Option<Sealed> {
        self.sealed.get().copied()
    }

    /// Remembers where a record is, if `noted`, the last position remembered, is far enough away. Records come in order.
    pub(crate) fn note(&self, noted: &mut u64, lsn: Lsn, offset: u64) {
        if offset - *noted >= INDEX_STEP {
            *noted = offset;
            self.index.lock().push((lsn, offset));
        }
    }

    /// The nearest known position at or before a record of this segment.
    pub(crate) fn nearest(&self, lsn: Lsn) -> (Lsn, u64) {
        let index = self.index.lock();
        let after = index.partition_point(|(known, _)| *known <= lsn);
        index.get(after.saturating_sub(1)).copied().unwrap_or((self.header.first, SEGMENT_HEADER as u64))
    }

    /// The whole file, mapped; only for a sealed segment.
    pub(crate) fn map(&self, access: Access) -> Result<Bytes, Error> {
        let mut map = self.map.lock();
        if let Some(bytes) = &*map {
            return Ok(bytes.clone());
        }
        let bytes = self.file.map(access).at("map", &self.path)?;
        *map = Some(bytes.clone());
        Ok(bytes)
    }

    /// True if no payload of this segment is in anybody's hands, so that the file may be overwritten.
    pub(crate) fn unshared(&self) -> bool {
        self.map.lock().as_ref().is_none_or(Bytes::is_unique)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}
