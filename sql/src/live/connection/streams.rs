//! What a connection does with the streams it listens to.

use super::snapshots::Snapshots;
use super::{Connection, Phase};

impl Connection {
    /// True if something was taken from the streams.
    pub(super) fn take_streams(&mut self) -> bool {
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

    /// Streams that begin again with what their buffers hold, while everything else goes on from its place in the log.
    pub(super) fn begin_streams_again(&mut self, reason: &str, streams: Vec<usize>) {
        self.shared.hub.leave(&self.entry);
        self.entry.outbox.fall_back();
        self.tell_reset(reason, &streams);
        let context = (self.renew)();
        self.phase = Phase::Snapshots(Box::new(Snapshots::begin(self.entry.clone(), context, None, streams)));
    }
}
