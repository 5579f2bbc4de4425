//! Initial rows: of the subscriptions in order, one after another, all at the same snapshot.

use std::collections::VecDeque;
use std::sync::Arc;

use kalamdb_engine::Feed;

use super::{Connection, Phase};
use crate::error::Error;
use crate::live::cursor::Cursor;
use crate::live::entry::Entry;
use crate::live::event::{self, Outgoing};
use crate::live::snapshot::Rows;
use crate::live::subscribe;
use crate::statement::StatementContext;

/// Initial rows: of the subscriptions in order, one after another, all at the same snapshot.
pub(super) struct Snapshots {
    pub(super) context: Arc<StatementContext>,
    /// What follows the snapshot in the log; none if these are streams that begin again, while the connection keeps its
    /// place in the log.
    pub(super) feed: Option<Feed>,
    /// Subscriptions still to come, with the current one first.
    pub(super) queue: VecDeque<usize>,
    pub(super) rows: Option<Rows>,
}

pub(super) enum SnapshotStep {
    Batch { index: usize, rows: Vec<u8>, first: bool, last: bool },
    Failed { index: usize, error: Error },
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
            let feed = Some(feed);
            Phase::Snapshots(Box::new(Snapshots { context, feed, queue: wanted.into(), rows: None }))
        };
    }

    pub(super) fn snapshot_step(&mut self, step: SnapshotStep) {
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
                let data = event::snapshot(&subscription.query.prefix, &rows, seq, first, last);
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
}

impl Snapshots {
    /// Cancel safe.
    pub(super) async fn next(&mut self, entry: &Entry, told: &[bool]) -> SnapshotStep {
        loop {
            let Some(&index) = self.queue.front() else { return SnapshotStep::Done };
            if told[index] {
                self.finish();
                continue;
            }
            let rows = match &mut self.rows {
                Some(rows) => rows,
                none => match subscribe::asked(&entry.subscriptions[index]) {
                    Ok(asked) => none.insert(Rows::start(self.context.clone(), asked)),
                    Err(error) => {
                        self.finish();
                        return SnapshotStep::Failed { index, error };
                    }
                },
            };
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
