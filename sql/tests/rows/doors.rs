//! Every way in which a statement could reach the rows of another user, and that it is closed.
//!
//! Two users have rows in the same USER table, flushed and in memory. Whatever one of them sends, nothing that comes
//! back, result or error, may show what the other one stored, and nothing may be changed by it.

use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use kalamdb_sql::{ErrorCode, LiveFeed, LiveRequest, Role, SubscriptionRequest};
use serde_json::{Value, json};

use crate::harness::{Client, Server};

/// Stored by the victim alone.
const SECRET: &str = "ANNS-SECRET";

/// Long enough for a loaded machine; a test that passes never waits for it.
const PATIENCE: Duration = Duration::from_secs(30);

/// Everything that a statement shows: the rows, or the error with its hint.
async fn shown(client: &mut Client, sql: &str, params: &[Value]) -> String {
    let show = |error: kalamdb_sql::Error| {
        format!("error {} {} {:?}", error.code.as_str(), error.message, error.hint)
    };
    match client.try_run(sql, params).await {
        Err(error) => show(error),
        Ok(outcome) => match outcome.rows {
            None => format!("{:?} {:?}", outcome.affected_rows, outcome.message),
            Some(rows) => match rows.stream.try_collect::<Vec<_>>().await {
                Ok(batches) => format!("{batches:?}"),
                Err(error) => show(error),
            },
        },
    }
}

async fn prepared() -> Server {
    let server = Server::start().await;
    let mut root = server.root();
    root.run("CREATE USER TABLE mine (id BIGINT PRIMARY KEY, s TEXT, n INT CHECK (n > 0)); CREATE TABLE shared (id BIGINT PRIMARY KEY, s TEXT)")
        .await;
    root.run("CREATE VIEW v AS SELECT id, s FROM mine; CREATE VIEW everybody AS SELECT _user AS owner, s FROM mine").await;
    for flushed in [true, false] {
        let first = if flushed { 1 } else { 11 };
        for (user, text) in [("ann", SECRET), ("bob", "of bob")] {
            let insert = format!(
                "INSERT INTO mine VALUES ({first}, '{text} {first}', 1), ({}, '{text} x', 2)",
                first + 1
            );
            server.user(user).run(&insert).await;
        }
        if flushed {
            root.run("FLUSH TABLE mine").await;
        }
    }
    // Only the victim has deleted a row, and only it has this key.
    server
        .user("ann")
        .run(&format!("DELETE FROM mine WHERE id = 12; INSERT INTO mine VALUES (99, '{SECRET} 99', 3)"))
        .await;
    server
}

#[tokio::test]
async fn no_statement_shows_what_another_user_stored() {
    let server = prepared().await;
    let mut root = server.root();
    let before = server
        .user("ann")
        .rows("SELECT *, _deleted FROM mine WHERE _deleted IS NOT NULL ORDER BY id, _deleted")
        .await;
    let doors: &[&str] = &[
        // Reading, in every shape.
        "SELECT * FROM mine",
        "SELECT * FROM MINE m",
        "SELECT * FROM \"mine\"",
        "SELECT * FROM default.mine WHERE TRUE OR s = 'x'",
        "SELECT * FROM \"default\".\"mine\" WHERE id = 99",
        "SELECT * FROM mine WHERE id IN (1, 11, 12, 99)",
        "SELECT *, _seq, _updated, _deleted FROM mine WHERE _deleted OR NOT _deleted",
        "SELECT a.s, b.s FROM mine a FULL JOIN mine b ON a.id = b.id",
        "SELECT * FROM mine NATURAL JOIN mine AS other",
        "SELECT * FROM shared s RIGHT JOIN mine m ON s.id = m.id",
        "SELECT (SELECT max(s) FROM mine), (SELECT count(*) FROM mine WHERE id = 99)",
        "SELECT id FROM shared WHERE EXISTS (SELECT 1 FROM mine WHERE s LIKE 'ANNS%')",
        "WITH mine AS (SELECT * FROM default.mine) SELECT * FROM mine",
        "WITH RECURSIVE r AS (SELECT id, s FROM mine UNION SELECT m.id, m.s FROM mine m JOIN r ON m.id > r.id) SELECT * FROM r",
        "SELECT s FROM mine UNION ALL SELECT s FROM v",
        "SELECT min(s), max(s), count(*), sum(n) FROM mine",
        "SELECT s, row_number() OVER (ORDER BY s) FROM mine",
        "TABLE mine",
        "SELECT * FROM v",
        "SELECT * FROM (SELECT * FROM v WHERE id = 99) AS q",
        "SELECT m.s FROM shared s, LATERAL (SELECT * FROM mine WHERE mine.id >= s.id) m",
        "SELECT s FROM mine WHERE s NOT IN (SELECT s FROM mine WHERE id < 11) OR id > 11",
        "SELECT s FROM mine WHERE id > ALL (SELECT id FROM mine WHERE n = 2)",
        "SELECT DISTINCT ON (n) n, s FROM mine ORDER BY n, s DESC",
        "SELECT s FROM mine INTERSECT SELECT s FROM mine",
        "VALUES ((SELECT max(s) FROM mine))",
        // Names, quoted and not.
        "SELECT * FROM \"MINE\"",
        "SELECT * FROM \"default.mine\"",
        "SELECT * FROM ann.mine",
        "SELECT * FROM default.mine.ann",
        "SELECT * FROM \"default\".\"mine\" AS \"_user\" WHERE \"_user\".s > ''",
        "SELECT ann.* FROM mine ann",
        "SELECT \"_USER\" FROM mine",
        "SELECT m._user FROM mine AS m (_user, s, n)",
        "SELECT * FROM mine WHERE current_user = 'ann' OR current_user() = 'ann'",
        // Files and what reads them.
        "SELECT * FROM 'tables/default/mine/ann/batch-1.parquet'",
        "SELECT * FROM read_parquet('tables/default/mine/ann')",
        "CREATE EXTERNAL TABLE stolen STORED AS PARQUET LOCATION 'tables/default/mine/ann'",
        "COPY (SELECT * FROM mine) TO 'out.csv'",
        // Being somebody else.
        "SET ROLE ann",
        "SET SESSION AUTHORIZATION 'ann'",
        "PREPARE p AS SELECT * FROM mine WHERE _user = 'ann'",
        "EXECUTE AS USER 'bob' (EXECUTE AS USER 'ann' (SELECT * FROM mine))",
        "EXECUTE AS USER '../ann' (SELECT * FROM mine)",
        // Naming the owner.
        "SELECT _user, * FROM mine",
        "SELECT * FROM mine WHERE _user = 'ann'",
        "SELECT * FROM mine ORDER BY \"_user\"",
        "SELECT * FROM everybody",
        "SELECT * FROM mine WHERE _USER = 'ann'",
        "INSERT INTO mine (_user, id, s, n) VALUES ('ann', 1000, 'x', 1)",
        "UPDATE mine SET s = 'x' WHERE _user = 'ann'",
        "DELETE FROM mine WHERE _user = 'ann'",
        "DELETE FROM mine WHERE id = 99 RETURNING _user, s",
        "SELECT _row_address FROM mine",
        // Plans and statistics.
        "EXPLAIN SELECT * FROM mine WHERE s LIKE 'ANNS%'",
        "EXPLAIN ANALYZE VERBOSE SELECT * FROM mine",
        "EXPLAIN VERBOSE SELECT min(s), max(s) FROM mine",
        "EXPLAIN SELECT max(s) FROM mine WHERE id > 0",
        "EXPLAIN UPDATE mine SET s = 'x' WHERE s LIKE 'ANNS%'",
        "EXPLAIN DELETE FROM mine WHERE id = 99",
        "EXPLAIN SELECT * FROM mine WHERE _user = 'ann'",
        "SHOW TABLE STATS mine",
        "SHOW COLUMNS FROM mine",
        "DESCRIBE everybody",
        "SHOW STATS FOR TABLE mine",
        "SHOW MANIFEST FOR mine",
        "DESCRIBE mine HISTORY",
        "SHOW TABLES",
        // Errors.
        "SELECT CAST(s AS INT) FROM mine",
        "SELECT 1 / (id - 99) FROM mine",
        "INSERT INTO mine VALUES (99, 'mine too', 1)",
        "INSERT INTO mine VALUES (1, 'taken', 1)",
        "UPDATE mine SET n = -1",
        "UPDATE mine SET id = 1",
        "SELECT CAST(s AS DATE) FROM mine WHERE id = 99",
        "SELECT (SELECT s FROM mine) FROM shared",
        "INSERT INTO mine SELECT 99, max(s), 0 FROM mine",
        "INSERT INTO mine VALUES (99, 'x', 1), (99, 'y', 2)",
        "BEGIN; INSERT INTO mine VALUES (99, 'x', 1); SELECT * FROM mine; INSERT INTO mine VALUES (99, 'y', 1); COMMIT",
        "BEGIN; SELECT *, _seq FROM mine; ROLLBACK",
        // The system's own tables.
        "SELECT * FROM system.users",
        "SELECT * FROM system.segments",
        "SELECT * FROM system.partitions",
        "SELECT * FROM system.jobs",
        "SELECT * FROM system.audit_log",
        "SELECT * FROM system.queries",
        "SELECT * FROM system.live_queries",
        "SELECT * FROM information_schema.tables",
        "SELECT * FROM information_schema.columns",
        "SELECT * FROM information_schema.views",
        "SELECT * FROM information_schema.schemata",
        "SELECT * FROM system.tables",
        "SELECT * FROM system.columns",
        "SELECT * FROM system.table_schemas",
        "SELECT * FROM system.namespaces",
        "SELECT * FROM system.storage_locations",
        "SELECT * FROM system.settings",
        "SELECT * FROM system.metrics",
        "UPDATE system.users SET role = 'dba' WHERE user_id = 'bob'",
        "INSERT INTO system.users (user_id, role) VALUES ('eve', 'system')",
        // Writing what was read, and reading what was written.
        "INSERT INTO shared SELECT id, s FROM mine ON CONFLICT (id) DO UPDATE SET s = EXCLUDED.s",
        "SELECT * FROM shared",
        "UPDATE shared SET s = m.s FROM mine m WHERE m.id = shared.id RETURNING *",
        "DELETE FROM shared USING mine WHERE mine.id = shared.id RETURNING *",
        "INSERT INTO mine VALUES (99, 'upsert', 1) ON CONFLICT (id) DO UPDATE SET s = mine.s || EXCLUDED.s RETURNING *",
        "INSERT INTO mine VALUES (1, 'upsert', 1) ON CONFLICT (id) DO UPDATE SET s = (SELECT max(s) FROM mine) RETURNING *",
        "INSERT INTO mine SELECT id, s, 1 FROM mine ON CONFLICT (id) DO UPDATE SET s = EXCLUDED.s || mine.s RETURNING *",
        "UPDATE mine SET s = o.s FROM mine o WHERE o.id <> mine.id AND o.id = 99 RETURNING *",
        "DELETE FROM mine WHERE s IN (SELECT s FROM mine) AND id = 99 RETURNING *",
        "UPDATE mine SET s = s || '!' RETURNING *",
        "UPDATE mine SET n = 5 WHERE id = 99 RETURNING *",
        "DELETE FROM mine WHERE id IN (12, 99) RETURNING *",
        // Doing it as somebody else, or with rights that are not there.
        "EXECUTE AS USER 'ann' (SELECT * FROM mine)",
        "EXPORT USER 'ann' TO 'ann'",
        "FLUSH TABLE mine FOR USER 'ann'",
        "CREATE VIEW w AS SELECT * FROM mine",
        "ALTER USER 'ann' SET PASSWORD 'something long'",
        "COMPACT TABLE mine FOR USER 'ann'",
        "PURGE USER 'ann'",
        "DROP USER 'ann'",
        "KILL JOB '1'",
        "ALTER TABLE mine ADD COLUMN leak TEXT",
        "DROP TABLE mine",
        "TRUNCATE TABLE mine",
    ];
    for sql in doors {
        // The same text was just planned for somebody who may see everything, and for the victim, so often that its
        // plan is kept.
        if !sql.contains("RETURNING") && (sql.starts_with("SELECT") || sql.starts_with("WITH")) {
            for _ in 0..3 {
                shown(&mut root, sql, &[]).await;
                shown(&mut server.user("ann"), sql, &[]).await;
                shown(&mut server.session("ann", Role::Service), sql, &[]).await;
            }
        }
        for role in [Role::User, Role::Service] {
            let mut bob = server.session("bob", role);
            if role == Role::Service && sql.starts_with("EXECUTE") {
                continue;
            }
            let seen = shown(&mut bob, sql, &[]).await;
            assert!(!seen.contains(SECRET), "{role:?} {sql}: {seen}");
        }
    }
    let after = server
        .user("ann")
        .rows("SELECT *, _deleted FROM mine WHERE _deleted IS NOT NULL ORDER BY id, _deleted")
        .await;
    assert_eq!(before, after, "and nothing of the victim's is changed");
}

#[tokio::test]
async fn parameters_open_no_door_either() {
    let server = prepared().await;
    for (sql, params) in [
        ("SELECT * FROM mine WHERE id = $1", vec![json!(99)]),
        ("SELECT * FROM mine WHERE s LIKE $1", vec![json!("%' OR _user = 'ann' --%")]),
        ("SELECT * FROM mine WHERE $1 = 'ann'", vec![json!("ann")]),
        ("SELECT $1 FROM mine", vec![json!("_user")]),
        ("UPDATE mine SET s = $1 WHERE id = $2 RETURNING *", vec![json!("x"), json!(99)]),
    ] {
        for _ in 0..3 {
            let kept = shown(&mut server.user("ann"), "SELECT * FROM mine WHERE id = $1", &[json!(99)]).await;
            assert!(kept.contains(SECRET), "the victim sees the own row: {kept}");
        }
        let seen = shown(&mut server.user("bob"), sql, &params).await;
        assert!(!seen.contains(SECRET), "{sql}: {seen}");
    }
}

/// Everything that a feed tells until it has told all of commit `seq`.
async fn told(mut feed: LiveFeed, seq: u64) -> String {
    let mut told = String::new();
    loop {
        let event = tokio::time::timeout(PATIENCE, feed.next()).await.expect("an event in time");
        let Some(event) = event else { return told };
        told.push_str(&String::from_utf8_lossy(&event.data));
        if event.id.is_some_and(|id| id.parse::<u64>().is_ok_and(|id| id >= seq)) {
            return told;
        }
    }
}

#[tokio::test]
async fn live_queries_and_their_cursors_tell_nothing_of_others() {
    let server = prepared().await;
    let snapshots = |sql: &str| SubscriptionRequest::new(sql);
    let changes = |sql: &str| SubscriptionRequest { snapshot: false, ..SubscriptionRequest::new(sql) };
    // Bob's own change ends each feed, so it has to be one that the query shows.
    for sql in
        ["SELECT * FROM mine", "SELECT id, n, s FROM \"mine\" WHERE id IN (11, 99) OR s LIKE '%SECRET%'"]
    {
        for (subscription, cursor) in [
            (snapshots(sql), None),
            (changes(sql), Some("0")),
            (changes(sql), Some("1")),
            (snapshots(sql), Some("2.1")),
        ] {
            let request =
                LiveRequest { subscriptions: vec![subscription], last_event_id: cursor.map(Into::into) };
            let feed = match server.user("bob").session.live(request).await {
                Ok(feed) => feed,
                Err(error) => {
                    assert!(!format!("{error:?}").contains(SECRET), "{sql} {cursor:?}: {error:?}");
                    continue;
                }
            };
            let mut ann = server.user("ann");
            ann.run(&format!("UPDATE mine SET s = '{SECRET} again' WHERE id = 99")).await;
            let seq = server.user("bob").run("UPDATE mine SET n = n + 1").await.seq.unwrap();
            let told = told(feed, seq).await;
            assert!(!told.contains(SECRET), "{sql} {cursor:?}: {told}");
        }
    }
    let owner = LiveRequest {
        subscriptions: vec![SubscriptionRequest::new("SELECT * FROM mine WHERE _user = 'ann'")],
        last_event_id: None,
    };
    let error = server.user("bob").session.live(owner).await.map(drop).unwrap_err();
    assert!(!format!("{error:?}").contains(SECRET), "{error:?}");
    // Another user's live query is not to be seen, nor to be ended.
    let mine = LiveRequest { subscriptions: vec![snapshots("SELECT * FROM mine")], last_event_id: None };
    let _feed = server.user("ann").session.live(mine).await.unwrap();
    let id = server.root().rows("SELECT live_id FROM system.live_queries WHERE user_id = 'ann'").await;
    let kill = format!("KILL LIVE QUERY {}", id[0][0].to_string().replace('"', "'"));
    assert_eq!(server.user("bob").rows("SELECT * FROM system.live_queries").await, json!([]));
    assert_eq!(server.user("bob").fail(&kill).await.code, ErrorCode::LiveQueryNotFound);
}

#[tokio::test]
async fn what_acts_for_a_user_has_that_users_rights_and_no_more() {
    let server = prepared().await;
    let mut service = server.session("s", Role::Service);
    assert_eq!(service.rows("EXECUTE AS USER 'bob' (SELECT count(*) FROM mine)").await, json!([[4]]));
    for sql in [
        "EXECUTE AS USER 'root' (SELECT _user FROM mine)",
        "EXECUTE AS USER 'root' (SELECT * FROM system.jobs)",
        "EXECUTE AS USER 'root' (SELECT * FROM everybody)",
    ] {
        assert_eq!(service.fail(sql).await.code, ErrorCode::PermissionDenied, "{sql}");
    }
    let mut dba = server.session("d", Role::Dba);
    assert_eq!(dba.rows("SELECT count(*) FROM mine").await, json!([[0]]), "a dba's own partition is empty");
    assert_eq!(dba.rows("SELECT count(*) FROM mine WHERE _user = 'bob'").await, json!([[4]]));
}
