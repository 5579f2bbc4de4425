//! Statements that come again: by a kept plan they say the same as planned anew.

use kalamdb_sql::{ErrorCode, Role};
use serde_json::{Value, json};

use crate::harness::{Client, Layout, Server};

async fn metric(client: &mut Client, name: &str) -> f64 {
    let rows = client.rows(&format!("SELECT value FROM system.metrics WHERE name = '{name}'")).await;
    rows[0][0].as_f64().unwrap()
}

async fn hits(client: &mut Client) -> f64 {
    metric(client, "kalamdb_plan_cache_hits_total").await
}

async fn lookups(client: &mut Client) -> f64 {
    metric(client, "kalamdb_key_lookups_total").await
}

/// Runs a statement until its plan is kept, and once more; all answers are the same.
async fn again(client: &mut Client, sql: &str, params: &[Value]) -> Value {
    let first = client.rows_with(sql, params).await;
    for _ in 0..3 {
        assert_eq!(client.rows_with(sql, params).await, first, "{sql}");
    }
    first
}

#[tokio::test]
async fn a_row_is_found_by_its_key_wherever_it_is_and_whatever_became_of_it() {
    for layout in Layout::ALL {
        let server = Server::start().await;
        let mut root = server.root();
        root.run("CREATE TABLE t (id BIGINT PRIMARY KEY, s TEXT, n INT); INSERT INTO t VALUES (1, 'a', 10), (2, 'b', NULL)").await;
        layout.half(&mut root, "t").await;
        root.run("INSERT INTO t VALUES (3, 'c', 30), (4, 'd', 40)").await;
        layout.end(&mut root, "t").await;
        let sql = "SELECT n, s, id FROM t WHERE id = $1";
        for (key, row) in [
            (1, json!([[10, "a", 1]])),
            (2, json!([[null, "b", 2]])),
            (4, json!([[40, "d", 4]])),
            (9, json!([])),
        ] {
            assert_eq!(again(&mut root, sql, &[json!(key)]).await, row, "{layout:?}");
        }
        root.run(
            "UPDATE t SET n = 11 WHERE id = 1; DELETE FROM t WHERE id = 4; UPDATE t SET id = 5 WHERE id = 3",
        )
        .await;
        for (key, row) in
            [(1, json!([[11, "a", 1]])), (3, json!([])), (4, json!([])), (5, json!([[30, "c", 5]]))]
        {
            assert_eq!(root.rows_with(sql, &[json!(key)]).await, row, "{layout:?} {key}");
        }
        // The catalog has changed: the plan is another one, the rows are older than it.
        root.run(
            "ALTER TABLE t ADD COLUMN extra INT DEFAULT 7, RENAME COLUMN s TO text, MODIFY COLUMN n BIGINT",
        )
        .await;
        let sql = "SELECT extra, text, n, id FROM t WHERE id = $1";
        assert_eq!(again(&mut root, sql, &[json!(1)]).await, json!([[7, "a", 11, 1]]), "{layout:?}");
        assert_eq!(
            root.fail_with("SELECT n, s, id FROM t WHERE id = $1", &[json!(1)]).await.code,
            ErrorCode::ColumnNotFound
        );
        root.run("DROP TABLE t").await;
        assert_eq!(root.fail_with(sql, &[json!(1)]).await.code, ErrorCode::TableNotFound);
    }
}

#[tokio::test]
async fn every_form_of_a_lookup_gives_what_a_scan_gives() {
    let server = Server::start().await;
    let mut root = server.root();
    root.run("CREATE TABLE t (a TEXT, b BIGINT, v DOUBLE, PRIMARY KEY (b, a))").await;
    root.run("INSERT INTO t VALUES ('x', 1, 0.5), ('y', 1, 1.5), ('x', 2, 2.5); FLUSH TABLE t; INSERT INTO t VALUES ('z', 3, 3.5)").await;
    let before = hits(&mut root).await;
    for (sql, params, rows) in [
        ("SELECT * FROM t WHERE a = $1 AND b = $2", json!(["x", 2]), json!([["x", 2, 2.5]])),
        ("SELECT * FROM t WHERE a = $1 AND b = $2", json!(["z", 3]), json!([["z", 3, 3.5]])),
        (
            "SELECT m.v * 2 AS twice, upper(m.a) FROM t m WHERE $2 = m.b AND m.a = $1",
            json!(["x", 1]),
            json!([[1.0, "X"]]),
        ),
        ("SELECT v FROM t WHERE b = 1 AND a = 'y' LIMIT 1", json!([]), json!([[1.5]])),
        ("SELECT v FROM t WHERE b = 1 AND a = 'y' LIMIT 0", json!([]), json!([])),
        ("SELECT v FROM t WHERE b = 1 AND a = 'y' OFFSET 1", json!([]), json!([])),
        ("SELECT v FROM t WHERE b = 1 AND b = 2", json!([]), json!([])),
        ("SELECT v FROM t WHERE a = $1 AND b = $2", json!([null, 2]), json!([])),
        ("SELECT v + $3 FROM t WHERE a = $1 AND b = $2", json!(["x", 2, 1.0]), json!([[3.5]])),
        ("SELECT count(*) FROM t WHERE a = $1 AND b = $2", json!(["x", 2]), json!([[1]])),
        ("SELECT v FROM t WHERE a = $1 AND b = $2 AND v > $3", json!(["x", 2, 9.0]), json!([])),
        ("SELECT a FROM t WHERE b >= $1 ORDER BY v DESC LIMIT 2", json!([1]), json!([["z"], ["x"]])),
        ("SELECT a FROM t WHERE b = (SELECT max(b) FROM t WHERE b < $1)", json!([3]), json!([["x"]])),
    ] {
        let params = params.as_array().unwrap().clone();
        assert_eq!(again(&mut root, sql, &params).await, rows, "{sql}");
    }
    assert!(hits(&mut root).await >= before + 13.0, "plans were kept");
    assert!(metric(&mut root, "kalamdb_plan_cache_plans").await >= 8.0);
    let sql = "SELECT * FROM t WHERE a = 'x' AND b = 2";
    let before = lookups(&mut root).await;
    again(&mut root, sql, &[]).await;
    assert_eq!(lookups(&mut root).await, before + 3.0, "it is a lookup from its second time on");
    // Whatever is computed of the row, and however the table is called.
    for (sql, params, rows) in [
        ("SELECT m.v * 2 FROM t AS m WHERE m.a = $1 AND m.b = $2", json!(["x", 2]), json!([[5.0]])),
        ("SELECT m.v * 2, upper(m.a) FROM t m WHERE m.a = $1 AND m.b = 3", json!(["z"]), json!([[7.0, "Z"]])),
        (
            "SELECT w + w FROM (SELECT v * 2 AS w, a, b FROM t) s WHERE a = 'x' AND b = 1",
            json!([]),
            json!([[2.0]]),
        ),
        (
            "SELECT CASE WHEN v > 1 THEN a || '!' END FROM t WHERE a = 'y' AND b = 1",
            json!([]),
            json!([["y!"]]),
        ),
        ("SELECT 1 FROM t WHERE a = $1 AND b = $2", json!(["x", 1]), json!([[1]])),
    ] {
        let params = params.as_array().unwrap().clone();
        let before = lookups(&mut root).await;
        assert_eq!(again(&mut root, sql, &params).await, rows, "{sql}");
        assert_eq!(lookups(&mut root).await, before + 3.0, "{sql}");
    }
    let sql = "SELECT v + v FROM t m WHERE a = 'x' AND b = 9";
    assert_eq!(again(&mut root, sql, &[]).await, json!([]), "there is no such row");
    // A value of another type than the key's is compared as what it is.
    let sql = "SELECT v FROM t WHERE a = $1 AND b = $2";
    assert_eq!(root.rows_with(sql, &[json!("x"), json!(1.5)]).await, json!([]));
    assert_eq!(root.rows_with(sql, &[json!("x"), json!("2")]).await, json!([[2.5]]));
    for params in [vec![json!("x")], vec![json!("x"), json!(1), json!(1)]] {
        assert_eq!(root.fail_with(sql, &params).await.code, ErrorCode::InvalidParameter);
    }
    assert_eq!(root.fail_with(sql, &[json!("x"), json!("no number")]).await.code, ErrorCode::TypeMismatch);
}

#[tokio::test]
async fn what_depends_on_who_asks_or_when_is_planned_each_time() {
    let server = Server::start().await;
    let mut root = server.root();
    root.run(
        "CREATE USER TABLE mine (id BIGINT PRIMARY KEY, owner TEXT); CREATE TABLE t (id BIGINT PRIMARY KEY)",
    )
    .await;
    root.run("CREATE VIEW me AS SELECT CURRENT_USER AS me, id FROM mine; CREATE USER 'ann' WITH PASSWORD 'a long word' ROLE user; CREATE USER 'bob' WITH PASSWORD 'a long word' ROLE user").await;
    root.run("INSERT INTO t VALUES (1)").await;
    for user in ["ann", "bob"] {
        server.user(user).run(&format!("INSERT INTO mine VALUES (1, '{user}')")).await;
    }
    for sql in [
        "SELECT owner FROM mine WHERE id = 1",
        "SELECT owner FROM mine",
        "SELECT max(owner) FROM mine",
        "SELECT me FROM me",
        "SELECT CURRENT_USER FROM t",
        "SELECT user_id FROM system.users",
        "SELECT owner FROM mine WHERE owner = CURRENT_USER()",
    ] {
        for user in ["ann", "bob", "ann", "bob"] {
            assert_eq!(again(&mut server.user(user), sql, &[]).await, json!([[user]]), "{sql}");
        }
    }
    // The same user with other rights.
    let sql = "SELECT count(*) FROM system.users";
    assert_eq!(again(&mut server.user("ann"), sql, &[]).await, json!([[1]]));
    assert_eq!(again(&mut server.session("ann", Role::Dba), sql, &[]).await, json!([[2]]));
    assert_eq!(again(&mut server.user("ann"), sql, &[]).await, json!([[1]]));
    // The time and the ids are those of the statement.
    for sql in
        ["SELECT CAST(NOW() AS TEXT) FROM t", "SELECT SNOWFLAKE_ID() FROM t", "SELECT UUID_V7() FROM t"]
    {
        let mut seen = Vec::new();
        for _ in 0..4 {
            let value = root.rows(sql).await;
            assert!(!seen.contains(&value), "{sql}: {value} came before");
            seen.push(value);
        }
    }
}

#[tokio::test]
async fn names_mean_what_they_mean_in_the_namespace_of_the_session() {
    let server = Server::start().await;
    let mut root = server.root();
    for namespace in ["one", "two"] {
        root.run(&format!("CREATE NAMESPACE {namespace}; CREATE TABLE {namespace}.t (id BIGINT PRIMARY KEY, s TEXT); INSERT INTO {namespace}.t VALUES (1, '{namespace}')")).await;
    }
    for namespace in ["one", "two", "one", "two"] {
        root.run(&format!("USE {namespace}")).await;
        for sql in ["SELECT s FROM t WHERE id = 1", "SELECT max(s) FROM t"] {
            assert_eq!(again(&mut root, sql, &[]).await, json!([[namespace]]));
        }
    }
}

#[tokio::test]
async fn a_transaction_reads_its_own_rows_by_a_kept_plan() {
    let server = Server::start().await;
    let mut root = server.root();
    root.run("CREATE TABLE t (id BIGINT PRIMARY KEY, n INT); INSERT INTO t VALUES (1, 1)").await;
    let sql = "SELECT n FROM t WHERE id = $1";
    assert_eq!(again(&mut root, sql, &[json!(1)]).await, json!([[1]]));
    root.run("BEGIN; UPDATE t SET n = 2 WHERE id = 1; SELECT 1; ROLLBACK").await;
    let statements = root
        .session
        .parse("BEGIN; UPDATE t SET n = 2 WHERE id = 1; SELECT n FROM t WHERE id = 1; ROLLBACK")
        .unwrap();
    for _ in 0..3 {
        for (at, statement) in statements.iter().enumerate() {
            let outcome = root.session.execute(statement, &[]).await.unwrap();
            if at == 2 {
                assert_eq!(
                    crate::harness::encode(outcome, kalamdb_sql::RowFormat::Arrays).await,
                    json!([[2]])
                );
            }
        }
    }
    assert_eq!(root.rows_with(sql, &[json!(1)]).await, json!([[1]]));
}
