//! Statements that want more time or memory than there is.

use std::time::Duration;

use kalamdb_sql::ErrorCode;
use serde_json::json;

use crate::harness::Server;

const MIB: usize = 1 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_query_that_never_ends_is_cut_off_and_others_are_answered_meanwhile() {
    let server = Server::with(|options| options.statement_timeout = Duration::from_secs(2)).await;
    let mut root = server.root();
    root.run(
        "CREATE TABLE t (id BIGINT PRIMARY KEY); INSERT INTO t SELECT value FROM generate_series(1, 20000)",
    )
    .await;
    let mut other = server.root();
    let runaway = tokio::spawn(async move {
        root.fail("SELECT count(*) FROM t a, t b, t c WHERE a.id + b.id <> c.id").await
    });
    let mut answered = 0;
    while !runaway.is_finished() {
        assert_eq!(other.rows("SELECT id FROM t WHERE id = 7").await, json!([[7]]));
        answered += 1;
    }
    assert_eq!(runaway.await.unwrap().code, ErrorCode::Cancelled);
    assert!(answered > 10, "only {answered} short queries were answered beside it");
    let left =
        "SELECT count(*) FROM system.queries WHERE sql LIKE '%a, t b, t c%' AND sql NOT LIKE '%system%'";
    assert_eq!(other.rows(left).await, json!([[0]]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_fit_memory_spills_or_fails_clearly_and_gives_it_back() {
    let server = Server::with(|options| options.memory_limit = 16 * MIB).await;
    let mut root = server.root();
    let wide = "SELECT value, repeat(CAST(value AS TEXT), 20) AS s FROM generate_series(1, 200000)";
    let sorted = format!("SELECT value, s FROM ({wide}) ORDER BY s DESC, value");
    let analyzed = root.rows(&format!("EXPLAIN ANALYZE {sorted}")).await;
    let text = analyzed[0][1].as_str().unwrap();
    let spills =
        |text: &str| text.lines().any(|line| line.contains("SortExec") && !line.contains("spill_count=0"));
    assert!(spills(text), "{text}");
    assert_eq!(root.rows(&format!("{sorted} LIMIT 1")).await[0][0], json!(99_999));
    let groups = format!("SELECT count(*) FROM (SELECT s, count(*) AS n FROM ({wide}) GROUP BY s)");
    assert_eq!(root.rows(&groups).await, json!([[200_000]]));
    // What cannot be spilled.
    let gathered =
        "SELECT array_length(array_agg(repeat(CAST(value AS TEXT), 100))) FROM generate_series(1, 200000)";
    assert_eq!(root.fail(gathered).await.code, ErrorCode::Overloaded);
    root.run("CREATE TABLE t (id BIGINT PRIMARY KEY, s TEXT)").await;
    assert_eq!(root.fail(&format!("INSERT INTO t {wide}")).await.code, ErrorCode::Overloaded);
    assert_eq!(root.rows("SELECT count(*) FROM t").await, json!([[0]]), "nothing of it was written");
    // What fits has all the memory again.
    let part = "SELECT value, repeat(CAST(value AS TEXT), 20) FROM generate_series(1, 20000)";
    assert_eq!(root.run(&format!("INSERT INTO t {part}")).await.affected_rows, Some(20_000));
    assert_eq!(root.run("UPDATE t SET s = s || 'x' WHERE id <= 10000").await.affected_rows, Some(10_000));
    assert_eq!(root.rows(&groups).await, json!([[200_000]]));
}
