//! Statements that write what they read, when several do so at once.
//!
//! The first tries are optimistic. A statement that lost twice, or finds others waiting, takes the table's turn: those
//! who have it read, write and pass it on one after the other, in the order in which they asked. A turn ends when the
//! commit is applied, not when it is durable: the next reads the applied state, and both wait for the same sync. Who has
//! it can only lose to statements that had begun before it, and keeps it until it has won, or failed.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::FutureExt;
use kalamdb_engine::{Committed, Error as EngineError, PartitionWrite, Seq, TableId};
use parking_lot::Mutex;
use tokio::sync::OwnedMutexGuard;

use crate::error::{Error, ErrorCode, Result};
use crate::statement::StatementContext;
use crate::transaction::advise;

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

    /// Begins a try: waits for the table's turn, if this try needs it and does not have it yet. Returns the context to try
    /// with; who has the turn reads the newest applied state.
    pub(super) async fn begin(
        &self,
        ctx: Arc<StatementContext>,
        turn: &mut Option<MyTurn>,
    ) -> Arc<StatementContext> {
        if turn.is_none() {
            *turn = self.turn(&ctx).await;
        }
        if turn.is_some() { ctx.renewed() } else { ctx }
    }

    async fn turn(&self, ctx: &StatementContext) -> Option<MyTurn> {
        if ctx.transaction.is_some() {
            return None;
        }
        let turns = ctx.instance.queries().turns();
        let turn = turns.of(self.table);
        let crowded = turn.waiting.load(Ordering::Relaxed) > 0;
        if crowded || self.lost >= OPTIMISTIC { Some(turns.take(turn).await) } else { None }
    }

    /// The context for the next try, at the newest applied state, if this error is a reason for one.
    ///
    /// # Errors
    /// Any error but a conflict; [`ErrorCode::Conflict`] after too many of them.
    pub(super) fn again(&mut self, ctx: &StatementContext, error: Error) -> Result<Arc<StatementContext>> {
        if error.code != ErrorCode::Conflict {
            return Err(error);
        }
        if ctx.transaction.is_some() {
            return Err(advise(error));
        }
        self.lost += 1;
        if self.lost < TRIES {
            return Ok(ctx.renewed());
        }
        Err(error.with_hint("many clients write these rows at once: try again"))
    }
}

/// What became of a statement's writes.
pub(super) struct Applied {
    /// What `_seq` and `_updated` of its rows are now.
    pub(super) versions: Committed,
    /// The commit, unless the transaction it is in is still to commit.
    pub(super) seq: Option<Seq>,
}

/// Commits, or hands the writes to the statement's transaction. Gives up the turn as soon as the commit is applied, but
/// not if it is refused, and returns when it is durable.
///
/// # Errors
/// The engine's.
pub(super) async fn commit(
    ctx: &StatementContext,
    writes: Vec<PartitionWrite>,
    turn: &mut Option<MyTurn>,
) -> Result<Applied, EngineError> {
    if let Some(transaction) = &ctx.transaction {
        return Ok(Applied { versions: transaction.write(writes).await?, seq: None });
    }
    let mut commit = Box::pin(ctx.instance.database().commit(writes));
    // The engine applies a commit when it is first polled, then waits for the log.
    let first = commit.as_mut().now_or_never();
    if !matches!(first, Some(Err(_))) {
        *turn = None;
    }
    let versions = match first {
        Some(result) => result,
        None => commit.await,
    }?;
    Ok(Applied { versions, seq: Some(versions.seq) })
}
