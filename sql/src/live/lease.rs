//! The snapshot from which a connection reads initial rows, for as long as it may.
//!
//! While a snapshot is open, the database keeps every version of a row and every file that it sees. A client that does
//! not read would keep them for good: nothing runs in its connection then, so it could not let go by itself. Therefore
//! the open query is kept here, where others can take it away: a timer, once a statement's time is up, and a purge. The
//! connection finds out when its client reads on, and begins again with another snapshot.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use kalamdb_engine::{StreamView, Table};
use parking_lot::Mutex;

use crate::error::Result;
use crate::live::snapshot::{Asked, Batch, Rows};
use crate::statement::StatementContext;

/// See the module.
#[derive(Default)]
pub(crate) struct Lease(Mutex<State>);

#[derive(Default)]
struct State {
    /// Counts the snapshots, so that a timer takes away none but its own.
    number: u64,
    reading: Reading,
}

#[derive(Default)]
enum Reading {
    #[default]
    Nothing,
    Open(Box<Open>),
    /// For this reason, of which the connection does not know yet.
    TakenAway(&'static str),
}

struct Open {
    context: Arc<StatementContext>,
    /// The query of the subscription whose turn it is.
    rows: Option<Rows>,
}

/// The reason for which a snapshot was taken away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TakenAway(pub(crate) &'static str);

impl Lease {
    /// Begins to read at the context's snapshot; returns its number.
    pub(crate) fn open(&self, context: Arc<StatementContext>) -> u64 {
        let mut state = self.0.lock();
        state.number += 1;
        state.reading = Reading::Open(Box::new(Open { context, rows: None }));
        state.number
    }

    /// The next rows of the query whose turn it is, which `asked` gives if it has not begun. Cancel safe.
    ///
    /// # Errors
    /// [`TakenAway`]; within, what the query fails with.
    pub(crate) async fn next(
        &self,
        asked: impl Fn() -> Result<Asked>,
    ) -> std::result::Result<Result<Option<Batch>>, TakenAway> {
        // Locked for each poll, not from one to the next: a client that does not read is not polled.
        poll_fn(|context| {
            let mut state = self.0.lock();
            let open = match state.open() {
                Ok(open) => open,
                Err(taken) => return Poll::Ready(Err(taken)),
            };
            let rows = match &mut open.rows {
                Some(rows) => rows,
                none => match asked() {
                    Ok(asked) => none.insert(Rows::start(open.context.clone(), asked)),
                    Err(error) => return Poll::Ready(Ok(Err(error))),
                },
            };
            pin!(rows.next()).poll(context).map(Ok)
        })
        .await
    }

    /// What the snapshot shows of a stream.
    ///
    /// # Errors
    /// [`TakenAway`]; within, if the table was dropped.
    pub(crate) fn stream(&self, table: &Table) -> std::result::Result<Result<Arc<StreamView>>, TakenAway> {
        let mut state = self.0.lock();
        let context = &state.open()?.context;
        Ok(context.streams.view(context, table))
    }

    /// Ends the query whose turn it is.
    pub(crate) fn end_query(&self) {
        let mut state = self.0.lock();
        let ended = state.open().ok().and_then(|open| open.rows.take());
        drop(state);
        drop(ended);
    }

    /// Lets go of the snapshot with this number, if it is still the connection's.
    ///
    /// # Errors
    /// [`TakenAway`], before that.
    pub(crate) fn close(&self, number: u64) -> std::result::Result<(), TakenAway> {
        let mut state = self.0.lock();
        if state.number != number {
            return Ok(());
        }
        let taken = state.open().map(drop);
        let closed = std::mem::take(&mut state.reading);
        drop(state);
        drop(closed);
        taken
    }

    /// Takes the snapshot away, if it is open and, where a number is given, the one with this number. The caller tells
    /// the connection.
    pub(crate) fn take_away(&self, number: Option<u64>, reason: &'static str) -> bool {
        let mut state = self.0.lock();
        let open = matches!(state.reading, Reading::Open(_));
        if !open || number.is_some_and(|number| number != state.number) {
            return false;
        }
        let taken = std::mem::replace(&mut state.reading, Reading::TakenAway(reason));
        drop(state);
        drop(taken);
        true
    }
}

impl State {
    fn open(&mut self) -> std::result::Result<&mut Open, TakenAway> {
        match &mut self.reading {
            Reading::Open(open) => Ok(open),
            Reading::TakenAway(reason) => Err(TakenAway(reason)),
            // Only a connection that forgot to open it gets here; it begins again, which is right in any case.
            Reading::Nothing => Err(TakenAway("snapshot_expired")),
        }
    }
}

impl std::fmt::Debug for Lease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lease").finish_non_exhaustive()
    }
}
