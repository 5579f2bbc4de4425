//! Live feeds over a real connection: events, ids, resuming, several subscriptions, clients that stall or vanish.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::time::Duration;

use kalamdb_tests::{Client, Event, Live, LiveRequest, Options, Server, eventually};
use serde_json::{Value, json};

fn table(client: &Client) {
    client.sql("CREATE NAMESPACE app; CREATE SHARED TABLE app.t (id BIGINT PRIMARY KEY, n INT, body TEXT)");
}

fn brief(event: &Event) -> (String, Vec<i64>) {
    (event.name.clone(), event.rows().iter().map(|row| row["id"].as_i64().expect("an id")).collect())
}

fn is(name: &str, ids: &[i64]) -> (String, Vec<i64>) {
    (name.into(), ids.to_vec())
}

#[test]
fn a_feed_tells_ready_the_snapshot_and_then_each_change_with_its_id() {
    let server = Server::start();
    let root = server.root();
    table(&root);
    let before = root.seq("INSERT INTO app.t VALUES (1, 1, 'a'), (2, 2, 'b'), (3, 30, 'c')");
    let mut live = LiveRequest::default().and("small", "SELECT id, n FROM app.t WHERE n < 10").open(&root);
    assert!(live.header("content-type").starts_with("text/event-stream"));
    assert_eq!((live.header("cache-control"), live.header("x-accel-buffering")), ("no-store", "no"));
    assert_eq!(live.header("content-encoding"), "", "feeds are not compressed");
    assert!(!live.header("x-request-id").is_empty());
    let ready = live.expect("ready");
    assert_eq!((ready.id.as_ref(), &ready.data["seq"]), (None, &json!(before)));
    let described = &ready.data["subscriptions"][0];
    assert_eq!(described["id"], "small");
    assert!(ready.data["connection_id"].is_string() && described["live_id"].is_string());
    assert_eq!(described["schema"][0], json!({"name": "id", "type": "BIGINT", "nullable": false}));
    let snapshot = live.expect("snapshot");
    let rows = json!([{"id": 1, "n": 1}, {"id": 2, "n": 2}]);
    assert_eq!(
        snapshot.data,
        json!({"subscription": "small", "rows": rows, "seq": before, "first": true, "last": true})
    );
    assert_eq!(snapshot.id, Some(before.to_string()));

    let mut told = |sql: &str| {
        let seq = root.seq(sql);
        let event = live.next_event().expect("the feed goes on");
        assert_eq!(
            (event.id, &event.data["seq"], &event.data["subscription"]),
            (Some(seq.to_string()), &json!(seq), &json!("small"))
        );
        (event.name, event.data["rows"].clone(), event.data["old_rows"].clone())
    };
    let event = |name: &str, rows: Value, old: Value| (name.to_owned(), rows, old);
    let none = Value::Null;
    assert_eq!(
        told("INSERT INTO app.t VALUES (4, 4, 'd'), (5, 50, 'e')"),
        event("insert", json!([{"id": 4, "n": 4}]), none.clone())
    );
    assert_eq!(
        told("UPDATE app.t SET n = 5 WHERE id = 4"),
        event("update", json!([{"id": 4, "n": 5}]), json!([{"id": 4, "n": 4}]))
    );
    assert_eq!(
        told("UPDATE app.t SET n = 9 WHERE id = 3"),
        event("insert", json!([{"id": 3, "n": 9}]), none.clone())
    );
    assert_eq!(
        told("UPDATE app.t SET n = NULL WHERE id = 3"),
        event("delete", json!([{"id": 3, "n": 9}]), none.clone())
    );
    root.sql("UPDATE app.t SET body = 'not selected'; INSERT INTO app.t VALUES (6, 60, 'too large'); FLUSH TABLE app.t");
    assert_eq!(
        told("DELETE FROM app.t WHERE id = 1"),
        event("delete", json!([{"id": 1, "n": 1}]), none.clone())
    );
    assert_eq!(
        told("INSERT INTO app.t VALUES (1, 7, 'back')"),
        event("insert", json!([{"id": 1, "n": 7}]), none)
    );
}

#[test]
fn a_commit_with_changes_of_every_kind_is_cut_anywhere_and_resumed_exactly() {
    let mut server = Server::start();
    let root = server.root();
    table(&root);
    root.sql("INSERT INTO app.t VALUES (1, 1, 'a'), (2, 2, 'b'), (3, 30, 'c')");
    let request = LiveRequest::default()
        .and("small", "SELECT id, n FROM app.t WHERE n < 10")
        .and("all", "SELECT id, n FROM app.t");
    let mut live = request.open(&root);
    live.expect("ready");
    assert_eq!(live.expect("snapshot").id, None);
    let start = live.expect("snapshot").id.expect("the last batch of all has the id");
    let first = root.seq("UPDATE app.t SET n = CASE id WHEN 1 THEN 11 WHEN 2 THEN 3 ELSE 4 END");
    let last = root.seq("DELETE FROM app.t WHERE id = 2");
    let events = live.wait_for(|event| event.id == Some(last.to_string()));
    let ids: Vec<String> =
        events.iter().map(|event| event.id.clone().expect("every change has an id")).collect();
    let expected = [
        format!("{first}.1"),
        format!("{first}.2"),
        format!("{first}.3"),
        first.to_string(),
        format!("{last}.1"),
        last.to_string(),
    ];
    assert_eq!(ids, expected);
    let told: Vec<_> =
        events.iter().map(|event| (event.data["subscription"].as_str().unwrap(), brief(event))).collect();
    let expected = [
        ("small", is("delete", &[1])),
        ("small", is("update", &[2])),
        ("small", is("insert", &[3])),
        ("all", is("update", &[1, 2, 3])),
        ("small", is("delete", &[2])),
        ("all", is("delete", &[2])),
    ];
    assert_eq!(told, expected);
    for round in ["running", "restarted", "killed"] {
        let client = server.root();
        for cut in 0..events.len() {
            let cursor = if cut == 0 { &start } else { &ids[cut - 1] };
            let mut live = request.clone().after(cursor).open(&client);
            assert_eq!(live.expect("ready").id.as_ref(), Some(cursor), "{round}");
            let rest = live.wait_for(|event| event.id == Some(last.to_string()));
            assert_eq!(rest, events[cut..], "{round}, cut after {cut} events");
        }
        match round {
            "running" => server.restart(),
            _ => server.crash(),
        }
    }
}

#[test]
fn the_tour_of_two_terminals_works_as_the_readme_says() {
    let server = Server::start();
    let root = server.root();
    root.sql("CREATE NAMESPACE app");
    root.sql("CREATE USER TABLE app.messages (id BIGINT PRIMARY KEY DEFAULT SNOWFLAKE_ID(), room TEXT NOT NULL, body TEXT, at TIMESTAMP DEFAULT NOW())");
    root.sql("INSERT INTO app.messages (room, body) VALUES ('kitchen', 'hello'), ('garden', 'anybody?')");
    // The second terminal.
    let (mut live, rows) = Live::follow(&root, "SELECT room, body FROM app.messages WHERE room = 'kitchen'");
    assert_eq!(rows, [json!({"room": "kitchen", "body": "hello"})]);
    // The first one.
    root.sql("INSERT INTO app.messages (room, body) VALUES ('kitchen', 'tea?')");
    root.sql("UPDATE app.messages SET body = 'tea!' WHERE body = 'tea?'");
    root.sql("UPDATE app.messages SET room = 'garden' WHERE body = 'tea!'");
    assert_eq!(live.expect("insert").rows(), [json!({"room": "kitchen", "body": "tea?"})]);
    let update = live.expect("update");
    assert_eq!(
        (&update.rows()[0]["body"], &update.data["old_rows"][0]["body"]),
        (&json!("tea!"), &json!("tea?"))
    );
    assert_eq!(live.expect("delete").rows(), [json!({"room": "kitchen", "body": "tea!"})]);
    root.sql("FLUSH TABLE app.messages");
    assert_eq!(root.number("SELECT count(*) FROM app.messages"), 3);
    assert_eq!(root.rows("SELECT query FROM system.live_queries").len(), 1);
    live.disconnect();
    eventually("the live query is gone", || {
        root.rows("SELECT * FROM system.live_queries").is_empty().then_some(())
    });
}

#[test]
fn a_large_snapshot_comes_in_batches_and_the_newest_rows_can_be_asked_for() {
    let server = Server::start();
    let root = server.root();
    table(&root);
    for part in 0..5 {
        let rows: Vec<String> = (0..500).map(|n| format!("({}, {n}, NULL)", part * 500 + n)).collect();
        root.sql(&format!("INSERT INTO app.t VALUES {}", rows.join(",")));
        if part == 2 {
            root.sql("FLUSH TABLE app.t");
        }
    }
    let (_live, rows) = Live::follow(&root, "SELECT id FROM app.t");
    let mut ids: Vec<i64> = rows.iter().map(|row| row["id"].as_i64().unwrap()).collect();
    ids.sort_unstable();
    assert_eq!(ids, (0..2500).collect::<Vec<_>>());
    root.sql("UPDATE app.t SET n = -1 WHERE id = 7");
    let mut live = LiveRequest::new("SELECT id FROM app.t").with("last_rows", 3).open(&root);
    live.expect("ready");
    let rows = live.snapshot();
    assert_eq!(rows.len(), 3);
    assert_eq!(rows[2]["id"], 7, "oldest first, by commit: {rows:?}");
    let mut live = LiveRequest::new("SELECT id FROM app.t WHERE id < 0").open(&root);
    live.expect("ready");
    assert_eq!(live.snapshot().len(), 0, "at least one batch, even if it is empty");
    let mut live = LiveRequest::default()
        .and("p", "SELECT id FROM app.t WHERE id = $1")
        .with("params", json!([42]))
        .and("none", "SELECT id FROM app.t")
        .with("snapshot", false)
        .post()
        .open(&root);
    live.expect("ready");
    assert_eq!(live.snapshot(), [json!({"id": 42})]);
    root.sql("DELETE FROM app.t WHERE id = 42");
    let told: Vec<Value> = live
        .wait_for(|event| event.data["subscription"] == "none")
        .iter()
        .map(|event| event.data["subscription"].clone())
        .collect();
    assert_eq!(told, ["p", "none"]);
}

#[test]
fn a_client_that_stalls_keeps_its_events_and_does_not_slow_writers() {
    const ROWS: i64 = 240;
    let server = Server::start_with(Options::default().set("live.queue=64KiB"));
    let root = server.root();
    table(&root);
    let mut stalled = LiveRequest::new("SELECT id, n, body FROM app.t").open_unread(&root);
    let (mut quick, _) = Live::follow(&root, "SELECT id FROM app.t");
    let body = "x".repeat(100_000);
    for id in 0..ROWS {
        root.sql_with("INSERT INTO app.t VALUES ($1, 0, $2)", json!([id, body]));
    }
    let last = root.seq(&format!("UPDATE app.t SET n = 1 WHERE id < {ROWS}"));
    let seen = quick.wait_for(|event| event.rows().len() == 1 && event.rows()[0]["id"] == ROWS - 1);
    assert_eq!(seen.len() as i64, ROWS);
    let state = || root.rows("SELECT state, query FROM system.live_queries WHERE query LIKE '%body%'");
    eventually("the stalled client is served from the log", || {
        (state()[0]["state"] == "catching_up").then_some(())
    });
    stalled.read_on();
    stalled.expect("ready");
    assert_eq!(stalled.snapshot().len(), 0);
    let events = stalled.wait_for(|event| event.id == Some(last.to_string()));
    let ids: Vec<i64> = events[..events.len() - 1].iter().flat_map(|event| brief(event).1).collect();
    assert_eq!(ids, (0..ROWS).collect::<Vec<_>>(), "each once, in order");
    assert_eq!(
        (events[ROWS as usize].name.as_str(), events[ROWS as usize].rows().len() as i64),
        ("update", ROWS)
    );
    root.sql("DELETE FROM app.t WHERE id = 0");
    assert_eq!(brief(&stalled.next_event().unwrap()), is("delete", &[0]));
    eventually("it is live again", || (state()[0]["state"] == "live").then_some(()));
}

#[test]
fn feeds_that_cannot_go_on_say_why() {
    let mut server = Server::start();
    let root = server.root();
    table(&root);
    root.sql("CREATE SHARED TABLE app.u (id BIGINT PRIMARY KEY)");
    let mut live =
        LiveRequest::default().and("t", "SELECT id FROM app.t").and("u", "SELECT id FROM app.u").open(&root);
    let ready = live.expect("ready");
    live.snapshot();
    live.snapshot();
    let refusal = root.refused("DROP TABLE app.u", 409, "IN_USE");
    let live_id = ready.data["subscriptions"][1]["live_id"].as_str().unwrap();
    assert!(refusal.message().contains(live_id), "{}", refusal.answer);
    root.sql("DROP TABLE app.u CASCADE");
    let closed = live.expect("closed");
    assert_eq!(
        (&closed.data["subscription"], &closed.data["reason"]),
        (&json!("u"), &json!("table_dropped"))
    );
    root.sql("INSERT INTO app.t VALUES (1, 1, 'goes on')");
    assert_eq!(brief(&live.expect("insert")), is("insert", &[1]));
    let live_id = ready.data["subscriptions"][0]["live_id"].as_str().unwrap();
    root.sql(&format!("KILL LIVE QUERY '{live_id}'"));
    assert_eq!(live.expect("closed").data["reason"], "killed");
    root.refused("KILL LIVE QUERY 'nothing'", 404, "LIVE_QUERY_NOT_FOUND");

    let (mut live, _) = Live::follow(&root, "SELECT id FROM app.t");
    server.signal("TERM");
    let rest = live.rest();
    assert_eq!(rest.last().map(|event| event.data["reason"].clone()), Some(json!("shutdown")), "{rest:?}");
    assert!(server.wait().success());
}

#[test]
fn a_query_that_cannot_be_live_is_refused_before_the_stream_begins() {
    let server = Server::start();
    let root = server.root();
    table(&root);
    for (sql, status, code) in [
        ("SELECT count(*) FROM app.t", 400, "UNSUPPORTED"),
        ("SELECT * FROM app.t ORDER BY id", 400, "UNSUPPORTED"),
        ("SELECT * FROM app.t LIMIT 1", 400, "UNSUPPORTED"),
        ("SELECT * FROM app.t a JOIN app.t b ON a.id = b.id", 400, "UNSUPPORTED"),
        ("SELEC 1", 400, "SYNTAX_ERROR"),
        ("DELETE FROM app.t", 400, "INVALID_STATEMENT"),
        ("SELECT * FROM app.tt", 404, "TABLE_NOT_FOUND"),
        ("SELECT nn FROM app.t", 404, "COLUMN_NOT_FOUND"),
    ] {
        let refusal = LiveRequest::new(sql).refused(&root);
        assert_eq!((refusal.status, refusal.code.as_str()), (status, code), "{sql}: {}", refusal.answer);
    }
    for id in ["nonsense", "-1", "7.é", "99999999999999999999"] {
        let refusal = LiveRequest::new("SELECT * FROM app.t").after(id).refused(&root);
        assert_eq!((refusal.status, refusal.code.as_str()), (400, "INVALID_PARAMETER"), "{id}");
    }
    let unknown = root.get("/api/live?sql=SELECT%201&lastrows=3").refusal();
    assert_eq!((unknown.status, unknown.code.as_str()), (400, "INVALID_PARAMETER"));
    assert_eq!(root.rows("SELECT * FROM system.live_queries").len(), 0, "nothing is left behind");
}

#[test]
fn heartbeats_are_events_and_idle_cursors_do_not_age() {
    let server = Server::start_with(Options::default().set("live.heartbeat=100ms"));
    let root = server.root();
    table(&root);
    root.sql("CREATE SHARED TABLE app.other (id BIGINT PRIMARY KEY)");
    let (mut live, _) = Live::follow(&root, "SELECT id FROM app.t");
    let seq = root.seq("INSERT INTO app.other VALUES (1)");
    let mut moved = false;
    let heartbeat = eventually("a heartbeat after the commit", || {
        let event = live.poll(Duration::from_secs(5))?;
        moved |= event.id.as_deref() == Some(&seq.to_string());
        (event.name == "heartbeat" && moved).then_some(event)
    });
    assert!(heartbeat.data["time"].as_str().is_some_and(|time| time.ends_with('Z')), "{heartbeat:?}");
    assert!(heartbeat.data["seq"].as_u64() >= Some(seq), "{heartbeat:?}");
}
