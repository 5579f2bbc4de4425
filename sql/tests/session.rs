//! Sessions end to end, in process: namespaces, tables, users, rights, SHOW and the computed tables.

use std::sync::Arc;

use futures::TryStreamExt;
use kalamdb_sql::{Error, ErrorCode, Identity, Instance, Options, Outcome, RowEncoder, RowFormat, Session};
use serde_json::{Value, json};
use tempfile::TempDir;

struct Server {
    instance: Arc<Instance>,
    dir: TempDir,
}

impl Server {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let instance = Instance::open(Options::new(dir.path())).await.unwrap();
        assert!(instance.ensure_root(&|| "root-password".into()).await.unwrap());
        Self { instance, dir }
    }

    async fn restart(self) -> Self {
        self.instance.close().await.unwrap();
        drop(self.instance);
        let instance = Instance::open(Options::new(self.dir.path())).await.unwrap();
        assert!(!instance.ensure_root(&|| panic!("there is a root already")).await.unwrap());
        Self { instance, dir: self.dir }
    }

    async fn root(&self) -> Session {
        self.instance.session(self.instance.login("root", "root-password").await.unwrap())
    }

    async fn user(&self, id: &str) -> Session {
        let identity: Identity = self.instance.identify(id, None).await.unwrap();
        self.instance.session(identity)
    }
}

/// Runs all statements of a text; the outcome of the last, or the first error.
async fn run(session: &mut Session, sql: &str, params: &[Value]) -> Result<Outcome, Error> {
    let mut last = Outcome::default();
    for statement in session.parse(sql)? {
        last = session.execute(&statement, params).await?;
    }
    Ok(last)
}

async fn done(session: &mut Session, sql: &str) -> Outcome {
    run(session, sql, &[]).await.unwrap_or_else(|error| panic!("{sql}: {} {error}", error.code.as_str()))
}

async fn failed(session: &mut Session, sql: &str) -> Error {
    match run(session, sql, &[]).await {
        Ok(outcome) => panic!("{sql} did {outcome:?}"),
        Err(error) => error,
    }
}

async fn collect(outcome: Outcome) -> Vec<Value> {
    let rows = outcome.rows.expect("the statement gives rows");
    let encoder = RowEncoder::new(&rows.schema, RowFormat::Objects);
    let batches: Vec<_> = rows.stream.try_collect().await.unwrap();
    let mut text = vec![b'['];
    for batch in batches.iter().filter(|batch| batch.num_rows() > 0) {
        if text.len() > 1 {
            text.push(b',');
        }
        encoder.encode_rows(batch, &mut text);
    }
    text.push(b']');
    serde_json::from_slice(&text).unwrap()
}

async fn rows(session: &mut Session, sql: &str) -> Vec<Value> {
    collect(done(session, sql).await).await
}

fn column(rows: &[Value], name: &str) -> Vec<Value> {
    rows.iter().map(|row| row[name].clone()).collect()
}

#[tokio::test]
async fn namespaces_are_created_listed_used_and_dropped() {
    let server = Server::start().await;
    let mut root = server.root().await;
    done(&mut root, "CREATE NAMESPACE app WITH OPTIONS (tier = 'gold')").await;
    assert_eq!(failed(&mut root, "CREATE NAMESPACE app").await.code, ErrorCode::AlreadyExists);
    done(&mut root, "CREATE NAMESPACE IF NOT EXISTS app").await;
    let names = column(&rows(&mut root, "SHOW NAMESPACES").await, "namespace_id");
    assert_eq!(names, [json!("app"), json!("default"), json!("system")]);
    done(&mut root, "USE app; CREATE TABLE t (a INT)").await;
    let error = failed(&mut root, "DROP NAMESPACE app").await;
    assert_eq!(error.code, ErrorCode::InUse);
    assert!(error.message.contains("app.t"), "{error}");
    done(&mut root, "DROP NAMESPACE app CASCADE").await;
    let error = failed(&mut root, "DROP NAMESPACE app").await;
    assert_eq!(error.code, ErrorCode::NamespaceNotFound);
    done(&mut root, "DROP NAMESPACE IF EXISTS app").await;
    for protected in ["default", "system", "information_schema"] {
        let error = failed(&mut root, &format!("DROP NAMESPACE {protected} CASCADE")).await;
        assert_eq!(error.code, ErrorCode::PermissionDenied, "{protected}");
    }
    assert_eq!(failed(&mut root, "CREATE TABLE system.t (a INT)").await.code, ErrorCode::PermissionDenied);
}

#[tokio::test]
async fn a_table_without_a_key_gets_one_first() {
    let server = Server::start().await;
    let mut root = server.root().await;
    done(&mut root, "CREATE TABLE t (a TEXT DEFAULT 'x' || 'y', b INT NOT NULL DEFAULT 1 + 1)").await;
    let described = rows(&mut root, "DESCRIBE t").await;
    assert_eq!(
        described[0],
        json!({"name": "id", "ordinal": 1, "type": "BIGINT", "nullable": false, "default": "SNOWFLAKE_ID()", "primary_key": true})
    );
    assert_eq!(described[2]["nullable"], json!(false));
    assert_eq!(rows(&mut root, "SHOW COLUMNS FROM default.t").await, described);
    done(&mut root, "INSERT INTO t DEFAULT VALUES").await;
}

#[tokio::test]
async fn wrong_tables_are_refused_with_the_place() {
    let server = Server::start().await;
    let mut root = server.root().await;
    let cases = [
        ("CREATE TABLE t (a INT, a TEXT)", ErrorCode::InvalidStatement, 24),
        ("CREATE TABLE t (_seq INT)", ErrorCode::InvalidStatement, 17),
        ("CREATE TABLE t (id TEXT)", ErrorCode::InvalidStatement, 17),
        ("CREATE TABLE t (a INT, PRIMARY KEY (b))", ErrorCode::ColumnNotFound, 37),
        ("CREATE TABLE t (a INT PRIMARY KEY, b INT PRIMARY KEY)", ErrorCode::InvalidStatement, 36),
        ("CREATE TABLE t (a JSON PRIMARY KEY)", ErrorCode::InvalidStatement, 14),
        ("CREATE TABLE t (a INT PRIMARY KEY DEFAULT SNOWFLAKE_ID())", ErrorCode::TypeMismatch, 35),
        ("CREATE TABLE t (a INT DEFAULT 'abc')", ErrorCode::TypeMismatch, 31),
        ("CREATE TABLE t (a SMALLINT DEFAULT 100000)", ErrorCode::ValueOutOfRange, 36),
        ("CREATE TABLE t (a INT DEFAULT b + 1, b INT)", ErrorCode::InvalidStatement, 31),
        ("CREATE TABLE t (a INT DEFAULT no_such_function())", ErrorCode::InvalidStatement, 31),
        ("CREATE TABLE nowhere.t (a INT)", ErrorCode::NamespaceNotFound, 14),
        ("CREATE TABLE t (a INT) LOCATION REFERENCE 'cold'", ErrorCode::StorageNotFound, 43),
    ];
    for (sql, code, position) in cases {
        let error = failed(&mut root, sql).await;
        assert_eq!(
            (error.code, error.position.map(|at| at.column)),
            (code, Some(position)),
            "{sql}: {error}"
        );
    }
    assert_eq!(
        failed(&mut root, "CREATE TABLE t (a INT CHECK (b > 0))").await.code,
        ErrorCode::ColumnNotFound
    );
    assert_eq!(failed(&mut root, "CREATE TABLE t (a INT CHECK (a + 1))").await.code, ErrorCode::TypeMismatch);
    assert!(rows(&mut root, "SHOW TABLES").await.is_empty());
}

#[tokio::test]
async fn missing_things_are_named_with_the_nearest_that_is_there() {
    let server = Server::start().await;
    let mut root = server.root().await;
    done(&mut root, "CREATE NAMESPACE app; CREATE TABLE app.messages (id BIGINT PRIMARY KEY, content TEXT)")
        .await;
    let error = failed(&mut root, "DESCRIBE app.mesages").await;
    assert_eq!(
        (error.code, error.hint.as_deref()),
        (ErrorCode::TableNotFound, Some("did you mean app.messages?"))
    );
    assert_eq!(error.position.map(|at| at.column), Some(10));
    let error = failed(&mut root, "SELECT * FROM messages").await;
    assert_eq!(
        (error.code, error.hint.as_deref()),
        (ErrorCode::TableNotFound, Some("did you mean app.messages?"))
    );
    let error = failed(&mut root, "SELECT * FROM ap.messages").await;
    assert_eq!(
        (error.code, error.hint.as_deref()),
        (ErrorCode::NamespaceNotFound, Some("did you mean app?"))
    );
    let error = failed(&mut root, "SELECT contnt FROM app.messages").await;
    assert_eq!(
        (error.code, error.hint.as_deref()),
        (ErrorCode::ColumnNotFound, Some("did you mean content?"))
    );
    assert_eq!(error.position.map(|at| at.column), Some(8));
    assert_eq!(failed(&mut root, "USE ap").await.code, ErrorCode::NamespaceNotFound);
}

#[tokio::test]
async fn only_dba_and_above_define_things() {
    let server = Server::start().await;
    let mut root = server.root().await;
    done(&mut root, "CREATE TABLE t (a INT); CREATE USER 'dba1' ROLE dba; CREATE USER 'svc' ROLE service")
        .await;
    for who in ["nobody", "svc"] {
        let mut session = server.user(who).await;
        for sql in [
            "CREATE NAMESPACE x",
            "ALTER NAMESPACE default SET OPTIONS (a = 1)",
            "DROP NAMESPACE default",
            "CREATE TABLE x (a INT)",
            "DROP TABLE t",
            "CREATE USER 'x'",
            "ALTER USER 'root' SET PASSWORD 'x'",
            "ALTER USER 'nobody' SET ROLE dba",
            "DROP USER 'root'",
            "FLUSH ALL",
            "FLUSH TABLE t",
            "SHOW MANIFEST FOR t",
            "SELECT * FROM system.tables",
            "SELECT * FROM system.columns",
            "SELECT * FROM system.queries",
            "DESCRIBE system.jobs",
            "SELECT password_hash FROM system.users",
        ] {
            let error = failed(&mut session, sql).await;
            let expected = if sql.contains("password_hash") {
                ErrorCode::ColumnNotFound
            } else {
                ErrorCode::PermissionDenied
            };
            assert_eq!(error.code, expected, "{who}: {sql}: {error}");
        }
    }
    let mut dba = server.user("dba1").await;
    done(&mut dba, "CREATE NAMESPACE x; CREATE TABLE x.t (a INT); DROP NAMESPACE x CASCADE").await;
    let error = failed(&mut dba, "ALTER USER 'root' SET PASSWORD 'mine'").await;
    assert_eq!(error.code, ErrorCode::PermissionDenied, "a dba is below system");
    assert_eq!(failed(&mut dba, "CREATE USER 'x' ROLE system").await.code, ErrorCode::PermissionDenied);
    assert_eq!(
        failed(&mut root, "SELECT password_hash FROM system.users").await.code,
        ErrorCode::ColumnNotFound
    );
}

#[tokio::test]
async fn users_log_in_change_and_go_also_after_a_restart() {
    let server = Server::start().await;
    let mut root = server.root().await;
    done(&mut root, "CREATE USER 'u1' WITH PASSWORD 'one' ROLE user").await;
    assert_eq!(failed(&mut root, "CREATE USER 'u1'").await.code, ErrorCode::AlreadyExists);
    done(&mut root, "CREATE USER IF NOT EXISTS 'u1' WITH PASSWORD 'ignored'").await;
    let identity = server.instance.login("u1", "one").await.unwrap();
    let mut own = server.instance.session(identity);
    done(&mut own, "ALTER USER 'u1' SET PASSWORD 'two'").await;
    assert_eq!(server.instance.login("u1", "one").await.unwrap_err().code, ErrorCode::Unauthenticated);
    let server = server.restart().await;
    assert!(server.instance.login("u1", "two").await.is_ok());
    let mut root = server.root().await;
    let users = rows(&mut root, "SELECT user_id, username, role FROM system.users ORDER BY user_id").await;
    assert_eq!(users[1], json!({"user_id": "u1", "username": "u1", "role": "user"}));
    let mut u1 = server.user("u1").await;
    assert_eq!(column(&rows(&mut u1, "SELECT * FROM system.users").await, "user_id"), [json!("u1")]);
    done(&mut root, "DROP USER 'u1'").await;
    assert_eq!(server.instance.login("u1", "two").await.unwrap_err().code, ErrorCode::Unauthenticated);
    assert_eq!(failed(&mut root, "DROP USER 'u1'").await.code, ErrorCode::UserNotFound);
    assert_eq!(failed(&mut root, "DROP USER 'root'").await.code, ErrorCode::InUse);
    assert_eq!(failed(&mut root, "ALTER USER 'root' SET ROLE user").await.code, ErrorCode::InUse);
}

#[tokio::test]
async fn a_token_never_claims_more_than_the_stored_role() {
    let server = Server::start().await;
    let mut root = server.root().await;
    done(&mut root, "CREATE USER 'svc' ROLE service").await;
    let role = async |user: &str, claimed: Option<&str>| {
        server.instance.identify(user, claimed).await.unwrap().role.to_string()
    };
    assert_eq!(role("svc", Some("system")).await, "service");
    assert_eq!(role("svc", Some("user")).await, "user");
    assert_eq!(role("svc", None).await, "service");
    assert_eq!(role("stranger", Some("dba")).await, "user");
    assert!(server.instance.identify("svc", Some("emperor")).await.is_err());
    assert!(server.instance.identify("", None).await.is_err());
}

#[tokio::test]
async fn acting_for_a_user_has_that_user_s_partition_and_no_other_rights() {
    let server = Server::start().await;
    let mut root = server.root().await;
    done(
        &mut root,
        "CREATE USER TABLE notes (id BIGINT PRIMARY KEY, text TEXT, owner TEXT DEFAULT CURRENT_USER())",
    )
    .await;
    done(&mut root, "CREATE USER 'svc' ROLE service; CREATE USER 'boss' ROLE dba").await;
    let mut service = server.user("svc").await;
    done(&mut service, "EXECUTE AS USER 'u1' (INSERT INTO notes (id, text) VALUES (1, 'mine'))").await;
    assert!(rows(&mut service, "SELECT * FROM notes").await.is_empty());
    let mut u1 = server.user("u1").await;
    assert_eq!(rows(&mut u1, "SELECT * FROM notes").await, [json!({"id": 1, "text": "mine", "owner": "u1"})]);
    let who =
        rows(&mut service, "EXECUTE AS USER 'boss' (SELECT CURRENT_USER AS u, CURRENT_ROLE() AS r)").await;
    assert_eq!(who, [json!({"u": "boss", "r": "user"})]);
    let error = failed(&mut service, "EXECUTE AS USER 'boss' (SELECT * FROM system.tables)").await;
    assert_eq!(error.code, ErrorCode::PermissionDenied);
    let error = failed(&mut u1, "EXECUTE AS USER 'u2' (SELECT * FROM notes)").await;
    assert_eq!(error.code, ErrorCode::PermissionDenied);
    let audited = rows(&mut root, "SELECT actor, subject, action FROM system.audit_log ORDER BY id").await;
    assert_eq!(audited[0], json!({"actor": "svc", "subject": "u1", "action": "execute_as_user"}));
}

#[tokio::test]
async fn flush_runs_as_a_job_that_is_listed() {
    let server = Server::start().await;
    let mut root = server.root().await;
    done(&mut root, "CREATE USER TABLE notes (id BIGINT PRIMARY KEY, text TEXT)").await;
    for user in ["a", "b"] {
        done(&mut server.user(user).await, "INSERT INTO notes VALUES (1, 'x'), (2, 'y')").await;
    }
    let flushed = rows(&mut root, "FLUSH TABLE notes").await;
    assert_eq!((&flushed[0]["result"]["partitions"], &flushed[0]["result"]["rows"]), (&json!(2), &json!(4)));
    let job = flushed[0]["job_id"].as_str().unwrap();
    let jobs = rows(&mut root, "SELECT job_id, job_type, table_name, status FROM system.jobs").await;
    assert_eq!(
        jobs,
        [json!({"job_id": job, "job_type": "flush", "table_name": "notes", "status": "completed"})]
    );
    let stats = rows(&mut root, "SHOW STATS FOR TABLE notes").await;
    assert_eq!(
        (&stats[0]["segment_rows"], &stats[0]["hot_rows"], &stats[0]["partitions"]),
        (&json!(4), &json!(0), &json!(2))
    );
    let manifests = rows(&mut root, "SHOW MANIFEST FOR notes").await;
    assert_eq!(column(&manifests, "user_id"), [json!("a"), json!("b")]);
    done(&mut server.user("a").await, "INSERT INTO notes VALUES (3, 'z')").await;
    done(&mut root, "FLUSH TABLE notes FOR USER 'a'").await;
    assert_eq!(
        rows(&mut root, "SELECT user_id, rows FROM system.segments WHERE user_id = 'a'").await.len(),
        1
    );
    done(&mut root, "FLUSH ALL").await;
    done(&mut root, "FLUSH TABLE notes FOR USER 'a' NOWAIT").await;
    assert_eq!(failed(&mut root, "FLUSH TABLE nots").await.code, ErrorCode::TableNotFound);
}

#[tokio::test]
async fn shared_tables_open_as_far_as_their_access_says() {
    let server = Server::start().await;
    let mut root = server.root().await;
    done(
        &mut root,
        "CREATE SHARED TABLE open (id BIGINT PRIMARY KEY); \
         CREATE SHARED TABLE readable (id BIGINT PRIMARY KEY) WITH (access = 'read'); \
         CREATE SHARED TABLE secret (id BIGINT PRIMARY KEY) WITH (access = 'private')",
    )
    .await;
    let mut user = server.user("u1").await;
    done(&mut user, "INSERT INTO open VALUES (1); SELECT * FROM open").await;
    done(&mut user, "SELECT * FROM readable").await;
    for sql in
        ["INSERT INTO readable VALUES (1)", "DELETE FROM readable", "SELECT * FROM secret", "DESCRIBE secret"]
    {
        assert_eq!(failed(&mut user, sql).await.code, ErrorCode::PermissionDenied, "{sql}");
    }
    assert_eq!(
        column(&rows(&mut user, "SHOW TABLES").await, "table_name"),
        [json!("open"), json!("readable")]
    );
    let seen =
        rows(&mut user, "SELECT table_name FROM information_schema.tables WHERE table_schema = 'default'")
            .await;
    assert_eq!(seen.len(), 2);
}

#[tokio::test]
async fn the_system_describes_itself() {
    let server = Server::start().await;
    let mut root = server.root().await;
    done(&mut root, "CREATE TABLE t (a INT PRIMARY KEY, b DECIMAL(10, 2) DEFAULT 0)").await;
    let columns = "SELECT column_name, data_type, numeric_precision FROM information_schema.columns \
                   WHERE table_schema = 'default' ORDER BY ordinal_position";
    let columns = rows(&mut root, columns).await;
    assert_eq!(
        columns[1],
        json!({"column_name": "b", "data_type": "DECIMAL(10,2)", "numeric_precision": 10})
    );
    let namespaces =
        rows(&mut root, "SELECT namespace_id, table_count FROM system.namespaces ORDER BY 1").await;
    assert_eq!(namespaces[0], json!({"namespace_id": "default", "table_count": 1}));
    let running = rows(&mut root, "SELECT sql, user_id FROM system.queries").await;
    assert_eq!(running, [json!({"sql": "SELECT sql, user_id FROM system.queries", "user_id": "root"})]);
    assert!(rows(&mut root, "SELECT * FROM system.metrics").await.len() > 5);
    let tables = rows(
        &mut root,
        "SELECT table_name FROM information_schema.tables WHERE table_schema = 'information_schema'",
    )
    .await;
    assert_eq!(tables.len(), 4);
}

#[tokio::test]
async fn generated_values_are_new_for_every_row() {
    let server = Server::start().await;
    let mut root = server.root().await;
    done(
        &mut root,
        "CREATE TABLE t (id BIGINT PRIMARY KEY DEFAULT SNOWFLAKE_ID(), u UUID DEFAULT UUID_V7(), l TEXT DEFAULT ULID(), \
         at TIMESTAMP DEFAULT NOW(), later TIMESTAMP DEFAULT NOW() + INTERVAL '1 day', n INT)",
    )
    .await;
    done(&mut root, "INSERT INTO t (n) VALUES (1), (2), (3)").await;
    let counted = "SELECT count(DISTINCT id) AS i, count(DISTINCT u) AS u, count(DISTINCT l) AS l, count(DISTINCT at) AS a, \
                   count(*) FILTER (WHERE later > at) AS later FROM t";
    assert_eq!(rows(&mut root, counted).await, [json!({"i": 3, "u": 3, "l": 3, "a": 1, "later": 3})]);
    let functions =
        rows(&mut root, "SELECT SNOWFLAKE_ID() <> SNOWFLAKE_ID() AS a, length(ULID()) AS b FROM t LIMIT 1")
            .await;
    assert_eq!(functions, [json!({"a": true, "b": 26})]);
}

#[tokio::test]
async fn errors_stop_a_text_and_say_where_in_it() {
    let server = Server::start().await;
    let mut root = server.root().await;
    let statements = root.parse("CREATE TABLE a (x INT);\nSELEC 1;\nCREATE TABLE b (x INT)").unwrap();
    assert_eq!(statements.len(), 2);
    root.execute(&statements[0], &[]).await.unwrap();
    let error = root.execute(&statements[1], &[]).await.unwrap_err();
    assert_eq!(
        (error.code, error.position.map(|at| (at.line, at.column))),
        (ErrorCode::SyntaxError, Some((2, 1)))
    );
    assert_eq!(root.parse("  ").unwrap_err().code, ErrorCode::SyntaxError);
    let show = root.parse("SHOW TABLES").unwrap();
    let error = root.execute(&show[0], &[json!(1)]).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::InvalidParameter);
    let select = root.parse("SELECT $1 AS x").unwrap();
    let outcome = root.execute(&select[0], &[json!("v")]).await.unwrap();
    assert_eq!(collect(outcome).await, [json!({"x": "v"})]);
}
