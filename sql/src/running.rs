//! The statements that run now, for `system.queries`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use kalamdb_engine::UserId;
use parking_lot::Mutex;

use crate::instance::Instance;

/// The longest text that is shown, in characters.
const MAX_TEXT: usize = 2_000;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Running {
    next: AtomicU64,
    queries: Arc<Mutex<BTreeMap<u64, Arc<Query>>>>,
}

/// One running statement.
#[derive(Debug)]
pub(crate) struct Query {
    pub(crate) id: u64,
    pub(crate) user: UserId,
    pub(crate) text: Arc<str>,
    /// Microseconds since the epoch.
    pub(crate) started_at: i64,
    /// Rows given out so far.
    pub(crate) rows: AtomicU64,
}

/// Counts as running until it is dropped.
#[derive(Debug)]
pub(crate) struct RunningQuery {
    query: Arc<Query>,
    queries: Arc<Mutex<BTreeMap<u64, Arc<Query>>>>,
}

impl Running {
    /// Notes a statement that starts now.
    pub(crate) fn start(&self, instance: &Instance, user: &UserId, text: &Arc<str>) -> RunningQuery {
        let id = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        let (user, text) = (user.clone(), text.clone());
        let started_at = instance.clock().now_micros();
        let query = Arc::new(Query { id, user, text, started_at, rows: AtomicU64::new(0) });
        self.queries.lock().insert(id, query.clone());
        RunningQuery { query, queries: self.queries.clone() }
    }

    /// All of them, oldest first.
    pub(crate) fn list(&self) -> Vec<Arc<Query>> {
        self.queries.lock().values().cloned().collect()
    }
}

impl RunningQuery {
    /// Counts rows given out.
    pub(crate) fn add_rows(&self, rows: usize) {
        self.query.rows.fetch_add(rows as u64, Ordering::Relaxed);
    }
}

impl Drop for RunningQuery {
    fn drop(&mut self) {
        self.queries.lock().remove(&self.query.id);
    }
}

impl Query {
    /// Its text, shortened.
    pub(crate) fn shown_text(&self) -> String {
        self.text.chars().take(MAX_TEXT).collect()
    }
}
