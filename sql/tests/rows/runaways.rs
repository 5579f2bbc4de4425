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

#[tokio::test]
async fn rows_beyond_what_one_commit_holds_are_too_large_and_not_a_lack_of_memory() {
    let server = Server::start().await;
    let mut root = server.root();
    root.run("CREATE TABLE t (id BIGINT PRIMARY KEY, s TEXT); INSERT INTO t VALUES (0, 'x')").await;
    let megabytes = "SELECT value, repeat('x', 1048576) FROM generate_series";
    // More than is gathered, and more than a record of the log holds.
    for rows in [250, 70] {
        for insert in [
            format!("INSERT INTO t {megabytes}(1, {rows})"),
            format!("INSERT INTO t {megabytes}(0, {rows}) ON CONFLICT (id) DO UPDATE SET s = excluded.s"),
        ] {
            let error = root.fail(&insert).await;
            assert_eq!(error.code, ErrorCode::TooLarge, "{insert}: {error}");
            assert_eq!(root.rows("SELECT id, s FROM t").await, json!([[0, "x"]]), "{insert}");
        }
    }
    root.run(&format!("INSERT INTO t {megabytes}(1, 20); INSERT INTO t {megabytes}(21, 40)")).await;
    let error = root.fail("UPDATE t SET s = s || s || s WHERE id > 0").await;
    assert_eq!(error.code, ErrorCode::TooLarge, "{error}");
    assert_eq!(root.rows("SELECT count(*), max(length(s)) FROM t").await, json!([[41, 1_048_576]]));
}
