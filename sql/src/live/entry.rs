//! A connection and its subscriptions, as everybody but the connection itself sees them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use kalamdb_engine::{PartitionId, Table};
use serde_json::Value;

use crate::auth::Identity;
use crate::live::lease::Lease;
use crate::live::outbox::Outbox;
use crate::live::queries::Query;
use crate::live::stream::Source;

/// A connection: owned by the manager until its feed is dropped.
#[derive(Debug)]
pub(crate) struct Entry {
    /// Counts up; the order in which the evaluator serves connections.
    pub(crate) number: u64,
    /// What clients and operators call it.
    pub(crate) id: String,
    pub(crate) identity: Identity,
    pub(crate) outbox: Outbox,
    /// In the order of the request.
    pub(crate) subscriptions: Vec<Subscription>,
    /// Where its initial rows come from.
    pub(crate) lease: Lease,
    /// Which subscriptions a partition's changes concern.
    pub(crate) by_partition: HashMap<PartitionId, Vec<u32>>,
    /// Microseconds since the epoch.
    pub(crate) created_at: i64,
}

/// One live query of a connection.
#[derive(Debug)]
pub(crate) struct Subscription {
    /// Its name, its partition and what it computes.
    pub(crate) query: Arc<Query>,
    /// What everybody but its connection calls it.
    pub(crate) live_id: String,
    /// The SELECT as it was sent.
    pub(crate) text: Box<str>,
    /// The values of its parameters.
    pub(crate) params: Arc<[Value]>,
    pub(crate) last_rows: Option<u64>,
    pub(crate) snapshot: bool,
    pub(crate) table: Arc<Table>,
    /// Where its rows come from, if its table is a STREAM table; otherwise it is the log.
    pub(crate) stream: Option<Source>,
    /// Set once: the subscription is over.
    pub(crate) end: OnceLock<End>,
    pub(crate) counters: Counters,
}

/// What a subscription has sent.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Rows reported changed.
    pub(crate) changes: AtomicU64,
    /// Bytes of event data.
    pub(crate) bytes: AtomicU64,
    /// When the last event went out, microseconds since the epoch.
    pub(crate) updated_at: AtomicI64,
}

/// Why a subscription is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// `KILL LIVE QUERY`.
    Killed,
    /// Its table is gone.
    TableDropped,
    /// A column that it uses is gone or has another type.
    SchemaChanged,
    /// The server stops.
    Shutdown,
    /// It failed; the client was told why.
    Failed,
}

impl End {
    /// The reason in `closed`; none if the client knows already.
    pub(crate) fn reason(self) -> Option<&'static str> {
        match self {
            Self::Killed => Some("killed"),
            Self::TableDropped => Some("table_dropped"),
            Self::SchemaChanged => Some("schema_changed"),
            Self::Shutdown => Some("shutdown"),
            Self::Failed => None,
        }
    }
}

impl Entry {
    /// Ends one subscription, unless it ended before.
    pub(crate) fn end(&self, index: usize, end: End) {
        if self.subscriptions[index].end.set(end).is_ok() {
            self.outbox.signal();
        }
    }

    /// The subscriptions that go on and follow the log.
    pub(crate) fn open_in_log(&self) -> impl Iterator<Item = (usize, &Subscription)> {
        self.open().filter(|(_, subscription)| subscription.stream.is_none())
    }

    /// The subscriptions that go on.
    pub(crate) fn open(&self) -> impl Iterator<Item = (usize, &Subscription)> {
        self.subscriptions.iter().enumerate().filter(|(_, s)| s.end.get().is_none())
    }
}

impl Counters {
    pub(crate) fn sent(&self, rows: u32, bytes: usize, now: i64) {
        self.changes.fetch_add(u64::from(rows), Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.updated_at.store(now, Ordering::Relaxed);
    }
}
