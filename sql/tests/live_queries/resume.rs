//! A client that was cut off anywhere goes on with its last event id: no gap, no repeat.

use kalamdb_sql::{LiveRequest, SubscriptionRequest};

use crate::harness::{Db, Event, Feed, request, resume};

const QUERIES: [&str; 2] = ["SELECT id, n FROM app.t WHERE n < 5", "SELECT id, n FROM app.t"];

async fn table(db: &Db) {
    db.run("CREATE NAMESPACE app; CREATE SHARED TABLE app.t (id BIGINT PRIMARY KEY, n INT)").await;
}

/// Changes with one to five events each; returns the last sequence.
async fn history(db: &Db) -> u64 {
    for statement in [
        "INSERT INTO app.t (id, n) VALUES (1, 1), (2, 2), (3, 9)",
        "UPDATE app.t SET n = n + 1",
        "UPDATE app.t SET n = CASE id WHEN 1 THEN 7 WHEN 2 THEN 4 ELSE 0 END",
        "FLUSH TABLE app.t",
        "DELETE FROM app.t WHERE id = 2",
        "INSERT INTO app.t (id, n) VALUES (2, 2), (4, 4)",
        "DELETE FROM app.t WHERE id IN (3, 4)",
    ] {
        db.run(statement).await;
    }
    db.run("UPDATE app.t SET n = 3").await.seq()
}

async fn begin(db: &Db) -> Feed {
    let mut feed = db.request(request(&QUERIES)).await.unwrap();
    for name in ["ready", "snapshot", "snapshot"] {
        feed.expect(name).await;
    }
    feed
}

async fn check_every_cut(db: &Db, events: &[Event], start: &str, last: u64) {
    let mut id = start.to_owned();
    for cut in 0..=events.len() {
        if cut > 0 {
            id = events[cut - 1].id.clone().expect("every change has an id");
        }
        let mut feed = db.request(resume(&QUERIES, &id)).await.unwrap();
        let ready = feed.expect("ready").await;
        assert_eq!(ready.id.as_deref(), Some(id.as_str()));
        assert_eq!(feed.until(last).await, events[cut..], "cut after {cut} events, id {id}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_feed_resumes_exactly_at_every_cut_also_after_a_restart() {
    let db = Db::open().await;
    table(&db).await;
    let mut feed = begin(&db).await;
    let start = feed.last_id.clone().unwrap();
    let last = history(&db).await;
    let events = feed.until(last).await;
    assert!(events.len() > 12, "{events:?}");
    check_every_cut(&db, &events, &start, last).await;
    drop(feed);
    let db = db.reopen().await;
    check_every_cut(&db, &events, &start, last).await;
}

#[tokio::test]
async fn a_resumed_feed_goes_on_live() {
    let db = Db::open().await;
    table(&db).await;
    let feed = begin(&db).await;
    let id = feed.last_id.clone().unwrap();
    drop(feed);
    db.run("INSERT INTO app.t (id, n) VALUES (1, 1)").await;
    let mut feed = db.request(resume(&QUERIES, &id)).await.unwrap();
    feed.expect("ready").await;
    feed.expect("insert").await;
    feed.expect("insert").await;
    db.run("DELETE FROM app.t").await;
    assert_eq!(feed.expect("delete").await.data["subscription"], "q1");
    assert_eq!(feed.expect("delete").await.data["subscription"], "q2");
}

#[tokio::test]
async fn an_idle_connection_gets_ids_so_that_its_cursor_does_not_age() {
    let db = Db::open().await;
    table(&db).await;
    db.run("CREATE SHARED TABLE app.other (id BIGINT PRIMARY KEY)").await;
    let mut feed = begin(&db).await;
    let last = db.run("INSERT INTO app.other VALUES (1)").await.seq();
    assert_eq!(feed.until(last).await, []);
    let heartbeat = loop {
        let event = feed.next_raw().await.unwrap();
        if event.event == "heartbeat" {
            break event;
        }
    };
    assert_eq!(heartbeat.id, None);
    assert_eq!(heartbeat.data["seq"], last);
    assert!(heartbeat.data["time"].as_str().unwrap().ends_with('Z'));
}

#[tokio::test]
async fn without_a_snapshot_ready_has_the_id_and_changes_follow() {
    let db = Db::open().await;
    table(&db).await;
    let seq = db.run("INSERT INTO app.t (id, n) VALUES (1, 1)").await.seq();
    let subscription = SubscriptionRequest { snapshot: false, ..SubscriptionRequest::new(QUERIES[1]) };
    let mut feed =
        db.request(LiveRequest { subscriptions: vec![subscription], last_event_id: None }).await.unwrap();
    let ready = feed.expect("ready").await;
    assert_eq!(ready.id, Some(seq.to_string()));
    assert_eq!(ready.data["seq"], seq);
    db.run("INSERT INTO app.t (id, n) VALUES (2, 1)").await;
    assert_eq!(feed.expect("insert").await.data["rows"][0]["id"], 2);
}

#[tokio::test]
async fn cursor_zero_without_snapshot_is_everything_the_log_has() {
    let db = Db::open().await;
    table(&db).await;
    for id in 1..4 {
        db.run(&format!("INSERT INTO app.t (id, n) VALUES ({id}, 1)")).await;
    }
    let subscription = SubscriptionRequest { snapshot: false, ..SubscriptionRequest::new(QUERIES[1]) };
    let request = LiveRequest { subscriptions: vec![subscription], last_event_id: Some("0".into()) };
    let mut feed = db.request(request).await.unwrap();
    feed.expect("ready").await;
    for id in 1..4 {
        assert_eq!(feed.expect("insert").await.data["rows"][0]["id"], id);
    }
}

#[tokio::test]
async fn an_id_that_this_log_never_gave_resets_and_begins_again() {
    let db = Db::open().await;
    table(&db).await;
    db.run("INSERT INTO app.t (id, n) VALUES (1, 1)").await;
    let mut feed = db.request(resume(&QUERIES[1..], "999999999")).await.unwrap();
    feed.expect("ready").await;
    assert_eq!(feed.expect("reset").await.data["reason"], "cursor_unknown");
    let snapshot = feed.expect("snapshot").await;
    assert_eq!(snapshot.data["rows"][0]["id"], 1);
    assert!(snapshot.id.is_some());
}
