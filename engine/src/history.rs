//! The log as feeds read it that are behind what memory holds.
//!
//! Reading the log is file work and decoding, so it is not done on the threads that run feeds. One blocking task at a
//! time reads a piece, a run of commits, for whoever asked first; however many readers are behind, they cost one thread
//! and take turns. A piece that was read is kept for a while: readers near each other, as all are that fell back at
//! the same time or resume after a restart, share it, and with it the decoded rows.
//!
//! Nothing here pins the log. Retention removes what it must, even if somebody has yet to read it; a feed then says that
//! its position has expired. So a reader that stalls for long holds neither disk nor, beyond one piece, memory.
//!
//! A purge empties every piece there is, also those that only a stalled reader holds, once the log's files are gone. One
//! that is read at that moment, from a file that is still open, is thrown away: it was begun in an earlier era.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use kalamdb_wal::Reader;
use parking_lot::Mutex;

use crate::codec::record;
use crate::database::Database;
use crate::error::{Error, Result};
use crate::feed::{Commit, PartitionChange};
use crate::ids::Seq;

/// A piece ends with the commit that takes it over this many bytes of memory.
const PIECE_BYTES: usize = 64 << 10;
/// Bytes of pieces that are kept for other readers.
const KEPT_BYTES: usize = 8 << 20;

/// A run of commits out of the log: at least one, without gap; none once a purge has emptied it.
#[derive(Debug)]
pub(crate) struct Piece {
    commits: Mutex<Vec<Arc<Commit>>>,
    bytes: usize,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct History {
    /// Held while a piece is read. Whoever waits gets it in the order of asking.
    turn: Arc<tokio::sync::Mutex<()>>,
    kept: Mutex<Kept>,
    pieces_read: AtomicU64,
}

#[derive(Debug, Default)]
struct Kept {
    /// The one used last is at the end.
    pieces: VecDeque<Arc<Piece>>,
    bytes: usize,
    /// How often everything was forgotten.
    era: u64,
    /// All pieces of this era, also those that only readers hold; and those that are gone, until there are too many.
    all: Vec<Weak<Piece>>,
}

impl Piece {
    /// The commit with this sequence, if it is one of these.
    pub(crate) fn get(&self, seq: Seq) -> Option<Arc<Commit>> {
        let commits = self.commits.lock();
        let first = commits.first()?.seq;
        commits.get(usize::try_from(seq.checked_sub(first)?).ok()?).cloned()
    }
}

impl History {
    /// A piece that holds commit `seq`, and others after it up to `tail`. `None` if the log does not show that commit
    /// yet: it tells of a sync an instant before it lets its readers see it. Cancel safe.
    ///
    /// # Errors
    /// [`Error::Expired`] if the log no longer holds the commit; what reading and decoding fail with.
    pub(crate) async fn piece(
        self: &Arc<Self>,
        database: Arc<Database>,
        seq: Seq,
        tail: Seq,
    ) -> Result<Option<Arc<Piece>>> {
        if let Some(piece) = self.kept.lock().find(seq) {
            return Ok(Some(piece));
        }
        let turn = self.turn.clone().lock_owned().await;
        // Whoever had the turn before may have read the same.
        if let Some(piece) = self.kept.lock().find(seq) {
            return Ok(Some(piece));
        }
        let history = self.clone();
        // The turn goes along: if the reader goes away meanwhile, the next still waits for the end of this.
        let read = tokio::task::spawn_blocking(move || {
            let piece = history.read(&database, seq, tail);
            drop(turn);
            piece
        });
        read.await.unwrap_or_else(|error| match error.is_cancelled() {
            true => Err(Error::Closed),
            false => Err(Error::internal("read the log for a feed", error)),
        })
    }

    /// The same on the calling thread, in no turn.
    pub(crate) fn read(&self, database: &Database, seq: Seq, tail: Seq) -> Result<Option<Arc<Piece>>> {
        loop {
            let era = {
                let mut kept = self.kept.lock();
                if let Some(piece) = kept.find(seq) {
                    return Ok(Some(piece));
                }
                kept.era
            };
            let Some(piece) = read(database, seq, tail)?.map(Arc::new) else { return Ok(None) };
            self.pieces_read.fetch_add(1, Ordering::Relaxed);
            let mut kept = self.kept.lock();
            if kept.era == era {
                kept.keep(piece.clone());
                return Ok(Some(piece));
            }
            // Some of it may have been purged meanwhile: whether it may be read at all is asked anew.
        }
    }

    /// How many pieces were read since the start.
    pub(crate) fn pieces_read(&self) -> u64 {
        self.pieces_read.load(Ordering::Relaxed)
    }

    /// Empties every piece there is, whoever holds it, and lets none be kept that is being read. To be called when what
    /// must be forgotten cannot be read from the log any more.
    pub(crate) fn forget(&self) {
        let forgotten = {
            let mut kept = self.kept.lock();
            let era = kept.era + 1;
            std::mem::replace(&mut *kept, Kept { era, ..Kept::default() })
        };
        for piece in forgotten.all.iter().filter_map(Weak::upgrade) {
            drop(std::mem::take(&mut *piece.commits.lock()));
        }
    }
}

impl Kept {
    fn find(&mut self, seq: Seq) -> Option<Arc<Piece>> {
        let at = self.pieces.iter().rposition(|piece| piece.get(seq).is_some())?;
        let piece = self.pieces.remove(at)?;
        self.pieces.push_back(piece.clone());
        Some(piece)
    }

    fn keep(&mut self, piece: Arc<Piece>) {
        self.bytes += piece.bytes;
        if self.all.len() == self.all.capacity() {
            self.all.retain(|piece| piece.strong_count() > 0);
        }
        self.all.push(Arc::downgrade(&piece));
        self.pieces.push_back(piece);
        // The newest is kept in any case: somebody is about to use it.
        while self.bytes > KEPT_BYTES && self.pieces.len() > 1 {
            if let Some(oldest) = self.pieces.pop_front() {
                self.bytes -= oldest.bytes;
            }
        }
    }
}

fn read(database: &Database, seq: Seq, tail: Seq) -> Result<Option<Piece>> {
    let expired = |error: kalamdb_wal::Error| match Error::from(error) {
        Error::Expired { first, .. } => Error::Expired { asked: seq, first },
        other => other,
    };
    let mut reader = database.log().reader(seq).map_err(expired)?;
    let (mut commits, mut bytes) = (Vec::new(), 0);
    while bytes < PIECE_BYTES && reader.position() <= tail {
        match next(database, &mut reader) {
            Ok(Some(commit)) => {
                bytes += commit.bytes();
                commits.push(Arc::new(commit));
            }
            Ok(None) => break,
            // What was read so far is good. Whoever gets to the rest hears of it then.
            Err(_) if !commits.is_empty() => break,
            Err(error) => return Err(error),
        }
    }
    Ok((!commits.is_empty()).then(|| Piece { commits: Mutex::new(commits), bytes }))
}

fn next(database: &Database, reader: &mut Reader) -> Result<Option<Commit>> {
    let Some((seq, payload)) = reader.try_next()? else { return Ok(None) };
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
    Ok(Some(Commit { seq, time_us: raw.time_us, changes }))
}
