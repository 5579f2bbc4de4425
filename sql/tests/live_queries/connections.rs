//! Slow readers, many readers, and the end of subscriptions.

use std::time::Duration;

use kalamdb_sql::{ErrorCode, Role};
use serde_json::json;

use crate::harness::{Db, request};

async fn table(db: &Db) {
    db.run("CREATE NAMESPACE app; CREATE SHARED TABLE app.t (id BIGINT PRIMARY KEY, s TEXT)").await;
}

/// Polls until `system.live_queries` satisfies a condition.
async fn wait_for(db: &Db, condition: impl Fn(&[serde_json::Value]) -> bool) -> Vec<serde_json::Value> {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    loop {
        let rows = db.run("SELECT * FROM system.live_queries").await.rows;
        if condition(&rows) {
            return rows;
        }
        assert!(tokio::time::Instant::now() < deadline, "{rows:?}");
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_falls_back_to_the_log_and_loses_nothing() {
    let db = Db::open_with(|options| options.live.queue_bytes = 4_096).await;
    table(&db).await;
    let mut slow = db.feed("SELECT id FROM app.t").await;
    let mut quick = db.feed("SELECT id FROM app.t").await;
    for feed in [&mut slow, &mut quick] {
        feed.expect("ready").await;
        feed.expect("snapshot").await;
    }
    db.run("INSERT INTO app.t VALUES (0, 'x')").await;
    slow.expect("insert").await;
    quick.expect("insert").await;
    let mut last = 0;
    for id in 1..300 {
        last = db.run(&format!("INSERT INTO app.t VALUES ({id}, 'x')")).await.seq();
        assert_eq!(quick.expect("insert").await.data["rows"][0]["id"], id);
    }
    // The slow one has read nothing of it so far.
    let rows = wait_for(&db, |rows| rows.iter().any(|row| row["state"] == "catching_up")).await;
    let behind = rows.iter().find(|row| row["state"] == "catching_up").unwrap();
    assert_eq!(behind["connection_id"], slow.feed.connection_id());
    assert_eq!(behind["lag"], 299);
    let ids: Vec<_> = slow.until(last).await.iter().map(|e| e.data["rows"][0]["id"].clone()).collect();
    assert_eq!(ids, (1..300).map(|id| json!(id)).collect::<Vec<_>>());
    // And it is live again.
    let last = db.run("INSERT INTO app.t VALUES (1000, 'x')").await.seq();
    assert_eq!(slow.until(last).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_reader_gets_every_commit_while_writers_and_readers_come_and_go() {
    let db = Db::open_with(|options| options.live.queue_bytes = 2_000).await;
    table(&db).await;
    let writers = async {
        let mut last = 0;
        for id in 0..400 {
            last = db.run(&format!("INSERT INTO app.t VALUES ({id}, 'x')")).await.seq();
        }
        last
    };
    let readers = async {
        let mut feeds = Vec::new();
        for _ in 0..20 {
            let mut feed = db.feed("SELECT id FROM app.t").await;
            feed.expect("ready").await;
            feeds.push(feed);
            tokio::task::yield_now().await;
        }
        feeds
    };
    let (last, feeds) = tokio::join!(writers, readers);
    for mut feed in feeds {
        let mut ids = Vec::new();
        for event in feed.until(last).await {
            ids.extend(event.data["rows"].as_array().unwrap().iter().map(|row| row["id"].as_i64().unwrap()));
        }
        // The snapshot's rows come in any order, the changes in that of their commits.
        ids.sort_unstable();
        assert_eq!(ids, (0..400).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn subscriptions_are_listed_at_once_and_gone_with_the_feed() {
    let db = Db::open().await;
    table(&db).await;
    let feed = db
        .request_as("ann", Role::User, request(&["SELECT id FROM app.t", "SELECT s FROM app.t"]))
        .await
        .unwrap();
    let rows = db.run("SELECT * FROM system.live_queries ORDER BY live_id").await.rows;
    assert_eq!(rows.len(), 2);
    assert_eq!(rows[0]["connection_id"], feed.feed.connection_id());
    assert_eq!(rows[0]["user_id"], "ann");
    assert_eq!((&rows[0]["namespace_id"], &rows[0]["table_name"]), (&json!("app"), &json!("t")));
    assert_eq!(
        (&rows[1]["subscription_id"], &rows[1]["query"]),
        (&json!("q2"), &json!("SELECT s FROM app.t"))
    );
    drop(feed);
    assert_eq!(db.run("SELECT * FROM system.live_queries").await.rows, Vec::<serde_json::Value>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_subscriptions_are_listed_the_oldest_first_however_many_there_are() {
    let db = Db::open().await;
    table(&db).await;
    let (mut feeds, mut expected) = (Vec::new(), Vec::new());
    for feed in 0..23 {
        let mut request = request(&["SELECT id FROM app.t"; 100]);
        for (n, subscription) in request.subscriptions.iter_mut().enumerate() {
            let name = format!("feed {feed}, query {n}");
            expected
                .push(json!({"subscription_id": name, "options": {"last_rows": n, "snapshot": n % 2 == 0}}));
            subscription.id = Some(name);
            (subscription.last_rows, subscription.snapshot) = (Some(n as u64), n % 2 == 0);
        }
        feeds.push(db.request(request).await.unwrap());
    }
    let sql = "SELECT subscription_id, options FROM system.live_queries";
    assert_eq!(db.run(sql).await.rows, expected);
    feeds.pop();
    assert_eq!(db.run(sql).await.rows, expected[..2_200]);
}

#[tokio::test]
async fn kill_ends_one_subscription_and_leaves_the_rest() {
    let db = Db::open().await;
    table(&db).await;
    let queries = ["SELECT id FROM app.t", "SELECT s FROM app.t"];
    let mut feed = db.request_as("ann", Role::User, request(&queries)).await.unwrap();
    let ready = feed.expect("ready").await;
    feed.expect("snapshot").await;
    feed.expect("snapshot").await;
    let live_id = |index: usize| ready.data["subscriptions"][index]["live_id"].as_str().unwrap().to_owned();
    let kill = |index: usize| format!("KILL LIVE QUERY '{}'", live_id(index));
    let error = db.run_as("bob", Role::User, &kill(0)).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::LiveQueryNotFound);
    db.run_as("ann", Role::User, &kill(0)).await.unwrap();
    let closed = feed.expect("closed").await;
    assert_eq!((&closed.data["subscription"], &closed.data["reason"]), (&json!("q1"), &json!("killed")));
    db.run("INSERT INTO app.t VALUES (1, 'x')").await;
    assert_eq!(feed.expect("insert").await.data["subscription"], "q2");
    db.run(&kill(1)).await;
    feed.expect("closed").await;
    assert_eq!(feed.next_raw().await, None, "nothing is left to say");
    assert_eq!(db.run_as("ann", Role::User, &kill(1)).await.unwrap_err().code, ErrorCode::LiveQueryNotFound);
}

#[tokio::test]
async fn a_table_in_use_is_dropped_only_with_cascade_which_ends_its_feeds() {
    let db = Db::open().await;
    table(&db).await;
    db.run("CREATE SHARED TABLE app.other (id BIGINT PRIMARY KEY)").await;
    let mut feed = db.request(request(&["SELECT id FROM app.t", "SELECT id FROM app.other"])).await.unwrap();
    let ready = feed.expect("ready").await;
    let error = db.run_as("root", Role::System, "DROP TABLE app.t").await.unwrap_err();
    assert_eq!(error.code, ErrorCode::InUse);
    assert!(error.message.contains(ready.data["subscriptions"][0]["live_id"].as_str().unwrap()), "{error}");
    db.run("DROP TABLE app.t CASCADE").await;
    let closed = loop {
        let event = feed.next().await;
        if event.event == "closed" {
            break event;
        }
    };
    assert_eq!(
        (&closed.data["subscription"], &closed.data["reason"]),
        (&json!("q1"), &json!("table_dropped"))
    );
    db.run("INSERT INTO app.other VALUES (1)").await;
    loop {
        let event = feed.next().await;
        assert_eq!(event.data["subscription"], "q2");
        if event.event == "insert" {
            break;
        }
    }
}

#[tokio::test]
async fn a_shutdown_closes_every_feed() {
    let db = Db::open().await;
    table(&db).await;
    let mut feed = db.feed("SELECT id FROM app.t").await;
    feed.expect("ready").await;
    db.instance.close().await.unwrap();
    loop {
        let event = feed.next().await;
        if event.event == "closed" {
            assert_eq!(event.data["reason"], "shutdown");
            break;
        }
    }
    assert_eq!(feed.next_raw().await, None);
}
