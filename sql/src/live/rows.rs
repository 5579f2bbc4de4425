//! What is known of a subscription while it runs, for `system.live_queries`.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use kalamdb_engine::Seq;

use crate::live::cursor::Cursor;
use crate::live::entry::{Entry, Subscription};

/// A subscription as it is now. Borrows nothing and copies little: there may be tens of thousands.
#[derive(Debug, Clone)]
pub(crate) struct Listed {
    entry: Arc<Entry>,
    index: usize,
    live: bool,
    cursor: Cursor,
    /// The newest durable commit.
    visible: Seq,
}

impl Listed {
    pub(crate) fn new(entry: Arc<Entry>, index: usize, live: bool, cursor: Cursor, visible: Seq) -> Self {
        Self { entry, index, live, cursor, visible }
    }

    /// The order in which they began.
    pub(crate) fn age(&self) -> (i64, u64, usize) {
        (self.entry.created_at, self.entry.number, self.index)
    }

    pub(crate) fn entry(&self) -> &Entry {
        &self.entry
    }

    pub(crate) fn subscription(&self) -> &Subscription {
        &self.entry.subscriptions[self.index]
    }

    /// `live` or `catching_up`.
    pub(crate) fn state(&self) -> &'static str {
        if self.live || self.subscription().stream.is_some() { "live" } else { "catching_up" }
    }

    /// Everything up to and including this commit was delivered; of a stream, the last insert that was. Then the commits
    /// it is behind the newest; of a stream, inserts.
    pub(crate) fn place(&self) -> (Seq, u64) {
        match &self.subscription().stream {
            Some(source) => source.place(),
            None => (self.cursor.complete(), self.visible.saturating_sub(self.cursor.complete())),
        }
    }

    /// What it was asked for beside its query, a JSON object.
    pub(crate) fn options(&self) -> String {
        let subscription = self.subscription();
        let last_rows = subscription.last_rows.map_or_else(|| "null".to_owned(), |rows| rows.to_string());
        format!("{{\"last_rows\":{last_rows},\"snapshot\":{}}}", subscription.snapshot)
    }

    /// When the last event went out, microseconds since the epoch; when it began, if there was none.
    pub(crate) fn updated_at(&self) -> i64 {
        match self.subscription().counters.updated_at.load(Ordering::Relaxed) {
            0 => self.entry.created_at,
            time => time,
        }
    }
}
