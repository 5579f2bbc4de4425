//! Following the log from any retained record.
//!
//! A reader stands in one segment and pins it; since segments go oldest first, that keeps everything after it too. A
//! sealed segment is read through its map, the active one in small pieces, never past the durable point. A reader at
//! the tail holds no buffer and costs nothing until a group wakes it.

use std::sync::Arc;

use bytes::Bytes;

use crate::Lsn;
use crate::disk::Access;
use crate::durable::read_range;
use crate::error::Error;
use crate::frame::{self, FRAME_HEADER};
use crate::header::SEGMENT_HEADER;
use crate::segments::Pinned;
use crate::shared::Shared;
use crate::walk::{Step, Walk};

/// How much of the active segment is read at once.
const PIECE: u64 = 64 << 10;

/// Reads records in order and waits for new ones. Made by [`Log::reader`](crate::Log::reader).
#[derive(Debug)]
pub struct Reader {
    shared: Arc<Shared>,
    /// The next record to be returned.
    position: Lsn,
    segment: Pinned,
    /// Where its frame begins in the segment.
    offset: u64,
    /// Bytes of the segment, from `window_at` on.
    window: Bytes,
    window_at: u64,
}

impl Reader {
    pub(crate) fn new(shared: Arc<Shared>, from: Lsn) -> Result<Self, Error> {
        let segment = shared.segments.pin(from)?;
        let offset = SEGMENT_HEADER as u64;
        let mut reader = Self { shared, position: from, segment, offset, window: Bytes::new(), window_at: 0 };
        reader.seek(from)?;
        Ok(reader)
    }

    /// The number of the record that comes next.
    pub fn position(&self) -> Lsn {
        self.position
    }

    /// The next record, waiting for it to become durable. May be dropped at any time without losing a record. Reads
    /// from the page cache or, for old records, from the disk on the calling thread.
    ///
    /// # Errors
    /// [`Error::Corrupt`] and [`Error::Io`] if the record cannot be read; after the last one, [`Error::Poisoned`] or
    /// [`Error::Closed`] if the log has ended.
    pub async fn next(&mut self) -> Result<(Lsn, Bytes), Error> {
        loop {
            if let Some(record) = self.try_next()? {
                return Ok(record);
            }
            self.shared.progress.wait(self.position).await?;
        }
    }

    /// The next record if it is durable already.
    ///
    /// # Errors
    /// [`Error::Corrupt`] and [`Error::Io`] if the record cannot be read.
    pub fn try_next(&mut self) -> Result<Option<(Lsn, Bytes)>, Error> {
        if self.position > self.shared.progress.durable() {
            self.window = Bytes::new();
            return Ok(None);
        }
        if self.segment.sealed().is_some_and(|sealed| self.position > sealed.last) {
            self.go_on()?;
        }
        self.fill()?;
        let (lsn, payload) = self.read()?;
        self.position += 1;
        Ok(Some((lsn, payload)))
    }

    /// Moves to the segment that holds the position.
    fn go_on(&mut self) -> Result<(), Error> {
        self.segment = self.shared.segments.pin(self.position)?;
        self.offset = SEGMENT_HEADER as u64;
        self.window = Bytes::new();
        Ok(())
    }

    /// Goes to a record of the pinned segment, from the nearest known position.
    fn seek(&mut self, lsn: Lsn) -> Result<(), Error> {
        let (known, offset) = self.segment.nearest(lsn);
        (self.position, self.offset) = (known, offset);
        while self.position < lsn {
            if self.try_next()?.is_none() {
                // Not durable yet: nothing before it in this segment is missing, so it is the next one.
                break;
            }
        }
        Ok(())
    }

    /// Makes the window hold the whole frame at `offset`.
    fn fill(&mut self) -> Result<(), Error> {
        if self.segment.sealed().is_some() {
            if self.window.is_empty() || self.window_at > 0 || self.short() {
                self.window = self.segment.map(Access::Parts)?;
                self.window_at = 0;
            }
            return Ok(());
        }
        if self.short() {
            self.read_piece(PIECE)?;
        }
        if let Some(frame) = self.frame_len()
            && self.short()
        {
            self.read_piece(frame)?;
        }
        Ok(())
    }

    fn read_piece(&mut self, len: u64) -> Result<(), Error> {
        let len = len.min(self.segment.visible().saturating_sub(self.offset));
        let bytes = read_range(&*self.segment.file, self.segment.path(), self.offset, len as usize)?;
        self.window = Bytes::from(bytes);
        self.window_at = self.offset;
        Ok(())
    }

    /// True if the frame at `offset` is not wholly in the window.
    fn short(&self) -> bool {
        let held = (self.window_at + self.window.len() as u64).saturating_sub(self.offset);
        self.frame_len().is_none_or(|frame| held < frame)
    }

    /// The length of the frame at `offset`, if its header is in the window.
    fn frame_len(&self) -> Option<u64> {
        let at = usize::try_from(self.offset.checked_sub(self.window_at)?).ok()?;
        let header = self.window.get(at..)?.first_chunk::<FRAME_HEADER>()?;
        Some(frame::peek(header).stored_len() as u64)
    }

    fn read(&mut self) -> Result<(Lsn, Bytes), Error> {
        let at = (self.offset - self.window_at) as usize;
        let mut walk = Walk::new(&self.window, self.segment.header.salt, at, self.position);
        let reason = match walk.step() {
            Step::Record(lsn, range) => {
                self.offset += (walk.offset - at) as u64;
                return Ok((lsn, self.window.slice(range)));
            }
            Step::End => "the segment ends before a record that had been durable",
            Step::Bad(reason) => reason,
            Step::Newer => {
                return Err(Error::NewerFormat { path: self.segment.path().to_owned(), version: 2 });
            }
        };
        Err(Error::corrupt(self.segment.path(), self.offset, reason))
    }
}
