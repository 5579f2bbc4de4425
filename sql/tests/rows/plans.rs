use serde_json::json;

use crate::harness::Server;

#[tokio::test]
async fn explain_shows_both_scans_what_was_pruned_and_the_pushed_predicate() {
    let server = Server::start().await;
    let mut root = server.root();
    root.run("CREATE TABLE t (id INT PRIMARY KEY, n INT, s TEXT)").await;
    let rows =
        |from: i64| (from..from + 10).map(|id| format!("({id}, {id}, 's')")).collect::<Vec<_>>().join(", ");
    for from in [0, 10, 20] {
        root.run(&format!("INSERT INTO t VALUES {}; FLUSH TABLE t", rows(from))).await;
    }
    root.run("DELETE FROM t WHERE id = 25").await;
    root.run(&format!("INSERT INTO t VALUES {}", rows(30))).await;
    let plan = root.plan("SELECT s FROM t WHERE n > 22").await;
    assert!(plan.contains("MemtableScanExec: table=default.t"), "{plan}");
    assert!(plan.contains("SegmentScanExec: table=default.t, segments=1, pruned=2, hidden_rows=1"), "{plan}");
    assert!(plan.contains("predicate=n"), "{plan}");
    let count = root.plan("SELECT count(*) FROM t").await;
    assert!(!count.contains("Scan"), "the count comes from metadata alone: {count}");
    assert_eq!(root.rows("SELECT count(*) FROM t").await, json!([[39]]));
    let analyzed = root.rows("EXPLAIN ANALYZE SELECT sum(n) FROM t WHERE n > 22").await;
    let text = analyzed[0][1].as_str().unwrap();
    assert!(text.contains("SegmentScanExec") && text.contains("output_rows=6"), "{text}");
}

#[tokio::test]
async fn a_segment_that_the_manifest_rules_out_still_hides_what_it_hides() {
    let server = Server::start().await;
    let mut root = server.root();
    root.run(
        "CREATE TABLE t (id INT PRIMARY KEY, n INT); INSERT INTO t VALUES (1, 1), (2, 2); FLUSH TABLE t",
    )
    .await;
    root.run("UPDATE t SET n = 50 WHERE id = 1; FLUSH TABLE t; UPDATE t SET n = 3 WHERE id = 1").await;
    for (filter, expected) in
        [("n = 50", json!([])), ("n = 1", json!([])), ("n = 3", json!([[1]])), ("n < 60", json!([[1], [2]]))]
    {
        assert_eq!(
            root.rows(&format!("SELECT id FROM t WHERE {filter} ORDER BY id")).await,
            expected,
            "{filter}"
        );
    }
}

/// A table with rows in two segments, one of them with a deleted and an updated row, and in memory.
async fn mixed(server: &Server) -> crate::harness::Client {
    let mut root = server.root();
    root.run("CREATE TABLE t (id BIGINT PRIMARY KEY, at TIMESTAMP, n INT, s TEXT)").await;
    let rows =
        "SELECT value, to_timestamp(value * 60), CAST(value % 10 AS INT), 's' || value FROM generate_series";
    root.run(&format!(
        "INSERT INTO t {rows}(1, 100); FLUSH TABLE t; INSERT INTO t {rows}(101, 200); FLUSH TABLE t"
    ))
    .await;
    root.run(&format!(
        "DELETE FROM t WHERE id = 150; UPDATE t SET n = 99 WHERE id = 160; INSERT INTO t {rows}(201, 220)"
    ))
    .await;
    root
}

#[tokio::test]
async fn plans_push_down_what_they_can() {
    let server = Server::start().await;
    let mut root = mixed(&server).await;
    for (name, sql) in [
        ("filter_and_projection", "SELECT s FROM t WHERE n > 5 AND id < 130"),
        (
            "range_of_time_prunes_a_segment",
            "SELECT count(*) FROM t WHERE at >= '1970-01-01T02:00:00Z' AND at < '1970-01-01T02:10:00Z'",
        ),
        ("limit_reaches_the_scans", "SELECT id, n FROM t LIMIT 3"),
        ("newest_rows_by_a_dynamic_filter", "SELECT id FROM t ORDER BY id DESC LIMIT 3"),
        ("count_with_hidden_rows_is_still_exact", "SELECT count(*) FROM t"),
        ("bounds_with_hidden_rows_are_read", "SELECT min(n), max(n) FROM t"),
        ("a_row_by_its_key", "SELECT s FROM t WHERE id = 42"),
        ("join_pushes_the_keys_of_one_side", "SELECT a.s FROM t a JOIN t b ON a.id = b.n WHERE b.s = 's7'"),
        ("deleted_rows_when_they_are_named", "SELECT id FROM t WHERE _deleted"),
    ] {
        insta::assert_snapshot!(name, root.plan(sql).await);
    }
    root.run(
        "ALTER TABLE t RENAME COLUMN s TO label, ADD COLUMN extra INT DEFAULT 5, MODIFY COLUMN n BIGINT",
    )
    .await;
    insta::assert_snapshot!(
        "older_segments_after_alter",
        root.plan("SELECT label, extra FROM t WHERE n = 7 AND extra = 5").await
    );
}

#[tokio::test]
async fn count_and_bounds_of_a_clean_table_touch_no_data() {
    let server = Server::start().await;
    let mut root = server.root();
    root.run("CREATE TABLE c (id BIGINT PRIMARY KEY, d DATE, s TEXT, b BOOLEAN, x DOUBLE)").await;
    root.run("INSERT INTO c VALUES (3, '2020-05-01', 'b', true, 1.5); FLUSH TABLE c").await;
    root.run("INSERT INTO c VALUES (-7, '1969-05-01', NULL, false, 2.5), (5, NULL, 'zz', true, 'NaN'); FLUSH TABLE c").await;
    let bounds = "SELECT count(*), min(id), max(id), min(d), max(d), min(s), max(s), count(s), min(b) FROM c";
    let expected = json!([[3, -7, 5, "1969-05-01", "2020-05-01", "b", "zz", 2, false]]);
    assert!(!root.plan(bounds).await.contains("Scan"), "{}", root.plan(bounds).await);
    assert_eq!(root.rows(bounds).await, expected);
    // NaN is in no statistics, so that doubles are read.
    assert!(root.plan("SELECT max(x) FROM c").await.contains("SegmentScanExec"));
    // With a hidden row, with a filter, with tombstones and with rows in memory the rows decide.
    assert_eq!(root.rows("SELECT max(id) FROM c WHERE id < 5").await, json!([[3]]));
    root.run("UPDATE c SET s = 'a', d = '1950-01-01' WHERE id = 5").await;
    assert_eq!(root.rows("SELECT max(s), min(d), max(id) FROM c").await, json!([["b", "1950-01-01", 5]]));
    root.run("FLUSH TABLE c; DELETE FROM c WHERE id = 5; FLUSH TABLE c").await;
    assert_eq!(root.rows("SELECT count(*), max(id), min(d) FROM c").await, json!([[2, 3, "1969-05-01"]]));
    assert_eq!(root.rows("SELECT max(id) FROM c WHERE _deleted OR NOT _deleted").await, json!([[5]]));
    root.run("COMPACT TABLE c").await;
    assert_eq!(root.rows("SELECT count(*), max(id), min(d) FROM c").await, json!([[2, 3, "1969-05-01"]]));
    root.run("ALTER TABLE c ADD COLUMN n INT DEFAULT 4").await;
    assert_eq!(root.rows("SELECT min(n), max(n), max(id) FROM c").await, json!([[4, 4, 3]]));
}

#[tokio::test]
async fn explain_analyze_says_what_was_pruned_and_why() {
    let server = Server::start().await;
    let mut root = mixed(&server).await;
    let analyzed = root.rows("EXPLAIN ANALYZE SELECT s FROM t WHERE id BETWEEN 40 AND 45 AND n = 3").await;
    let text = analyzed[0][1].as_str().unwrap();
    let line = text.lines().find(|line| line.contains("SegmentScanExec")).unwrap();
    for shown in [
        "segments=1",
        "pruned=1",
        "predicate=",
        "row_groups_pruned_statistics=",
        "row_groups_pruned_bloom_filter=",
        "page_index_rows_pruned=",
        "pushdown_rows_pruned=",
        "bytes_scanned=",
    ] {
        assert!(line.contains(shown), "{shown} is missing: {line}");
    }
}
