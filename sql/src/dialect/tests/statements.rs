//! Every form of every statement.

use kalamdb_engine::{Access, DataType, TableKind};
use serde_json::json;

use super::*;
use crate::auth::Role;

#[test]
fn queries_and_changes_of_rows_keep_the_parser_s_tree() {
    let queries = [
        "SELECT 1",
        "select * from a.b",
        "WITH x AS (SELECT 1) SELECT * FROM x",
        "VALUES (1), (2)",
        "(SELECT 1) UNION SELECT 2",
        "SELECT a->'b'->>'c' FROM t",
        "SELECT * EXCLUDE (a) FROM t",
        "SELECT x::int, y <-5 FROM t",
        "SELECT user FROM t",
        "SELECT t.user, user.name FROM t, user",
        "SELECT DATE '2024-01-01' + INTERVAL '1 day'",
        "SELECT ARRAY[1, 2], [1, 2]",
        "SELECT count(*) FILTER (WHERE a) OVER (PARTITION BY b ORDER BY c) FROM t",
        "SELECT $1 + $2",
        "TABLE t",
        "SELECT CURRENT_USER, CURRENT_USER(), CURRENT_ROLE, CURRENT_ROLE(), SESSION_USER",
        "SELECT 'a' ~ 'b', a || -1, a @> b FROM t",
        "SELECT EXTRACT(YEAR FROM a), a IS NOT DISTINCT FROM b FROM t",
    ];
    for sql in queries {
        assert!(matches!(one(sql), Statement::Query(_)), "{sql}");
    }
    assert!(matches!(one("INSERT INTO t VALUES (1)"), Statement::Insert(_)));
    assert!(matches!(one("INSERT INTO a.t (x) SELECT 1 RETURNING x"), Statement::Insert(_)));
    assert!(matches!(
        one("INSERT INTO t VALUES (1) ON CONFLICT (a) DO UPDATE SET a = EXCLUDED.a"),
        Statement::Insert(_)
    ));
    assert!(matches!(one("UPDATE t SET a = 1 FROM u WHERE t.x = u.x RETURNING *"), Statement::Update(_)));
    assert!(matches!(one("DELETE FROM t WHERE a = 1"), Statement::Delete(_)));
    for sql in [
        "EXPLAIN SELECT 1",
        "EXPLAIN ANALYZE SELECT 1",
        "explain verbose select 1",
        "EXPLAIN FORMAT TREE SELECT 1",
    ] {
        assert!(matches!(one(sql), Statement::Explain(_)), "{sql}");
    }
}

#[test]
fn a_comparison_with_a_negative_number_needs_no_space() {
    let Statement::Query(query) = one("SELECT a<-5, a=-1, a>-1, 2-- comment\n FROM t") else { panic!() };
    assert_eq!(query.to_string(), "SELECT a < -5, a = -1, a > -1, 2 FROM t");
}

#[test]
fn identity_functions_need_no_parentheses() {
    for sql in ["SELECT CURRENT_USER", "SELECT current_user()", "SELECT CURRENT_USER ( )"] {
        let Statement::Query(query) = one(sql) else { panic!() };
        assert_eq!(query.to_string().to_lowercase(), "select current_user()", "{sql}");
    }
}

#[test]
fn namespaces() {
    let Statement::CreateNamespace(create) =
        one("CREATE NAMESPACE IF NOT EXISTS App WITH OPTIONS (a = 'x', b = 1, c = true)")
    else {
        panic!()
    };
    assert_eq!((create.name.as_str(), create.if_not_exists, create.position), ("app", true, at(1, 32)));
    assert_eq!(serde_json::Value::Object(create.options), json!({"a": "x", "b": 1, "c": true}));
    let Statement::CreateNamespace(create) = one("create namespace \"My App\"") else { panic!() };
    assert_eq!((create.name.as_str(), create.if_not_exists), ("My App", false));
    let Statement::AlterNamespace(alter) = one("ALTER NAMESPACE app SET OPTIONS (a = NULL)") else {
        panic!()
    };
    assert_eq!(serde_json::Value::Object(alter.options), json!({"a": null}));
    for (sql, exists, all) in [
        ("DROP NAMESPACE app", false, false),
        ("DROP NAMESPACE IF EXISTS app CASCADE", true, true),
        ("DROP NAMESPACE app RESTRICT", false, false),
    ] {
        let Statement::DropNamespace { name, if_exists, cascade, .. } = one(sql) else { panic!("{sql}") };
        assert_eq!((name.as_str(), if_exists, cascade), ("app", exists, all), "{sql}");
    }
    assert!(matches!(one("USE app"), Statement::Use { namespace, .. } if namespace == "app"));
    assert!(matches!(one("USE NAMESPACE app"), Statement::Use { namespace, .. } if namespace == "app"));
    assert!(matches!(one("USE namespace"), Statement::Use { namespace, .. } if namespace == "namespace"));
}

fn table(sql: &str) -> CreateTable {
    match one(sql) {
        Statement::CreateTable(table) => *table,
        other => panic!("{sql}: {other:?}"),
    }
}

#[test]
fn the_example_of_the_reference_is_understood() {
    let table = table(
        "CREATE USER TABLE IF NOT EXISTS app.messages (
            id BIGINT PRIMARY KEY DEFAULT SNOWFLAKE_ID(),
            conversation_id TEXT NOT NULL, content TEXT, score INT DEFAULT 0 CHECK (score >= 0),
            created_at TIMESTAMP DEFAULT NOW()
        ) LOCATION '/data/${user_id}/messages/'
          FLUSH POLICY ROWS 10000 INTERVAL '5 minutes'
          WITH (deleted_retention = '7d', compression = 'zstd')",
    );
    assert_eq!((table.kind, table.if_not_exists), (TableKind::User, true));
    assert_eq!((table.table.namespace.as_deref(), table.table.name.as_str()), (Some("app"), "messages"));
    let columns: Vec<_> = table
        .columns
        .iter()
        .map(|c| {
            (
                c.name.as_str(),
                c.data_type.to_string(),
                c.nullable,
                c.primary_key,
                c.default.as_ref().map(ToString::to_string),
            )
        })
        .collect();
    assert_eq!(columns[0], ("id", "BIGINT".into(), true, true, Some("SNOWFLAKE_ID()".into())));
    assert_eq!(columns[1], ("conversation_id", "TEXT".into(), false, false, None));
    assert_eq!(columns[3], ("score", "INT".into(), true, false, Some("0".into())));
    assert_eq!(columns[4], ("created_at", "TIMESTAMP".into(), true, false, Some("NOW()".into())));
    assert_eq!(table.columns[3].position, at(3, 58));
    assert_eq!(table.checks.iter().map(ToString::to_string).collect::<Vec<_>>(), ["score >= 0"]);
    let options = &table.options;
    assert_eq!((options.flush_rows, options.flush_interval_secs), (Some(10_000), Some(300)));
    assert_eq!(options.deleted_retention.as_deref(), Some("7d"));
    assert_eq!(options.compression.as_deref(), Some("zstd"));
    assert_eq!(options.location.as_deref(), Some("/data/${user_id}/messages/"));
}

#[test]
fn the_kind_of_a_table_is_said_before_it_or_after_it() {
    for (sql, kind) in [
        ("CREATE TABLE t (a INT)", TableKind::Shared),
        ("CREATE SHARED TABLE t (a INT)", TableKind::Shared),
        ("CREATE USER TABLE t (a INT)", TableKind::User),
        (
            "CREATE STREAM TABLE t (a INT) WITH (retention = '10s', ephemeral = true, max_buffer = 1000)",
            TableKind::Stream,
        ),
        ("CREATE TABLE t (a INT) WITH (type = 'user')", TableKind::User),
        ("CREATE TABLE t (a INT) WITH (type = 'STREAM', retention = '1 hour')", TableKind::Stream),
        ("CREATE USER TABLE t (a INT) WITH (type = user)", TableKind::User),
    ] {
        assert_eq!(table(sql).kind, kind, "{sql}");
    }
    let stream =
        table("CREATE STREAM TABLE t (a INT) WITH (retention = '10s', ephemeral = true, max_buffer = 1000)");
    assert_eq!(stream.options.retention_millis, Some(10_000));
    assert_eq!((stream.options.ephemeral, stream.options.max_buffer), (Some(true), Some(1_000)));
}

#[test]
fn keys_are_declared_after_a_column_or_after_all() {
    let composite = table("CREATE TABLE t (a INT, \"B\" TEXT, PRIMARY KEY (a, \"B\"), CHECK (a > 0))");
    let key: Vec<_> = composite.primary_key.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(key, ["a", "B"]);
    assert_eq!(composite.checks.len(), 1);
    assert_eq!(composite.columns.len(), 2);
    let generated =
        table("CREATE TABLE t (id BIGINT AUTO_INCREMENT PRIMARY KEY, CONSTRAINT positive CHECK (id > 0))");
    assert_eq!(generated.columns[0].default.as_ref().unwrap().to_string(), "SNOWFLAKE_ID()");
    assert!(generated.columns[0].primary_key);
    let odd = table("CREATE TABLE t (check INT, unique TEXT, key INT)");
    assert_eq!(odd.columns.len(), 3);
}

#[test]
fn all_types_can_be_declared() {
    let table = table(
        "CREATE TABLE t (a BOOLEAN, b SMALLINT, c INTEGER, d BIGINT, e REAL, f DOUBLE PRECISION, g NUMERIC(10, 2), \
         h VARCHAR(20), i BYTEA, j JSON, k TIMESTAMP WITH TIME ZONE, l DATE, m TIME, n UUID, o TEXT[], p ARRAY<INT>, q STRING)",
    );
    let names: Vec<_> = table.columns.iter().map(|c| c.data_type.to_string()).collect();
    assert_eq!(
        names.join(" "),
        "BOOLEAN SMALLINT INT BIGINT FLOAT DOUBLE DECIMAL(10,2) TEXT BYTES JSON TIMESTAMP DATE TIME UUID TEXT[] INT[] TEXT"
    );
    assert_eq!(table.columns[15].data_type, DataType::Array(Box::new(DataType::Int)));
}

#[test]
fn clauses_come_in_any_order() {
    let table = table(
        "CREATE SHARED TABLE t (a INT) WITH (access = 'read', flush_rows = '5', deleted_retention = 'off') \
         FLUSH POLICY INTERVAL '1h' LOCATION REFERENCE 'warm'",
    );
    assert_eq!(table.options.access, Access::Read);
    assert_eq!((table.options.flush_rows, table.options.flush_interval_secs), (Some(5), Some(3_600)));
    assert_eq!(table.location_reference.unwrap().0, "warm");
}

#[test]
fn durations_are_written_in_many_ways() {
    let millis = options::duration_millis;
    for (text, expected) in [
        ("500ms", Some(500)),
        ("10s", Some(10_000)),
        ("5 minutes", Some(300_000)),
        ("1 hour 30 min", Some(5_400_000)),
        ("7d", Some(604_800_000)),
        ("2 WEEKS", Some(1_209_600_000)),
        ("", None),
        ("0s", None),
        ("5", None),
        ("s", None),
        ("5 fortnights", None),
        ("-1s", None),
        ("99999999999999999999d", None),
        ("9999999999999999w", None),
    ] {
        assert_eq!(millis(text), expected, "{text:?}");
    }
}

#[test]
fn dropping_tables() {
    for (sql, expected) in [
        ("DROP TABLE t", (None, false, false)),
        ("DROP USER TABLE t", (Some(TableKind::User), false, false)),
        ("DROP SHARED TABLE IF EXISTS t CASCADE", (Some(TableKind::Shared), true, true)),
        ("DROP STREAM TABLE t", (Some(TableKind::Stream), false, false)),
    ] {
        let Statement::DropTable { kind, if_exists, cascade, .. } = one(sql) else { panic!("{sql}") };
        assert_eq!((kind, if_exists, cascade), expected, "{sql}");
    }
}

#[test]
fn showing_and_describing() {
    assert!(matches!(one("SHOW NAMESPACES"), Statement::ShowNamespaces));
    assert!(matches!(one("SHOW TABLES"), Statement::ShowTables { namespace: None, .. }));
    assert!(
        matches!(one("SHOW TABLES IN App"), Statement::ShowTables { namespace: Some(ns), .. } if ns == "app")
    );
    assert!(matches!(one("SHOW COLUMNS FROM a.t"), Statement::ShowColumns(_)));
    assert!(matches!(one("SHOW STATS FOR TABLE a.t"), Statement::ShowStats(_)));
    assert!(matches!(one("SHOW TABLE STATS a.t"), Statement::ShowStats(_)));
    assert!(matches!(one("SHOW MANIFEST FOR t"), Statement::ShowManifest(_)));
    for (sql, name, versions) in [
        ("DESCRIBE t", "t", false),
        ("DESC a.t", "t", false),
        ("DESCRIBE TABLE t HISTORY", "t", true),
        ("DESCRIBE t HISTORY", "t", true),
        ("DESCRIBE table", "table", false),
        ("DESCRIBE table HISTORY", "table", true),
    ] {
        let Statement::Describe { table, history } = one(sql) else { panic!("{sql}") };
        assert_eq!((table.name.as_str(), history), (name, versions), "{sql}");
    }
}

#[test]
fn flushing_and_killing() {
    let Statement::Flush(flush) = one("FLUSH TABLE app.t FOR USER 'u1' NOWAIT") else { panic!() };
    assert_eq!(
        (flush.table.unwrap().name.as_str(), flush.user.as_deref(), flush.nowait),
        ("t", Some("u1"), true)
    );
    let Statement::Flush(flush) = one("FLUSH ALL") else { panic!() };
    assert_eq!((flush.table, flush.user, flush.nowait), (None, None, false));
    assert!(matches!(one("KILL LIVE QUERY 'x'"), Statement::KillLiveQuery { live_id } if live_id == "x"));
}

#[test]
fn users_and_acting_for_them() {
    let Statement::CreateUser(user) = one("CREATE USER 'U 1' WITH PASSWORD 'it''s' ROLE dba") else {
        panic!()
    };
    assert_eq!((user.user.as_str(), user.password.as_deref(), user.role), ("U 1", Some("it's"), Role::Dba));
    let Statement::CreateUser(user) = one("CREATE USER IF NOT EXISTS Ann") else { panic!() };
    assert_eq!(
        (user.user.as_str(), user.password, user.role, user.if_not_exists),
        ("ann", None, Role::User, true)
    );
    let Statement::CreateUser(user) = one("CREATE USER 'u' ROLE 'service' PASSWORD 'x'") else { panic!() };
    assert_eq!((user.role, user.password.as_deref()), (Role::Service, Some("x")));
    let Statement::AlterUser { password, role, .. } = one("ALTER USER 'u' SET PASSWORD 'y'") else {
        panic!()
    };
    assert_eq!((password.as_deref(), role), (Some("y"), None));
    let Statement::AlterUser { password, role, .. } = one("ALTER USER 'u' SET ROLE user, PASSWORD 'z'")
    else {
        panic!()
    };
    assert_eq!((password.as_deref(), role), (Some("z"), Some(Role::User)));
    assert!(matches!(one("DROP USER IF EXISTS 'u'"), Statement::DropUser { if_exists: true, .. }));
    for inner in [
        "SELECT 1",
        "INSERT INTO t VALUES (1)",
        "UPDATE t SET a = 1",
        "DELETE FROM t",
        "EXPLAIN SELECT 1",
        "SELECT 1;",
    ] {
        let sql = format!("EXECUTE AS USER 'u1' ({inner}); SELECT 2");
        let statements = parsed(&sql);
        assert_eq!(statements.len(), 2, "{sql}");
        assert!(
            matches!(&statements[0], Statement::ExecuteAsUser { user, .. } if user == "u1"),
            "{sql}: {statements:?}"
        );
    }
}
