//! Initial rows: of the subscriptions in order, one after another, all at the same snapshot.
//!
//! The snapshot is open for as long as a statement may run, whatever the client does (see [`crate::live::lease`]). Who
//! has not taken all rows by then begins again, with a new snapshot; if that ends the same way, the subscription whose
//! rows take so long fails.

use std::collections::VecDeque;
use std::sync::Arc;

use kalamdb_engine::{Feed, Seq};
use tokio::task::AbortHandle;

use super::{Connection, Phase};
use crate::error::{Error, ErrorCode};
use crate::live::cursor::Cursor;
use crate::live::entry::{End, Entry};
use crate::live::event::{self, Outgoing};
use crate::live::lease::TakenAway;
use crate::live::subscribe;
use crate::statement::StatementContext;

/// The reason of a `reset` whose client did not take its initial rows in time.
const EXPIRED: &str = "snapshot_expired";

/// See the module.
pub(super) struct Snapshots {
    entry: Arc<Entry>,
    /// Of the snapshot, and which of the connection's it is.
    seq: Seq,
    number: u64,
    /// What follows the snapshot in the log; none if these are streams that begin again, while the connection keeps its
    /// place in the log.
    feed: Option<Feed>,
    /// Subscriptions still to come, with the current one first.
    queue: VecDeque<usize>,
    timer: AbortHandle,
}

pub(super) enum SnapshotStep {
    Batch { index: usize, rows: Vec<u8>, first: bool, last: bool },
    Failed { index: usize, error: Error },
    TakenAway(TakenAway),
    Done,
}

impl Connection {
    pub(super) fn snapshots(&mut self, context: Arc<StatementContext>, wanted: Vec<usize>) {
        let seq = context.snapshot.seq();
        let feed = self.shared.database.feed(seq);
        self.entry.outbox.set_cursor(Cursor::after(seq));
        self.phase = if wanted.is_empty() {
            self.follows(feed)
        } else {
            Phase::Snapshots(Box::new(Snapshots::begin(self.entry.clone(), context, Some(feed), wanted)))
        };
    }

    pub(super) fn snapshot_step(&mut self, step: SnapshotStep) {
        match step {
            SnapshotStep::Batch { index, rows, first, last } => {
                if let Err(taken) = self.snapshot_rows(index, &rows, first, last) {
                    self.snapshot_taken_away(taken);
                }
            }
            SnapshotStep::Failed { index, error } => self.fail(index, &error),
            SnapshotStep::TakenAway(taken) => self.snapshot_taken_away(taken),
            SnapshotStep::Done => self.snapshots_done(),
        }
    }

    fn snapshot_rows(&mut self, index: usize, rows: &[u8], first: bool, last: bool) -> Result<(), TakenAway> {
        let Phase::Snapshots(snapshots) = &self.phase else { return Ok(()) };
        let very_last = last && snapshots.queue.is_empty() && snapshots.feed.is_some();
        let cursor = very_last.then(|| Cursor::after(snapshots.seq));
        let subscription = &self.entry.subscriptions[index];
        let seq = match &subscription.stream {
            None => snapshots.seq,
            Some(source) => match self.entry.lease.stream(&subscription.table)? {
                Ok(view) => {
                    self.streams.heard(index, view.number);
                    source.delivered(view.number, view.seq);
                    view.seq
                }
                Err(error) => {
                    self.fail(index, &error);
                    return Ok(());
                }
            },
        };
        let data = event::snapshot(&subscription.query.prefix, rows, seq, first, last);
        self.pending.push_back(Outgoing::of_subscription(index, "snapshot", data).with_cursor(cursor));
        Ok(())
    }

    fn snapshots_done(&mut self) {
        let Phase::Snapshots(mut snapshots) = std::mem::replace(&mut self.phase, Phase::Ended) else {
            return;
        };
        if let Err(TakenAway(reason)) = self.entry.lease.close(snapshots.number) {
            return self.begin_anew(reason);
        }
        let (seq, feed) = (snapshots.seq, snapshots.feed.take());
        self.began_again = false;
        let Some(feed) = feed else { return self.follow() };
        if self.last_id.is_none_or(|id| id.complete() < seq) {
            // The last subscription failed or was killed: the others must know where they are.
            self.pending.push_back(Outgoing::marker(Cursor::after(seq)));
        }
        self.phase = self.follows(feed);
    }

    fn snapshot_taken_away(&mut self, TakenAway(reason): TakenAway) {
        let late = match &self.phase {
            Phase::Snapshots(snapshots) if reason == EXPIRED => snapshots.queue.front().copied(),
            _ => None,
        };
        if let Some(index) = late
            && std::mem::replace(&mut self.began_again, true)
        {
            // Not part of what begins again.
            self.entry.subscriptions[index].end.set(End::Failed).ok();
            let message = "the client took longer to read the initial rows than a statement may run, twice";
            self.fail(index, &Error::new(ErrorCode::Cancelled, message));
        }
        match &self.phase {
            // Its tables are not concerned: they go on from where they are.
            Phase::Snapshots(snapshots) if snapshots.feed.is_none() && reason == EXPIRED => {
                let streams = self.entry.open().map(|(index, _)| index);
                let streams = streams.filter(|index| snapshots.waits(*index)).collect();
                self.begin_streams_again(reason, streams);
            }
            _ => self.begin_anew(reason),
        }
    }
}

impl Snapshots {
    /// Reads these subscriptions' rows at the context's snapshot, for as long as a statement may run.
    pub(super) fn begin(
        entry: Arc<Entry>,
        context: Arc<StatementContext>,
        feed: Option<Feed>,
        wanted: Vec<usize>,
    ) -> Self {
        let (seq, limit) = (context.snapshot.seq(), context.instance.statement_timeout());
        let number = entry.lease.open(context);
        let timer = tokio::spawn({
            let entry = entry.clone();
            async move {
                tokio::time::sleep(limit).await;
                if entry.lease.take_away(Some(number), EXPIRED) {
                    entry.outbox.signal();
                }
            }
        });
        Self { entry, seq, number, feed, queue: wanted.into(), timer: timer.abort_handle() }
    }

    /// True if the rows of this subscription are still to come, or some of them.
    pub(super) fn waits(&self, index: usize) -> bool {
        self.queue.contains(&index)
    }

    /// Cancel safe.
    pub(super) async fn next(&mut self, told: &[bool]) -> SnapshotStep {
        loop {
            let Some(&index) = self.queue.front() else { return SnapshotStep::Done };
            if told[index] {
                self.finish();
                continue;
            }
            match self.entry.lease.next(|| subscribe::asked(&self.entry.subscriptions[index])).await {
                Ok(Ok(Some(batch))) => {
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
                Ok(Ok(None)) => self.finish(),
                Ok(Err(error)) => {
                    self.finish();
                    return SnapshotStep::Failed { index, error };
                }
                Err(taken) => return SnapshotStep::TakenAway(taken),
            }
        }
    }

    fn finish(&mut self) {
        self.queue.pop_front();
        self.entry.lease.end_query();
    }
}

impl Drop for Snapshots {
    fn drop(&mut self) {
        self.timer.abort();
        // Nobody is left to be told.
        self.entry.lease.close(self.number).ok();
    }
}
