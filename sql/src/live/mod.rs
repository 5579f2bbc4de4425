//! Live queries: a SELECT that keeps going.
//!
//! A feed gives the rows of its queries as of one commit S, then every later commit that changes a result, in commit
//! order, each exactly once, with an event id from which a client that was cut off resumes without gap or repeat.
//!
//! | file | owns |
//! |---|---|
//! | `manager` | connections and subscriptions: connect, disconnect, kill, list |
//! | `subscribe`, `shape`, `compile` | from the text of a SELECT to a [`program::Program`] |
//! | `program`, `queries` | what one commit changes in one result, and who shares it |
//! | `connection` | one client: snapshots, catching up, live, and back |
//! | `lease` | the snapshot from which a client reads, which others can take away |
//! | `hub`, `evaluator` | the shared reader: each commit evaluated once per distinct query, routed by partition |
//! | `outbox` | a connection's bounded queue and its cursor |
//! | `cursor`, `event` | event ids and event data |
//! | `stream`, `listen` | subscriptions to STREAM tables, which are in no log |
//!
//! Every connection starts by reading commits itself, from its snapshot or from the id it resumes with. Once it has
//! caught up it takes its events from the shared evaluator through a bounded queue. If the queue runs over, the
//! connection drops it and reads for itself again: a slow reader slows nobody and loses nothing.

mod compile;
mod connection;
mod cursor;
mod entry;
mod evaluator;
mod event;
mod hub;
mod lease;
mod listen;
mod manager;
mod outbox;
mod program;
mod queries;
mod rows;
mod shape;
mod snapshot;
mod stream;
mod subscribe;

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures::stream::{BoxStream, unfold};
use futures::{Stream, StreamExt};

use connection::Connection;
pub use event::LiveEvent;
pub(crate) use manager::LiveQueryManager;
pub(crate) use rows::Listed;

/// What a client asks of a feed.
#[derive(Debug, Clone, Default)]
pub struct LiveRequest {
    /// At least one; events come in this order within a commit.
    pub subscriptions: Vec<SubscriptionRequest>,
    /// The id of the last event that arrived, to go on after it instead of beginning with snapshots. `0` goes on after
    /// nothing: with `snapshot` off for all subscriptions it stands for everything the log still has.
    pub last_event_id: Option<String>,
}

/// One live query of a feed.
#[derive(Debug, Clone)]
pub struct SubscriptionRequest {
    /// What its events call it; `q1`, `q2`, ... by place if absent.
    pub id: Option<String>,
    /// A SELECT over one table.
    pub sql: String,
    /// The values of `$1`, `$2`, ...
    pub params: Vec<serde_json::Value>,
    /// Only so many of the newest rows in the snapshot, oldest of them first.
    pub last_rows: Option<u64>,
    /// False to begin with changes, without a snapshot.
    pub snapshot: bool,
}

impl SubscriptionRequest {
    /// A subscription with a snapshot of all rows.
    pub fn new(sql: impl Into<String>) -> Self {
        Self { id: None, sql: sql.into(), params: Vec::new(), last_rows: None, snapshot: true }
    }
}

/// A feed: the events of a connection, as long as somebody takes them. Nothing is computed that is not taken, beyond a
/// bounded queue. The stream ends once all its subscriptions have ended. Dropping it disconnects at once.
pub struct LiveFeed {
    connection_id: String,
    events: BoxStream<'static, LiveEvent>,
}

impl LiveFeed {
    fn new(connection_id: String, connection: Connection) -> Self {
        let next =
            |mut connection: Box<Connection>| async move { Some((connection.next().await?, connection)) };
        // Boxed, since it moves at every event, and the stream would have room for it twice.
        Self { connection_id, events: unfold(Box::new(connection), next).boxed() }
    }

    /// The id of the connection, as `ready` gives it.
    pub fn connection_id(&self) -> &str {
        &self.connection_id
    }
}

impl Stream for LiveFeed {
    type Item = LiveEvent;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<LiveEvent>> {
        self.events.poll_next_unpin(context)
    }
}

impl fmt::Debug for LiveFeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LiveFeed").field("connection_id", &self.connection_id).finish_non_exhaustive()
    }
}
