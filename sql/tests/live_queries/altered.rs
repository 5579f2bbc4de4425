//! Live queries on a table whose columns change.

use kalamdb_sql::ErrorCode;
use serde_json::json;

use crate::harness::{Db, resume};

const QUERY: &str = "SELECT id, n FROM app.t WHERE n > 0";

#[tokio::test]
async fn a_feed_goes_on_through_changes_of_columns_that_it_does_not_use_and_through_renames() {
    let db = Db::open().await;
    db.run(
        "CREATE NAMESPACE app; CREATE SHARED TABLE app.t (id BIGINT PRIMARY KEY, n INT, other TEXT NOT NULL)",
    )
    .await;
    let mut feed = db.feed(QUERY).await;
    let live_id = feed.expect("ready").await.data["subscriptions"][0]["live_id"].as_str().unwrap().to_owned();
    feed.expect("snapshot").await;
    db.run("INSERT INTO app.t VALUES (1, 1, 'a')").await;
    assert_eq!(feed.expect("insert").await.data["rows"], json!([{"id": 1, "n": 1}]));
    for change in ["DROP COLUMN n", "MODIFY COLUMN n BIGINT", "ADD COLUMN fine INT, MODIFY COLUMN n TEXT"] {
        let error =
            db.run_as("root", kalamdb_sql::Role::System, &format!("ALTER TABLE app.t {change}")).await;
        let error = error.unwrap_err();
        assert_eq!(error.code, ErrorCode::InUse, "{change}: {error}");
        assert!(error.message.contains(&live_id), "{change}: {error}");
    }
    db.run("ALTER TABLE app.t DROP COLUMN other, ADD COLUMN more INT DEFAULT 1, RENAME COLUMN n TO m").await;
    db.run("INSERT INTO app.t (id, m) VALUES (2, 2)").await;
    assert_eq!(feed.expect("insert").await.data["rows"], json!([{"id": 2, "n": 2}]));
    db.run("UPDATE app.t SET m = 0 WHERE id = 1").await;
    assert_eq!(feed.expect("delete").await.data["rows"], json!([{"id": 1, "n": 1}]));
    drop(feed);
    while !db.run("SELECT live_id FROM system.live_queries").await.rows.is_empty() {
        tokio::task::yield_now().await;
    }
    db.run("ALTER TABLE app.t DROP COLUMN m").await;
}

#[tokio::test]
async fn a_feed_that_resumes_before_a_change_tells_old_rows_as_a_select_shows_them() {
    let db = Db::open().await;
    db.run("CREATE NAMESPACE app; CREATE SHARED TABLE app.t (id BIGINT PRIMARY KEY, n SMALLINT)").await;
    let mut feed = db.feed("SELECT * FROM app.t").await;
    feed.expect("ready").await;
    feed.expect("snapshot").await;
    let start = feed.last_id.clone().unwrap();
    drop(feed);
    db.run("INSERT INTO app.t VALUES (1, 1)").await;
    while !db.run("SELECT live_id FROM system.live_queries").await.rows.is_empty() {
        tokio::task::yield_now().await;
    }
    db.run("ALTER TABLE app.t MODIFY COLUMN n FLOAT, ADD COLUMN more INT DEFAULT 7").await;
    db.run("ALTER TABLE app.t MODIFY COLUMN n TEXT").await;
    let select = db.run("SELECT * FROM app.t").await.rows;
    assert_eq!(json!(select), json!([{"id": 1, "n": "1.0", "more": 7}]));
    let mut feed = db.request(resume(&["SELECT * FROM app.t"], &start)).await.unwrap();
    feed.expect("ready").await;
    assert_eq!(feed.expect("insert").await.data["rows"], json!(select));
}
