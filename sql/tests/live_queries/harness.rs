//! A database in a temporary directory, feeds whose events are parsed, and the replay of a feed onto its snapshot.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use kalamdb_sql::engine::UserId;
use kalamdb_sql::{
    Error, Identity, Instance, LiveFeed, LiveRequest, Options, Role, RowEncoder, RowFormat,
    SubscriptionRequest,
};
use serde_json::Value;
use tempfile::TempDir;

/// Long enough for a loaded machine; a test that passes never waits for it.
const PATIENCE: Duration = Duration::from_secs(30);

pub struct Db {
    pub dir: TempDir,
    pub instance: Arc<Instance>,
}

impl Db {
    pub async fn open() -> Self {
        Self::open_with(|_| {}).await
    }

    pub async fn open_with(change: impl Fn(&mut Options)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let instance = open_instance(dir.path(), change).await;
        Self { dir, instance }
    }

    pub async fn reopen(self) -> Self {
        let Self { dir, instance } = self;
        instance.close().await.unwrap();
        drop(instance);
        let instance = open_instance(dir.path(), |_| {}).await;
        Self { dir, instance }
    }

    /// Runs statements as `root`; returns the rows of the last and the sequence of the last that wrote.
    pub async fn run(&self, sql: &str) -> Done {
        self.run_as("root", Role::System, sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"))
    }

    pub async fn run_as(&self, user: &str, role: Role, sql: &str) -> Result<Done, Error> {
        let mut session = self.instance.session(identity(user, role));
        let mut done = Done::default();
        for statement in session.parse(sql)? {
            let outcome = session.execute(&statement, &[]).await?;
            done.seq = outcome.seq.or(done.seq);
            if let Some(mut rows) = outcome.rows {
                let encoder = RowEncoder::new(&rows.schema, RowFormat::Objects);
                done.rows.clear();
                while let Some(batch) = rows.stream.next().await {
                    let batch = batch?;
                    let mut lines = Vec::new();
                    encoder.encode_separated(&batch, b"\n", &mut lines);
                    let rows = serde_json::Deserializer::from_slice(&lines).into_iter();
                    done.rows.extend(rows.map(Result::unwrap));
                }
            }
        }
        Ok(done)
    }

    pub async fn feed(&self, sql: &str) -> Feed {
        self.request(request(&[sql])).await.unwrap()
    }

    pub async fn request(&self, request: LiveRequest) -> Result<Feed, Error> {
        self.request_as("root", Role::System, request).await
    }

    pub async fn request_as(&self, user: &str, role: Role, request: LiveRequest) -> Result<Feed, Error> {
        let feed = self.instance.session(identity(user, role)).live(request).await?;
        Ok(Feed { feed, last_id: None })
    }
}

#[derive(Debug, Default)]
pub struct Done {
    pub rows: Vec<Value>,
    pub seq: Option<u64>,
}

impl Done {
    pub fn seq(&self) -> u64 {
        self.seq.expect("a statement that writes has a sequence")
    }
}

async fn open_instance(dir: &Path, change: impl Fn(&mut Options)) -> Arc<Instance> {
    let mut options = Options::new(dir);
    options.live.heartbeat = Duration::from_millis(50);
    change(&mut options);
    Instance::open(options).await.unwrap()
}

pub fn identity(user: &str, role: Role) -> Identity {
    Identity { user: UserId::new(user).unwrap(), role }
}

pub fn request(queries: &[&str]) -> LiveRequest {
    let subscriptions = queries.iter().map(|sql| SubscriptionRequest::new(*sql)).collect();
    LiveRequest { subscriptions, last_event_id: None }
}

pub fn resume(queries: &[&str], id: &str) -> LiveRequest {
    LiveRequest { last_event_id: Some(id.into()), ..request(queries) }
}

pub struct Feed {
    pub feed: LiveFeed,
    pub last_id: Option<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    pub id: Option<String>,
    pub event: &'static str,
    pub data: Value,
}

impl Feed {
    /// The next event, id-only blocks (with the name "") and heartbeats included.
    pub async fn next_raw(&mut self) -> Option<Event> {
        let event = tokio::time::timeout(PATIENCE, self.feed.next()).await.expect("an event in time")?;
        if event.id.is_some() {
            self.last_id.clone_from(&event.id);
        }
        let data =
            if event.data.is_empty() { Value::Null } else { serde_json::from_slice(&event.data).unwrap() };
        Some(Event { id: event.id, event: event.event.unwrap_or(""), data })
    }

    /// The next event that says something.
    pub async fn next(&mut self) -> Event {
        loop {
            let event = self.next_raw().await.expect("the feed goes on");
            if !matches!(event.event, "" | "heartbeat") {
                return event;
            }
        }
    }

    pub async fn expect(&mut self, name: &str) -> Event {
        let event = self.next().await;
        assert_eq!(event.event, name, "{event:?}");
        event
    }

    /// Reads until everything up to commit `seq` was delivered; returns what came, without id-only blocks and heartbeats.
    pub async fn until(&mut self, seq: u64) -> Vec<Event> {
        let mut events = Vec::new();
        while !self.has(seq) {
            let event = self.next_raw().await.expect("the feed goes on");
            if !matches!(event.event, "" | "heartbeat") {
                events.push(event);
            }
        }
        events
    }

    fn has(&self, seq: u64) -> bool {
        // "7.2" is not all of commit 7.
        self.last_id.as_ref().is_some_and(|id| id.parse::<u64>().is_ok_and(|id| id >= seq))
    }
}

/// What a client knows of a result: rows by their JSON, with how often each is there.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Replay {
    rows: BTreeMap<String, i64>,
}

impl Replay {
    pub fn of(rows: &[Value]) -> Self {
        let mut replay = Self::default();
        rows.iter().for_each(|row| replay.add(row));
        replay
    }

    /// Applies an event, insisting that everything that leaves was there.
    pub fn apply(&mut self, event: &Event) {
        let rows =
            |key: &str| event.data[key].as_array().unwrap_or_else(|| panic!("{key} of {event:?}")).clone();
        match event.event {
            "snapshot" => {
                if event.data["first"] == true {
                    self.rows.clear();
                }
                rows("rows").iter().for_each(|row| self.add(row));
            }
            "insert" => rows("rows").iter().for_each(|row| self.add(row)),
            "delete" => rows("rows").iter().for_each(|row| self.remove(row, event)),
            "update" => {
                assert_eq!(rows("rows").len(), rows("old_rows").len());
                rows("old_rows").iter().for_each(|row| self.remove(row, event));
                rows("rows").iter().for_each(|row| self.add(row));
            }
            "ready" => {}
            other => panic!("unexpected event {other}: {event:?}"),
        }
    }

    fn add(&mut self, row: &Value) {
        *self.rows.entry(row.to_string()).or_default() += 1;
    }

    fn remove(&mut self, row: &Value, event: &Event) {
        let key = row.to_string();
        let count = self.rows.get_mut(&key).unwrap_or_else(|| panic!("{key} is not there: {event:?}"));
        *count -= 1;
        if *count == 0 {
            self.rows.remove(&key);
        }
    }
}
