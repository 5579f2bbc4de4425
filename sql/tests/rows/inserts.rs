use kalamdb_sql::ErrorCode;
use serde_json::json;

use crate::harness::Server;

const TABLE: &str = "CREATE TABLE t (id BIGINT PRIMARY KEY, name TEXT NOT NULL, score INT DEFAULT 10 CHECK (score >= 0), \
                     at TIMESTAMP DEFAULT NOW(), tags TEXT[], doc JSON, amount DECIMAL(6,2), raw BYTES, key UUID)";

#[tokio::test]
async fn values_of_every_kind_are_stored() {
    let server = Server::start().await;
    let mut root = server.root();
    root.run(TABLE).await;
    let insert = "INSERT INTO t (id, name, score, at, tags, doc, amount, raw, key) VALUES \
        (1, 'literal', -0, '2024-02-03T04:05:06Z', '[\"a\",\"b\"]', '{\"x\": 1}', 12.5, 'abc', \
         'F47AC10B-58CC-4372-A567-0E02B2C3D479'), \
        (1 + 1, upper('expr') || $1, DEFAULT, $2, ARRAY['c'], $3, $4, $5, uuid_v7())";
    let params =
        [json!("!"), json!("2024-02-03T04:05:06.000007Z"), json!({"y": [1]}), json!("3.25"), json!("AAE=")];
    let outcome = root.run_with(insert, &params).await;
    assert_eq!(outcome.affected_rows, Some(2));
    let rows = root.rows("SELECT id, name, score, at, tags, doc, amount, raw FROM t ORDER BY id").await;
    assert_eq!(
        rows,
        json!([
            [1, "literal", 0, "2024-02-03T04:05:06.000000Z", ["a", "b"], {"x": 1}, "12.50", "YWJj"],
            [2, "EXPR!", 10, "2024-02-03T04:05:06.000007Z", ["c"], {"y": [1]}, "3.25", "AAE="],
        ])
    );
    assert_eq!(
        root.rows("SELECT key FROM t WHERE id = 1").await,
        json!([["f47ac10b-58cc-4372-a567-0e02b2c3d479"]])
    );
}

#[tokio::test]
async fn missing_columns_take_their_defaults() {
    let server = Server::start().await;
    let mut root = server.root();
    root.run(TABLE).await;
    root.run("INSERT INTO t (name, id) VALUES ('a', 1); INSERT INTO t VALUES (2, 'b'); INSERT INTO t (id, name, score) VALUES (3, 'c', NULL)")
        .await;
    let rows = root.rows("SELECT id, score, at IS NOT NULL, doc FROM t ORDER BY id").await;
    assert_eq!(rows, json!([[1, 10, true, null], [2, 10, true, null], [3, null, true, null]]));
    root.run(
        "CREATE TABLE g (note TEXT); INSERT INTO g (note) VALUES ('x'), ('y'); INSERT INTO g DEFAULT VALUES",
    )
    .await;
    assert_eq!(root.rows("SELECT count(DISTINCT id), count(note) FROM g").await, json!([[3, 2]]));
}

#[tokio::test]
async fn a_bad_insert_says_why_and_changes_nothing() {
    let server = Server::start().await;
    let mut root = server.root();
    root.run(TABLE).await;
    root.run("INSERT INTO t (id, name) VALUES (1, 'there')").await;
    for (sql, code, column) in [
        ("INSERT INTO t (id, nmae) VALUES (2, 'x')", ErrorCode::ColumnNotFound, Some(20)),
        ("INSERT INTO t (id, name) VALUES (2, 'x'), (3)", ErrorCode::InvalidStatement, Some(44)),
        ("INSERT INTO t (id, name, id) VALUES (2, 'x', 3)", ErrorCode::InvalidStatement, Some(26)),
        ("INSERT INTO t (id, name, _seq) VALUES (2, 'x', 3)", ErrorCode::InvalidStatement, Some(26)),
        ("INSERT INTO t (id, name) VALUES (2, NULL)", ErrorCode::NotNullViolation, None),
        ("INSERT INTO t (id) VALUES (2)", ErrorCode::NotNullViolation, None),
        ("INSERT INTO t (id, name) VALUES ('two', 'x')", ErrorCode::TypeMismatch, Some(34)),
        ("INSERT INTO t (id, name, score) VALUES (2, 'x', 3000000000)", ErrorCode::ValueOutOfRange, Some(49)),
        ("INSERT INTO t (id, name, amount) VALUES (2, 'x', 12345.6)", ErrorCode::ValueOutOfRange, Some(50)),
        ("INSERT INTO t (id, name, doc) VALUES (2, 'x', '{oops')", ErrorCode::TypeMismatch, Some(47)),
        ("INSERT INTO t (id, name, score) VALUES (2, 'x', 1 / 0)", ErrorCode::DivisionByZero, None),
        ("INSERT INTO t (id, name, score) VALUES (2, 'x', -1)", ErrorCode::CheckViolation, None),
        ("INSERT INTO t (id, name) VALUES (2, 'x'), (1, 'again')", ErrorCode::UniqueViolation, None),
        ("INSERT INTO t (id, name) VALUES (2, 'x'), (2, 'y')", ErrorCode::UniqueViolation, None),
        ("INSERT INTO t (id, name) VALUES (2, $1)", ErrorCode::InvalidParameter, None),
        ("INSERT INTO t (id, name) SELECT 2", ErrorCode::InvalidStatement, Some(1)),
        ("INSERT INTO t (id, name, at) SELECT 2, 'x', true", ErrorCode::TypeMismatch, None),
        ("INSERT INTO t (id, name) SELECT id + 1, name FROM tt", ErrorCode::TableNotFound, Some(51)),
        ("INSERT INTO nosuch VALUES (1)", ErrorCode::TableNotFound, Some(13)),
    ] {
        let error = root.fail(sql).await;
        assert_eq!(error.code, code, "{sql}: {error:?}");
        assert_eq!(error.position.map(|at| at.column), column, "{sql}: {error:?}");
    }
    let hint = root.fail("INSERT INTO t (id, nmae) VALUES (2, 'x')").await.hint;
    assert_eq!(hint.as_deref(), Some("did you mean name?"));
    let error = root.fail("INSERT INTO t (id, name) VALUES (2, NULL)").await;
    assert!(error.message.contains("name"), "{error}");
    assert_eq!(root.rows("SELECT id FROM t").await, json!([[1]]));
}

#[tokio::test]
async fn insert_select_casts_and_is_one_commit() {
    let server = Server::start().await;
    let mut root = server.root();
    root.run(TABLE).await;
    let insert = "INSERT INTO t (id, name, score, amount) \
                  SELECT value, 'n' || value, value * 1.5, value / 8.0 FROM generate_series(1, 4)";
    assert_eq!(root.run(insert).await.affected_rows, Some(4));
    let rows = root.rows("SELECT id, name, score, amount FROM t ORDER BY id").await;
    assert_eq!(
        rows,
        json!([[1, "n1", 2, "0.13"], [2, "n2", 3, "0.25"], [3, "n3", 4, "0.38"], [4, "n4", 6, "0.50"]])
    );
    assert_eq!(root.rows("SELECT count(DISTINCT _seq) FROM t").await, json!([[1]]));
    assert_eq!(
        root.run("INSERT INTO t (id, name) SELECT id, name FROM t WHERE false").await.affected_rows,
        Some(0)
    );
    root.run("INSERT INTO t (id, name) SELECT id + 10, name FROM t").await;
    assert_eq!(root.rows("SELECT count(*) FROM t").await, json!([[8]]));
}

#[tokio::test]
async fn a_deleted_key_can_be_inserted_again() {
    let server = Server::start().await;
    let mut root = server.root();
    root.run("CREATE TABLE t (id INT PRIMARY KEY, n INT); INSERT INTO t VALUES (1, 1), (2, 2)").await;
    for flush in ["", "FLUSH TABLE t"] {
        if !flush.is_empty() {
            root.run(flush).await;
        }
        root.run("DELETE FROM t WHERE id = 1").await;
        assert_eq!(root.rows("SELECT count(*) FROM t").await, json!([[1]]));
        root.run("INSERT INTO t VALUES (1, 5)").await;
        assert_eq!(root.rows("SELECT n FROM t WHERE id = 1").await, json!([[5]]));
        assert_eq!(
            root.rows("SELECT count(*) FROM t WHERE _deleted").await,
            json!([[0]]),
            "the tombstone was replaced"
        );
    }
}

#[tokio::test]
async fn returning_gives_what_was_written() {
    let server = Server::start().await;
    let mut root = server.root();
    root.run("CREATE TABLE r (id BIGINT PRIMARY KEY DEFAULT SNOWFLAKE_ID(), n INT, m INT DEFAULT 4)").await;
    assert_eq!(root.rows("INSERT INTO r (id, n) VALUES (7, 1) RETURNING *").await, json!([[7, 1, 4]]));
    let outcome = root.run("INSERT INTO r (n) VALUES (2), (3) RETURNING id AS key, n + m AS s, _seq").await;
    let (affected, seq) = (outcome.affected_rows, outcome.seq.unwrap());
    let rows = crate::harness::encode(outcome, kalamdb_sql::RowFormat::Objects).await;
    assert_eq!(
        (affected, &rows[0]["s"], &rows[1]["s"], &rows[1]["_seq"]),
        (Some(2), &json!(6), &json!(7), &json!(seq))
    );
    assert_eq!(root.rows("UPDATE r SET n = n + 10 WHERE id = 7 RETURNING r.n, m").await, json!([[11, 4]]));
    assert_eq!(root.rows("UPDATE r AS x SET n = 0 WHERE x.n > 99 RETURNING x.n").await, json!([]));
    assert_eq!(
        root.rows("DELETE FROM r WHERE id = 7 RETURNING id, n, _deleted").await,
        json!([[7, 11, true]])
    );
    assert_eq!(
        root.fail("INSERT INTO r (n) VALUES (5) RETURNING nosuch").await.code,
        ErrorCode::ColumnNotFound
    );
    assert_eq!(root.rows("SELECT count(*) FROM r").await, json!([[2]]), "a bad RETURNING writes nothing");
}
