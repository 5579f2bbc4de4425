//! One client's feed: snapshots, then catching up from the log, then live; and back to catching up when it is slow.
//!
//! The client pulls: nothing is read or encoded before there is room for it. The connection's cursor moves only when an
//! event is taken, so wherever the client is cut off, its last event id is exactly what it has.
//!
//! | file | does |
//! |---|---|
//! | `begin` | `ready`, and whether snapshots or the log come next; `reset` |
//! | `snapshots` | initial rows |
//! | `catch_up` | reads commits, until the connection can join the shared reader |
//! | `streams` | what streams have |
//! | `send` | ids, counters, ends, heartbeats |

mod begin;
mod catch_up;
mod send;
mod snapshots;
mod streams;

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;

use tokio::time::{Instant, Sleep, sleep};

use crate::live::cursor::Cursor;
use crate::live::entry::Entry;
use crate::live::event::{LiveEvent, Outgoing};
use crate::live::listen::Listenings;
use crate::live::manager::Shared;
use crate::live::outbox::Next;
use crate::statement::StatementContext;
use catch_up::CatchUp;
use snapshots::Snapshots;

/// See the module. Dropping it takes the connection and its subscriptions out of everything at once.
pub(crate) struct Connection {
    shared: Arc<Shared>,
    entry: Arc<Entry>,
    /// For a fresh snapshot, should the log no longer hold the connection's place.
    renew: Box<dyn Fn() -> Arc<StatementContext> + Send + Sync>,
    phase: Phase,
    /// Events that go out next.
    pending: VecDeque<Outgoing>,
    /// Subscriptions whose end the client was told.
    told: Vec<bool>,
    /// Streams, which are not in the log.
    streams: Listenings,
    /// True if the last turn was that of the streams.
    streamed: bool,
    /// One timer for good: to set up another for every event would cost more than the event.
    heartbeat: Pin<Box<Sleep>>,
    /// The last id that went out.
    last_id: Option<Cursor>,
    /// True if the client asked for everything the log still has, whatever that is.
    from_the_start: bool,
    /// True from when initial rows took too long until some did not.
    began_again: bool,
}

enum Phase {
    Snapshots(Box<Snapshots>),
    CatchUp(Box<CatchUp>),
    Live,
    /// There are streams only: nothing comes from the log.
    Streams,
    Ended,
}

/// Where a connection begins.
pub(crate) enum Start {
    /// With the initial rows of these subscriptions, or right after the snapshot if there are none.
    Snapshot { context: Arc<StatementContext>, wanted: Vec<usize> },
    /// Where it was cut off.
    Resume { cursor: Cursor, from_the_start: bool },
}

impl Connection {
    pub(crate) fn new(
        shared: Arc<Shared>,
        entry: Arc<Entry>,
        renew: Box<dyn Fn() -> Arc<StatementContext> + Send + Sync>,
        start: Start,
    ) -> Self {
        let heartbeat = Box::pin(sleep(shared.options.heartbeat));
        let told = vec![false; entry.subscriptions.len()];
        let streams = Listenings::of(&entry);
        let mut connection = Self {
            shared,
            entry,
            renew,
            phase: Phase::Ended,
            pending: VecDeque::new(),
            told,
            streams,
            streamed: false,
            heartbeat,
            last_id: None,
            from_the_start: false,
            began_again: false,
        };
        connection.begin(start);
        connection
    }

    /// The next event, as soon as there is one; `None` once all subscriptions are over. Cancel safe.
    pub(crate) async fn next(&mut self) -> Option<LiveEvent> {
        loop {
            if self.entry.outbox.take_signal() {
                self.tell_ends();
                if self.entry.outbox.take_begin_again() && !matches!(self.phase, Phase::Ended) {
                    self.begin_anew("purged");
                }
            }
            if let Some(outgoing) = self.pending.pop_front() {
                if let Some(event) = self.send(outgoing) {
                    return Some(event);
                }
                continue;
            }
            if matches!(self.phase, Phase::Ended) {
                return None;
            }
            if Instant::now() >= self.heartbeat.deadline() {
                self.heartbeat();
                continue;
            }
            // In turns, so that a busy stream does not hold back the log.
            if !self.streamed && self.take_streams() {
                self.streamed = true;
                continue;
            }
            self.streamed = false;
            self.advance().await;
        }
    }

    /// Does one step of the current phase; events come out in `pending`.
    async fn advance(&mut self) {
        match &mut self.phase {
            Phase::Ended => {}
            Phase::Streams => {
                before(&mut self.heartbeat, self.entry.outbox.woken()).await;
            }
            Phase::Live => {
                let next = self.entry.outbox.next();
                let Some(next) = before(&mut self.heartbeat, next).await else { return };
                match next {
                    Next::Event(outgoing) => self.pending.push_back(outgoing),
                    Next::Signal => {}
                    Next::FellBack => self.catch_up(),
                }
            }
            Phase::CatchUp(state) => {
                let cursor = self.entry.outbox.cursor();
                if state.line.is_none() {
                    let visible = || self.shared.visible();
                    state.line = self.shared.hub.join(&self.entry, cursor.newest(), visible);
                }
                if state.line.is_some_and(|line| cursor.complete() >= line) {
                    return self.go_live();
                }
                let step = async {
                    tokio::select! {
                        biased;
                        commit = state.feed.next() => Some(commit),
                        () = self.entry.outbox.woken() => None,
                    }
                };
                if let Some(Some(commit)) = before(&mut self.heartbeat, step).await {
                    self.catch_up_step(commit, cursor);
                }
                tokio::task::coop::consume_budget().await;
            }
            Phase::Snapshots(snapshots) => {
                let entry = &self.entry;
                let step = async {
                    tokio::select! {
                        batch = snapshots.next(&self.told) => Some(batch),
                        () = entry.outbox.signalled() => None,
                    }
                };
                if let Some(Some(step)) = before(&mut self.heartbeat, step).await {
                    self.snapshot_step(step);
                }
            }
        }
    }
}

/// Waits for something, but not beyond the next heartbeat.
async fn before<T>(heartbeat: &mut Pin<Box<Sleep>>, wait: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        done = wait => Some(done),
        () = heartbeat.as_mut() => None,
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.shared.disconnect(&self.entry);
    }
}
