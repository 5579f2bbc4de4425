//! A condition means the same live as in a SELECT.

use kalamdb_sql::Role;
use serde_json::json;

use crate::harness::{Db, Replay, request};

#[tokio::test]
async fn null_is_not_true_and_rows_move_with_it() {
    let db = Db::open().await;
    db.run("CREATE NAMESPACE app; CREATE SHARED TABLE app.t (id BIGINT PRIMARY KEY, n INT)").await;
    let queries = ["SELECT id FROM app.t WHERE n > 1", "SELECT id FROM app.t WHERE NOT n > 1"];
    let mut feed = db.request(request(&queries)).await.unwrap();
    for name in ["ready", "snapshot", "snapshot"] {
        feed.expect(name).await;
    }
    db.run("INSERT INTO app.t (id, n) VALUES (1, NULL)").await;
    db.run("UPDATE app.t SET n = 5").await;
    let event = feed.expect("insert").await;
    assert_eq!((&event.data["subscription"], &event.data["rows"]), (&json!("q1"), &json!([{"id": 1}])));
    db.run("UPDATE app.t SET n = NULL").await;
    assert_eq!(feed.expect("delete").await.data["subscription"], "q1");
    db.run("UPDATE app.t SET n = 0").await;
    assert_eq!(feed.expect("insert").await.data["subscription"], "q2");
}

#[tokio::test]
async fn every_kind_of_condition_filters_changes_as_select_does() {
    let db = Db::open().await;
    db.run(
        "CREATE NAMESPACE app; CREATE SHARED TABLE app.t (id BIGINT PRIMARY KEY, i INT, d DOUBLE, x DECIMAL(10,2), \
         s TEXT, b BOOLEAN, at TIMESTAMP, day DATE, u TEXT)",
    )
    .await;
    let conditions = [
        "i = 3",
        "i <> 3",
        "i IS DISTINCT FROM 3",
        "i IN (1, 3, NULL)",
        "i + 0.5 > d",
        "x >= 2.50",
        "x = 3",
        "s LIKE '%b%'",
        "s ILIKE 'AB%'",
        "s ~ '^a.*c$'",
        "lower(s) || 'x' = 'abx'",
        "length(s) > 2 AND b",
        "b IS NOT TRUE",
        "at >= '2026-01-02'",
        "at > TIMESTAMP '2026-01-01T12:00:00Z' - INTERVAL '1 day'",
        "day = DATE '2026-01-02'",
        "extract(year FROM at) = 2026",
        "CAST(s AS TEXT) < 'b'",
        "coalesce(s, 'none') = 'none'",
        "u = CURRENT_USER",
        "at < NOW()",
        "nullif(i, 3) IS NULL",
        "true",
        "1 = 0",
    ];
    let queries: Vec<String> =
        conditions.iter().map(|c| format!("SELECT id, i FROM app.t WHERE {c}")).collect();
    let queries: Vec<&str> = queries.iter().map(String::as_str).collect();
    let mut feed = db.request(request(&queries)).await.unwrap();
    db.run(
        "INSERT INTO app.t VALUES (1, 3, 3.1, 2.50, 'ab', true, '2026-01-02T00:00:00Z', '2026-01-02', 'root'), \
         (2, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL), \
         (3, 1, 0.5, 3.00, 'abc', false, '2025-12-31T23:00:00Z', '2025-12-31', 'other'), \
         (4, -3, 9, 10, 'B', true, '2027-01-01T00:00:00Z', '2027-01-01', 'root')",
    )
    .await;
    let last = db.run("UPDATE app.t SET i = 3, s = 'xbc' WHERE id > 2").await.seq();
    let mut replays = vec![Replay::default(); queries.len()];
    for event in feed.until(last).await {
        if let Some(name) = event.data["subscription"].as_str() {
            replays[name[1..].parse::<usize>().unwrap() - 1].apply(&event);
        }
    }
    for (query, replay) in queries.iter().zip(&replays) {
        assert_eq!(*replay, Replay::of(&db.run(query).await.rows), "{query}");
    }
}

#[tokio::test]
async fn a_condition_that_fails_on_a_row_ends_its_own_subscription_only() {
    let db = Db::open().await;
    db.run("CREATE NAMESPACE app; CREATE SHARED TABLE app.t (id BIGINT PRIMARY KEY, n INT)").await;
    let mut feed = db
        .request(request(&["SELECT id FROM app.t WHERE 10 / n > 1", "SELECT id FROM app.t"]))
        .await
        .unwrap();
    for name in ["ready", "snapshot", "snapshot"] {
        feed.expect(name).await;
    }
    db.run("INSERT INTO app.t (id, n) VALUES (1, 2)").await;
    assert_eq!(feed.expect("insert").await.data["subscription"], "q1");
    assert_eq!(feed.expect("insert").await.data["subscription"], "q2");
    db.run("INSERT INTO app.t (id, n) VALUES (2, 0)").await;
    let error = feed.expect("error").await;
    assert_eq!(
        (&error.data["subscription"], &error.data["code"]),
        (&json!("q1"), &json!("DIVISION_BY_ZERO"))
    );
    assert_eq!(feed.expect("insert").await.data["subscription"], "q2");
    db.run("INSERT INTO app.t (id, n) VALUES (3, 1)").await;
    assert_eq!(feed.expect("insert").await.data["subscription"], "q2");
}

#[tokio::test]
async fn a_query_that_names_deleted_sees_a_soft_delete_as_a_change() {
    let db = Db::open().await;
    db.run("CREATE NAMESPACE app; CREATE SHARED TABLE app.t (id BIGINT PRIMARY KEY, n INT)").await;
    db.run("INSERT INTO app.t (id, n) VALUES (1, 2), (2, 3)").await;
    let queries =
        ["SELECT id, _deleted FROM app.t", "SELECT id FROM app.t WHERE _deleted", "SELECT id FROM app.t"];
    let mut feed = db.request(request(&queries)).await.unwrap();
    for name in ["ready", "snapshot", "snapshot", "snapshot"] {
        feed.expect(name).await;
    }
    db.run("DELETE FROM app.t WHERE id = 2").await;
    let update = feed.expect("update").await;
    assert_eq!(update.data["rows"], json!([{"id": 2, "_deleted": true}]));
    assert_eq!(update.data["old_rows"], json!([{"id": 2, "_deleted": false}]));
    let insert = feed.expect("insert").await;
    assert_eq!((&insert.data["subscription"], &insert.data["rows"]), (&json!("q2"), &json!([{"id": 2}])));
    assert_eq!(feed.expect("delete").await.data["subscription"], "q3");
}

#[tokio::test]
async fn a_user_table_is_the_own_partition_whatever_the_text_says() {
    let db = Db::open().await;
    db.run("CREATE NAMESPACE app; CREATE USER TABLE app.mine (id BIGINT PRIMARY KEY, s TEXT)").await;
    let query = "SELECT * FROM app.mine WHERE true OR CURRENT_USER = 'ann'";
    let mut ann = db.request_as("ann", Role::User, request(&[query])).await.unwrap();
    let mut bob = db.request_as("bob", Role::User, request(&[query])).await.unwrap();
    let mut root = db.request(request(&[query])).await.unwrap();
    for feed in [&mut ann, &mut bob, &mut root] {
        feed.expect("ready").await;
        assert_eq!(feed.expect("snapshot").await.data["rows"], json!([]));
    }
    db.run_as("ann", Role::User, "INSERT INTO app.mine VALUES (1, 'of ann')").await.unwrap();
    let last = db.run_as("bob", Role::User, "INSERT INTO app.mine VALUES (2, 'of bob')").await.unwrap().seq();
    assert_eq!(ann.expect("insert").await.data["rows"], json!([{"id": 1, "s": "of ann"}]));
    assert_eq!(bob.expect("insert").await.data["rows"], json!([{"id": 2, "s": "of bob"}]));
    assert_eq!(ann.until(last).await, []);
    assert_eq!(root.until(last).await, []);
}

#[tokio::test]
async fn parameters_are_bound_and_the_result_has_the_types_of_the_select() {
    let db = Db::open().await;
    db.run("CREATE NAMESPACE app; CREATE SHARED TABLE app.t (id BIGINT PRIMARY KEY, j JSON, at TIMESTAMP)")
        .await;
    let mut request = request(&["SELECT id, j, at FROM app.t WHERE id > $1 AND at > $2"]);
    request.subscriptions[0].params = vec![json!(5), json!("2026-01-01T00:00:00Z")];
    request.subscriptions[0].id = Some("mine".into());
    let mut feed = db.request(request).await.unwrap();
    let ready = feed.expect("ready").await;
    let described = &ready.data["subscriptions"][0];
    assert_eq!(described["id"], "mine");
    assert_eq!(described["schema"][1], json!({"name": "j", "type": "JSON", "nullable": true}));
    feed.expect("snapshot").await;
    db.run("INSERT INTO app.t VALUES (1, '{}', '2026-02-01'), (6, '{\"a\": [1]}', '2026-02-01')").await;
    let event = feed.expect("insert").await;
    assert_eq!(event.data["rows"], json!([{"id": 6, "j": {"a": [1]}, "at": "2026-02-01T00:00:00.000000Z"}]));
}
