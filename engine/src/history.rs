//! The log as feeds read it that are behind what memory holds.
//!
//! Reading the log is file work and decoding, so it is not done on the threads that run feeds. One blocking task at a
//! time reads a piece, a run of commits, for whoever asked first; however many readers are behind, they cost one thread
//! and take turns. A piece that was read is kept for a while: readers near each other, as all are that fell back at
//! the same time or resume after a restart, share it, and with it the decoded rows.
//!
//! Nothing here pins the log. Retention removes what it must, even if somebody has yet to read it; a feed then says that
//! its position has expired. So a reader that stalls for long holds neither disk nor, beyond one piece, memory.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

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

/// A run of commits out of the log: at least one, without gap.
#[derive(Debug)]
pub(crate) struct Piece {
    commits: Vec<Arc<Commit>>,
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
}

impl Piece {
    /// The commit with this sequence, if it is one of these.
    pub(crate) fn get(&self, seq: Seq) -> Option<&Arc<Commit>> {
        let first = self.commits.first()?.seq;
        self.commits.get(usize::try_from(seq.checked_sub(first)?).ok()?)
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
        if let Some(piece) = self.kept.lock().find(seq) {
            return Ok(Some(piece));
        }
        let piece = read(database, seq, tail)?.map(Arc::new);
        if let Some(piece) = &piece {
            self.pieces_read.fetch_add(1, Ordering::Relaxed);
            self.kept.lock().keep(piece.clone());
        }
        Ok(piece)
    }

    /// How many pieces were read since the start.
    pub(crate) fn pieces_read(&self) -> u64 {
        self.pieces_read.load(Ordering::Relaxed)
    }

    /// Lets go of everything that is kept.
    pub(crate) fn forget(&self) {
        *self.kept.lock() = Kept::default();
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
    let mut piece = Piece { commits: Vec::new(), bytes: 0 };
    while piece.bytes < PIECE_BYTES && reader.position() <= tail {
        match next(database, &mut reader) {
            Ok(Some(commit)) => {
                piece.bytes += commit.bytes();
                piece.commits.push(Arc::new(commit));
            }
            Ok(None) => break,
            // What was read so far is good. Whoever gets to the rest hears of it then.
            Err(_) if !piece.commits.is_empty() => break,
            Err(error) => return Err(error),
        }
    }
    Ok((!piece.commits.is_empty()).then_some(piece))
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
