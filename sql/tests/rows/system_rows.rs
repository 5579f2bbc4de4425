//! INSERT, UPDATE and DELETE on `system.users` and `system.storage_locations`.

use kalamdb_sql::{ErrorCode, Role};
use serde_json::json;

use crate::harness::Server;

#[tokio::test]
async fn users_are_rows_that_dba_may_write() {
    let server = Server::start().await;
    let mut root = server.root();
    root.run("CREATE USER 'root' WITH PASSWORD 'long enough' ROLE system").await;
    let insert = "INSERT INTO system.users (user_id, role, metadata) VALUES ('ann', 'service', '{\"team\": 1}'), ('bob', DEFAULT, NULL)";
    assert_eq!(root.run(insert).await.affected_rows, Some(2));
    let users = "SELECT user_id, username, role, metadata, created_at IS NOT NULL FROM system.users WHERE user_id <> 'root' ORDER BY 1";
    assert_eq!(
        root.rows(users).await,
        json!([["ann", "ann", "service", {"team": 1}, true], ["bob", "bob", "user", null, true]])
    );
    let update = "UPDATE system.users SET username = upper(user_id), role = 'dba' WHERE role = 'service'";
    assert_eq!(root.run(update).await.affected_rows, Some(1));
    assert_eq!(
        root.rows("SELECT username, role FROM system.users WHERE user_id = 'ann'").await,
        json!([["ANN", "dba"]])
    );
    root.run("ALTER USER 'ann' SET PASSWORD 'her password'").await;
    let identity = server.instance.login("ANN", "her password").await.unwrap();
    assert_eq!((identity.user.as_str(), identity.role), ("ann", Role::Dba), "a login takes the new name");
    // A change of the row keeps what cannot be read.
    root.run_with("UPDATE system.users SET metadata = NULL WHERE user_id = $1", &[json!("ann")]).await;
    server.instance.login("ANN", "her password").await.unwrap();
    assert_eq!(
        root.run("DELETE FROM system.users WHERE user_id IN ('ann', 'bob')").await.affected_rows,
        Some(2)
    );
    assert!(server.instance.login("ANN", "her password").await.is_err());
    assert_eq!(root.run("DELETE FROM system.users WHERE user_id = 'nobody'").await.affected_rows, Some(0));
}

#[tokio::test]
async fn what_the_statements_for_users_refuse_dml_refuses_too() {
    let server = Server::start().await;
    let mut root = server.root();
    root.run("CREATE USER 'root' ROLE system; CREATE USER 'ann'; CREATE USER 'sys' ROLE system").await;
    let mut dba = server.session("d", Role::Dba);
    for (sql, code) in [
        ("INSERT INTO system.users (user_id) VALUES ('ann')", ErrorCode::AlreadyExists),
        ("INSERT INTO system.users (user_id, username) VALUES ('new', 'ann')", ErrorCode::AlreadyExists),
        ("INSERT INTO system.users (user_id) VALUES ('new'), ('new')", ErrorCode::AlreadyExists),
        ("INSERT INTO system.users (user_id, role) VALUES ('new', 'king')", ErrorCode::InvalidParameter),
        ("INSERT INTO system.users (user_id, role) VALUES ('new', 'system')", ErrorCode::PermissionDenied),
        ("INSERT INTO system.users (role) VALUES ('user')", ErrorCode::NotNullViolation),
        ("INSERT INTO system.users (user_id, password_hash) VALUES ('new', 'x')", ErrorCode::ColumnNotFound),
        ("INSERT INTO system.users (user_id) VALUES ('')", ErrorCode::InvalidParameter),
        ("UPDATE system.users SET user_id = 'other' WHERE user_id = 'ann'", ErrorCode::InvalidStatement),
        ("UPDATE system.users SET created_at = NOW() WHERE user_id = 'ann'", ErrorCode::InvalidStatement),
        ("UPDATE system.users SET username = 'same'", ErrorCode::PermissionDenied),
        ("UPDATE system.users SET role = 'user' WHERE user_id = 'root'", ErrorCode::PermissionDenied),
        ("DELETE FROM system.users WHERE user_id = 'root'", ErrorCode::PermissionDenied),
        ("INSERT INTO system.users (user_id) VALUES ('x') RETURNING user_id", ErrorCode::Unsupported),
        ("INSERT INTO system.jobs (job_id) VALUES ('x')", ErrorCode::PermissionDenied),
        ("DELETE FROM system.audit_log", ErrorCode::PermissionDenied),
    ] {
        let error = dba.fail(sql).await;
        assert_eq!(error.code, code, "{sql}: {error}");
    }
    for sql in ["UPDATE system.users SET role = 'user'", "DELETE FROM system.users"] {
        assert_eq!(root.fail(sql).await.code, ErrorCode::InUse, "{sql}");
    }
    let mut ann = server.user("ann");
    for sql in [
        "INSERT INTO system.users (user_id) VALUES ('x')",
        "UPDATE system.users SET role = 'dba'",
        "DELETE FROM system.storage_locations",
    ] {
        assert_eq!(ann.fail(sql).await.code, ErrorCode::PermissionDenied, "{sql}");
    }
    assert_eq!(root.rows("SELECT count(*) FROM system.users").await, json!([[3]]));
}

#[tokio::test]
async fn storage_locations_are_checked_and_stay_while_tables_use_them() {
    let server = Server::start().await;
    let mut root = server.root();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("fast").display().to_string();
    let insert = format!(
        "INSERT INTO system.storage_locations (location_name, location_type, path) VALUES ('fast', 'local', '{path}/${{user_id}}')"
    );
    root.run(&insert).await;
    for (sql, code) in [
        (insert.as_str(), ErrorCode::AlreadyExists),
        (
            "INSERT INTO system.storage_locations (location_name, location_type, path) VALUES ('a', 'tape', '/x')",
            ErrorCode::InvalidParameter,
        ),
        (
            "INSERT INTO system.storage_locations (location_name, location_type, path) VALUES ('a', 'local', 'x')",
            ErrorCode::InvalidParameter,
        ),
        (
            "INSERT INTO system.storage_locations (location_name, location_type, path) VALUES ('a', 'local', '/a/../b')",
            ErrorCode::InvalidParameter,
        ),
        (
            "INSERT INTO system.storage_locations (location_name, location_type, path) VALUES ('a', 'local', '/dev/null/x')",
            ErrorCode::InvalidParameter,
        ),
        (
            "INSERT INTO system.storage_locations (location_name, location_type) VALUES ('a', 'local')",
            ErrorCode::NotNullViolation,
        ),
        (
            "INSERT INTO system.storage_locations (location_name, location_type, path, credentials_ref) VALUES ('a', 'local', '/tmp', 'hunter2')",
            ErrorCode::InvalidParameter,
        ),
        ("CREATE TABLE t (id BIGINT PRIMARY KEY) LOCATION REFERENCE 'fats'", ErrorCode::StorageNotFound),
    ] {
        let error = root.fail(sql).await;
        assert_eq!(error.code, code, "{sql}: {error}");
    }
    let error = root.fail("CREATE TABLE t (id BIGINT PRIMARY KEY) LOCATION REFERENCE 'fats'").await;
    assert_eq!(error.hint.as_deref(), Some("did you mean fast?"));
    root.run("CREATE TABLE t (id BIGINT PRIMARY KEY) LOCATION REFERENCE 'fast'").await;
    let used = "SELECT location_name, usage_count FROM system.storage_locations";
    assert_eq!(root.rows(used).await, json!([["fast", 1]]));
    assert_eq!(
        root.rows("SELECT storage_location FROM system.tables WHERE table_name = 't'").await,
        json!([["fast"]])
    );
    for sql in [
        "DELETE FROM system.storage_locations",
        "UPDATE system.storage_locations SET path = '/tmp' WHERE location_name = 'fast'",
    ] {
        let error = root.fail(sql).await;
        assert!(error.code == ErrorCode::InUse && error.message.contains("default.t"), "{sql}: {error}");
    }
    root.run("DROP TABLE t").await;
    assert_eq!(
        root.run("DELETE FROM system.storage_locations WHERE usage_count = 0").await.affected_rows,
        Some(1)
    );
    assert_eq!(root.rows(used).await, json!([]));
}
