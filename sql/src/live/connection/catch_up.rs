//! Reading commits by itself.

use std::sync::Arc;

use kalamdb_engine::{Commit, Error as EngineError, Feed, Seq};

use super::{Connection, Phase};
use crate::live::cursor::Cursor;
use crate::live::evaluator::evaluate;
use crate::live::event::{Outgoing, Ready};
use crate::live::program::Program;

/// Reading commits by itself.
pub(super) struct CatchUp {
    pub(super) feed: Feed,
    /// Set once joined: what comes after it waits in the queue.
    pub(super) line: Option<Seq>,
}

impl Connection {
    /// What follows the log from the connection's own cursor, if anything of it does.
    pub(super) fn follow(&mut self) {
        if self.entry.open_in_log().next().is_some() {
            self.catch_up();
        } else {
            self.phase = Phase::Streams;
        }
    }

    pub(super) fn follows(&self, feed: Feed) -> Phase {
        match self.entry.open_in_log().next() {
            Some(_) => Phase::CatchUp(Box::new(CatchUp { feed, line: None })),
            None => Phase::Streams,
        }
    }

    /// Reads commits from the connection's own cursor.
    pub(super) fn catch_up(&mut self) {
        self.shared.hub.leave(&self.entry);
        let feed = self.shared.database.feed(self.entry.outbox.cursor().complete());
        self.phase = Phase::CatchUp(Box::new(CatchUp { feed, line: None }));
    }

    pub(super) fn catch_up_step(&mut self, commit: Result<Arc<Commit>, EngineError>, cursor: Cursor) {
        match commit {
            Ok(commit) => self.take(&commit, cursor),
            Err(EngineError::Expired { first, .. }) if self.from_the_start => {
                self.entry.outbox.set_cursor(Cursor::after(first.saturating_sub(1)));
                self.catch_up();
            }
            Err(EngineError::Expired { .. }) => {
                let in_log = self.entry.open_in_log().map(|(index, _)| index).collect();
                self.reset("cursor_expired", in_log);
            }
            Err(error) => self.fail_all(&error.into()),
        }
    }

    pub(super) fn go_live(&mut self) {
        if self.entry.outbox.go_live() {
            self.phase = Phase::Live;
            // Whoever else is still behind makes them again.
            self.entry.subscriptions.iter().for_each(|subscription| subscription.query.forget());
        } else {
            self.catch_up();
        }
    }

    /// The events that a commit has for this connection.
    fn take(&mut self, commit: &Commit, cursor: Cursor) {
        let mut found: Vec<(u32, Arc<[Ready]>)> = Vec::new();
        for change in &commit.changes {
            for index in self.entry.by_partition.get(&change.partition).into_iter().flatten() {
                let subscription = &self.entry.subscriptions[*index as usize];
                if subscription.end.get().is_none() {
                    let database = &self.shared.database;
                    let evaluate = |program: &Program| evaluate(database, program, commit, change);
                    found.push((*index, subscription.query.events(commit.seq, evaluate)));
                }
            }
        }
        found.sort_by_key(|(index, _)| *index);
        let count = found.iter().map(|(_, events)| events.len()).sum();
        let events = found.iter().flat_map(|(index, events)| events.iter().map(|event| (*index, event)));
        for (n, (index, event)) in events.enumerate().skip(cursor.delivered_of(commit.seq)) {
            let cursor = Some(Cursor::after_event(commit.seq, n, count));
            self.pending.push_back(Outgoing::of_ready(event, index).with_cursor(cursor));
        }
        if self.pending.is_empty() {
            self.entry.outbox.set_cursor(Cursor::after(commit.seq));
        }
    }
}
