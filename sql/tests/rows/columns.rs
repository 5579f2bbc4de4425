use kalamdb_sql::{ErrorCode, Role};
use serde_json::json;

use crate::harness::{Layout, Server};

async fn notes(server: &Server, layout: Layout) {
    let mut root = server.root();
    root.run("CREATE TABLE notes (id INT PRIMARY KEY, body TEXT); CREATE TABLE tags (id INT PRIMARY KEY, tag TEXT)").await;
    root.run(
        "INSERT INTO notes VALUES (1, 'a'), (2, 'b'), (3, 'c'); INSERT INTO tags VALUES (1, 'x'), (2, 'y')",
    )
    .await;
    layout.half(&mut root, "notes").await;
    root.run("DELETE FROM notes WHERE id = 2; UPDATE notes SET body = 'cc' WHERE id = 3").await;
    layout.end(&mut root, "notes").await;
}

#[tokio::test]
async fn a_wildcard_never_lists_system_columns() {
    let server = Server::start().await;
    notes(&server, Layout::Mixed).await;
    let mut root = server.root();
    for (sql, expected) in [
        ("SELECT * FROM notes", "id body"),
        ("SELECT * FROM notes WHERE _seq > 0", "id body"),
        ("SELECT n.* FROM notes n WHERE n._seq > 0", "id body"),
        ("SELECT *, _seq FROM notes", "id body _seq"),
        ("SELECT * EXCLUDE (body) FROM notes WHERE _seq > 0", "id"),
        ("SELECT * FROM notes n JOIN tags t ON n.id = t.id WHERE n._seq > 0", "id body id tag"),
        ("SELECT * FROM notes JOIN tags USING (id) WHERE notes._seq > 0", "id body tag"),
        ("SELECT t.*, n._updated FROM notes n, tags t", "id tag _updated"),
        ("SELECT * FROM (SELECT * FROM notes WHERE _seq > 0) q", "id body"),
        ("SELECT * FROM (SELECT id, _seq FROM notes) q", "id _seq"),
        ("SELECT * FROM (SELECT id, _seq FROM notes) q JOIN tags t ON q.id = t.id", "id _seq id tag"),
        ("WITH c AS (SELECT *, _seq AS s FROM notes) SELECT * FROM c", "id body s"),
        ("WITH c AS (SELECT * FROM notes) SELECT c.*, _deleted FROM c, tags", "id body _deleted"),
        ("SELECT default.notes.* FROM default.notes ORDER BY _seq", "id body"),
        ("SELECT * FROM notes WHERE id IN (SELECT id FROM tags WHERE _seq > 0)", "id body"),
        ("SELECT * FROM notes NATURAL JOIN tags", "id body tag"),
    ] {
        assert_eq!(root.columns(sql).await.join(" "), expected, "{sql}");
    }
    let error = root.fail("SELECT * EXCLUDE (_seq) FROM notes").await;
    assert_eq!(error.code, ErrorCode::ColumnNotFound, "a wildcard has no _seq to leave out: {error}");
    for sql in [
        "SELECT * FROM notes NATURAL JOIN tags WHERE notes._seq > 0",
        "WITH notes AS (SELECT * FROM notes) SELECT * FROM notes WHERE id IN (SELECT id FROM tags WHERE _seq > 0)",
    ] {
        let error = root.fail(sql).await;
        assert_eq!(error.code, ErrorCode::Unsupported, "{sql}: {error}");
        assert!(error.hint.is_some(), "{sql}");
    }
}

#[tokio::test]
async fn soft_deleted_rows_show_where_deleted_is_named_and_nowhere_else() {
    for layout in Layout::ALL {
        let server = Server::start().await;
        notes(&server, layout).await;
        let mut root = server.root();
        for (sql, expected) in [
            ("SELECT id FROM notes ORDER BY id", json!([[1], [3]])),
            ("SELECT id FROM notes WHERE _seq > 0 AND _updated IS NOT NULL ORDER BY id", json!([[1], [3]])),
            ("SELECT id, _deleted FROM notes ORDER BY id", json!([[1, false], [2, true], [3, false]])),
            ("SELECT id, body FROM notes WHERE _deleted", json!([[2, "b"]])),
            ("SELECT count(*) FROM notes WHERE _deleted OR true", json!([[3]])),
            ("SELECT id FROM notes WHERE NOT _deleted ORDER BY id", json!([[1], [3]])),
            ("SELECT id FROM (SELECT id, _deleted FROM notes) q ORDER BY id", json!([[1], [2], [3]])),
            (
                "SELECT n.id FROM notes n JOIN notes m ON n.id = m.id WHERE m._deleted OR m.id > 0 ORDER BY 1",
                json!([[1], [3]]),
            ),
            ("SELECT id FROM notes WHERE id IN (SELECT id FROM notes WHERE _deleted)", json!([])),
            ("SELECT id FROM tags WHERE id IN (SELECT id FROM notes WHERE _deleted)", json!([[2]])),
            ("SELECT count(*) FROM notes", json!([[2]])),
        ] {
            assert_eq!(root.rows(sql).await, expected, "{layout:?}: {sql}");
        }
    }
}

#[tokio::test]
async fn system_columns_hold_the_commit_of_each_row() {
    for layout in Layout::ALL {
        let server = Server::start().await;
        let mut root = server.root();
        root.run("CREATE TABLE t (id INT PRIMARY KEY, n INT)").await;
        let first = root.run("INSERT INTO t VALUES (1, 1), (2, 2)").await.seq.unwrap();
        layout.half(&mut root, "t").await;
        let second = root.run("UPDATE t SET n = 3 WHERE id = 2").await.seq.unwrap();
        layout.end(&mut root, "t").await;
        assert!(second > first);
        let rows = root.rows("SELECT id, n, _seq FROM t ORDER BY id").await;
        assert_eq!(rows, json!([[1, 1, first], [2, 3, second]]), "{layout:?}");
        let newer = root.rows(&format!("SELECT id FROM t WHERE _seq > {first}")).await;
        assert_eq!(newer, json!([[2]]), "{layout:?}");
        let order = root.rows("SELECT max(_updated) >= min(_updated), max(_updated) <= now() FROM t").await;
        assert_eq!(order, json!([[true, true]]));
    }
}

#[tokio::test]
async fn hidden_columns_of_our_own_and_secrets_cannot_be_named() {
    let server = Server::start().await;
    notes(&server, Layout::Hot).await;
    let mut root = server.root();
    root.run("CREATE USER 'u1' WITH PASSWORD 'a long password' ROLE user").await;
    for sql in [
        "SELECT _row_address FROM notes",
        "SELECT id FROM notes WHERE _row_address = 0",
        "UPDATE notes SET body = 'x' WHERE _row_address = 0",
        "DELETE FROM notes WHERE notes._row_address = 0",
        "SELECT password_hash FROM system.users",
        "SELECT * FROM system.users WHERE password_hash IS NOT NULL",
        "SELECT _ts FROM notes",
    ] {
        assert_eq!(root.fail(sql).await.code, ErrorCode::ColumnNotFound, "{sql}");
    }
    assert!(!root.columns("SELECT * FROM system.users").await.contains(&"password_hash".to_owned()));
    let mut user = server.session("u1", Role::User);
    assert_eq!(user.rows("SELECT user_id FROM system.users").await, json!([["u1"]]));
    assert_eq!(
        user.rows("SELECT count(*) FROM system.users WHERE user_id <> 'u1' OR true").await,
        json!([[1]])
    );
    assert_eq!(user.fail("SELECT * FROM system.tables").await.code, ErrorCode::PermissionDenied);
}
