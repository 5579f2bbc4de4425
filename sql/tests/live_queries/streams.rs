//! STREAM tables: rows in memory for a while, told to whoever listens.

use std::time::Duration;

use kalamdb_sql::{Error, ErrorCode, LiveRequest, Role, SubscriptionRequest};
use serde_json::{Value, json};

use crate::harness::{Db, request, resume};

async fn stream(db: &Db, options: &str) {
    db.run(&format!(
        "CREATE NAMESPACE app; CREATE STREAM TABLE app.s (id BIGINT PRIMARY KEY, who TEXT) WITH ({options})"
    ))
    .await;
}

async fn ids(db: &Db) -> Vec<Value> {
    let rows = db.run("SELECT id FROM app.s").await.rows;
    rows.iter().map(|row| row["id"].clone()).collect()
}

fn without_snapshot(sql: &str) -> LiveRequest {
    let subscription = SubscriptionRequest { snapshot: false, ..SubscriptionRequest::new(sql) };
    LiveRequest { subscriptions: vec![subscription], last_event_id: None }
}

#[tokio::test]
async fn the_buffer_is_read_like_any_table_with_the_insert_and_time_of_each_row() {
    let db = Db::open().await;
    stream(&db, "retention = '1h', max_buffer = 3").await;
    let first = db.run("INSERT INTO app.s VALUES (1, 'ann'), (2, 'bob')").await.seq();
    let second = db.run("INSERT INTO app.s VALUES (3, 'cy')").await.seq();
    assert!(second > first);
    let rows = db.run("SELECT *, _seq FROM app.s WHERE _ts <= NOW() ORDER BY _seq, id").await.rows;
    let row = |id: i64, who: &str, seq: u64| json!({"id": id, "who": who, "_seq": seq});
    assert_eq!(rows, [row(1, "ann", first), row(2, "bob", first), row(3, "cy", second)]);
    let returned = db
        .run("INSERT INTO app.s VALUES (4, 'dee') RETURNING id, _seq, _ts > NOW() - INTERVAL '1 hour' AS t")
        .await;
    assert_eq!(returned.rows, [json!({"id": 4, "_seq": returned.seq(), "t": true})]);
    assert_eq!(ids(&db).await, [json!(2), json!(3), json!(4)], "the oldest row made room");
    let counted =
        db.run("SELECT count(*) AS n, max(a.id) AS m FROM app.s a JOIN app.s b USING (id)").await.rows;
    assert_eq!(counted, [json!({"n": 3, "m": 4})]);
    assert_eq!(
        db.run("SELECT * FROM app.s LIMIT 1").await.rows,
        [json!({"id": 2, "who": "bob"})],
        "system columns are not in *"
    );
    db.run("CREATE SHARED TABLE app.copy (id BIGINT PRIMARY KEY, who TEXT)").await;
    db.run("INSERT INTO app.copy SELECT * FROM app.s; INSERT INTO app.s SELECT id + 10, who FROM app.copy")
        .await;
    assert_eq!(ids(&db).await, [json!(12), json!(13), json!(14)]);
}

#[tokio::test]
async fn what_streams_cannot_do_is_refused_and_says_why() {
    let db = Db::open().await;
    stream(&db, "retention = '1h'").await;
    for (sql, code) in [
        ("UPDATE app.s SET who = 'x'", ErrorCode::InvalidStatement),
        ("DELETE FROM app.s", ErrorCode::InvalidStatement),
        ("FLUSH TABLE app.s", ErrorCode::InvalidStatement),
        ("ALTER TABLE app.s ADD COLUMN more INT", ErrorCode::InvalidStatement),
        ("BEGIN; INSERT INTO app.s VALUES (1, 'x'); COMMIT", ErrorCode::Unsupported),
        ("SELECT _updated FROM app.s", ErrorCode::ColumnNotFound),
        ("INSERT INTO app.s (id, _ts) VALUES (1, NOW())", ErrorCode::InvalidStatement),
        ("INSERT INTO app.s VALUES (NULL, 'x')", ErrorCode::NotNullViolation),
        ("CREATE STREAM TABLE app.u (a INT) FLUSH POLICY ROWS 10", ErrorCode::InvalidParameter),
        ("CREATE STREAM TABLE app.u (a INT) LOCATION '/data/x'", ErrorCode::InvalidParameter),
        ("CREATE STREAM TABLE app.u (a INT) WITH (deleted_retention = '1d')", ErrorCode::InvalidParameter),
        ("CREATE STREAM TABLE app.u (a INT) WITH (retention = 'soon')", ErrorCode::InvalidParameter),
    ] {
        let error = db.run_as("root", Role::System, sql).await.expect_err(sql);
        assert_eq!(error.code, code, "{sql}: {error}");
    }
    assert_eq!(ids(&db).await, Vec::<Value>::new());
}

#[tokio::test]
async fn access_to_a_stream_is_as_its_option_says() {
    let db = Db::open().await;
    stream(&db, "access = 'read'").await;
    db.run("CREATE STREAM TABLE app.p (id BIGINT PRIMARY KEY) WITH (access = 'private')").await;
    db.run("INSERT INTO app.s VALUES (1, 'x')").await;
    let ann = async |sql: &str| db.run_as("ann", Role::User, sql).await;
    assert_eq!(ann("SELECT id FROM app.s").await.unwrap().rows, [json!({"id": 1})], "all users share it");
    let code = |result: Result<_, Error>| result.map(|_: crate::harness::Done| ()).unwrap_err().code;
    assert_eq!(code(ann("INSERT INTO app.s VALUES (2, 'x')").await), ErrorCode::PermissionDenied);
    assert_eq!(code(ann("SELECT id FROM app.p").await), ErrorCode::PermissionDenied);
    let live = db.request_as("ann", Role::User, request(&["SELECT id FROM app.p"])).await;
    assert_eq!(live.err().unwrap().code, ErrorCode::PermissionDenied);
}

#[tokio::test]
async fn it_is_listed_like_other_tables_and_says_what_it_holds() {
    let db = Db::open().await;
    stream(&db, "retention = '10s', max_buffer = 5, ephemeral = false").await;
    db.run("INSERT INTO app.s VALUES (1, 'x'), (2, 'y')").await;
    let tables = db.run("SHOW TABLES IN app").await.rows;
    assert_eq!((&tables[0]["table_name"], &tables[0]["table_type"]), (&json!("s"), &json!("stream")));
    assert_eq!(db.run("DESCRIBE app.s").await.rows.len(), 2);
    let stats = db.run("SHOW STATS FOR TABLE app.s").await.rows;
    assert_eq!((&stats[0]["hot_rows"], &stats[0]["segments"]), (&json!(2), &json!(0)));
    let options = db.run("SELECT options FROM system.tables WHERE table_name = 's'").await.rows;
    assert_eq!(options[0]["options"]["retention_millis"], 10_000);
    let standard =
        db.run("SELECT table_type FROM information_schema.tables WHERE table_name = 's'").await.rows;
    assert_eq!(standard.len(), 1);
    let metrics = db.run("SELECT value FROM system.metrics WHERE name = 'kalamdb_stream_rows'").await.rows;
    assert_eq!(metrics[0]["value"], 2.0);
}

#[tokio::test]
async fn a_subscriber_gets_the_buffer_and_then_every_insert_that_matches() {
    let db = Db::open().await;
    stream(&db, "retention = '1h', max_buffer = 2").await;
    db.run("INSERT INTO app.s VALUES (1, 'a'); INSERT INTO app.s VALUES (2, 'b'); INSERT INTO app.s VALUES (3, 'x')")
        .await;
    let mut feed = db.feed("SELECT id, _seq FROM app.s WHERE who < 'm'").await;
    feed.expect("ready").await;
    let snapshot = feed.expect("snapshot").await;
    assert_eq!(snapshot.data["rows"].as_array().unwrap().len(), 1, "{snapshot:?}");
    assert_eq!(snapshot.data["rows"][0]["id"], 2);
    // More than the buffer holds, all at once.
    let mut sent = Vec::new();
    for id in 10..30 {
        sent.push(db.run(&format!("INSERT INTO app.s VALUES ({id}, 'a'), ({}, 'z')", id + 100)).await.seq());
    }
    for (id, seq) in (10..30).zip(sent) {
        let event = feed.expect("insert").await;
        assert_eq!(event.id, None, "a stream has no place in the log");
        assert_eq!(event.data["seq"], seq, "the answer of INSERT names the event");
        assert_eq!(event.data["rows"], json!([{"id": id, "_seq": seq}]));
    }
    let mut feed = db
        .request(LiveRequest {
            subscriptions: vec![SubscriptionRequest {
                last_rows: Some(1),
                ..SubscriptionRequest::new("SELECT id FROM app.s")
            }],
            last_event_id: None,
        })
        .await
        .unwrap();
    feed.expect("ready").await;
    assert_eq!(feed.expect("snapshot").await.data["rows"], json!([{"id": 129}]));
}

#[tokio::test]
async fn rows_leave_an_ephemeral_stream_at_once_when_nobody_listens() {
    let db = Db::open().await;
    stream(&db, "ephemeral = true").await;
    db.run("INSERT INTO app.s VALUES (1, 'a')").await;
    assert_eq!(ids(&db).await, Vec::<Value>::new());
    let mut feed = db.request(without_snapshot("SELECT id FROM app.s")).await.unwrap();
    feed.expect("ready").await;
    db.run("INSERT INTO app.s VALUES (2, 'a')").await;
    assert_eq!(feed.expect("insert").await.data["rows"], json!([{"id": 2}]));
    drop(feed);
    db.run("INSERT INTO app.s VALUES (3, 'a')").await;
    assert_eq!(ids(&db).await, Vec::<Value>::new());
    assert_eq!(db.instance.database().streams().bytes(), 0);
}

#[tokio::test]
async fn a_row_is_gone_within_a_second_of_its_retention() {
    let db = Db::open().await;
    stream(&db, "retention = '300ms'").await;
    db.run("INSERT INTO app.s VALUES (1, 'a')").await;
    let start = tokio::time::Instant::now();
    while !ids(&db).await.is_empty() || db.instance.database().streams().bytes() > 0 {
        assert!(start.elapsed() < Duration::from_secs(30));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

const MIXED: [&str; 2] = ["SELECT id FROM app.s", "SELECT id FROM app.t"];

#[tokio::test]
async fn a_stream_beside_a_table_does_not_disturb_its_ids_and_begins_again_when_the_feed_is_resumed() {
    let db = Db::open().await;
    stream(&db, "retention = '1h', max_buffer = 2").await;
    db.run("CREATE SHARED TABLE app.t (id BIGINT PRIMARY KEY)").await;
    let mut feed = db.request(request(&MIXED)).await.unwrap();
    feed.expect("ready").await;
    assert_eq!(feed.expect("snapshot").await.id, None);
    assert!(feed.expect("snapshot").await.id.is_some());
    db.run("INSERT INTO app.s VALUES (1, 'a')").await;
    assert_eq!(feed.expect("insert").await.id, None);
    let seq = db.run("INSERT INTO app.t VALUES (1)").await.seq();
    let event = feed.expect("insert").await;
    assert_eq!((event.id, &event.data["subscription"]), (Some(seq.to_string()), &json!("q2")));
    drop(feed);
    db.run(
        "INSERT INTO app.s VALUES (2, 'a'); INSERT INTO app.s VALUES (3, 'a'); INSERT INTO app.t VALUES (2)",
    )
    .await;
    let mut feed = db.request(resume(&MIXED, &seq.to_string())).await.unwrap();
    assert_eq!(feed.expect("ready").await.id, Some(seq.to_string()));
    let reset = feed.expect("reset").await;
    assert_eq!((&reset.data["subscription"], &reset.data["reason"]), (&json!("q1"), &json!("not_resumable")));
    let snapshot = feed.expect("snapshot").await;
    assert_eq!((snapshot.id, &snapshot.data["rows"]), (None, &json!([{"id": 2}, {"id": 3}])));
    let missed = feed.expect("insert").await;
    assert_eq!((&missed.data["subscription"], &missed.data["rows"]), (&json!("q2"), &json!([{"id": 2}])));
    db.run("INSERT INTO app.s VALUES (4, 'a')").await;
    assert_eq!(feed.expect("insert").await.data["rows"], json!([{"id": 4}]), "and goes on");
}

#[tokio::test]
async fn a_reader_too_slow_for_the_buffer_is_told_that_it_lost_something_and_begins_again() {
    let db = Db::open_with(|options| options.engine.stream_bytes = 64 << 10).await;
    stream(&db, "retention = '1h', max_buffer = 100000").await;
    let mut feed = db.feed("SELECT id FROM app.s").await;
    feed.expect("ready").await;
    feed.expect("snapshot").await;
    for id in 0..2_000 {
        db.run(&format!("INSERT INTO app.s VALUES ({id}, 'somebody with a long name')")).await;
    }
    let reset = feed.expect("reset").await;
    assert_eq!((&reset.data["reason"], &reset.id), (&json!("evicted"), &None));
    let held = ids(&db).await;
    assert_eq!(feed.expect("snapshot").await.data["rows"].as_array().unwrap().len(), held.len());
    db.run("INSERT INTO app.s VALUES (5000, 'x')").await;
    assert_eq!(feed.expect("insert").await.data["rows"], json!([{"id": 5000}]));
}

#[tokio::test]
async fn a_dropped_stream_ends_its_feeds() {
    let db = Db::open().await;
    stream(&db, "retention = '1h'").await;
    db.run("CREATE STREAM TABLE app.other (id BIGINT PRIMARY KEY)").await;
    let mut feed = db.request(request(&["SELECT id FROM app.s", "SELECT id FROM app.other"])).await.unwrap();
    let ready = feed.expect("ready").await;
    feed.expect("snapshot").await;
    feed.expect("snapshot").await;
    let error = db.run_as("root", Role::System, "DROP STREAM TABLE app.s").await.unwrap_err();
    assert_eq!(error.code, ErrorCode::InUse);
    assert!(error.message.contains(ready.data["subscriptions"][0]["live_id"].as_str().unwrap()), "{error}");
    db.run("DROP TABLE app.s CASCADE").await;
    let closed = feed.expect("closed").await;
    assert_eq!(
        (&closed.data["subscription"], &closed.data["reason"]),
        (&json!("q1"), &json!("table_dropped"))
    );
    db.run("INSERT INTO app.other VALUES (1)").await;
    assert_eq!(feed.expect("insert").await.data["subscription"], "q2");
    let listed = db.run("SELECT subscription_id, state, lag FROM system.live_queries").await.rows;
    assert_eq!(listed, [json!({"subscription_id": "q2", "state": "live", "lag": 0})]);
    drop(feed);
    assert_eq!(db.instance.database().streams().stats().listeners, 0, "nobody listens any more");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_readers_of_a_busy_stream_and_a_table_each_get_every_event_in_order() {
    let db = Db::open().await;
    stream(&db, "retention = '1h', max_buffer = 10").await;
    db.run("CREATE SHARED TABLE app.t (id BIGINT PRIMARY KEY)").await;
    let mut feeds = Vec::new();
    for _ in 0..20 {
        let mut feed = db.request(request(&MIXED)).await.unwrap();
        for name in ["ready", "snapshot", "snapshot"] {
            feed.expect(name).await;
        }
        feeds.push(feed);
    }
    let write = async {
        for id in 0..200 {
            db.run(&format!("INSERT INTO app.s VALUES ({id}, 'a')")).await;
            if id % 4 == 0 {
                db.run(&format!("INSERT INTO app.t VALUES ({id})")).await;
            }
        }
    };
    let read = futures::future::join_all(feeds.iter_mut().map(async |feed| {
        let (mut of_stream, mut of_table) = (Vec::new(), Vec::new());
        while of_stream.len() < 200 || of_table.len() < 50 {
            let event = feed.expect("insert").await;
            let seen = if event.data["subscription"] == "q1" { &mut of_stream } else { &mut of_table };
            seen.push(event.data["rows"][0]["id"].as_i64().unwrap());
        }
        (of_stream, of_table)
    }));
    let (_, all) = tokio::join!(write, read);
    for (of_stream, of_table) in all {
        assert_eq!(of_stream, (0..200).collect::<Vec<_>>());
        assert_eq!(of_table, (0..200).step_by(4).collect::<Vec<_>>());
    }
}
