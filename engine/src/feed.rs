//! The change feed: every commit in order, exactly once, with before and after images.
//!
//! Recent commits are handed on from memory; a reader that is behind what memory holds (because it is slow, or resumes an
//! old position) gets them out of the log ([`crate::history`]), and comes back to memory when it has caught up. Both give
//! the same commits. A reader never holds up a writer, nor the thread it runs on. Only durable commits are seen.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use arrow::array::RecordBatch;
use parking_lot::Mutex;
use tokio::sync::watch;

pub use crate::codec::record::OldRows;
use crate::database::Database;
use crate::error::{Error, Result};
use crate::history::{History, Piece};
use crate::ids::{PartitionId, Seq};

/// Bytes of commits kept in memory while somebody reads the feed.
const KEPT_BYTES: usize = 32 << 20;

/// A commit.
#[derive(Debug)]
pub struct Commit {
    /// Its sequence, the number of its log record.
    pub seq: Seq,
    /// Its time, microseconds since the epoch. Never lower than that of a commit answered before it began; commits that
    /// overlap may be out of step by as much.
    pub time_us: i64,
    /// What it changed, one entry per partition.
    pub changes: Vec<PartitionChange>,
}

/// What a commit did to one partition. Batches have the columns of [`crate::TableSchema::rows`] at `schema_version`.
#[derive(Debug)]
pub struct PartitionChange {
    /// The partition.
    pub partition: PartitionId,
    /// The schema version of the rows.
    pub schema_version: u32,
    /// New rows.
    pub inserted: Option<RecordBatch>,
    /// Old and new versions, in the same order.
    pub updated: Option<(OldRows, RecordBatch)>,
    /// The last versions of deleted rows.
    pub deleted: Option<OldRows>,
    /// The last values of rows that had been deleted before, and whose keys new rows have taken: their tombstones are gone.
    pub replaced: Option<OldRows>,
}

impl Commit {
    /// Bytes of memory, about.
    pub(crate) fn bytes(&self) -> usize {
        let batch = |b: &RecordBatch| b.get_array_memory_size();
        let change = |c: &PartitionChange| {
            c.inserted.as_ref().map_or(0, batch)
                + c.updated.as_ref().map_or(0, |(old, new)| batch(&old.rows) + batch(new))
                + c.deleted.as_ref().map_or(0, |old| batch(&old.rows))
                + c.replaced.as_ref().map_or(0, |old| batch(&old.rows))
        };
        128 + self.changes.iter().map(change).sum::<usize>()
    }
}

/// Where commits are published and from where readers get them.
#[derive(Debug, Default)]
pub struct Hub {
    ring: Mutex<Ring>,
    tail: watch::Sender<Tail>,
    readers: AtomicUsize,
    history: Arc<History>,
}

/// Where the feed ends now.
#[derive(Debug, Clone, Copy, Default)]
struct Tail {
    /// The last commit published.
    seq: Seq,
    /// True if none will follow.
    closed: bool,
}

#[derive(Debug, Default)]
struct Ring {
    commits: VecDeque<(usize, Arc<Commit>)>,
    bytes: usize,
    /// Every commit after this one, up to the tail, is in `commits`.
    complete_after: Seq,
}

impl Hub {
    /// Says which commit was the last recovered one.
    pub fn start(&self, last: Seq) {
        self.ring.lock().complete_after = last;
        self.tail.send_modify(|tail| tail.seq = last);
    }

    /// Says that no commit will follow: readers end after the last one.
    pub fn close(&self) {
        self.tail.send_modify(|tail| tail.closed = true);
    }

    /// Hands on commits that are now durable and applied. Called in order. What readers wait for is told them once.
    pub fn publish(&self, commits: &[Arc<Commit>]) {
        let Some(seq) = commits.last().map(|commit| commit.seq) else { return };
        let mut ring = self.ring.lock();
        if self.readers.load(Ordering::Acquire) == 0 {
            *ring = Ring { commits: VecDeque::new(), bytes: 0, complete_after: seq };
        } else {
            commits.iter().for_each(|commit| ring.push(commit.clone()));
        }
        drop(ring);
        self.tail.send_modify(|tail| tail.seq = seq);
    }

    /// Forgets the commits before one; whoever has not read them must not any more.
    pub(crate) fn forget_before(&self, seq: Seq) {
        let mut ring = self.ring.lock();
        while ring.commits.front().is_some_and(|(_, commit)| commit.seq < seq) {
            if let Some((bytes, _)) = ring.commits.pop_front() {
                ring.bytes -= bytes;
            }
        }
        ring.complete_after = ring.complete_after.max(seq.saturating_sub(1));
        drop(ring);
        self.history.forget();
    }

    /// How many pieces of the log were read for readers that memory no longer served.
    pub(crate) fn pieces_read(&self) -> u64 {
        self.history.pieces_read()
    }

    /// The next commit after `position` from memory: `Ok(None)` if there is none yet, `Err` if memory no longer has it.
    fn next_after(&self, position: Seq) -> Result<Option<Arc<Commit>>, ()> {
        let ring = self.ring.lock();
        if position < ring.complete_after {
            return Err(());
        }
        Ok(ring.after(position))
    }
}

impl Ring {
    /// The first commit after `position`. Mostly that is the last one, or there is none: a search would look at commits all
    /// over the memory that they take.
    fn after(&self, position: Seq) -> Option<Arc<Commit>> {
        let mut newest = self.commits.iter().rev().map(|(_, commit)| commit);
        let last = newest.next().filter(|last| last.seq > position)?;
        if newest.next().is_none_or(|before| before.seq <= position) {
            return Some(last.clone());
        }
        let at = self.commits.partition_point(|(_, commit)| commit.seq <= position);
        self.commits.get(at).map(|(_, commit)| commit.clone())
    }

    fn push(&mut self, commit: Arc<Commit>) {
        let bytes = commit.bytes();
        self.bytes += bytes;
        self.commits.push_back((bytes, commit));
        while self.bytes > KEPT_BYTES && self.commits.len() > 1 {
            if let Some((bytes, commit)) = self.commits.pop_front() {
                self.bytes -= bytes;
                self.complete_after = commit.seq;
            }
        }
    }
}

/// One reader's place in the feed.
#[derive(Debug)]
pub struct Feed {
    database: Weak<Database>,
    hub: Arc<Hub>,
    tail: watch::Receiver<Tail>,
    position: Seq,
    /// Where it stands in the log, while it is behind what memory holds.
    piece: Option<Arc<Piece>>,
}

/// Where the next commit is.
enum Place {
    Here(Arc<Commit>),
    /// In the log, at or before this commit.
    InLog(Seq),
    CaughtUp,
}

impl Feed {
    pub(crate) fn new(database: &Arc<Database>, hub: Arc<Hub>, after: Seq) -> Self {
        hub.readers.fetch_add(1, Ordering::AcqRel);
        let tail = hub.tail.subscribe();
        Self { database: Arc::downgrade(database), hub, tail, position: after, piece: None }
    }

    /// Everything up to and including this commit was returned.
    pub fn position(&self) -> Seq {
        self.position
    }

    /// The next commit, as soon as it is durable. Cancel safe. Never blocks the thread: what has to be read from the log
    /// is read elsewhere.
    ///
    /// # Errors
    /// [`Error::Expired`] if the log no longer holds the position; [`Error::Closed`] after the database closed.
    pub async fn next(&mut self) -> Result<Arc<Commit>> {
        loop {
            match self.place()? {
                Place::Here(commit) => return Ok(self.returned(commit)),
                Place::InLog(tail) => {
                    let database = self.database.upgrade().ok_or(Error::Closed)?;
                    self.piece = self.hub.history.piece(database, self.position + 1, tail).await?;
                    if self.piece.is_none() {
                        // The log tells us of a sync an instant before it lets its readers see it.
                        tokio::task::yield_now().await;
                    }
                }
                Place::CaughtUp if self.tail.borrow().closed => return Err(Error::Closed),
                Place::CaughtUp => self.tail.changed().await.map_err(|_| Error::Closed)?,
            }
        }
    }

    /// The next commit if there is one; `None` means that the reader has caught up. May read the log on the calling
    /// thread.
    ///
    /// # Errors
    /// See [`Feed::next`].
    pub fn try_next(&mut self) -> Result<Option<Arc<Commit>>> {
        if let Place::InLog(tail) = self.place()? {
            let database = self.database.upgrade().ok_or(Error::Closed)?;
            self.piece = self.hub.history.read(&database, self.position + 1, tail)?;
        }
        match self.place()? {
            Place::Here(commit) => Ok(Some(self.returned(commit))),
            Place::InLog(_) | Place::CaughtUp => Ok(None),
        }
    }

    fn returned(&mut self, commit: Arc<Commit>) -> Arc<Commit> {
        self.position = commit.seq;
        commit
    }

    fn place(&mut self) -> Result<Place> {
        let tail = self.tail.borrow_and_update().seq;
        if self.position >= tail {
            return Ok(Place::CaughtUp);
        }
        if let Ok(commit) = self.hub.next_after(self.position) {
            self.piece = None;
            return Ok(commit.map_or(Place::CaughtUp, Place::Here));
        }
        // A reader that stalled for longer than the log is kept could read on in its piece.
        let asked = self.position + 1;
        let first = self.database.upgrade().ok_or(Error::Closed)?.log().first();
        if asked < first {
            self.piece = None;
            return Err(Error::Expired { asked, first });
        }
        match self.piece.as_ref().and_then(|piece| piece.get(asked)) {
            Some(commit) => Ok(Place::Here(commit)),
            None => Ok(Place::InLog(tail)),
        }
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.hub.readers.fetch_sub(1, Ordering::AcqRel);
    }
}
