//! The change feed: every commit in order, exactly once, with before and after images.
//!
//! Recent commits are handed on from memory; a reader that is behind what memory holds (because it is slow, or resumes an
//! old position) reads the log, and comes back to memory when it has caught up. Both give the same commits. A reader
//! never holds up a writer. Only durable commits are seen.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use arrow::array::RecordBatch;
use kalamdb_wal::Reader;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::codec::record;
pub use crate::codec::record::OldRows;
use crate::database::Database;
use crate::error::{Error, Result};
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
    fn bytes(&self) -> usize {
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

    /// Hands on a commit that is now durable and applied. Called in order.
    pub fn publish(&self, commit: Arc<Commit>) {
        let seq = commit.seq;
        let mut ring = self.ring.lock();
        if self.readers.load(Ordering::Acquire) == 0 {
            *ring = Ring { commits: VecDeque::new(), bytes: 0, complete_after: seq };
        } else {
            ring.push(commit);
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
    }

    /// The next commit after `position` from memory: `Ok(None)` if there is none yet, `Err` if memory no longer has it.
    fn next_after(&self, position: Seq) -> Result<Option<Arc<Commit>>, ()> {
        let ring = self.ring.lock();
        if position < ring.complete_after {
            return Err(());
        }
        let at = ring.commits.partition_point(|(_, commit)| commit.seq <= position);
        Ok(ring.commits.get(at).map(|(_, commit)| commit.clone()))
    }
}

impl Ring {
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
    log: Option<Reader>,
}

impl Feed {
    pub(crate) fn new(database: &Arc<Database>, hub: Arc<Hub>, after: Seq) -> Self {
        hub.readers.fetch_add(1, Ordering::AcqRel);
        let tail = hub.tail.subscribe();
        Self { database: Arc::downgrade(database), hub, tail, position: after, log: None }
    }

    /// Everything up to and including this commit was returned.
    pub fn position(&self) -> Seq {
        self.position
    }

    /// The next commit, as soon as it is durable. Cancel safe.
    ///
    /// # Errors
    /// [`Error::Expired`] if the log no longer holds the position; [`Error::Closed`] after the database closed.
    pub async fn next(&mut self) -> Result<Arc<Commit>> {
        loop {
            if let Some(commit) = self.try_next()? {
                return Ok(commit);
            }
            let tail = *self.tail.borrow();
            if self.position < tail.seq {
                // The log tells us of a sync an instant before it lets its readers see it.
                tokio::task::yield_now().await;
            } else if tail.closed {
                return Err(Error::Closed);
            } else {
                self.tail.changed().await.map_err(|_| Error::Closed)?;
            }
        }
    }

    /// The next commit if there is one; `None` means that the reader has caught up.
    ///
    /// # Errors
    /// See [`Feed::next`].
    pub fn try_next(&mut self) -> Result<Option<Arc<Commit>>> {
        let tail = self.tail.borrow_and_update().seq;
        if self.position >= tail {
            return Ok(None);
        }
        let commit = match self.hub.next_after(self.position) {
            Ok(commit) => {
                self.log = None;
                commit
            }
            Err(()) => self.next_from_log(tail)?,
        };
        if let Some(commit) = &commit {
            self.position = commit.seq;
        }
        Ok(commit)
    }

    fn next_from_log(&mut self, tail: Seq) -> Result<Option<Arc<Commit>>> {
        let database = self.database.upgrade().ok_or(Error::Closed)?;
        let asked = self.position + 1;
        let expired = |error: Error| match error {
            Error::Expired { first, .. } => Error::Expired { asked, first },
            other => other,
        };
        // A reader that stood there before a purge could read on.
        let first = database.log().first();
        if asked < first {
            return Err(Error::Expired { asked, first });
        }
        if self.log.as_ref().is_none_or(|reader| reader.position() != asked) {
            self.log = Some(database.log().reader(asked).map_err(|e| expired(e.into()))?);
        }
        let Some(reader) = &mut self.log else { return Ok(None) };
        // The log may be ahead of what is visible; such a record is left for later.
        if reader.position() > tail {
            return Ok(None);
        }
        let Some((seq, payload)) = reader.try_next().map_err(|e| expired(e.into()))? else { return Ok(None) };
        let raw = record::decode(&payload)?;
        let catalog = database.catalog();
        let mut changes = Vec::with_capacity(raw.parts.len());
        for part in raw.parts {
            // Rows of a table that is gone interest nobody.
            let Some(schema) = catalog.schema_at(part.partition.table, part.schema_version) else { continue };
            let body = part.decode(schema)?;
            changes.push(PartitionChange {
                partition: part.partition,
                schema_version: part.schema_version,
                inserted: body.inserted,
                updated: body.updated.map(|(_, old, new)| (old, new)),
                deleted: body.deleted.map(|(_, old)| old),
                replaced: body.replaced.old,
            });
        }
        Ok(Some(Arc::new(Commit { seq, time_us: raw.time_us, changes })))
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.hub.readers.fetch_sub(1, Ordering::AcqRel);
    }
}
