//! Statements that write what they read, when several do so at once.
//!
//! The first tries are optimistic. A statement that lost twice, or finds others waiting, takes the table's turn: those
//! who have it read, write and pass it on one after the other, so each makes progress. A turn ends when the commit is
//! applied, not when it is durable: the next reads the applied state, and both wait for the same sync.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::FutureExt;
use kalamdb_engine::{Committed, Error as EngineError, PartitionWrite, TableId};
use parking_lot::Mutex;
use tokio::sync::OwnedMutexGuard;

use crate::error::{Error, ErrorCode, Result};
use crate::statement::StatementContext;

/// Tries before the client is told to try again itself.
const TRIES: usize = 20;
/// Lost tries after which a statement waits for its turn.
const OPTIMISTIC: usize = 2;

/// The turns of an instance's tables.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    tables: Mutex<HashMap<TableId, Arc<Turn>>>,
}

#[derive(Debug, Default)]
struct Turn {
    waiting: AtomicUsize,
    lock: Arc<tokio::sync::Mutex<()>>,
}

/// The right to be next; passed on when dropped.
pub(super) struct MyTurn {
    turn: Arc<Turn>,
    _guard: OwnedMutexGuard<()>,
}

impl Drop for MyTurn {
    fn drop(&mut self) {
        self.turn.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Counts a statement that waits, also if it stops waiting.
struct Waiting(Option<Arc<Turn>>);

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(turn) = self.0.take() {
            turn.waiting.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Turns {
    fn of(&self, table: TableId) -> Arc<Turn> {
        self.tables.lock().entry(table).or_default().clone()
    }

    async fn take(&self, turn: Arc<Turn>) -> MyTurn {
        turn.waiting.fetch_add(1, Ordering::Relaxed);
        let mut waiting = Waiting(Some(turn.clone()));
        let guard = turn.lock.clone().lock_owned().await;
        waiting.0 = None;
        MyTurn { turn, _guard: guard }
    }
}

/// The tries of one statement.
pub(super) struct Tries {
    table: TableId,
    lost: usize,
}

impl Tries {
    /// For a statement that writes to `table`.
    pub(super) fn new(table: TableId) -> Self {
        Self { table, lost: 0 }
    }

    /// Waits for the table's turn, if this try needs it.
    pub(super) async fn begin(&self, ctx: &StatementContext) -> Option<MyTurn> {
        let turns = ctx.instance.queries().turns();
        let turn = turns.of(self.table);
        let crowded = turn.waiting.load(Ordering::Relaxed) > 0;
        if crowded || self.lost >= OPTIMISTIC { Some(turns.take(turn).await) } else { None }
    }

    /// True if the statement is to be tried again after this error.
    ///
    /// # Errors
    /// Any error but a conflict; [`ErrorCode::Conflict`] after too many of them.
    pub(super) fn again(&mut self, error: Error) -> Result<()> {
        if error.code != ErrorCode::Conflict {
            return Err(error);
        }
        self.lost += 1;
        if self.lost < TRIES {
            return Ok(());
        }
        Err(error.with_hint("many clients write these rows at once: try again"))
    }
}

/// Commits; gives up the turn as soon as the commit is applied, and returns when it is durable.
///
/// # Errors
/// The engine's.
pub(super) async fn commit(
    ctx: &StatementContext,
    writes: Vec<PartitionWrite>,
    turn: Option<MyTurn>,
) -> Result<Committed, EngineError> {
    let mut commit = Box::pin(ctx.instance.database().commit(writes));
    // The engine applies a commit when it is first polled, then waits for the log.
    let first = commit.as_mut().now_or_never();
    drop(turn);
    match first {
        Some(result) => result,
        None => commit.await,
    }
}
