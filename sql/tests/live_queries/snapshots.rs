//! Initial rows that a client does not take: what they hold is bounded in time.

use std::time::Duration;

use kalamdb_sql::Role;
use serde_json::{Value, json};

use crate::harness::{Db, Feed, Replay, request, resume};

/// How long a statement, and so a snapshot, may take here: enough for a client that reads, on a loaded machine.
const LIMIT: Duration = Duration::from_secs(2);
/// Enough for several batches.
const ROWS: usize = 3_500;

async fn opened() -> Db {
    let db = Db::open_with(|options| options.statement_timeout = LIMIT).await;
    db.run("CREATE NAMESPACE app; CREATE SHARED TABLE app.t (id BIGINT PRIMARY KEY, s TEXT)").await;
    fill(&db, "app.t").await;
    db
}

async fn fill(db: &Db, table: &str) -> u64 {
    let rows: Vec<String> = (0..ROWS).map(|id| format!("({id}, 'x')")).collect();
    db.run(&format!("INSERT INTO {table} VALUES {}", rows.join(","))).await.seq()
}

async fn metric(db: &Db, name: &str) -> u64 {
    let sql = format!("SELECT CAST(value AS BIGINT) AS value FROM system.metrics WHERE name = '{name}'");
    db.run(&sql).await.rows[0]["value"].as_u64().unwrap()
}

/// Polls until no snapshot is open that sees less than `seq`.
async fn until_let_go(db: &Db, seq: u64) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    while metric(db, "kalamdb_snapshot_horizon_seq").await < seq {
        assert!(tokio::time::Instant::now() < deadline, "the snapshot is still open");
        tokio::task::yield_now().await;
    }
}

/// `ready` and one batch of a snapshot that has more, then no more reading.
async fn stalled(feed: &mut Feed) {
    feed.expect("ready").await;
    assert_eq!(feed.expect("snapshot").await.data["last"], false);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_stalls_within_its_snapshot_holds_it_no_longer_than_a_statement_and_begins_again() {
    let db = opened().await;
    let before = metric(&db, "kalamdb_visible_seq").await;
    let mut feed = db.feed("SELECT id, s FROM app.t").await;
    stalled(&mut feed).await;
    let last = db.run("DELETE FROM app.t WHERE id < 100").await.seq();
    assert_eq!(metric(&db, "kalamdb_snapshot_horizon_seq").await, before, "it is open");
    until_let_go(&db, last).await;
    let reset = feed.expect("reset").await;
    assert_eq!(
        (&reset.data["subscription"], &reset.data["reason"]),
        (&json!("q1"), &json!("snapshot_expired"))
    );
    let mut replay = Replay::default();
    feed.until(last).await.iter().for_each(|event| replay.apply(event));
    assert_eq!(replay, Replay::of(&db.run("SELECT id, s FROM app.t").await.rows));
    // And it goes on as any other.
    let last = db.run("UPDATE app.t SET s = 'y' WHERE id = 100").await.seq();
    feed.until(last).await.iter().for_each(|event| replay.apply(event));
    assert_eq!(replay, Replay::of(&db.run("SELECT id, s FROM app.t").await.rows));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscription_whose_rows_take_too_long_twice_fails_and_the_others_go_on() {
    let db = opened().await;
    db.run("CREATE SHARED TABLE app.few (id BIGINT PRIMARY KEY); INSERT INTO app.few VALUES (1)").await;
    let mut asked = request(&["SELECT id, s FROM app.t", "SELECT id FROM app.few", "SELECT id FROM app.few"]);
    asked.subscriptions[2].snapshot = false;
    let mut feed = db.request(asked).await.unwrap();
    stalled(&mut feed).await;
    for round in 0..2 {
        let seq = db.run(&format!("INSERT INTO app.few VALUES ({})", 10 + round)).await.seq();
        until_let_go(&db, seq).await;
        if round == 0 {
            for subscription in ["q1", "q2", "q3"] {
                assert_eq!(feed.expect("reset").await.data["subscription"], subscription);
            }
            assert_eq!(feed.expect("snapshot").await.data["last"], false);
        }
    }
    let error = feed.expect("error").await;
    assert_eq!((&error.data["subscription"], &error.data["code"]), (&json!("q1"), &json!("CANCELLED")));
    for subscription in ["q2", "q3"] {
        assert_eq!(feed.expect("reset").await.data["subscription"], subscription);
    }
    for subscription in ["q2", "q3"] {
        let snapshot = feed.expect("snapshot").await;
        assert_eq!(snapshot.data["subscription"], subscription);
        assert_eq!(snapshot.data["rows"], json!([{"id": 1}, {"id": 10}, {"id": 11}]));
    }
    let last = db.run("DELETE FROM app.few WHERE id = 1").await.seq();
    let told: Vec<Value> = feed.until(last).await.iter().map(|e| e.data["subscription"].clone()).collect();
    assert_eq!(told, ["q2", "q3"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn feeds_of_a_purged_user_begin_again_with_nothing_whatever_they_were_doing() {
    let db = Db::open_with(|options| options.live.queue_bytes = 2_000).await;
    db.run("CREATE NAMESPACE app; CREATE USER TABLE app.u (id BIGINT PRIMARY KEY, s TEXT)").await;
    let of_ann = async |sql: &str| db.run_as("ann", Role::User, sql).await.unwrap();
    let rows: Vec<String> = (0..ROWS).map(|id| format!("({id}, 'secret')")).collect();
    of_ann(&format!("INSERT INTO app.u VALUES {}", rows.join(","))).await;
    let feed = async |sql: &str| db.request_as("ann", Role::User, request(&[sql])).await.unwrap();
    let mut live = feed("SELECT id FROM app.u WHERE id < 3").await;
    live.expect("ready").await;
    assert_eq!(live.expect("snapshot").await.data["rows"].as_array().unwrap().len(), 3);
    of_ann("INSERT INTO app.u VALUES (-1, 'secret')").await;
    live.expect("insert").await;
    let mut reading = feed("SELECT id, s FROM app.u").await;
    stalled(&mut reading).await;
    let mut behind = feed("SELECT s, id FROM app.u WHERE id < 0").await;
    behind.expect("ready").await;
    behind.expect("snapshot").await;
    for id in 2..50 {
        of_ann(&format!("INSERT INTO app.u VALUES (-{id}, 'secret')")).await;
    }
    let mut other = db.request_as("bob", Role::User, request(&["SELECT id FROM app.u"])).await.unwrap();
    other.expect("ready").await;
    other.expect("snapshot").await;
    // One that is live has nothing to fear from somebody else's purge.
    db.run_as("bob", Role::User, "INSERT INTO app.u VALUES (0, 'b')").await.unwrap();
    other.expect("insert").await;
    db.run("PURGE USER 'ann'").await;
    for feed in [&mut live, &mut reading, &mut behind] {
        let reset = feed.expect("reset").await;
        assert_eq!(reset.data["reason"], "purged");
        assert_eq!(feed.expect("snapshot").await.data["rows"], json!([]), "nothing of before comes");
    }
    of_ann("INSERT INTO app.u VALUES (-7, 'new')").await;
    for feed in [&mut live, &mut reading, &mut behind] {
        assert_eq!(feed.expect("insert").await.data["rows"][0]["id"], -7);
    }
    db.run_as("bob", Role::User, "INSERT INTO app.u VALUES (1, 'b')").await.unwrap();
    other.expect("insert").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_whose_rows_are_not_taken_begins_again_beside_a_table_that_goes_on() {
    let db = opened().await;
    db.run("CREATE STREAM TABLE app.s (n BIGINT PRIMARY KEY, s TEXT) WITH (retention = '1h', max_buffer = 10000)").await;
    fill(&db, "app.s").await;
    let asked = request(&["SELECT id FROM app.t WHERE id < 2", "SELECT n, s FROM app.s"]);
    let mut feed = db.request(asked).await.unwrap();
    feed.expect("ready").await;
    assert_eq!(feed.expect("snapshot").await.data["rows"], json!([{"id": 0}, {"id": 1}]));
    assert_eq!(feed.expect("snapshot").await.data["last"], false);
    let last = db.run("DELETE FROM app.t WHERE id = 0").await.seq();
    until_let_go(&db, last).await;
    for subscription in ["q1", "q2"] {
        let reset = feed.expect("reset").await;
        assert_eq!(
            (&reset.data["subscription"], &reset.data["reason"]),
            (&json!(subscription), &json!("snapshot_expired"))
        );
    }
    assert_eq!(feed.expect("snapshot").await.data["rows"], json!([{"id": 1}]));
    let mut rows = 0;
    while rows < ROWS {
        rows += feed.expect("snapshot").await.data["rows"].as_array().unwrap().len();
    }
    db.run("INSERT INTO app.s VALUES (1, 'later')").await;
    assert_eq!(feed.expect("insert").await.data["rows"][0]["s"], "later");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_of_a_resumed_feed_goes_on_exactly_although_the_rows_of_a_stream_were_not_taken() {
    let db = opened().await;
    db.run("CREATE STREAM TABLE app.s (n BIGINT PRIMARY KEY, s TEXT) WITH (retention = '1h', max_buffer = 10000)").await;
    fill(&db, "app.s").await;
    let queries = ["SELECT id FROM app.t WHERE id < 2", "SELECT n, s FROM app.s"];
    let id = metric(&db, "kalamdb_visible_seq").await.to_string();
    let last = db.run("DELETE FROM app.t WHERE id = 0").await.seq();
    let mut feed = db.request(resume(&queries, &id)).await.unwrap();
    feed.expect("ready").await;
    for reason in ["not_resumable", "snapshot_expired"] {
        let reset = feed.expect("reset").await;
        assert_eq!((&reset.data["subscription"], &reset.data["reason"]), (&json!("q2"), &json!(reason)));
        assert_eq!(feed.expect("snapshot").await.data["last"], false);
        if reason == "not_resumable" {
            let seq = db.run("INSERT INTO app.t VALUES (9000, 'x')").await.seq();
            until_let_go(&db, seq).await;
        }
    }
    while feed.expect("snapshot").await.data["last"] == false {}
    let delete = feed.expect("delete").await;
    assert_eq!((delete.id, &delete.data["rows"]), (Some(last.to_string()), &json!([{"id": 0}])));
}
