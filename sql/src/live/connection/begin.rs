//! Where a feed begins, and where it begins anew.

use kalamdb_engine::Seq;

use super::{Connection, Phase, Start};
use crate::live::cursor::Cursor;
use crate::live::event::{self, Outgoing};

impl Connection {
    pub(super) fn begin(&mut self, start: Start) {
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
    pub(super) fn resume(&mut self) {
        let streams = self.entry.open().filter(|(_, s)| s.stream.is_some() && s.snapshot);
        let streams: Vec<usize> = streams.map(|(index, _)| index).collect();
        match streams.is_empty() {
            true => self.follow(),
            false => self.begin_streams_again("not_resumable", streams),
        }
    }

    pub(super) fn ready(&mut self, seq: Seq, with_id: bool) {
        let subscriptions = &self.entry.subscriptions;
        let described = subscriptions
            .iter()
            .map(|s| (s.query.name.as_ref(), s.live_id.as_str(), s.query.program.output.as_ref()));
        let ready = Outgoing::of_connection("ready", &event::opened(&self.entry.id, seq, described));
        self.pending.push_back(ready.with_cursor(with_id.then(|| Cursor::after(seq))));
    }

    /// The log does not hold the connection's place: the client begins again.
    pub(super) fn reset(&mut self, reason: &str, subscriptions: Vec<usize>) {
        self.shared.hub.leave(&self.entry);
        self.entry.outbox.fall_back();
        self.from_the_start = false;
        self.tell_reset(reason, &subscriptions);
        self.last_id = None;
        self.snapshots((self.renew)(), subscriptions);
    }

    /// Something took away what the connection was about to read: it begins again, with all that follows the log, and
    /// the streams whose rows are not all there yet.
    pub(super) fn begin_anew(&mut self, reason: &str) {
        // What waits is superseded by what comes.
        self.pending.retain(|waiting| {
            waiting.subscription.is_none() || matches!(waiting.event, Some("closed" | "error"))
        });
        let subscriptions = (self.entry.open())
            .filter(|(index, subscription)| match &self.phase {
                Phase::Snapshots(snapshots) if subscription.stream.is_some() => snapshots.waits(*index),
                _ => subscription.stream.is_none(),
            })
            .map(|(index, _)| index)
            .collect();
        self.reset(reason, subscriptions);
    }

    pub(super) fn tell_reset(&mut self, reason: &str, subscriptions: &[usize]) {
        for &index in subscriptions {
            let data = event::reason(&self.entry.subscriptions[index].query.prefix, reason);
            self.pending.push_back(Outgoing::of_subscription(index, "reset", data));
        }
    }
}
