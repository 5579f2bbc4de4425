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
