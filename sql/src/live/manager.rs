//! [`LiveQueryManager`]: the one owner of connections and subscriptions.
//!
//! Connecting, disconnecting and killing are one operation each. A connection is known here from before its feed is
//! handed out until the moment the feed is dropped; nothing else keeps it.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use kalamdb_engine::{ColumnId, Database, Seq, TableId, UserId};
use parking_lot::Mutex;
use tokio::task::JoinHandle;

use crate::auth::{Identity, Role};
use crate::error::{Error, ErrorCode, Result};
use crate::instance::LiveOptions;
use crate::live::connection::{Connection, Start};
use crate::live::cursor::Cursor;
use crate::live::entry::{End, Entry, Subscription};
use crate::live::hub::Hub;
use crate::live::lease::Lease;
use crate::live::outbox::Outbox;
use crate::live::program::Input;
use crate::live::queries::Queries;
use crate::live::rows::Listed;
use crate::live::stream::Topics;
use crate::live::subscribe;
use crate::live::{LiveFeed, LiveRequest, evaluator};
use crate::statement::StatementContext;

/// See the module.
#[derive(Debug)]
pub(crate) struct LiveQueryManager {
    shared: Arc<Shared>,
    evaluator: JoinHandle<()>,
    waker: JoinHandle<()>,
}

/// What the manager and its connections share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) database: Arc<Database>,
    pub(crate) options: LiveOptions,
    pub(crate) hub: Arc<Hub>,
    pub(crate) queries: Queries,
    pub(crate) topics: Arc<Topics>,
    registry: Mutex<Registry>,
    next_number: AtomicU64,
    shut_down: AtomicBool,
}

#[derive(Debug, Default)]
struct Registry {
    /// By number, and so by age.
    connections: BTreeMap<u64, Arc<Entry>>,
    /// Where each subscription is.
    live_ids: HashMap<String, (Arc<Entry>, usize)>,
}

impl LiveQueryManager {
    /// Starts the evaluator. Must be called within a tokio runtime.
    pub(crate) fn start(database: Arc<Database>, options: LiveOptions) -> Self {
        let hub = Arc::new(Hub::default());
        let evaluator = tokio::spawn(evaluator::run(database.clone(), hub.clone()));
        let topics = Arc::new(Topics::default());
        let waker = tokio::spawn({
            let topics = topics.clone();
            async move { topics.run().await }
        });
        let shared = Shared {
            database,
            options,
            hub,
            queries: Queries::default(),
            topics,
            registry: Mutex::default(),
            next_number: AtomicU64::new(1),
            shut_down: AtomicBool::new(false),
        };
        Self { shared: Arc::new(shared), evaluator, waker }
    }

    /// Opens a feed: checks and compiles every subscription and registers the connection. The subscriptions are listed
    /// when this returns and gone when the feed is dropped.
    ///
    /// # Errors
    /// What is wrong with the request or one of its queries; [`ErrorCode::ShuttingDown`].
    pub(crate) async fn connect(
        &self,
        context: Arc<StatementContext>,
        request: LiveRequest,
    ) -> Result<LiveFeed> {
        let cursor = match request.last_event_id.as_deref().map(str::trim) {
            None | Some("") => None,
            Some(id) => Some(Cursor::parse(id)?),
        };
        let connection_id = self.shared.connection_id();
        let subscriptions =
            subscribe::all(&context, &self.shared.queries, request.subscriptions, &connection_id)?;
        let wanted = subscribe::wanting_snapshots(&subscriptions);
        let from_the_start = wanted.is_empty() && cursor == Some(Cursor::after(0));
        let first = cursor.unwrap_or(Cursor::after(context.snapshot.seq()));
        let entry = self.shared.register(&context.identity, connection_id, subscriptions, first);
        let renew = {
            // Without the snapshot, which would otherwise be held for as long as the feed lives.
            let (instance, identity) = (context.instance.clone(), context.identity.clone());
            let namespace = context.namespace.clone();
            Box::new(move || StatementContext::read(&instance, identity.clone(), namespace.clone()))
        };
        let start = match cursor {
            Some(cursor) => Start::Resume { cursor, from_the_start },
            None => Start::Snapshot { context, wanted },
        };
        // From here on, dropping the connection undoes the registration.
        let connection = Connection::new(self.shared.clone(), entry.clone(), renew, start);
        self.shared.check_still_valid(&entry)?;
        Ok(LiveFeed::new(entry.id.clone(), connection))
    }

    /// Ends one subscription; its client is told. Users end their own, `dba` and above any.
    ///
    /// # Errors
    /// [`ErrorCode::LiveQueryNotFound`], also for those of others.
    pub(crate) fn kill(&self, live_id: &str, by: &Identity) -> Result<()> {
        let found = self.shared.registry.lock().live_ids.get(live_id).cloned();
        let allowed = |entry: &Entry| by.role >= Role::Dba || entry.identity.user == by.user;
        let Some((entry, index)) = found.filter(|(entry, _)| allowed(entry)) else {
            let shown: String = live_id.chars().take(80).flat_map(char::escape_default).collect();
            return Err(Error::new(ErrorCode::LiveQueryNotFound, format!("there is no live query {shown}")));
        };
        self.shared.end(&entry, index, End::Killed);
        Ok(())
    }

    /// The live ids of the subscriptions to a table, for the refusal to drop it.
    pub(crate) fn subscriptions_on(&self, table: TableId) -> Vec<String> {
        let registry = self.shared.registry.lock();
        let on_table = |(entry, index): &&(Arc<Entry>, usize)| entry.subscriptions[*index].table.id == table;
        let mut ids: Vec<String> = registry
            .live_ids
            .values()
            .filter(on_table)
            .map(|(e, i)| e.subscriptions[*i].live_id.clone())
            .collect();
        ids.sort();
        ids
    }

    /// The live ids of the subscriptions that use any of these columns of a table, for the refusal to change them.
    pub(crate) fn subscriptions_using(&self, table: TableId, columns: &[ColumnId]) -> Vec<String> {
        let registry = self.shared.registry.lock();
        let mut ids: Vec<String> = registry
            .live_ids
            .values()
            .map(|(entry, index)| &entry.subscriptions[*index])
            .filter(|subscription| uses(subscription, table, columns))
            .map(|subscription| subscription.live_id.clone())
            .collect();
        ids.sort();
        ids
    }

    /// Ends the subscriptions that use any of these columns of a table, which were dropped or got other types. To be called
    /// after every such change: a subscription may have come between the check and the change.
    pub(crate) fn columns_changed(&self, table: TableId, columns: &[ColumnId]) {
        let ended: Vec<(Arc<Entry>, usize)> = {
            let registry = self.shared.registry.lock();
            let uses =
                |(entry, index): &&(Arc<Entry>, usize)| uses(&entry.subscriptions[*index], table, columns);
            registry.live_ids.values().filter(uses).cloned().collect()
        };
        for (entry, index) in ended {
            self.shared.end(&entry, index, End::SchemaChanged);
        }
    }

    /// Ends all subscriptions to tables that are gone. To be called after every drop: a subscription, or with a namespace
    /// a table, may have come between the check and the drop.
    pub(crate) fn tables_dropped(&self) {
        let catalog = self.shared.database.catalog();
        let ended: Vec<(Arc<Entry>, usize)> = {
            let registry = self.shared.registry.lock();
            let gone = |(entry, index): &&(Arc<Entry>, usize)| {
                catalog.table_by_id(entry.subscriptions[*index].table.id).is_none()
            };
            registry.live_ids.values().filter(gone).cloned().collect()
        };
        for (entry, index) in ended {
            self.shared.end(&entry, index, End::TableDropped);
        }
    }

    /// Every row of a user is gone, and with them what feeds would have told of that. Those that show such rows begin
    /// again, and what waits for them is forgotten, also for one whose client does not read.
    pub(crate) fn user_purged(&self, user: &UserId) {
        let shows = |entry: &&Arc<Entry>| {
            entry.subscriptions.iter().any(|s| s.query.partition.user.as_ref() == Some(user))
        };
        let concerned: Vec<Arc<Entry>> =
            self.shared.registry.lock().connections.values().filter(shows).cloned().collect();
        for entry in concerned {
            entry.subscriptions.iter().for_each(|subscription| subscription.query.forget());
            if entry.lease.take_away(None, "purged") {
                entry.outbox.signal();
            } else {
                entry.outbox.begin_again();
                self.shared.hub.let_go(&entry);
            }
        }
    }

    /// All subscriptions, or those of one user, oldest first.
    pub(crate) fn list(&self, user: Option<&UserId>) -> Vec<Listed> {
        let (delivered, visible) = (self.shared.hub.delivered(), self.shared.visible());
        let asked = |entry: &&Arc<Entry>| user.is_none_or(|user| entry.identity.user == *user);
        let connections: Vec<Arc<Entry>> =
            self.shared.registry.lock().connections.values().filter(asked).cloned().collect();
        let mut listed = Vec::with_capacity(connections.len());
        for entry in &connections {
            let (cursor, live) = entry.outbox.place(delivered);
            let open =
                entry.open().map(|(index, _)| Listed::new(entry.clone(), index, live, cursor, visible));
            listed.extend(open);
        }
        listed
    }

    /// How many subscriptions there are.
    pub(crate) fn count(&self) -> usize {
        self.shared.registry.lock().live_ids.len()
    }

    /// Ends all feeds, each with `closed`, and refuses new ones.
    pub(crate) fn shut_down(&self) {
        self.shared.shut_down.store(true, Ordering::SeqCst);
        let connections: Vec<Arc<Entry>> =
            self.shared.registry.lock().connections.values().cloned().collect();
        for entry in connections {
            for index in 0..entry.subscriptions.len() {
                self.shared.end(&entry, index, End::Shutdown);
            }
        }
        self.evaluator.abort();
        self.waker.abort();
    }

    /// Rows were inserted into a STREAM table.
    pub(crate) fn stream_grew(&self, table: TableId) {
        self.shared.topics.grew(table);
    }
}

fn uses(subscription: &Subscription, table: TableId, columns: &[ColumnId]) -> bool {
    let used = |input: &Input| matches!(input, Input::Column { id, .. } if columns.contains(id));
    subscription.table.id == table && subscription.query.program.inputs.iter().any(used)
}

impl Drop for LiveQueryManager {
    fn drop(&mut self) {
        self.shut_down();
    }
}

impl Shared {
    /// The newest durable commit.
    pub(crate) fn visible(&self) -> Seq {
        self.database.visible()
    }

    pub(crate) fn now_micros(&self) -> i64 {
        self.database.clock().now_micros()
    }

    fn connection_id(&self) -> String {
        let mut bytes = [0; 12];
        self.database.random_bytes(&mut bytes);
        bytes.iter().fold(String::with_capacity(24), |mut id, byte| {
            write!(id, "{byte:02x}").expect("writing to a String cannot fail");
            id
        })
    }

    fn register(
        &self,
        who: &Identity,
        id: String,
        subscriptions: Vec<Subscription>,
        first: Cursor,
    ) -> Arc<Entry> {
        let mut by_partition: HashMap<_, Vec<u32>> = HashMap::new();
        for (index, subscription) in subscriptions.iter().enumerate() {
            by_partition.entry(subscription.query.partition.clone()).or_default().push(index as u32);
        }
        let entry = Arc::new(Entry {
            number: self.next_number.fetch_add(1, Ordering::Relaxed),
            id,
            identity: who.clone(),
            outbox: Outbox::new(self.options.queue_bytes, first),
            subscriptions,
            lease: Lease::default(),
            by_partition,
            created_at: self.now_micros(),
        });
        for (index, _) in entry.subscriptions.iter().enumerate().filter(|(_, s)| s.stream.is_some()) {
            self.topics.join(&entry, index);
        }
        let mut registry = self.registry.lock();
        for (index, subscription) in entry.subscriptions.iter().enumerate() {
            registry.live_ids.insert(subscription.live_id.clone(), (entry.clone(), index));
        }
        registry.connections.insert(entry.number, entry.clone());
        entry
    }

    /// A table that was dropped, or a shutdown that began, before the connection was registered did not end it.
    fn check_still_valid(&self, entry: &Entry) -> Result<()> {
        if self.shut_down.load(Ordering::SeqCst) {
            return Err(Error::new(ErrorCode::ShuttingDown, "the server is shutting down"));
        }
        let catalog = self.database.catalog();
        match entry.subscriptions.iter().find(|s| catalog.table_by_id(s.table.id).is_none()) {
            Some(gone) => {
                let message = format!("table {} does not exist", gone.table.qualified_name());
                Err(Error::new(ErrorCode::TableNotFound, message))
            }
            None => Ok(()),
        }
    }

    fn end(&self, entry: &Entry, index: usize, end: End) {
        // First the mark, so that a connection that joins at this moment leaves it out.
        entry.end(index, end);
        self.remove(entry, index);
    }

    /// Takes a subscription that is over out of everything.
    pub(crate) fn remove(&self, entry: &Entry, index: usize) {
        match entry.subscriptions[index].stream {
            Some(_) => self.topics.leave(entry, index),
            None => self.hub.leave_one(entry, index),
        }
        self.registry.lock().live_ids.remove(&entry.subscriptions[index].live_id);
    }

    /// Takes a connection and its subscriptions out of everything.
    pub(crate) fn disconnect(&self, entry: &Entry) {
        self.hub.leave(entry);
        for (index, _) in entry.subscriptions.iter().enumerate().filter(|(_, s)| s.stream.is_some()) {
            self.topics.leave(entry, index);
        }
        let mut registry = self.registry.lock();
        registry.connections.remove(&entry.number);
        for subscription in &entry.subscriptions {
            registry.live_ids.remove(&subscription.live_id);
        }
    }
}
