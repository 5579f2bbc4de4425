//! What is known of a subscription while it runs, for `system.live_queries`.

use std::borrow::Cow;
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
    pub(crate) fn options(&self) -> Cow<'static, str> {
        let subscription = self.subscription();
        match (subscription.last_rows, subscription.snapshot) {
            (None, true) => r#"{"last_rows":null,"snapshot":true}"#.into(),
            (None, false) => r#"{"last_rows":null,"snapshot":false}"#.into(),
            (Some(rows), snapshot) => format!(r#"{{"last_rows":{rows},"snapshot":{snapshot}}}"#).into(),
        }
    }

    /// When the last event went out, microseconds since the epoch; when it began, if there was none.
    pub(crate) fn updated_at(&self) -> i64 {
        match self.subscription().counters.updated_at.load(Ordering::Relaxed) {
            0 => self.entry.created_at,
            time => time,
        }
    }
}
