//! INSERT ... ON CONFLICT, and reading rows by key.

use kalamdb_sql::{ErrorCode, Role};
use serde_json::{Value, json};

use crate::harness::{Client, Layout, Server, encode};

const TABLE: &str =
    "CREATE TABLE t (id BIGINT PRIMARY KEY, name TEXT NOT NULL, n INT DEFAULT 1 CHECK (n >= 0))";

async fn returned(client: &mut Client, sql: &str) -> (Option<u64>, Value) {
    let outcome = client.run(sql).await;
    (outcome.affected_rows, encode(outcome, kalamdb_sql::RowFormat::Arrays).await)
}

#[tokio::test]
async fn taken_keys_are_left_alone_or_updated_wherever_the_rows_are() {
    for layout in Layout::ALL {
        let server = Server::start().await;
        let mut root = server.root();
        root.run(TABLE).await;
        root.run("INSERT INTO t VALUES (1, 'a', 1), (2, 'b', 2)").await;
        layout.half(&mut root, "t").await;
        root.run("INSERT INTO t VALUES (3, 'c', 3), (4, 'd', 4); DELETE FROM t WHERE id = 4; UPDATE t SET n = 20 WHERE id = 2")
            .await;
        layout.end(&mut root, "t").await;
        let nothing = "INSERT INTO t VALUES (1, 'x', 9), (4, 'back', 4), (5, 'e', 5), (5, 'again', 6) \
                       ON CONFLICT (id) DO NOTHING RETURNING id, name";
        assert_eq!(
            returned(&mut root, nothing).await,
            (Some(2), json!([[4, "back"], [5, "e"]])),
            "{layout:?}: a deleted key is free, and only inserted rows count"
        );
        let update = "INSERT INTO t (id, name, n) VALUES (6, 'f', 6), (2, 'B', 100), (3, 'C', 1) \
                      ON CONFLICT (id) DO UPDATE SET name = EXCLUDED.name, n = t.n + excluded.n \
                      WHERE EXCLUDED.n > 1 RETURNING id, name, n";
        assert_eq!(
            returned(&mut root, update).await,
            (Some(2), json!([[6, "f", 6], [2, "B", 120]])),
            "{layout:?}: what WHERE leaves out is neither inserted nor updated"
        );
        let rows = root.rows("SELECT id, name, n FROM t ORDER BY id").await;
        let expected =
            json!([[1, "a", 1], [2, "B", 120], [3, "c", 3], [4, "back", 4], [5, "e", 5], [6, "f", 6]]);
        assert_eq!(rows, expected, "{layout:?}");
        let outcome = root.run("INSERT INTO t VALUES (1, 'x', 1) ON CONFLICT DO NOTHING").await;
        assert_eq!((outcome.affected_rows, outcome.seq), (Some(0), None));
    }
}

#[tokio::test]
async fn a_bare_name_is_the_row_that_is_there() {
    let server = Server::start().await;
    let mut root = server.root();
    root.run(TABLE).await;
    root.run("CREATE NAMESPACE app; CREATE TABLE app.t (id BIGINT PRIMARY KEY, n INT)").await;
    root.run("INSERT INTO t VALUES (1, 'a', 10); INSERT INTO app.t VALUES (1, 10)").await;
    for (sql, expected) in [
        ("INSERT INTO t VALUES (1, 'x', 5) ON CONFLICT (id) DO UPDATE SET n = n + 1 RETURNING n", 11),
        (
            "INSERT INTO t AS old VALUES (1, 'x', 5) ON CONFLICT (id) DO UPDATE SET n = old.n + EXCLUDED.n RETURNING n",
            16,
        ),
        (
            "INSERT INTO app.t VALUES (1, 5) ON CONFLICT (id) DO UPDATE SET n = app.t.n + t.n + EXCLUDED.n RETURNING n",
            25,
        ),
        (
            "INSERT INTO t VALUES (1, 'x', 5) ON CONFLICT (id) DO UPDATE SET n = (SELECT max(n) FROM app.t) RETURNING n",
            25,
        ),
        ("INSERT INTO t VALUES (1, 'x', 5) ON CONFLICT (id) DO UPDATE SET n = DEFAULT RETURNING n", 1),
        ("INSERT INTO t VALUES (1, 'x', 5) ON CONFLICT (id) DO UPDATE SET n = $1 RETURNING n", 77),
        (
            "INSERT INTO t SELECT id, 'from', n FROM app.t ON CONFLICT (id) DO UPDATE SET n = length(EXCLUDED.name) RETURNING n",
            4,
        ),
        (
            "INSERT INTO t VALUES (1, 'x', 5) ON CONFLICT (id) DO UPDATE SET id = 50, n = n + _seq - _seq RETURNING id",
            50,
        ),
    ] {
        let params = if sql.contains("$1") { vec![json!(77)] } else { Vec::new() };
        assert_eq!(root.rows_with(sql, &params).await, json!([[expected]]), "{sql}");
    }
    assert_eq!(root.rows("SELECT count(*) FROM t").await, json!([[1]]));
}

#[tokio::test]
async fn a_bad_conflict_clause_says_why_and_changes_nothing() {
    let server = Server::start().await;
    let mut root = server.root();
    root.run(TABLE).await;
    root.run("CREATE TABLE two (a INT, b INT, n INT, PRIMARY KEY (a, b)); INSERT INTO t VALUES (1, 'a', 1), (2, 'b', 2)").await;
    for (sql, code) in [
        ("INSERT INTO t VALUES (1, 'x', 1) ON CONFLICT (name) DO NOTHING", ErrorCode::InvalidStatement),
        ("INSERT INTO t VALUES (1, 'x', 1) ON CONFLICT (id, name) DO NOTHING", ErrorCode::InvalidStatement),
        ("INSERT INTO t VALUES (1, 'x', 1) ON CONFLICT (nosuch) DO NOTHING", ErrorCode::ColumnNotFound),
        (
            "INSERT INTO t VALUES (1, 'x', 1) ON CONFLICT ON CONSTRAINT pk DO NOTHING",
            ErrorCode::InvalidStatement,
        ),
        ("INSERT INTO t VALUES (1, 'x', 1) ON CONFLICT DO UPDATE SET n = 1", ErrorCode::InvalidStatement),
        ("INSERT INTO two VALUES (1, 1, 1) ON CONFLICT (a) DO NOTHING", ErrorCode::InvalidStatement),
        (
            "INSERT INTO t VALUES (1, 'x', 1), (1, 'y', 2) ON CONFLICT (id) DO UPDATE SET n = 1",
            ErrorCode::InvalidStatement,
        ),
        (
            "INSERT INTO t VALUES (3, 'x', 1), (3, 'y', 2) ON CONFLICT (id) DO UPDATE SET n = 1",
            ErrorCode::InvalidStatement,
        ),
        (
            "INSERT INTO t VALUES (1, 'x', 1) ON CONFLICT (id) DO UPDATE SET n = EXCLUDED.nosuch",
            ErrorCode::ColumnNotFound,
        ),
        (
            "INSERT INTO t VALUES (1, 'x', 1) ON CONFLICT (id) DO UPDATE SET nosuch = 1",
            ErrorCode::ColumnNotFound,
        ),
        (
            "INSERT INTO t VALUES (1, 'x', 1) ON CONFLICT (id) DO UPDATE SET _seq = 1",
            ErrorCode::InvalidStatement,
        ),
        (
            "INSERT INTO t VALUES (1, 'x', 1) ON CONFLICT (id) DO UPDATE SET n = 1, n = 2",
            ErrorCode::InvalidStatement,
        ),
        ("INSERT INTO t VALUES (1, 'x', 1) ON CONFLICT (id) DO UPDATE SET n = -1", ErrorCode::CheckViolation),
        (
            "INSERT INTO t VALUES (1, 'x', 1) ON CONFLICT (id) DO UPDATE SET n = n - 5",
            ErrorCode::CheckViolation,
        ),
        ("INSERT INTO t VALUES (1, 'x', -1) ON CONFLICT (id) DO NOTHING", ErrorCode::CheckViolation),
        (
            "INSERT INTO t VALUES (1, 'x', 1) ON CONFLICT (id) DO UPDATE SET name = NULL",
            ErrorCode::NotNullViolation,
        ),
        (
            "INSERT INTO t VALUES (1, 'x', 1) ON CONFLICT (id) DO UPDATE SET name = n / 0",
            ErrorCode::DivisionByZero,
        ),
        (
            "INSERT INTO t VALUES (1, 'x', 1) ON CONFLICT (id) DO UPDATE SET id = 2",
            ErrorCode::UniqueViolation,
        ),
        (
            "INSERT INTO t VALUES (1, 'x', 1) ON CONFLICT (id) DO UPDATE SET n = 1 WHERE n + 1",
            ErrorCode::TypeMismatch,
        ),
        (
            "INSERT INTO t AS excluded VALUES (1, 'x', 1) ON CONFLICT (id) DO UPDATE SET n = 1",
            ErrorCode::InvalidStatement,
        ),
    ] {
        let error = root.fail(sql).await;
        assert_eq!(error.code, code, "{sql}: {error}");
    }
    assert_eq!(root.rows("SELECT * FROM t ORDER BY id").await, json!([[1, "a", 1], [2, "b", 2]]));
    let hint = root.fail("INSERT INTO two VALUES (1, 1, 1) ON CONFLICT (a) DO NOTHING").await.hint;
    assert_eq!(hint.as_deref(), Some("write ON CONFLICT (a, b)"));
    root.run("INSERT INTO two VALUES (1, 1, 1); INSERT INTO two VALUES (1, 1, 5), (1, 2, 2) ON CONFLICT (b, a) DO UPDATE SET n = EXCLUDED.n").await;
    assert_eq!(root.rows("SELECT * FROM two ORDER BY b").await, json!([[1, 1, 5], [1, 2, 2]]));
}

#[tokio::test]
async fn conflicts_are_those_of_the_own_partition() {
    let server = Server::start().await;
    let mut root = server.root();
    root.run("CREATE USER TABLE mine (id BIGINT PRIMARY KEY, s TEXT)").await;
    for user in ["a", "b"] {
        let upsert = format!(
            "INSERT INTO mine VALUES (1, '{user}') ON CONFLICT (id) DO UPDATE SET s = mine.s || EXCLUDED.s"
        );
        for _ in 0..2 {
            assert_eq!(server.user(user).run(&upsert).await.affected_rows, Some(1));
        }
        assert_eq!(server.user(user).rows("SELECT s FROM mine").await, json!([[format!("{user}{user}")]]));
    }
    let everybody = "INSERT INTO mine (_user, id, s) VALUES ('a', 1, '!'), ('c', 1, 'c'), ('b', 2, 'new') \
                     ON CONFLICT (id) DO UPDATE SET s = mine.s || EXCLUDED.s RETURNING _user, id, s";
    let expected = json!([["a", 1, "aa!"], ["c", 1, "c"], ["b", 2, "new"]]);
    assert_eq!(root.rows(everybody).await, expected);
    assert_eq!(root.rows("SELECT count(*) FROM mine WHERE _user = 'b'").await, json!([[2]]));
    let service = "EXECUTE AS USER 'b' (INSERT INTO mine VALUES (1, '?') ON CONFLICT (id) DO NOTHING)";
    assert_eq!(server.session("s", Role::Service).run(service).await.affected_rows, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_upserts_of_one_key_lose_nothing() {
    let server = Server::start().await;
    let mut root = server.root();
    root.run("CREATE TABLE counters (name TEXT PRIMARY KEY, n BIGINT)").await;
    let tasks: Vec<_> = (0..4)
        .map(|task| {
            let mut client = server.root();
            tokio::spawn(async move {
                for round in 0..10 {
                    let sql = format!(
                        "INSERT INTO counters VALUES ('k{}', 1) ON CONFLICT (name) DO UPDATE SET n = counters.n + 1",
                        (task + round) % 2
                    );
                    client.run(&sql).await;
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(root.rows("SELECT sum(n) FROM counters").await, json!([[40]]));
}

#[tokio::test]
async fn rows_are_read_by_key_without_a_scan() {
    for layout in Layout::ALL {
        let server = Server::start().await;
        let mut root = server.root();
        root.run("CREATE TABLE t (a BIGINT, b TEXT, n INT, PRIMARY KEY (a, b))").await;
        let values = |from: i64| {
            (from..from + 50).map(|a| format!("({a}, 'k{a}', {a})")).collect::<Vec<_>>().join(", ")
        };
        root.run(&format!("INSERT INTO t VALUES {}", values(0))).await;
        layout.half(&mut root, "t").await;
        root.run(&format!(
            "INSERT INTO t VALUES {}; UPDATE t SET n = -7 WHERE a = 7; DELETE FROM t WHERE a = 8",
            values(50)
        ))
        .await;
        layout.end(&mut root, "t").await;
        for (filter, expected) in [
            ("a = 7 AND b = 'k7'", json!([[-7]])),
            ("b = 'k60' AND 60 = a AND n > 0", json!([[60]])),
            ("b = 'k60' AND 60 = a AND n < 0", json!([])),
            ("a = 8 AND b = 'k8'", json!([])),
            ("a = 7 AND b = 'k8'", json!([])),
            ("a = 7 AND b = NULL", json!([])),
            ("a = 7", json!([[-7]])),
        ] {
            assert_eq!(
                root.rows(&format!("SELECT n FROM t WHERE {filter}")).await,
                expected,
                "{layout:?} {filter}"
            );
        }
        let deleted = "SELECT n, _deleted FROM t WHERE a = 8 AND b = 'k8' AND _deleted";
        assert_eq!(root.rows(deleted).await, json!([[8, true]]), "{layout:?}");
        assert_eq!(root.run("UPDATE t SET n = 1 WHERE a = 9 AND b = 'k9'").await.affected_rows, Some(1));
        assert_eq!(root.run("DELETE FROM t WHERE a = 10 AND b = 'k10'").await.affected_rows, Some(1));
        assert_eq!(
            root.rows("SELECT count(*), sum(n) FROM t WHERE a IN (9, 10, 11)").await,
            json!([[2, 12]])
        );
    }
    let server = Server::start().await;
    let mut root = server.root();
    root.run("CREATE TABLE one (id INT PRIMARY KEY); INSERT INTO one VALUES (1), (2), (3); FLUSH TABLE one; INSERT INTO one VALUES (4)").await;
    for (key, rows) in [(4, 1), (2, 1), (9, 0)] {
        let plan = root.plan(&format!("SELECT * FROM one WHERE id = {key}")).await;
        assert!(plan.contains(&format!("KeyLookupExec: table=default.one, rows={rows}")), "{plan}");
        assert!(!plan.contains("ScanExec"), "{plan}");
    }
    let list = "SELECT id FROM one WHERE id IN (4, 2, 2, 9) ORDER BY id";
    assert_eq!(root.rows(list).await, json!([[2], [4]]));
    assert_eq!(root.rows_with("SELECT id FROM one WHERE id = $1", &[json!(3)]).await, json!([[3]]));
}
