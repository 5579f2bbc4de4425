//! What cannot be live is refused before the feed begins, with the error that says why.

use kalamdb_sql::{ErrorCode, LiveRequest, Role, SubscriptionRequest};

use crate::harness::{Db, request, resume};

#[tokio::test]
async fn a_request_that_cannot_be_live_is_an_ordinary_error() {
    let db = Db::open().await;
    db.run(
        "CREATE NAMESPACE app; CREATE SHARED TABLE app.t (id BIGINT PRIMARY KEY, n INT); \
         CREATE USER TABLE app.mine (id BIGINT PRIMARY KEY)",
    )
    .await;
    for (sql, code) in [
        ("SELECT count(*) FROM app.t", ErrorCode::Unsupported),
        ("SELECT row_number() OVER () FROM app.t", ErrorCode::Unsupported),
        ("SELECT * FROM app.t ORDER BY id", ErrorCode::Unsupported),
        ("SELECT * FROM app.t a JOIN app.t b ON a.id = b.id", ErrorCode::Unsupported),
        ("SELECT * FROM app.t WHERE random() > 0.5", ErrorCode::Unsupported),
        ("SELECT * FROM app.mine WHERE _user = 'ann'", ErrorCode::Unsupported),
        ("SELECT * FROM system.live_queries", ErrorCode::Unsupported),
        ("SELECT * FROM information_schema.tables", ErrorCode::Unsupported),
        ("SELECT * FROM app.nothing", ErrorCode::TableNotFound),
        ("SELECT * FROM nowhere.t", ErrorCode::NamespaceNotFound),
        ("SELECT nothing FROM app.t", ErrorCode::ColumnNotFound),
        ("SELECT * FROM app.t WHERE n = $1", ErrorCode::InvalidParameter),
        ("SELECT FROM WHERE", ErrorCode::SyntaxError),
        ("DELETE FROM app.t", ErrorCode::InvalidStatement),
        ("SELECT id FROM app.t; SELECT id FROM app.t", ErrorCode::InvalidStatement),
        ("", ErrorCode::InvalidStatement),
    ] {
        let error = db.request(request(&[sql])).await.err().unwrap_or_else(|| panic!("{sql} was accepted"));
        assert_eq!(error.code, code, "{sql}: {error}");
    }
    assert_eq!(db.run("SELECT * FROM system.live_queries").await.rows.len(), 0, "nothing is left behind");
}

#[tokio::test]
async fn a_malformed_request_is_an_invalid_parameter() {
    let db = Db::open().await;
    db.run("CREATE NAMESPACE app; CREATE SHARED TABLE app.t (id BIGINT PRIMARY KEY)").await;
    let named = |name: &str| SubscriptionRequest {
        id: Some(name.into()),
        ..SubscriptionRequest::new("SELECT * FROM app.t")
    };
    let of = |subscriptions| LiveRequest { subscriptions, last_event_id: None };
    for bad in [
        of(vec![]),
        of(vec![named("a"), named("a")]),
        of(vec![named("")]),
        of(vec![named("q2"), SubscriptionRequest::new("SELECT * FROM app.t")]),
        of(vec![SubscriptionRequest { last_rows: Some(u64::MAX), ..named("a") }]),
        resume(&["SELECT * FROM app.t"], "nonsense"),
    ] {
        assert_eq!(db.request(bad).await.err().unwrap().code, ErrorCode::InvalidParameter);
    }
}

#[tokio::test]
async fn other_roles_cannot_follow_what_they_may_not_read() {
    let db = Db::open().await;
    db.run("CREATE NAMESPACE app; CREATE TABLE app.p (id BIGINT PRIMARY KEY) WITH (type = 'shared', access = 'private')")
        .await;
    for table in ["app.p", "system.users", "system.audit_log"] {
        let sql = format!("SELECT * FROM {table}");
        let error = db.request_as("ann", Role::User, request(&[&sql])).await.err().unwrap();
        assert_eq!(error.code, ErrorCode::PermissionDenied, "{table}: {error}");
    }
    let mut users = db.request(request(&["SELECT user_id FROM system.users"])).await.unwrap();
    users.expect("ready").await;
    users.expect("snapshot").await;
    db.run("CREATE USER 'ann' WITH PASSWORD 'long enough' ROLE user").await;
    assert_eq!(users.expect("insert").await.data["rows"][0]["user_id"], "ann");
    let error = db.request(request(&["SELECT password_hash FROM system.users"])).await.err().unwrap();
    assert_eq!(error.code, ErrorCode::ColumnNotFound);
}
