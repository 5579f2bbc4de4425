use kalamdb_sql::ErrorCode;
use serde_json::json;

use crate::harness::{Layout, Server};

#[tokio::test]
async fn updates_and_deletes_change_exactly_the_rows_they_match() {
    for layout in Layout::ALL {
        let server = Server::start().await;
        let mut root = server.root();
        root.run("CREATE TABLE t (id INT PRIMARY KEY, a INT, b TEXT); CREATE TABLE u (id INT PRIMARY KEY, add INT)").await;
        root.run("INSERT INTO t VALUES (1, 1, 'x'), (2, 2, 'y'), (3, 3, NULL); INSERT INTO u VALUES (1, 10), (2, 20)").await;
        layout.half(&mut root, "t").await;
        root.run("INSERT INTO t VALUES (4, 4, 'z'), (5, 5, 'z')").await;
        layout.end(&mut root, "t").await;
        for (sql, affected) in [
            ("UPDATE t SET a = a * 2, b = 'even' WHERE a % 2 = 0", 2),
            ("UPDATE t SET a = DEFAULT WHERE id = 5", 1),
            ("UPDATE t SET b = NULL WHERE b = 'nothing'", 0),
            ("UPDATE t SET a = t.a + u.add FROM u WHERE t.id = u.id", 2),
            ("UPDATE t AS x SET b = (SELECT max(add) FROM u) WHERE x.id = 3", 1),
            ("UPDATE t SET id = id + 100 WHERE id >= 4", 2),
            ("DELETE FROM t WHERE b IS NULL OR id = 105", 1),
            ("DELETE FROM t USING u WHERE t.id = u.id AND u.add > 10", 1),
        ] {
            assert_eq!(root.run(sql).await.affected_rows, Some(affected), "{layout:?}: {sql}");
        }
        let rows = root.rows("SELECT * FROM t ORDER BY id").await;
        assert_eq!(rows, json!([[1, 11, "x"], [3, 3, "20"], [104, 8, "even"]]), "{layout:?}");
        assert_eq!(root.run("DELETE FROM t").await.affected_rows, Some(3));
        assert_eq!(
            root.run("UPDATE t SET a = 1").await.affected_rows,
            Some(0),
            "soft-deleted rows do not match"
        );
        assert_eq!(root.run("UPDATE t SET a = 1 WHERE _deleted").await.affected_rows, Some(0));
        assert_eq!(root.rows("SELECT count(*) FROM t").await, json!([[0]]));
    }
}

#[tokio::test]
async fn a_bad_change_says_why_and_changes_nothing() {
    let server = Server::start().await;
    let mut root = server.root();
    root.run("CREATE TABLE t (id INT PRIMARY KEY, a INT NOT NULL CHECK (a < 100), b TEXT)").await;
    root.run("INSERT INTO t VALUES (1, 1, 'x'), (2, 2, 'y')").await;
    for (sql, code) in [
        ("UPDATE t SET nosuch = 1", ErrorCode::ColumnNotFound),
        ("UPDATE t SET a = nosuch", ErrorCode::ColumnNotFound),
        ("UPDATE t SET _seq = 1", ErrorCode::InvalidStatement),
        ("UPDATE t SET a = 1, a = 2", ErrorCode::InvalidStatement),
        ("UPDATE t SET a = NULL WHERE id = 1", ErrorCode::NotNullViolation),
        ("UPDATE t SET a = a * 60", ErrorCode::CheckViolation),
        ("UPDATE t SET a = 'x'", ErrorCode::TypeMismatch),
        ("UPDATE t SET a = b", ErrorCode::TypeMismatch),
        ("UPDATE t SET a = id > 1", ErrorCode::TypeMismatch),
        ("UPDATE t SET a = 3000000000", ErrorCode::ValueOutOfRange),
        ("UPDATE t SET a = a + CAST(3000000000 AS BIGINT)", ErrorCode::ValueOutOfRange),
        ("UPDATE t SET a = a / (a - 1)", ErrorCode::DivisionByZero),
        ("UPDATE t SET id = 2 WHERE id = 1", ErrorCode::UniqueViolation),
        ("UPDATE t SET id = 7", ErrorCode::UniqueViolation),
        ("UPDATE nosuch SET a = 1", ErrorCode::TableNotFound),
        ("DELETE FROM t WHERE nosuch = 1", ErrorCode::ColumnNotFound),
        ("DELETE FROM t WHERE a", ErrorCode::InvalidStatement),
        ("DELETE FROM nosuch", ErrorCode::TableNotFound),
        ("DELETE FROM t WHERE id = $1", ErrorCode::InvalidParameter),
    ] {
        let error = root.fail(sql).await;
        assert_eq!(error.code, code, "{sql}: {error:?}");
    }
    assert_eq!(root.rows("SELECT * FROM t ORDER BY id").await, json!([[1, 1, "x"], [2, 2, "y"]]));
}

#[tokio::test]
async fn parameters_of_a_change_take_the_types_of_the_columns() {
    let server = Server::start().await;
    let mut root = server.root();
    root.run("CREATE TABLE t (id INT PRIMARY KEY, at TIMESTAMP, doc JSON, raw BYTES)").await;
    root.run("INSERT INTO t (id) VALUES (1), (2)").await;
    let params = [json!("2024-01-01T00:00:00Z"), json!({"a": [1]}), json!("AAE="), json!(2)];
    root.run_with("UPDATE t SET at = $1, doc = $2, raw = $3 WHERE id = $4", &params).await;
    let rows = root.rows("SELECT * FROM t ORDER BY id").await;
    assert_eq!(rows, json!([[1, null, null, null], [2, "2024-01-01T00:00:00.000000Z", {"a": [1]}, "AAE="]]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn counters_that_many_increment_at_once_end_exact() {
    let server = Server::start().await;
    let mut root = server.root();
    root.run("CREATE TABLE counters (id INT PRIMARY KEY, n INT); INSERT INTO counters VALUES (1, 0), (2, 0)")
        .await;
    let tasks = (0..64).map(|task| {
        let mut client = server.root();
        tokio::spawn(async move {
            for turn in 0..5 {
                if task == 0 && turn == 2 {
                    client.run("FLUSH TABLE counters").await;
                }
                let sql = "UPDATE counters SET n = n + 1 WHERE id = 1";
                assert_eq!(client.run(sql).await.affected_rows, Some(1));
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    assert_eq!(root.rows("SELECT n FROM counters ORDER BY id").await, json!([[320], [0]]));
}
