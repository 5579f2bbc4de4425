//! One client's feed: snapshots, then catching up from the log, then live; and back to catching up when it is slow.
//!
//! The client pulls: nothing is read or encoded before there is room for it. The connection's cursor moves only when an
//! event is taken, so wherever the client is cut off, its last event id is exactly what it has.

use std::collections::VecDeque;
use std::sync::Arc;

use kalamdb_engine::{Commit, Error as EngineError, Feed, Seq};
use tokio::time::{Instant, timeout_at};

use crate::error::{Error, Result};
use crate::live::cursor::Cursor;
use crate::live::entry::{End, Entry};
use crate::live::evaluator::evaluate;
use crate::live::event::{self, Encoded, LiveEvent, Outgoing};
use crate::live::listen::Listenings;
use crate::live::manager::Shared;
use crate::live::outbox::Next;
use crate::live::snapshot::{Asked, Rows};
use crate::statement::StatementContext;

/// See the module. Dropping it takes the connection and its subscriptions out of everything at once.
pub(crate) struct Connection {
    shared: Arc<Shared>,
    entry: Arc<Entry>,
    /// Per subscription, its SELECT.
    asked: Vec<Asked>,
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
    heartbeat_at: Instant,
    /// The last id that went out.
    last_id: Option<Cursor>,
    /// True if the client asked for everything the log still has, whatever that is.
    from_the_start: bool,
}

enum Phase {
    Snapshots(Box<Snapshots>),
    CatchUp(Box<CatchUp>),
    Live,
    /// There are streams only: nothing comes from the log.
    Streams,
    Ended,
}

/// Initial rows: of the subscriptions in order, one after another, all at the same snapshot.
struct Snapshots {
    context: Arc<StatementContext>,
    /// What follows the snapshot in the log; none if these are streams that begin again, while the connection keeps its
    /// place in the log.
    feed: Option<Feed>,
    /// Subscriptions still to come, with the current one first.
    queue: VecDeque<usize>,
    rows: Option<Rows>,
}

/// Reading commits by itself.
struct CatchUp {
    feed: Feed,
    /// Set once joined: what comes after it waits in the queue.
    line: Option<Seq>,
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
        asked: Vec<Asked>,
        renew: Box<dyn Fn() -> Arc<StatementContext> + Send + Sync>,
        start: Start,
    ) -> Self {
        let heartbeat_at = Instant::now() + shared.options.heartbeat;
        let told = vec![false; entry.subscriptions.len()];
        let streams = Listenings::of(&entry);
        let mut connection = Self {
            shared,
            entry,
            asked,
            renew,
            phase: Phase::Ended,
            pending: VecDeque::new(),
            told,
            streams,
            streamed: false,
            heartbeat_at,
            last_id: None,
            from_the_start: false,
        };
        connection.begin(start);
        connection
    }

    fn begin(&mut self, start: Start) {
        match start {
            Start::Snapshot { context, wanted } => {
                let seq = context.snapshot.seq();
                self.ready(seq, wanted.is_empty());
                self.snapshots(context, wanted);
            }
            Start::Resume { cursor, from_the_start } => {
                self.from_the_start = from_the_start;
                self.entry.outbox.set_cursor(cursor);
                self.ready(cursor.complete(), false);
                if self.entry.open_in_log().next().is_some() && cursor.newest() > self.shared.visible() {
                    // Not a place in this log: a restored backup, or a made-up id.
                    let all = self.entry.open().map(|(index, _)| index).collect();
                    self.reset("cursor_unknown", all);
                } else {
                    if let Some(ready) = self.pending.back_mut() {
                        ready.cursor = Some(cursor);
                    }
                    self.resume();
                }
            }
        }
    }

    /// Goes on from the connection's place in the log. Streams have none: what came meanwhile is not known.
    fn resume(&mut self) {
        let streams = self.entry.open().filter(|(_, s)| s.stream.is_some() && s.snapshot);
        let streams: Vec<usize> = streams.map(|(index, _)| index).collect();
        match streams.is_empty() {
            true => self.follow(),
            false => self.begin_streams_again("not_resumable", streams),
        }
    }

    fn ready(&mut self, seq: Seq, with_id: bool) {
        let subscriptions = &self.entry.subscriptions;
        let described =
            subscriptions.iter().map(|s| (s.name.as_ref(), s.live_id.as_str(), s.program.output.as_ref()));
        let ready = Outgoing::of_connection("ready", &event::ready(&self.entry.id, seq, described));
        self.pending.push_back(ready.with_cursor(with_id.then(|| Cursor::after(seq))));
    }

    /// The next event, as soon as there is one; `None` once all subscriptions are over. Cancel safe.
    pub(crate) async fn next(&mut self) -> Option<LiveEvent> {
        loop {
            if self.entry.outbox.take_signal() {
                self.tell_ends();
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
            if Instant::now() >= self.heartbeat_at {
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
                timeout_at(self.heartbeat_at, self.entry.outbox.woken()).await.ok();
            }
            Phase::Live => {
                let Ok(next) = timeout_at(self.heartbeat_at, self.entry.outbox.next()).await else { return };
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
                if let Ok(Some(commit)) = timeout_at(self.heartbeat_at, step).await {
                    self.catch_up_step(commit, cursor);
                }
                tokio::task::coop::consume_budget().await;
            }
            Phase::Snapshots(snapshots) => {
                let entry = &self.entry;
                let step = async {
                    tokio::select! {
                        batch = snapshots.next(&self.asked, &self.told) => Some(batch),
                        () = entry.outbox.signalled() => None,
                    }
                };
                if let Ok(Some(step)) = timeout_at(self.heartbeat_at, step).await {
                    self.snapshot_step(step);
                }
            }
        }
    }

    // ---- snapshots

    fn snapshots(&mut self, context: Arc<StatementContext>, wanted: Vec<usize>) {
        let seq = context.snapshot.seq();
        let feed = self.shared.database.feed(seq);
        self.entry.outbox.set_cursor(Cursor::after(seq));
        self.phase = if wanted.is_empty() {
            self.follows(feed)
        } else {
            let feed = Some(feed);
            Phase::Snapshots(Box::new(Snapshots { context, feed, queue: wanted.into(), rows: None }))
        };
    }

    /// Streams that begin again with what their buffers hold, while everything else goes on from its place in the log.
    fn begin_streams_again(&mut self, reason: &str, streams: Vec<usize>) {
        self.shared.hub.leave(&self.entry);
        self.entry.outbox.fall_back();
        self.tell_reset(reason, &streams);
        let (context, queue) = ((self.renew)(), streams.into());
        self.phase = Phase::Snapshots(Box::new(Snapshots { context, feed: None, queue, rows: None }));
    }

    fn snapshot_step(&mut self, step: SnapshotStep) {
        let Phase::Snapshots(snapshots) = &mut self.phase else { return };
        let seq = snapshots.context.snapshot.seq();
        match step {
            SnapshotStep::Batch { index, rows, first, last } => {
                let very_last = last && snapshots.queue.is_empty() && snapshots.feed.is_some();
                let cursor = very_last.then(|| Cursor::after(seq));
                let subscription = &self.entry.subscriptions[index];
                let seq = match &subscription.stream {
                    None => seq,
                    Some(source) => {
                        match snapshots.context.streams.view(&snapshots.context, &subscription.table) {
                            Ok(view) => {
                                self.streams.heard(index, view.number);
                                source.delivered(view.number, view.seq);
                                view.seq
                            }
                            Err(error) => return self.fail(index, &error),
                        }
                    }
                };
                let data = event::snapshot(&subscription.prefix, &rows, seq, first, last);
                self.pending
                    .push_back(Outgoing::of_subscription(index, "snapshot", data).with_cursor(cursor));
            }
            SnapshotStep::Failed { index, error } => self.fail(index, &error),
            SnapshotStep::Done => {
                let Phase::Snapshots(snapshots) = std::mem::replace(&mut self.phase, Phase::Ended) else {
                    return;
                };
                let Some(feed) = snapshots.feed else { return self.follow() };
                if self.last_id.is_none_or(|id| id.complete() < seq) {
                    // The last subscription failed or was killed: the others must know where they are.
                    self.pending.push_back(Outgoing::marker(Cursor::after(seq)));
                }
                self.phase = self.follows(feed);
            }
        }
    }

    fn fail(&mut self, index: usize, error: &Error) {
        let data = Encoded::failure(error).data(&self.entry.subscriptions[index].prefix);
        self.pending.push_back(Outgoing::of_subscription(index, "error", data));
    }

    // ---- streams

    /// True if something was taken from the streams.
    fn take_streams(&mut self) -> bool {
        if matches!(self.phase, Phase::Snapshots(_)) {
            return false;
        }
        let taken = self.streams.take(&self.entry);
        let any = !taken.events.is_empty() || !taken.lost.is_empty();
        self.pending.extend(taken.events);
        if !taken.lost.is_empty() {
            self.begin_streams_again("evicted", taken.lost);
        }
        any
    }

    // ---- catching up

    /// What follows the log from the connection's own cursor, if anything of it does.
    fn follow(&mut self) {
        if self.entry.open_in_log().next().is_some() {
            self.catch_up();
        } else {
            self.phase = Phase::Streams;
        }
    }

    fn follows(&self, feed: Feed) -> Phase {
        match self.entry.open_in_log().next() {
            Some(_) => Phase::CatchUp(Box::new(CatchUp { feed, line: None })),
            None => Phase::Streams,
        }
    }

    /// Reads commits from the connection's own cursor.
    fn catch_up(&mut self) {
        self.shared.hub.leave(&self.entry);
        let feed = self.shared.database.feed(self.entry.outbox.cursor().complete());
        self.phase = Phase::CatchUp(Box::new(CatchUp { feed, line: None }));
    }

    fn catch_up_step(&mut self, commit: Result<Arc<Commit>, EngineError>, cursor: Cursor) {
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

    fn go_live(&mut self) {
        if self.entry.outbox.go_live() {
            self.phase = Phase::Live;
        } else {
            self.catch_up();
        }
    }

    /// The events that a commit has for this connection.
    fn take(&mut self, commit: &Commit, cursor: Cursor) {
        let mut found: Vec<(u32, Vec<Encoded>)> = Vec::new();
        for change in &commit.changes {
            for index in self.entry.by_partition.get(&change.partition).into_iter().flatten() {
                let subscription = &self.entry.subscriptions[*index as usize];
                if subscription.end.get().is_none() {
                    found.push((
                        *index,
                        evaluate(&self.shared.database, &subscription.program, commit, change),
                    ));
                }
            }
        }
        found.sort_by_key(|(index, _)| *index);
        let count = found.iter().map(|(_, events)| events.len()).sum();
        let events = found.iter().flat_map(|(index, events)| events.iter().map(|e| (*index, e)));
        for (n, (index, encoded)) in events.enumerate().skip(cursor.delivered_of(commit.seq)) {
            self.pending.push_back(Outgoing {
                cursor: Some(Cursor::after_event(commit.seq, n, count)),
                event: Some(encoded.event),
                data: encoded.data(&self.entry.subscriptions[index as usize].prefix),
                subscription: Some(index),
                rows: encoded.rows,
            });
        }
        if self.pending.is_empty() {
            self.entry.outbox.set_cursor(Cursor::after(commit.seq));
        }
    }

    /// The log does not hold the connection's place: the client begins again.
    fn reset(&mut self, reason: &str, subscriptions: Vec<usize>) {
        self.shared.hub.leave(&self.entry);
        self.entry.outbox.fall_back();
        self.from_the_start = false;
        self.tell_reset(reason, &subscriptions);
        self.last_id = None;
        self.snapshots((self.renew)(), subscriptions);
    }

    fn tell_reset(&mut self, reason: &str, subscriptions: &[usize]) {
        for &index in subscriptions {
            let data = event::reason(&self.entry.subscriptions[index].prefix, reason);
            self.pending.push_back(Outgoing::of_subscription(index, "reset", data));
        }
    }

    fn fail_all(&mut self, error: &Error) {
        let closed = error.code == crate::error::ErrorCode::ShuttingDown;
        let open: Vec<usize> = self.entry.open().map(|(index, _)| index).collect();
        for index in open {
            if closed {
                self.entry.end(index, End::Shutdown);
            } else {
                self.fail(index, error);
            }
        }
    }

    // ---- sending

    /// Gives an event its id and counts it; none if there is nothing to send after all.
    fn send(&mut self, mut outgoing: Outgoing) -> Option<LiveEvent> {
        if let Some(index) = outgoing.subscription {
            if self.told[index as usize] {
                // Over for the client; but the ids of the others go on.
                outgoing = Outgoing::marker(outgoing.cursor?);
            } else {
                self.count(index as usize, &outgoing);
            }
        }
        if let Some(cursor) = outgoing.cursor {
            self.last_id = Some(cursor);
            // A live connection's cursor moved when the event left the queue, perhaps further since.
            if !matches!(self.phase, Phase::Live) {
                self.entry.outbox.set_cursor(cursor);
            }
        }
        Some(LiveEvent {
            id: outgoing.cursor.map(|cursor| cursor.to_string()),
            event: outgoing.event,
            data: outgoing.data,
        })
    }

    fn count(&mut self, index: usize, outgoing: &Outgoing) {
        let subscription = &self.entry.subscriptions[index];
        subscription.counters.sent(outgoing.rows, outgoing.data.len(), self.shared.now_micros());
        match outgoing.event {
            Some("error") => {
                subscription.end.set(End::Failed).ok();
                self.over(index);
            }
            Some("closed") => self.over(index),
            _ => {}
        }
    }

    /// The client knows that this subscription is over.
    fn over(&mut self, index: usize) {
        self.told[index] = true;
        self.streams.stop(index);
        self.shared.remove(&self.entry, index);
        if self.told.iter().all(|told| *told) {
            self.phase = Phase::Ended;
            self.pending.clear();
        }
    }

    /// Announces the ends that others have set.
    fn tell_ends(&mut self) {
        let ended: Vec<(usize, End)> = (self.entry.subscriptions.iter().enumerate())
            .filter(|(index, _)| !self.told[*index])
            .filter_map(|(index, subscription)| Some((index, *subscription.end.get()?)))
            .collect();
        for (index, end) in ended.into_iter().rev() {
            if let Some(reason) = end.reason() {
                let data = event::reason(&self.entry.subscriptions[index].prefix, reason);
                // Before whatever else is waiting: that is not wanted any more.
                self.pending.push_front(Outgoing::of_subscription(index, "closed", data));
            }
        }
    }

    fn heartbeat(&mut self) {
        self.heartbeat_at = Instant::now() + self.shared.options.heartbeat;
        let cursor = match self.phase {
            // The log has nothing for it: it is always at its end.
            Phase::Streams => Cursor::after(self.shared.visible()),
            _ => self.entry.outbox.idle_cursor(self.shared.hub.delivered()),
        };
        let with_id = !matches!(self.phase, Phase::Snapshots(_) | Phase::Streams);
        if with_id && self.last_id != Some(cursor) {
            self.pending.push_back(Outgoing::marker(cursor));
        }
        let data = event::heartbeat(self.shared.now_micros(), cursor.complete());
        self.pending.push_back(Outgoing::of_connection("heartbeat", &data));
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.shared.disconnect(&self.entry);
    }
}

enum SnapshotStep {
    Batch { index: usize, rows: Vec<u8>, first: bool, last: bool },
    Failed { index: usize, error: Error },
    Done,
}

impl Snapshots {
    /// Cancel safe.
    async fn next(&mut self, asked: &[Asked], told: &[bool]) -> SnapshotStep {
        loop {
            let Some(&index) = self.queue.front() else { return SnapshotStep::Done };
            if told[index] {
                self.finish();
                continue;
            }
            let rows =
                self.rows.get_or_insert_with(|| Rows::start(self.context.clone(), asked[index].clone()));
            match rows.next().await {
                Ok(Some(batch)) => {
                    if batch.last {
                        self.finish();
                    }
                    return SnapshotStep::Batch {
                        index,
                        rows: batch.rows,
                        first: batch.first,
                        last: batch.last,
                    };
                }
                Ok(None) => self.finish(),
                Err(error) => {
                    self.finish();
                    return SnapshotStep::Failed { index, error };
                }
            }
        }
    }

    fn finish(&mut self) {
        self.queue.pop_front();
        self.rows = None;
    }
}
