//! Resuming a feed: from every id that it ever gave, whatever happened to the server and its files in between.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use kalamdb_tests::{Client, Event, Live, LiveRequest, Options, Server};
use serde_json::json;

/// Everything that a feed told, and the ids from which it can go on: the one before the first event, then one for each.
struct Record {
    request: LiveRequest,
    ids: Vec<String>,
    events: Vec<Event>,
}

impl Record {
    fn begin(request: LiveRequest, client: &Client, snapshots: usize) -> (Self, Live) {
        let mut live = request.open(client);
        live.expect("ready");
        let last = (0..snapshots).map(|_| live.snapshot()).last();
        assert!(last.is_some());
        (Self { request, ids: vec![live.last_id()], events: Vec::new() }, live)
    }

    /// Reads up to all of a commit.
    fn read(&mut self, live: &mut Live, last: u64) {
        for event in live.wait_for(|event| event.id == Some(last.to_string())) {
            self.ids.push(event.id.clone().expect("every change has an id"));
            self.events.push(event);
        }
    }

    /// Resumes from each id and compares with what came after it the first time.
    fn check(&self, client: &Client, when: &str) {
        let last = self.ids.last().unwrap();
        for (cut, id) in self.ids.iter().enumerate() {
            let mut live = self.request.clone().after(id).open(client);
            let ready = live.expect("ready");
            assert_eq!(ready.id.as_ref(), Some(id), "{when}");
            if cut < self.events.len() {
                let rest = live.wait_for(|event| event.id.as_ref() == Some(last));
                assert_eq!(rest, self.events[cut..], "{when}, after {cut} events, with id {id}");
            }
        }
    }
}

/// Rows that come, change in and out of the filters, go, and come again under the key of one that went.
fn change(client: &Client, round: i64) -> u64 {
    let first = round * 10;
    let values: Vec<String> =
        (first..first + 6).map(|id| format!("({id}, {}, 'round {round}')", id % 10 * 3)).collect();
    client.sql(&format!("INSERT INTO app.t VALUES {}", values.join(",")));
    client.sql(&format!("INSERT INTO app.mine VALUES ({first}, 'private {round}')"));
    client.sql(&format!(
        "UPDATE app.t SET n = 30 - n, body = 'changed' WHERE id BETWEEN {first} AND {}",
        first + 4
    ));
    client.sql(&format!("DELETE FROM app.t WHERE id = {} OR id = {}", first + 1, first + 5));
    client.sql(&format!("UPDATE app.mine SET s = 'changed' WHERE id = {first}"));
    if round > 0 {
        client.sql(&format!("DELETE FROM app.mine WHERE id = {}", first - 10));
    }
    client.sql(&format!("INSERT INTO app.t VALUES ({}, 1, 'again')", first + 1));
    client.seq(&format!("DELETE FROM app.t WHERE id = {}", first + 2))
}

#[test]
fn every_id_of_a_feed_resumes_to_exactly_the_rest_across_flush_compaction_kill_and_restart() {
    let mut server = Server::start();
    let root = server.root();
    root.sql(
        "CREATE NAMESPACE app; CREATE SHARED TABLE app.t (id BIGINT PRIMARY KEY, n INT, body TEXT); \
         CREATE USER TABLE app.mine (id BIGINT PRIMARY KEY, s TEXT)",
    );
    root.sql("INSERT INTO app.t VALUES (1000, 1, 'before')");
    let request = LiveRequest::default()
        .and("small", "SELECT id, n FROM app.t WHERE n < 10")
        .and("all", "SELECT * FROM app.t")
        .and("mine", "SELECT * FROM app.mine");
    let (mut record, mut live) = Record::begin(request, &root, 3);
    for round in 0..4 {
        let last = change(&root, round);
        record.read(&mut live, last);
        match round {
            0 => root.sql("FLUSH TABLE app.t; FLUSH TABLE app.mine"),
            1 => root
                .sql("FLUSH TABLE app.t; FLUSH TABLE app.mine; COMPACT TABLE app.t; COMPACT TABLE app.mine"),
            _ => Vec::new(),
        };
    }
    drop(live);
    assert!(record.events.iter().filter(|event| event.name == "delete").count() >= 8);
    assert!(record.ids.iter().any(|id| id.contains('.')), "there are cuts within a commit");
    record.check(&root, "as it ran");
    root.sql("FLUSH ALL; COMPACT TABLE app.t; COMPACT TABLE app.mine");
    record.check(&root, "flushed and compacted");
    server.crash();
    record.check(&server.root(), "killed");
    let root = server.root();
    let mut live = record.request.clone().after(record.ids.last().unwrap()).open(&root);
    live.expect("ready");
    let last = change(&root, 7);
    record.read(&mut live, last);
    drop(live);
    root.sql("FLUSH ALL; COMPACT TABLE app.t");
    server.restart();
    record.check(&server.root(), "written to after a crash, compacted and restarted");
}

#[test]
fn an_id_that_the_log_no_longer_reaches_gives_reset_and_a_snapshot_to_go_on_from() {
    let settings =
        Options::default().set("live.retention=0s").set("live.retention_bytes=0B").set("storage.log=1MiB");
    let mut server = Server::start_with(settings);
    let root = server.root();
    root.sql("CREATE NAMESPACE app; CREATE SHARED TABLE app.t (id BIGINT PRIMARY KEY, body TEXT)");
    let (mut record, mut live) = Record::begin(LiveRequest::new("SELECT id FROM app.t"), &root, 1);
    record.read(&mut live, root.seq("INSERT INTO app.t VALUES (-1, NULL)"));
    record.read(&mut live, root.seq("DELETE FROM app.t WHERE id = -1"));
    drop(live);
    let body = "x".repeat(1 << 20);
    for id in 0..100 {
        root.sql_with("INSERT INTO app.t VALUES ($1, $2)", json!([id, body]));
    }
    root.sql("FLUSH ALL");
    server.restart();
    let root = server.root();
    for id in &record.ids {
        let mut live = record.request.clone().after(id).open(&root);
        assert_eq!(live.expect("ready").id.as_ref(), Some(id));
        assert_eq!(live.expect("reset").data["reason"], "cursor_expired");
        assert_eq!(live.snapshot().len(), 100);
        let new = live.last_id();
        drop(live);
        root.sql("INSERT INTO app.t VALUES (1000, NULL)");
        let seq = root.seq("DELETE FROM app.t WHERE id = 1000");
        let mut live = record.request.clone().after(&new).open(&root);
        live.expect("ready");
        let names: Vec<String> = live
            .wait_for(|event| event.id == Some(seq.to_string()))
            .into_iter()
            .map(|event| event.name)
            .collect();
        assert_eq!(names, ["insert", "delete"], "the new place is good");
    }
}
