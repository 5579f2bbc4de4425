//! Views, and TRUNCATE beside them.

use kalamdb_sql::{ErrorCode, Role};
use serde_json::json;

use crate::harness::{Layout, Server};

#[tokio::test]
async fn a_view_shows_what_its_query_would_wherever_the_rows_are() {
    for layout in Layout::ALL {
        let server = Server::start().await;
        let mut root = server.root();
        root.run("CREATE TABLE t (id BIGINT PRIMARY KEY, n INT, s TEXT); INSERT INTO t VALUES (1, 10, 'a'), (2, 20, 'b')")
            .await;
        layout.half(&mut root, "t").await;
        root.run("INSERT INTO t VALUES (3, 30, 'a'); DELETE FROM t WHERE id = 2").await;
        layout.end(&mut root, "t").await;
        root.run("CREATE VIEW big AS SELECT id, n * 2 AS twice, s FROM t WHERE n > 5").await;
        root.run("CREATE VIEW totals (label, total) AS SELECT s, sum(twice) FROM big GROUP BY s").await;
        assert_eq!(root.rows("SELECT * FROM big ORDER BY id").await, json!([[1, 20, "a"], [3, 60, "a"]]));
        assert_eq!(root.rows("SELECT total, label FROM totals").await, json!([[80, "a"]]));
        assert_eq!(
            root.rows("SELECT b.id, t.n FROM big b JOIN t ON t.id = b.id WHERE b.twice > 30").await,
            json!([[3, 30]]),
            "{layout:?}"
        );
        assert_eq!(root.rows("SELECT count(*) FROM big WHERE id IN (SELECT id FROM t)").await, json!([[2]]));
        assert_eq!(root.rows_with("SELECT s FROM big WHERE id = $1", &[json!(1)]).await, json!([["a"]]));
    }
}

#[tokio::test]
async fn a_view_costs_what_its_query_would() {
    let server = Server::start().await;
    let mut root = server.root();
    root.run("CREATE TABLE t (id BIGINT PRIMARY KEY, n INT, s TEXT); INSERT INTO t VALUES (1, 1, 'a'); FLUSH TABLE t").await;
    root.run("CREATE VIEW v AS SELECT id, n FROM t WHERE n > 0").await;
    let view = root.plan("SELECT n FROM v WHERE id = 1").await;
    let written_out = root.plan("SELECT n FROM (SELECT id, n FROM t WHERE n > 0) AS v WHERE id = 1").await;
    assert_eq!(view, written_out);
}

#[tokio::test]
async fn names_in_a_view_are_looked_up_where_the_view_is() {
    let server = Server::start().await;
    let mut root = server.root();
    root.run(
        "CREATE NAMESPACE app; CREATE TABLE app.t (id BIGINT PRIMARY KEY); INSERT INTO app.t VALUES (7)",
    )
    .await;
    root.run("CREATE TABLE t (id BIGINT PRIMARY KEY)").await;
    root.run("CREATE VIEW app.v AS SELECT id FROM t").await;
    assert_eq!(root.rows("SELECT id FROM app.v").await, json!([[7]]));
    assert_eq!(root.rows("USE app; SELECT id FROM v").await, json!([[7]]));
}

#[tokio::test]
async fn a_broken_view_says_which_one_and_why() {
    let server = Server::start().await;
    let mut root = server.root();
    root.run("CREATE TABLE t (id BIGINT PRIMARY KEY, n INT); CREATE VIEW v AS SELECT id, n FROM t").await;
    root.run("CREATE VIEW w AS SELECT n FROM v; DROP TABLE t").await;
    for name in ["v", "w"] {
        let error = root.fail(&format!("SELECT * FROM {name}")).await;
        assert_eq!(error.code, ErrorCode::TableNotFound, "{error}");
        assert!(error.message.contains(&format!("view default.{name}: ")), "{error}");
        assert!(error.message.contains("default.t"), "{error}");
    }
    root.run("CREATE TABLE t (id BIGINT PRIMARY KEY, other INT)").await;
    let error = root.fail("SELECT * FROM v").await;
    assert_eq!(error.code, ErrorCode::ColumnNotFound, "{error}");
    assert!(error.message.contains("view default.v: "), "{error}");
    assert_eq!(root.fail("DESCRIBE v").await.code, ErrorCode::ColumnNotFound);
    // A broken view does not break looking around.
    assert_eq!(root.rows("SELECT count(*) FROM information_schema.views").await, json!([[2]]));
    root.run("SELECT * FROM information_schema.columns").await;
    root.run("CREATE OR REPLACE VIEW v AS SELECT id, other AS n FROM t").await;
    assert_eq!(root.rows("SELECT * FROM w").await, json!([]));
}

#[tokio::test]
async fn views_are_created_replaced_and_dropped() {
    let server = Server::start().await;
    let mut root = server.root();
    root.run("CREATE TABLE t (id BIGINT PRIMARY KEY); CREATE VIEW v AS SELECT id FROM t").await;
    for (sql, code) in [
        ("CREATE VIEW v AS SELECT 1", ErrorCode::AlreadyExists),
        ("CREATE VIEW t AS SELECT 1", ErrorCode::AlreadyExists),
        ("CREATE OR REPLACE VIEW t AS SELECT 1", ErrorCode::AlreadyExists),
        ("CREATE TABLE v (id BIGINT PRIMARY KEY)", ErrorCode::AlreadyExists),
        ("CREATE VIEW x AS SELECT * FROM nosuch", ErrorCode::TableNotFound),
        ("CREATE VIEW x AS SELECT nosuch FROM t", ErrorCode::ColumnNotFound),
        ("CREATE VIEW x AS SELECT id, id FROM t", ErrorCode::InvalidStatement),
        ("CREATE VIEW x AS SELECT a.id, b.id FROM t a JOIN t b ON a.id = b.id", ErrorCode::InvalidStatement),
        ("CREATE VIEW x (a, b) AS SELECT id FROM t", ErrorCode::InvalidStatement),
        ("CREATE VIEW x AS SELECT id FROM t WHERE id = $1", ErrorCode::InvalidParameter),
        ("CREATE VIEW x AS SELECT 'a' + TRUE", ErrorCode::TypeMismatch),
        ("CREATE VIEW nosuch.x AS SELECT 1 AS a", ErrorCode::NamespaceNotFound),
        ("CREATE VIEW system.x AS SELECT 1 AS a", ErrorCode::PermissionDenied),
        ("CREATE OR REPLACE VIEW v AS SELECT id FROM v", ErrorCode::InvalidStatement),
        ("DROP TABLE v", ErrorCode::InvalidStatement),
        ("DROP VIEW t", ErrorCode::InvalidStatement),
        ("DROP VIEW nosuch", ErrorCode::TableNotFound),
        ("INSERT INTO v VALUES (1)", ErrorCode::InvalidStatement),
        ("UPDATE v SET id = 2", ErrorCode::InvalidStatement),
        ("DELETE FROM v", ErrorCode::InvalidStatement),
        ("TRUNCATE TABLE v", ErrorCode::InvalidStatement),
        ("FLUSH TABLE v", ErrorCode::InvalidStatement),
        ("SHOW STATS FOR TABLE v", ErrorCode::InvalidStatement),
    ] {
        let error = root.fail(sql).await;
        assert_eq!(error.code, code, "{sql}: {error}");
    }
    assert_eq!(
        server.user("u").fail("CREATE VIEW x AS SELECT 1 AS a").await.code,
        ErrorCode::PermissionDenied
    );
    assert_eq!(server.user("u").fail("DROP VIEW v").await.code, ErrorCode::PermissionDenied);
    root.run("CREATE VIEW IF NOT EXISTS v AS SELECT 1 AS a; CREATE VIEW v2 AS SELECT id FROM v").await;
    // A circle can only be closed by replacing.
    let error = root.fail("CREATE OR REPLACE VIEW v AS SELECT id FROM v2").await;
    assert!(error.message.contains("refers to itself"), "{error}");
    root.run("CREATE OR REPLACE VIEW v AS SELECT id, id + 1 AS next FROM t; INSERT INTO t VALUES (1)").await;
    assert_eq!(root.rows("SELECT next FROM v").await, json!([[2]]));
    root.run("DROP VIEW v2; DROP VIEW IF EXISTS v2; DROP VIEW IF EXISTS no.where; DROP VIEW v").await;
    assert_eq!(root.fail("SELECT * FROM v").await.code, ErrorCode::TableNotFound);
}

#[tokio::test]
async fn views_that_refer_to_views_are_bounded() {
    let server = Server::start().await;
    let mut root = server.root();
    root.run("CREATE VIEW v0 AS SELECT 1 AS a").await;
    let mut refused = None;
    for n in 1..40 {
        let sql = format!("CREATE VIEW v{n} AS SELECT a FROM v{}", n - 1);
        if let Err(error) = root.try_run(&sql, &[]).await {
            refused = Some((n, error));
            break;
        }
    }
    let (n, error) = refused.unwrap();
    assert!(error.message.contains("too deeply"), "{error}");
    assert_eq!(root.rows(&format!("SELECT a FROM v{}", n - 1)).await, json!([[1]]));
}

#[tokio::test]
async fn views_are_listed_and_described() {
    let server = Server::start().await;
    let mut root = server.root();
    root.run("CREATE NAMESPACE app; CREATE TABLE app.t (id BIGINT PRIMARY KEY, d DECIMAL(6,2), j JSON)")
        .await;
    root.run("CREATE VIEW app.v AS SELECT d, j, id AS key FROM app.t").await;
    let described = root.rows("DESCRIBE app.v").await;
    assert_eq!(described[0], json!(["d", 1, "DECIMAL(6,2)", true, null, false]));
    assert_eq!(described[1][2], "JSON");
    assert_eq!(described[2], json!(["key", 3, "BIGINT", false, null, false]));
    let tables = root.rows("SHOW TABLES IN app").await;
    assert_eq!((&tables[1][1], &tables[1][2]), (&json!("v"), &json!("view")));
    let listed =
        "SELECT table_type FROM information_schema.tables WHERE table_schema = 'app' ORDER BY table_name";
    assert_eq!(root.rows(listed).await, json!([["BASE TABLE"], ["VIEW"]]));
    let columns = "SELECT column_name, data_type FROM information_schema.columns \
                   WHERE table_name = 'v' ORDER BY ordinal_position";
    assert_eq!(root.rows(columns).await, json!([["d", "DECIMAL(6,2)"], ["j", "JSON"], ["key", "BIGINT"]]));
    let text = root.rows("SELECT view_definition FROM information_schema.views").await;
    assert_eq!(text, json!([["SELECT d, j, id AS key FROM app.t"]]));
    assert_eq!(
        root.rows("SELECT table_name FROM system.tables WHERE table_type = 'view'").await,
        json!([["v"]])
    );
    let error = root.fail("DROP NAMESPACE app").await;
    assert!(error.code == ErrorCode::InUse && error.message.contains("app.v"), "{error}");
    root.run("DROP TABLE app.t").await;
    assert!(root.fail("DROP NAMESPACE app").await.message.contains("app.v"));
    root.run("DROP NAMESPACE app CASCADE").await;
    assert_eq!(root.rows("SELECT count(*) FROM information_schema.views").await, json!([[0]]));
}

#[tokio::test]
async fn a_view_shows_nobody_more_than_its_query_would() {
    let server = Server::start().await;
    let mut root = server.root();
    root.run("CREATE USER TABLE mine (id BIGINT PRIMARY KEY, s TEXT); CREATE TABLE secret (id BIGINT PRIMARY KEY) WITH (access = 'private')")
        .await;
    root.run("CREATE VIEW v AS SELECT * FROM mine; CREATE VIEW everybody AS SELECT _user AS owner, id FROM mine; CREATE VIEW hidden AS SELECT id FROM secret")
        .await;
    for user in ["a", "b"] {
        server.user(user).run(&format!("INSERT INTO mine VALUES (1, 'of {user}')")).await;
    }
    root.run("INSERT INTO mine VALUES (1, 'of root')").await;
    assert_eq!(server.user("a").rows("SELECT s FROM v").await, json!([["of a"]]));
    assert_eq!(root.rows("SELECT s FROM v").await, json!([["of root"]]));
    let execute = "EXECUTE AS USER 'b' (SELECT s FROM v)";
    assert_eq!(server.session("s", Role::Service).rows(execute).await, json!([["of b"]]));
    assert_eq!(root.rows("SELECT owner FROM everybody ORDER BY 1").await, json!([["a"], ["b"], ["root"]]));
    for view in ["everybody", "hidden"] {
        let error = server.user("a").fail(&format!("SELECT * FROM {view}")).await;
        assert_eq!(error.code, ErrorCode::PermissionDenied, "{view}: {error}");
    }
    let seen = server.user("a").rows("SELECT table_name FROM information_schema.views").await;
    assert_eq!(seen, json!([["v"]]), "views that would be refused are not shown");
}

#[tokio::test]
async fn truncate_deletes_what_the_session_may_delete() {
    let server = Server::start().await;
    let mut root = server.root();
    root.run("CREATE USER TABLE mine (id BIGINT PRIMARY KEY); CREATE TABLE t (id BIGINT PRIMARY KEY); CREATE TABLE r (id BIGINT PRIMARY KEY) WITH (access = 'read')")
        .await;
    for user in ["a", "b"] {
        server.user(user).run("INSERT INTO mine VALUES (1), (2)").await;
    }
    let outcome = server.user("a").run("TRUNCATE TABLE mine").await;
    assert_eq!((outcome.affected_rows, outcome.seq.is_some()), (Some(2), true));
    assert_eq!(server.user("a").rows("SELECT count(*) FROM mine").await, json!([[0]]));
    assert_eq!(server.user("b").rows("SELECT count(*) FROM mine").await, json!([[2]]));
    root.run("INSERT INTO t VALUES (1), (2); FLUSH TABLE t; INSERT INTO t VALUES (3); TRUNCATE t").await;
    assert_eq!(root.rows("SELECT count(*) FROM t").await, json!([[0]]));
    assert_eq!(server.user("a").fail("TRUNCATE TABLE r").await.code, ErrorCode::PermissionDenied);
    let error = root.fail("TRUNCATE TABLE nosuch").await;
    assert_eq!((error.code, error.position.map(|at| at.column)), (ErrorCode::TableNotFound, Some(16)));
}
