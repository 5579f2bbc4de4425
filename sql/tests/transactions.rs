//! BEGIN, COMMIT and ROLLBACK, in process.

use std::sync::Arc;

use futures::TryStreamExt;
use kalamdb_sql::{Error, ErrorCode, Instance, Options, Outcome, RowEncoder, RowFormat, Session};
use serde_json::{Value, json};
use tempfile::TempDir;

struct Server {
    instance: Arc<Instance>,
    _dir: TempDir,
}

/// What one statement of a text did.
#[derive(Debug)]
struct Done {
    rows: Vec<Value>,
    affected: Option<u64>,
    seq: Option<u64>,
    message: Option<String>,
}

impl Server {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let instance = Instance::open(Options::new(dir.path())).await.unwrap();
        assert!(instance.ensure_root(&|| "root-password".into()).await.unwrap());
        let server = Self { instance, _dir: dir };
        let tables = "CREATE SHARED TABLE t (id BIGINT PRIMARY KEY, v TEXT, n INT DEFAULT 7);
            CREATE USER TABLE mine (id BIGINT PRIMARY KEY, v TEXT)";
        server.root(tables).await.unwrap();
        server
    }

    /// One request of root.
    async fn root(&self, sql: &str) -> Result<Vec<Done>, Error> {
        request(self.instance.session(self.instance.login("root", "root-password").await.unwrap()), sql).await
    }

    /// One request of a plain user.
    async fn user(&self, id: &str, sql: &str) -> Result<Vec<Done>, Error> {
        request(self.instance.session(self.instance.identify(id, None).await.unwrap()), sql).await
    }

    async fn rows(&self, sql: &str) -> Vec<Value> {
        self.root(sql).await.unwrap().pop().unwrap().rows
    }

    async fn refused(&self, sql: &str) -> Error {
        self.root(sql).await.expect_err(sql)
    }
}

async fn request(mut session: Session, sql: &str) -> Result<Vec<Done>, Error> {
    let mut all = Vec::new();
    for statement in session.parse(sql)? {
        let Outcome { rows, affected_rows, seq, message } = session.execute(&statement, &[]).await?;
        let mut found = Vec::new();
        if let Some(rows) = rows {
            let encoder = RowEncoder::new(&rows.schema, RowFormat::Objects);
            for batch in rows.stream.try_collect::<Vec<_>>().await? {
                let mut text = vec![b'['];
                encoder.encode_rows(&batch, &mut text);
                text.push(b']');
                found.extend(serde_json::from_slice::<Vec<Value>>(&text).unwrap());
            }
        }
        all.push(Done { rows: found, affected: affected_rows, seq, message });
    }
    Ok(all)
}

#[tokio::test]
async fn statements_of_a_transaction_see_what_those_before_wrote_and_commit_as_one() {
    let server = Server::start().await;
    server.root("INSERT INTO t (id, v) VALUES (1, 'one'), (2, 'two'), (3, 'three')").await.unwrap();
    let done = server
        .root(
            "BEGIN; INSERT INTO t (id, v) VALUES (4, 'four'); UPDATE t SET v = v || '!' WHERE id IN (1, 4);
             UPDATE t SET v = v || '?' WHERE id = 1 RETURNING v; DELETE FROM t WHERE id = 2;
             SELECT id, v FROM t ORDER BY id; SELECT COUNT(*) AS n FROM t; COMMIT; SELECT MAX(_seq) AS s FROM t",
        )
        .await
        .unwrap();
    assert_eq!(
        done.iter().map(|d| d.affected).collect::<Vec<_>>()[1..5],
        [Some(1), Some(2), Some(1), Some(1)]
    );
    assert!(done[..7].iter().all(|done| done.seq.is_none()), "{done:?}");
    assert_eq!(done[3].rows, [json!({"v": "one!?"})]);
    let expected =
        [json!({"id": 1, "v": "one!?"}), json!({"id": 3, "v": "three"}), json!({"id": 4, "v": "four!"})];
    assert_eq!(done[5].rows, expected);
    assert_eq!(done[6].rows, [json!({"n": 3})]);
    assert_eq!(done[8].rows, [json!({"s": done[7].seq.unwrap()})]);
    assert_eq!(server.rows("SELECT id, v FROM t ORDER BY id").await, expected);
    assert_eq!(server.rows("SELECT DISTINCT _seq FROM t WHERE id <> 3").await.len(), 1, "one commit");
}

#[tokio::test]
async fn a_transaction_reads_flushed_rows_with_its_own_changes_whatever_the_plan() {
    let server = Server::start().await;
    server.root("INSERT INTO t (id, v) SELECT value, 'v' FROM generate_series(1, 1000)").await.unwrap();
    server.root("FLUSH TABLE t; UPDATE t SET n = 8 WHERE id <= 10").await.unwrap();
    let done = server
        .root(
            "START TRANSACTION; DELETE FROM t WHERE id > 900; INSERT INTO t (id, v) VALUES (950, 'back'), (5000, 'new');
             UPDATE t SET n = n + 1 WHERE id BETWEEN 6 AND 15;
             SELECT COUNT(*) AS rows, SUM(n) AS n, MIN(id) AS low, MAX(id) AS high FROM t;
             SELECT v FROM t WHERE id = 950; SELECT COUNT(*) AS n FROM t WHERE _deleted;
             SELECT a.id FROM t a JOIN t b ON a.id = b.id + 1 WHERE b.id > 890 ORDER BY 1 LIMIT 3; END WORK",
        )
        .await
        .unwrap();
    let sum = 900 * 7 + 10 + 10 + 2 * 7;
    assert_eq!(done[4].rows, [json!({"rows": 902, "n": sum, "low": 1, "high": 5000})]);
    assert_eq!(done[5].rows, [json!({"v": "back"})]);
    assert_eq!(done[6].rows, [json!({"n": 99})]);
    assert_eq!(done[7].rows[0], json!({"id": 892}));
    let after =
        server.rows("SELECT COUNT(*) AS rows, SUM(n) AS n, MIN(id) AS low, MAX(id) AS high FROM t").await;
    assert_eq!(after, done[4].rows);
    assert_eq!(server.rows("SELECT COUNT(*) AS n FROM t WHERE _deleted").await, [json!({"n": 99})]);
}

#[tokio::test]
async fn a_rollback_an_error_and_a_request_that_ends_leave_nothing() {
    let server = Server::start().await;
    let done = server.root("BEGIN WORK; INSERT INTO t (id) VALUES (1); ROLLBACK TRANSACTION").await.unwrap();
    assert_eq!(done[2].message.as_deref(), Some("rolled back"));
    let error =
        server.refused("BEGIN; INSERT INTO t (id) VALUES (1); INSERT INTO t (id) VALUES (2), (1)").await;
    assert_eq!(error.code, ErrorCode::UniqueViolation);
    assert!(error.message.ends_with("; the transaction was rolled back"), "{error}");
    let error = server.refused("SELECT 1;\n  BEGIN TRANSACTION; INSERT INTO t (id) VALUES (1)").await;
    assert_eq!(error.code, ErrorCode::InvalidStatement);
    assert!(error.message.contains("the request ends inside the transaction"), "{error}");
    assert!(error.message.ends_with("; the transaction was rolled back"), "{error}");
    assert_eq!(error.position.map(|at| (at.line, at.column)), Some((2, 3)));
    let error = server.refused("BEGIN; INSERT INTO t (id) VALUES (1); SELECT nothing FROM t; COMMIT").await;
    assert_eq!(error.code, ErrorCode::ColumnNotFound);
    let error = server.refused("BEGIN; INSERT INTO t (id) VALUES (1); SELEKT 1; COMMIT").await;
    assert_eq!(error.code, ErrorCode::SyntaxError);
    let error = server.refused("BEGIN; INSERT INTO t (id) VALUES (1); SELECT 1 / (id - 1) FROM t").await;
    assert_eq!(error.code, ErrorCode::DivisionByZero);
    assert_eq!(server.rows("SELECT * FROM t").await, [] as [Value; 0]);
}

#[tokio::test]
async fn what_cannot_be_in_a_transaction_or_outside_of_one_says_so() {
    let server = Server::start().await;
    for (sql, code, words) in [
        ("BEGIN; BEGIN; COMMIT", ErrorCode::InvalidStatement, "a transaction is open already"),
        ("COMMIT", ErrorCode::InvalidStatement, "no transaction is open"),
        ("ROLLBACK", ErrorCode::InvalidStatement, "no transaction is open"),
        ("BEGIN; COMMIT; COMMIT", ErrorCode::InvalidStatement, "no transaction is open"),
        ("BEGIN; CREATE TABLE x (a INT); COMMIT", ErrorCode::InvalidStatement, "inside a transaction"),
        ("BEGIN; FLUSH ALL; COMMIT", ErrorCode::InvalidStatement, "inside a transaction"),
        ("BEGIN; CREATE USER 'x'; COMMIT", ErrorCode::InvalidStatement, "inside a transaction"),
        ("BEGIN; SAVEPOINT a; COMMIT", ErrorCode::Unsupported, "savepoints"),
        ("BEGIN; ROLLBACK TO a; COMMIT", ErrorCode::Unsupported, "savepoints"),
        ("BEGIN; RELEASE SAVEPOINT a; COMMIT", ErrorCode::Unsupported, "savepoints"),
        ("BEGIN ISOLATION LEVEL SERIALIZABLE; COMMIT", ErrorCode::Unsupported, "isolated"),
        ("BEGIN; COMMIT AND CHAIN", ErrorCode::Unsupported, "CHAIN"),
        ("BEGIN again; COMMIT", ErrorCode::SyntaxError, "expected the end"),
    ] {
        let error = server.refused(sql).await;
        assert_eq!(error.code, code, "{sql}: {error}");
        assert!(error.message.contains(words), "{sql}: {error}");
    }
    let done = server.root("BEGIN; SHOW TABLES; DESCRIBE t; USE system; COMMIT").await.unwrap();
    assert_eq!((done[4].seq, done[4].message.as_deref()), (None, Some("committed; nothing was changed")));
}

#[tokio::test]
async fn the_first_of_two_transactions_that_write_a_row_wins_and_the_other_is_told_to_retry() {
    let server = Server::start().await;
    server.root("INSERT INTO t (id, n) VALUES (1, 0), (2, 0)").await.unwrap();
    let session = |server: &Server| {
        let instance = server.instance.clone();
        async move { instance.session(instance.login("root", "root-password").await.unwrap()) }
    };
    let (mut first, mut second) = (session(&server).await, session(&server).await);
    let text = "BEGIN; UPDATE t SET n = n + 1 WHERE id = 1; COMMIT";
    let (mine, others) = (first.parse(text).unwrap(), second.parse(text).unwrap());
    for at in 0..2 {
        first.execute(&mine[at], &[]).await.unwrap();
        second.execute(&others[at], &[]).await.unwrap();
    }
    server.root("UPDATE t SET n = n + 10 WHERE id = 2").await.unwrap();
    first.execute(&mine[2], &[]).await.unwrap();
    let error = second.execute(&others[2], &[]).await.unwrap_err();
    assert_eq!((error.code, error.code.status()), (ErrorCode::Conflict, 409));
    assert!(
        error.hint.as_deref().is_some_and(|hint| hint.contains("run the transaction again")),
        "{error:?}"
    );
    assert_eq!(server.rows("SELECT n FROM t ORDER BY id").await, [json!({"n": 1}), json!({"n": 10})]);
    // It is over: the next one begins at the newest state.
    for statement in second.parse(text).unwrap() {
        second.execute(&statement, &[]).await.unwrap();
    }
    assert_eq!(server.rows("SELECT n FROM t WHERE id = 1").await, [json!({"n": 2})]);
}

#[tokio::test]
async fn a_transaction_sees_one_snapshot_and_one_time() {
    let server = Server::start().await;
    server.root("INSERT INTO t (id, n) VALUES (1, 1)").await.unwrap();
    let mut session = server.instance.session(server.instance.login("root", "root-password").await.unwrap());
    let text =
        "BEGIN; SELECT SUM(n) AS n, NOW() AS now FROM t; SELECT SUM(n) AS n, NOW() AS now FROM t; COMMIT";
    let statements = session.parse(text).unwrap();
    let mut seen = Vec::new();
    for statement in &statements {
        let outcome = session.execute(statement, &[]).await.unwrap();
        if let Some(rows) = outcome.rows {
            let batches: Vec<_> = rows.stream.try_collect().await.unwrap();
            seen.push(format!("{batches:?}"));
        }
        server
            .root("INSERT INTO t (n, id) SELECT 1, MAX(id) + 1 FROM t; UPDATE t SET n = n + 1")
            .await
            .unwrap();
    }
    assert_eq!(seen.len(), 2);
    assert_eq!(seen[0], seen[1]);
}

#[tokio::test]
async fn a_transaction_writes_several_tables_and_users_at_once() {
    let server = Server::start().await;
    server
        .root(
            "BEGIN; INSERT INTO mine (id, v, _user) VALUES (1, 'a', 'ann'), (1, 'b', 'bob'); INSERT INTO t (id) VALUES (9);
             UPDATE mine SET v = v || _user WHERE _user = 'bob'; EXECUTE AS USER 'cid' (INSERT INTO mine VALUES (5, 'c'));
             DELETE FROM mine WHERE _user = 'ann'; COMMIT",
        )
        .await
        .unwrap();
    let all = server.rows("SELECT v, _user FROM mine ORDER BY _user").await;
    assert_eq!(all, [json!({"v": "bbob", "_user": "bob"}), json!({"v": "c", "_user": "cid"})]);
    let seqs = server.rows("SELECT _seq FROM mine WHERE _user <> '' UNION SELECT _seq FROM t").await;
    assert_eq!(seqs.len(), 1);
    let own = server
        .user("bob", "BEGIN; INSERT INTO mine VALUES (2, 'x'); SELECT id FROM mine ORDER BY id; ROLLBACK")
        .await;
    assert_eq!(own.unwrap()[2].rows, [json!({"id": 1}), json!({"id": 2})]);
}
