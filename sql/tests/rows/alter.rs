//! `ALTER TABLE`: rows of every schema version give the same answers in memory, in Parquet and in both.

use kalamdb_sql::ErrorCode;
use serde_json::json;

use crate::harness::{Client, Layout, Server};

#[tokio::test]
async fn rows_from_before_and_after_each_change_are_one_table_wherever_they_are() {
    for layout in Layout::ALL {
        let server = Server::start().await;
        let mut root = server.root();
        root.run("CREATE TABLE t (id INT PRIMARY KEY, a SMALLINT, b TEXT, j UUID, d DATE)").await;
        root.run(
            "INSERT INTO t VALUES (1, 10, 'one', '6ba7b810-9dad-11d1-80b4-00c04fd430c8', '1969-12-31'), (2, NULL, NULL, NULL, NULL)",
        )
        .await;
        root.run("INSERT INTO t VALUES (3, 30, 'gone', NULL, NULL)").await;
        layout.half(&mut root, "t").await;
        root.run("DELETE FROM t WHERE id = 3").await;
        root.run(
            "ALTER TABLE t ADD COLUMN n INT NOT NULL DEFAULT 7, ADD note TEXT, RENAME COLUMN b TO b2, \
             MODIFY COLUMN a BIGINT, ALTER COLUMN j TYPE TEXT, MODIFY d TIMESTAMP",
        )
        .await;
        root.run("INSERT INTO t (id, a, b2, j, note) VALUES (4, 3000000000, 'four', 'no uuid', 'new')").await;
        root.run("UPDATE t SET note = 'seen' WHERE id = 1").await;
        layout.end(&mut root, "t").await;
        let all = root.rows("SELECT * FROM t ORDER BY id").await;
        assert_eq!(
            all,
            json!([
                [
                    1,
                    10,
                    "one",
                    "6ba7b810-9dad-11d1-80b4-00c04fd430c8",
                    "1969-12-31T00:00:00.000000Z",
                    7,
                    "seen"
                ],
                [2, null, null, null, null, 7, null],
                [4, 3_000_000_000_i64, "four", "no uuid", null, 7, "new"]
            ]),
            "{layout:?}"
        );
        for (filter, expected) in [
            ("n = 7", json!([[1], [2], [4]])),
            ("n <> 7", json!([])),
            ("note IS NULL", json!([[2]])),
            ("a > 2147483647", json!([[4]])),
            ("a = 10", json!([[1]])),
            ("b2 = 'one'", json!([[1]])),
            ("j LIKE '6ba%'", json!([[1]])),
            ("d < TIMESTAMP '1970-01-01'", json!([[1]])),
            ("a IS NULL AND n + 1 = 8", json!([[2]])),
            ("id = 2", json!([[2]])),
        ] {
            let sql = format!("SELECT id FROM t WHERE {filter} ORDER BY id");
            assert_eq!(root.rows(&sql).await, expected, "{layout:?} {filter}");
        }
        assert_eq!(
            root.rows("SELECT sum(n), count(*), max(a) FROM t").await,
            json!([[21, 3, 3_000_000_000_i64]])
        );
        assert_eq!(root.rows("SELECT n, id FROM t WHERE n > 1 ORDER BY id LIMIT 1").await, json!([[7, 1]]));
        // A row of an old segment is updated and deleted by its address, and its key is known.
        root.run("UPDATE t SET n = 8 WHERE id = 2").await;
        assert_eq!(root.fail("INSERT INTO t (id) VALUES (2)").await.code, ErrorCode::UniqueViolation);
        root.run("DELETE FROM t WHERE id = 1; FLUSH TABLE t").await;
        assert_eq!(root.rows("SELECT id, n FROM t ORDER BY id").await, json!([[2, 8], [4, 7]]), "{layout:?}");
    }
}

#[tokio::test]
async fn a_dropped_column_comes_back_empty_under_its_old_name() {
    for layout in Layout::ALL {
        let server = Server::start().await;
        let mut root = server.root();
        root.run("CREATE TABLE t (id INT PRIMARY KEY, v TEXT, w INT); INSERT INTO t VALUES (1, 'old', 1)")
            .await;
        layout.half(&mut root, "t").await;
        root.run("INSERT INTO t VALUES (2, 'old', 2)").await;
        root.run("ALTER TABLE t DROP COLUMN v, RENAME w TO v, ADD COLUMN w TEXT").await;
        layout.end(&mut root, "t").await;
        root.run("INSERT INTO t (id, v, w) VALUES (3, 3, 'new')").await;
        assert_eq!(
            root.rows("SELECT id, v, w FROM t ORDER BY id").await,
            json!([[1, 1, null], [2, 2, null], [3, 3, "new"]]),
            "{layout:?}"
        );
        assert_eq!(root.rows("SELECT id FROM t WHERE w = 'old'").await, json!([]));
        assert_eq!(root.rows("SELECT id FROM t WHERE v = 2").await, json!([[2]]));
    }
}

#[tokio::test]
async fn old_segments_are_pruned_by_what_their_rows_show_now() {
    let server = Server::start().await;
    let mut root = server.root();
    root.run(
        "CREATE TABLE t (id INT PRIMARY KEY, a SMALLINT); INSERT INTO t VALUES (1, 1), (2, 2); FLUSH TABLE t",
    )
    .await;
    root.run("ALTER TABLE t ADD COLUMN n INT DEFAULT 5, MODIFY COLUMN a DOUBLE, RENAME COLUMN a TO x").await;
    root.run("INSERT INTO t VALUES (3, 3.5, 6); FLUSH TABLE t").await;
    for (filter, kept) in
        [("n = 5", 1), ("n = 6", 1), ("n > 6", 0), ("x > 3.2", 1), ("x < 3.2", 1), ("n IS NULL", 0)]
    {
        let plan = root.plan(&format!("SELECT id FROM t WHERE {filter}")).await;
        assert!(plan.contains(&format!("pruned={}", 2 - kept)), "{filter}: {plan}");
    }
    let plan = root.plan("SELECT x, n FROM t WHERE x < 3.2").await;
    assert!(plan.contains("schema_version=1") && plan.contains("predicate=CAST(a"), "{plan}");
    let count = root.plan("SELECT count(*) FROM t").await;
    assert!(!count.contains("Scan"), "the count comes from metadata alone: {count}");
}

#[tokio::test]
async fn conditions_and_defaults_follow_the_columns() {
    let server = Server::start().await;
    let mut root = server.root();
    root.run("CREATE TABLE t (id INT PRIMARY KEY, score INT DEFAULT 0 CHECK (score >= 0), note TEXT)").await;
    root.run("ALTER TABLE t RENAME COLUMN score TO points").await;
    let error = root.fail("INSERT INTO t VALUES (1, -1, 'x')").await;
    assert_eq!(error.code, ErrorCode::CheckViolation);
    assert!(error.message.contains("points >= 0"), "{error}");
    let error = root.fail("ALTER TABLE t DROP COLUMN points").await;
    assert_eq!((error.code, error.position.map(|p| p.column)), (ErrorCode::InUse, Some(27)));
    root.run("ALTER TABLE t ALTER COLUMN points DROP DEFAULT, ALTER note SET DEFAULT 'none'").await;
    root.run("INSERT INTO t (id) VALUES (1)").await;
    assert_eq!(root.rows("SELECT * FROM t").await, json!([[1, null, "none"]]));
    assert_eq!(root.fail("ALTER TABLE t MODIFY COLUMN points TEXT").await.code, ErrorCode::InUse);
    root.run("ALTER TABLE t ADD COLUMN at TIMESTAMP DEFAULT NOW()").await;
    assert_eq!(
        root.rows("SELECT count(at) FROM t").await,
        json!([[1]]),
        "the rows there have the time of the change"
    );
}

#[tokio::test]
async fn not_null_needs_rows_that_have_a_value() {
    for layout in Layout::ALL {
        let server = Server::start().await;
        let mut root = server.root();
        root.run("CREATE USER TABLE t (id INT PRIMARY KEY, v TEXT)").await;
        let mut ann = server.user("ann");
        ann.run("INSERT INTO t VALUES (1, 'a')").await;
        layout.half(&mut root, "t").await;
        ann.run("INSERT INTO t VALUES (2, NULL)").await;
        layout.end(&mut root, "t").await;
        for sql in ["ALTER TABLE t ALTER COLUMN v SET NOT NULL", "ALTER TABLE t ADD COLUMN n INT NOT NULL"] {
            let error = root.fail(sql).await;
            assert_eq!(error.code, ErrorCode::NotNullViolation, "{layout:?} {sql}: {error}");
        }
        ann.run("INSERT INTO t VALUES (3, NULL); UPDATE t SET v = 'b' WHERE v IS NULL").await;
        root.run("ALTER TABLE t ALTER COLUMN v SET NOT NULL").await;
        assert_eq!(ann.fail("INSERT INTO t VALUES (4, NULL)").await.code, ErrorCode::NotNullViolation);
        assert_eq!(ann.rows("SELECT count(v) FROM t").await, json!([[3]]), "{layout:?}");
        root.run("ALTER TABLE t ALTER COLUMN v DROP NOT NULL").await;
        ann.run("INSERT INTO t VALUES (4, NULL); DELETE FROM t").await;
        root.run("FLUSH TABLE t").await;
        root.run("ALTER TABLE t ADD COLUMN n INT NOT NULL").await;
        ann.run("INSERT INTO t VALUES (5, 'e', 5)").await;
        assert_eq!(ann.rows("SELECT * FROM t").await, json!([[5, "e", 5]]));
    }
}

#[tokio::test]
async fn what_is_refused_says_where_and_why_and_changes_nothing() {
    let server = Server::start().await;
    let mut root = server.root();
    root.run("CREATE TABLE t (id INT PRIMARY KEY, content TEXT, n INT DEFAULT 1); CREATE TABLE other (id INT PRIMARY KEY)").await;
    root.run("INSERT INTO t VALUES (1, 'a', 1)").await;
    for (change, code, column, words) in [
        ("DROP COLUMN contents", ErrorCode::ColumnNotFound, 27, "contents"),
        ("ADD COLUMN n INT", ErrorCode::AlreadyExists, 26, "n already"),
        ("ADD COLUMN _seq INT", ErrorCode::InvalidStatement, 26, "reserved"),
        ("RENAME COLUMN n TO content", ErrorCode::AlreadyExists, 34, "content already"),
        ("DROP COLUMN id", ErrorCode::InvalidStatement, 27, "primary key"),
        ("MODIFY COLUMN id BIGINT", ErrorCode::InvalidStatement, 29, "primary key"),
        ("ALTER COLUMN id DROP NOT NULL", ErrorCode::InvalidStatement, 28, "primary key"),
        ("MODIFY COLUMN n SMALLINT", ErrorCode::TypeMismatch, 31, "could be lost"),
        ("MODIFY COLUMN content JSON", ErrorCode::TypeMismatch, 37, "could be lost"),
        ("ADD COLUMN u UUID DEFAULT UUID_V7()", ErrorCode::InvalidStatement, 33, "no one value"),
        ("ADD COLUMN u BIGINT AUTO_INCREMENT", ErrorCode::InvalidStatement, 35, "no one value"),
        ("ADD COLUMN u DOUBLE DEFAULT random()", ErrorCode::InvalidStatement, 35, "no one value"),
        ("ADD COLUMN u TEXT DEFAULT CURRENT_USER", ErrorCode::InvalidStatement, 33, "no one value"),
        ("ADD COLUMN u INT DEFAULT 'x'", ErrorCode::TypeMismatch, 40, "default of column u"),
        ("ADD COLUMN u INT PRIMARY KEY", ErrorCode::Unsupported, 26, "primary key"),
        ("ADD CONSTRAINT c CHECK (n > 0)", ErrorCode::Unsupported, 19, "constraints"),
        ("RENAME TO other", ErrorCode::AlreadyExists, 13, "default.other"),
        ("SET (flush_row = 5)", ErrorCode::InvalidParameter, 20, "flush_row"),
        ("SET (flush_rows = 'many')", ErrorCode::InvalidParameter, 20, "flush_rows"),
        ("SET (type = 'user')", ErrorCode::InvalidParameter, 20, "cannot be changed"),
        ("SET (retention = '1s')", ErrorCode::InvalidParameter, 20, "retention"),
        ("FROB COLUMN n", ErrorCode::SyntaxError, 15, "expected ADD, DROP"),
        ("ADD COLUMN u", ErrorCode::SyntaxError, 27, "the type of column u"),
    ] {
        let error = root.fail(&format!("ALTER TABLE t {change}")).await;
        assert_eq!(error.code, code, "{change}: {error}");
        assert!(error.message.contains(words), "{change}: {error}");
        assert_eq!(error.position.map(|p| p.column), Some(column), "{change}: {error}");
        // The same behind a change that could be made.
        let both = root.fail(&format!("ALTER TABLE t ADD COLUMN fine INT, {change}")).await;
        assert_eq!(both.code, code, "{change}: {both}");
    }
    assert_eq!(root.rows("SELECT * FROM t").await, json!([[1, "a", 1]]));
    let hint = root.fail("ALTER TABLE t SET (flush_row = 5)").await.hint.unwrap();
    assert!(hint.contains("flush_rows") && hint.contains("deleted_retention"), "{hint}");
    assert_eq!(
        root.fail("ALTER TABLE system.users ADD COLUMN a INT").await.code,
        ErrorCode::PermissionDenied
    );
    assert_eq!(root.fail("ALTER TABLE nothing ADD COLUMN a INT").await.code, ErrorCode::TableNotFound);
    root.run("ALTER TABLE IF EXISTS nothing ADD COLUMN a INT").await;
    let mut ann = server.user("ann");
    assert_eq!(ann.fail("ALTER TABLE t ADD COLUMN a INT").await.code, ErrorCode::PermissionDenied);
}

#[tokio::test]
async fn a_table_is_renamed_its_options_change_and_its_history_is_kept() {
    let server = Server::start().await;
    let mut root = server.root();
    root.run("CREATE NAMESPACE app; CREATE TABLE app.t (id INT PRIMARY KEY); INSERT INTO app.t VALUES (1)")
        .await;
    root.run("FLUSH TABLE app.t; ALTER TABLE app.t ADD COLUMN IF NOT EXISTS a INT, ADD COLUMN IF NOT EXISTS id INT").await;
    root.run("ALTER TABLE app.t RENAME a TO b, RENAME TO t2, SET (flush_rows = 50, deleted_retention = '7d', access = 'read')").await;
    assert_eq!(root.fail("SELECT * FROM app.t").await.code, ErrorCode::TableNotFound);
    assert_eq!(root.rows("SELECT id, b FROM app.t2").await, json!([[1, null]]));
    let options = "SELECT schema_version, flush_policy, deleted_retention, access FROM system.tables WHERE table_name = 't2'";
    assert_eq!(root.rows(options).await, json!([[3, { "rows": 50 }, "7d", "read"]]));
    root.run("ALTER TABLE app.t2 SET (flush_rows = NULL, deleted_retention = NULL)").await;
    assert_eq!(root.rows(options).await, json!([[3, {}, null, "read"]]), "options make no schema version");
    let history = root.rows("DESCRIBE app.t2 HISTORY").await;
    let changes: Vec<&str> = history.as_array().unwrap().iter().map(|row| row[1].as_str().unwrap()).collect();
    assert_eq!(changes[..2], ["created", "added column a INT"]);
    assert!(changes[2].starts_with("renamed column a to b, renamed table t to t2"), "{changes:?}");
    root.run("CREATE TABLE app.t (id INT PRIMARY KEY); INSERT INTO app.t VALUES (9); FLUSH TABLE app.t")
        .await;
    assert_eq!(root.rows("SELECT id FROM app.t").await, json!([[9]]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_and_writers_go_on_while_columns_come_and_go() {
    const ROUNDS: usize = 12;
    let server = Server::start().await;
    let mut root = server.root();
    root.run("CREATE TABLE t (id INT PRIMARY KEY, v INT, extra TEXT)").await;
    let (mut reader, mut writer) = (server.root(), server.root());
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let read = tokio::spawn({
        let stopped = stopped.clone();
        async move {
            let mut last = 0;
            while !*stopped.borrow() {
                let rows = reader.rows("SELECT count(*), sum(v) FROM t").await;
                let count = rows[0][0].as_i64().unwrap();
                assert!(count >= last, "{count} rows after {last}");
                let updated = rows[0][1].as_i64().unwrap_or(0);
                assert!((count - 1..=count).contains(&updated), "{updated} of {count} rows are updated");
                last = count;
            }
        }
    });
    let write = tokio::spawn(async move {
        let mut next = 0;
        while !*stopped.borrow() {
            writer.run(&format!("INSERT INTO t (id, v) VALUES ({next}, 0)")).await;
            writer.run(&format!("UPDATE t SET v = 1 WHERE id = {next} AND v = 0")).await;
            next += 1;
        }
        next
    });
    for round in 0..ROUNDS {
        root.run(&format!(
            "ALTER TABLE t ADD COLUMN c{round} INT DEFAULT {round}, DROP COLUMN extra, ADD extra TEXT"
        ))
        .await;
        if round % 3 == 2 {
            root.run(&format!("FLUSH TABLE t; ALTER TABLE t DROP COLUMN c{round}")).await;
        }
    }
    stop.send(true).unwrap();
    read.await.unwrap();
    let written = write.await.unwrap();
    assert_eq!(root.rows("SELECT count(*), sum(v) FROM t").await, json!([[written, written]]));
}

#[tokio::test]
async fn a_renamed_key_finds_conflicts_with_and_changes_rows_of_every_version() {
    for layout in Layout::ALL {
        let server = Server::start().await;
        let mut root = server.root();
        root.run("CREATE TABLE t (a TEXT, b INT, v INT, PRIMARY KEY (b, a)); INSERT INTO t VALUES ('x', 1, 1), ('y', 2, 2)").await;
        layout.half(&mut root, "t").await;
        root.run("INSERT INTO t VALUES ('z', 3, 3)").await;
        // Each name means another column than before.
        root.run("ALTER TABLE t RENAME a TO c, RENAME v TO a, RENAME c TO v, RENAME b TO k").await;
        layout.end(&mut root, "t").await;
        root.run("INSERT INTO t (v, k, a) VALUES ('w', 4, 4)").await;
        for (v, k) in [("x", 1), ("y", 2), ("z", 3), ("w", 4)] {
            let found = root.rows(&format!("SELECT a FROM t WHERE k = {k} AND v = '{v}'")).await;
            assert_eq!(found, json!([[k]]), "{layout:?} {v}");
            let error = root.fail(&format!("INSERT INTO t (v, k) VALUES ('{v}', {k})")).await;
            assert_eq!(error.code, ErrorCode::UniqueViolation, "{layout:?} {v}");
            assert!(error.message.contains(&format!("k = {k}, v = {v}")), "{error}");
        }
        root.run("UPDATE t SET k = k + 10 WHERE v < 'y'; DELETE FROM t WHERE v = 'y'; FLUSH TABLE t").await;
        root.run("INSERT INTO t (v, k) VALUES ('y', 2), ('x', 1)").await;
        let all = root.rows("SELECT k, v, a FROM t ORDER BY k").await;
        let expected = json!([[1, "x", null], [2, "y", null], [3, "z", 3], [11, "x", 1], [14, "w", 4]]);
        assert_eq!(all, expected, "{layout:?}");
    }
}

#[tokio::test]
async fn a_column_that_became_not_null_is_described_as_that_wherever_it_is_what_the_table_has() {
    let server = Server::start().await;
    let mut root = server.root();
    root.run("CREATE TABLE t (id INT PRIMARY KEY, v INT, w INT); INSERT INTO t VALUES (1, NULL, 1)").await;
    root.run("UPDATE t SET v = 1; FLUSH TABLE t; INSERT INTO t VALUES (2, 2, NULL)").await;
    let describe = async |root: &mut Client, sql: &str| -> Vec<bool> {
        let columns = root.run(sql).await.rows.unwrap().columns;
        columns.iter().map(|column| column.nullable).collect()
    };
    assert_eq!(describe(&mut root, "SELECT * FROM t").await, [false, true, true]);
    root.run("ALTER TABLE t ALTER COLUMN v SET NOT NULL").await;
    for (sql, nullable) in [
        ("SELECT * FROM t", vec![false, false, true]),
        ("SELECT w, v AS x FROM t WHERE v > 0 ORDER BY v LIMIT 5", vec![true, false]),
        ("SELECT v FROM t WHERE id = 1", vec![false]),
        ("SELECT v, count(*) FROM t GROUP BY v", vec![false, false]),
        ("SELECT a.v, b.v FROM t a JOIN t b ON a.id = b.id", vec![false, false]),
        ("SELECT a.v, b.v FROM t a LEFT JOIN t b ON a.id = b.w", vec![true, true]),
        ("SELECT max(v) FROM t", vec![true]),
        ("SELECT v, _deleted FROM t", vec![true, false]),
    ] {
        for _ in 0..3 {
            assert_eq!(describe(&mut root, sql).await, nullable, "{sql}");
        }
    }
    root.run("ALTER TABLE t ALTER COLUMN v DROP NOT NULL").await;
    assert_eq!(describe(&mut root, "SELECT v FROM t WHERE id = 1").await, [true]);
}
