//! What goes out: ids and counters, failures and ends, heartbeats.

use tokio::time::Instant;

use super::{Connection, Phase};
use crate::error::Error;
use crate::live::cursor::Cursor;
use crate::live::entry::End;
use crate::live::event::{self, Encoded, LiveEvent, Outgoing};

impl Connection {
    /// Gives an event its id and counts it; none if there is nothing to send after all.
    pub(super) fn send(&mut self, mut outgoing: Outgoing) -> Option<LiveEvent> {
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
    pub(super) fn tell_ends(&mut self) {
        let ended: Vec<(usize, End)> = (self.entry.subscriptions.iter().enumerate())
            .filter(|(index, _)| !self.told[*index])
            .filter_map(|(index, subscription)| Some((index, *subscription.end.get()?)))
            .collect();
        for (index, end) in ended.into_iter().rev() {
            if let Some(reason) = end.reason() {
                let data = event::reason(&self.entry.subscriptions[index].query.prefix, reason);
                // Before whatever else is waiting: that is not wanted any more.
                self.pending.push_front(Outgoing::of_subscription(index, "closed", data));
            }
        }
    }

    pub(super) fn fail(&mut self, index: usize, error: &Error) {
        let data = Encoded::failure(error).data(&self.entry.subscriptions[index].query.prefix);
        self.pending.push_back(Outgoing::of_subscription(index, "error", data));
    }

    pub(super) fn fail_all(&mut self, error: &Error) {
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

    pub(super) fn heartbeat(&mut self) {
        self.heartbeat.as_mut().reset(Instant::now() + self.shared.options.heartbeat);
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
