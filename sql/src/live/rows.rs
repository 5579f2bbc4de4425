//! The rows of `system.live_queries`.

use std::sync::atomic::Ordering;

use kalamdb_engine::{NamespaceId, Seq, TableName, UserId};
use serde_json::json;

use crate::live::cursor::Cursor;
use crate::live::entry::{Entry, Subscription};

/// A subscription as operators see it.
#[derive(Debug, Clone)]
pub(crate) struct LiveQueryRow {
    /// Unique; `KILL LIVE QUERY` takes it.
    pub(crate) live_id: String,
    /// The connection it belongs to.
    pub(crate) connection_id: String,
    /// What its client calls it.
    pub(crate) subscription_id: String,
    pub(crate) user_id: UserId,
    pub(crate) namespace_id: NamespaceId,
    pub(crate) table_name: TableName,
    /// The SELECT as it was sent.
    pub(crate) query: String,
    /// A JSON object.
    pub(crate) options: String,
    /// `live` or `catching_up`.
    pub(crate) state: &'static str,
    /// Everything up to and including this commit was delivered; of a stream, the last insert that was.
    pub(crate) position_seq: Seq,
    /// Commits it is behind the newest; of a stream, inserts.
    pub(crate) lag: u64,
    /// Rows reported changed so far.
    pub(crate) changes: u64,
    /// Bytes of event data sent so far.
    pub(crate) bytes_sent: u64,
    pub(crate) node_id: u16,
    /// Microseconds since the epoch.
    pub(crate) created_at: i64,
    /// When the last event went out, microseconds since the epoch.
    pub(crate) updated_at: i64,
}

/// The row of one subscription.
pub(crate) fn row(
    entry: &Entry,
    subscription: &Subscription,
    live: bool,
    cursor: Cursor,
    visible: Seq,
    node: u16,
) -> LiveQueryRow {
    let counters = &subscription.counters;
    let updated_at = counters.updated_at.load(Ordering::Relaxed);
    let (live, position, lag) = match &subscription.stream {
        Some(source) => {
            let (position, behind) = source.place();
            (true, position, behind)
        }
        None => (live, cursor.complete(), visible.saturating_sub(cursor.complete())),
    };
    LiveQueryRow {
        live_id: subscription.live_id.clone(),
        connection_id: entry.id.clone(),
        subscription_id: subscription.query.name.to_string(),
        user_id: entry.identity.user.clone(),
        namespace_id: subscription.table.namespace.clone(),
        table_name: subscription.table.name.clone(),
        query: subscription.text.to_string(),
        options: json!({"last_rows": subscription.last_rows, "snapshot": subscription.snapshot}).to_string(),
        state: if live { "live" } else { "catching_up" },
        position_seq: position,
        lag,
        changes: counters.changes.load(Ordering::Relaxed),
        bytes_sent: counters.bytes.load(Ordering::Relaxed),
        node_id: node,
        created_at: entry.created_at,
        updated_at: if updated_at == 0 { entry.created_at } else { updated_at },
    }
}
