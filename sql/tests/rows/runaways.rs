//! Statements that want more memory or time than there is.

use std::time::Duration;

use kalamdb_sql::ErrorCode;
use serde_json::json;

use crate::harness::Server;

#[tokio::test]
async fn rows_that_do_not_fit_memory_are_refused_as_a_whole_and_give_it_back() {
    let server = Server::with(|options| options.memory_limit = 1 << 20).await;
    let mut root = server.root();
    root.run("CREATE TABLE t (id BIGINT PRIMARY KEY, s TEXT)").await;
    let rows = "INSERT INTO t SELECT value, repeat('x', 200) FROM generate_series";
    assert_eq!(root.fail(&format!("{rows}(1, 20000)")).await.code, ErrorCode::Overloaded);
    assert_eq!(root.rows("SELECT count(*) FROM t").await, json!([[0]]), "nothing of it was written");
    for first in [1, 1001, 2001, 3001] {
        let part = format!("{rows}({first}, {})", first + 999);
        assert_eq!(root.run(&part).await.affected_rows, Some(1000), "what fits has all the memory again");
    }
}

#[tokio::test]
async fn a_join_of_everything_with_everything_can_be_given_up() {
    let server = Server::start().await;
    let mut root = server.root();
    root.run(
        "CREATE TABLE t (id BIGINT PRIMARY KEY); INSERT INTO t SELECT value FROM generate_series(1, 5000)",
    )
    .await;
    for join in ["t a, t b, t c WHERE a.id + b.id <> c.id", "t a, t b, t c"] {
        // Fires only if the query lets go of the thread; it would take hours.
        let query = format!("SELECT count(a.id + b.id + c.id) FROM {join}");
        let given_up = tokio::time::timeout(Duration::from_millis(300), root.rows(&query)).await;
        assert!(given_up.is_err(), "{join}");
    }
    assert_eq!(root.rows("SELECT count(*) FROM t").await, json!([[5000]]));
}
