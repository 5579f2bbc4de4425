//! Statements whose rows do not fit their memory: they spill and answer as ever, or say which limit they met; what they
//! took is free again however they end; and others run meanwhile.

use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt;
use kalamdb_sql::{ErrorCode, Instance, Options};
use kalamdb_wal::sim::{Fault, Operation, SimDisk};
use serde_json::{Value, json};

use crate::harness::{Client, Server};

const ROWS: usize = 6_000;
const LIMIT: usize = 4 << 20;
/// How long a test waits for what should come at once.
const PATIENCE: Duration = Duration::from_secs(20);

/// 6 MB of rows in one commit, flushed or not, in a database whose statements may have 4 MiB.
async fn crowded(flushed: bool) -> Server {
    let server = Server::start().await;
    let mut root = server.root();
    root.run("CREATE TABLE t (id BIGINT PRIMARY KEY, g INT, s TEXT)").await;
    root.run(&format!(
        "INSERT INTO t SELECT value, CAST(value % 7 AS INT), repeat(md5(CAST(value AS TEXT)), 32) \
         FROM generate_series(1, {ROWS})"
    ))
    .await;
    if flushed {
        root.run("FLUSH TABLE t").await;
    }
    server.reopen_with(|options| options.statement_memory = LIMIT).await
}

/// Nothing has a name in the directory that statements spill to.
fn nothing_left(server: &Server) {
    let left: Vec<_> = std::fs::read_dir(server.path().join("tmp")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

/// How often a statement spilled.
async fn spills(root: &mut Client, sql: &str) -> u64 {
    let plan = root.rows(&format!("EXPLAIN ANALYZE {sql}")).await;
    let counts = plan[0][1].as_str().unwrap().split("spill_count=").skip(1);
    counts.map(|rest| rest.split([',', ']']).next().unwrap().trim().parse::<u64>().unwrap()).sum()
}

async fn ids(root: &mut Client, sql: &str) -> Vec<i64> {
    let rows = root.run(sql).await.rows.unwrap();
    let batches: Vec<_> = rows.stream.try_collect().await.unwrap();
    let ids = |batch: &arrow::array::RecordBatch| {
        batch.column(0).as_any().downcast_ref::<arrow::array::Int64Array>().unwrap().values().to_vec()
    };
    batches.iter().flat_map(ids).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sort_beyond_its_memory_spills_and_is_right() {
    for flushed in [false, true] {
        let server = crowded(flushed).await;
        let mut root = server.root();
        let mut expected: Vec<i64> = (1..=ROWS as i64).collect();
        expected.sort_by_key(|id| (id % 7, std::cmp::Reverse(*id)));
        assert_eq!(ids(&mut root, "SELECT id, s FROM t ORDER BY g, id DESC").await, expected);
        assert!(spills(&mut root, "SELECT id, s FROM t ORDER BY s").await > 0, "flushed: {flushed}");
        nothing_left(&server);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn groups_beyond_their_memory_spill_and_are_counted_right() {
    let server = crowded(true).await;
    let mut root = server.root();
    let sql = "SELECT count(*), sum(n) FROM (SELECT s, count(*) AS n FROM t GROUP BY s) AS counted";
    assert_eq!(root.rows(sql).await, json!([[ROWS, ROWS]]));
    assert!(spills(&mut root, sql).await > 0);
    nothing_left(&server);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn windows_spill_what_they_sort_and_refuse_what_they_would_have_to_keep() {
    let server = crowded(true).await;
    let mut root = server.root();
    let numbered = "SELECT max(n) FROM (SELECT s, row_number() OVER (ORDER BY s) AS n FROM t) AS numbered";
    assert_eq!(root.rows(numbered).await, json!([[ROWS]]));
    let kept = root.fail("SELECT s, count(*) OVER () FROM t").await;
    names_the_limit(&kept);
    assert_eq!(root.rows("SELECT count(*) FROM t").await, json!([[ROWS]]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_join_whose_side_does_not_fit_says_what_it_needs() {
    let server = crowded(false).await;
    let mut root = server.root();
    for join in ["a.id = b.id", "a.s < b.s", "a.s || b.s = 'x'"] {
        let error = root.fail(&format!("SELECT a.s, b.s FROM t a FULL JOIN t b ON {join}")).await;
        names_the_limit(&error);
    }
    let fits = "SELECT count(*) FROM t a JOIN (SELECT id FROM t WHERE id <= 100) b ON a.id = b.id";
    assert_eq!(root.rows(fits).await, json!([[100]]));
    nothing_left(&server);
}

fn names_the_limit(error: &kalamdb_sql::Error) {
    assert_eq!(error.code, ErrorCode::Overloaded, "{error}");
    assert!(error.message.contains("4 MiB"), "{error}");
    assert!(error.hint.as_ref().unwrap().contains("limits.statement_memory"), "{error:?}");
}

/// Statements that would run for hours, of every operator that keeps rows.
const RUNAWAYS: [&str; 5] = [
    "SELECT value FROM generate_series(1, 100000000000) ORDER BY value % 7, value",
    "SELECT value % 1000000007, count(*) FROM generate_series(1, 100000000000) GROUP BY 1",
    "SELECT count(*) FROM generate_series(1, 100000000000) a JOIN t b ON a.value % 7 = b.g",
    "SELECT count(n) FROM (SELECT lag(value) OVER (ORDER BY value % 7) AS n FROM generate_series(1, 100000000000)) w",
    "SELECT count(*) FROM generate_series(1, 30000) a JOIN generate_series(1, 30000) b ON a.value % 1 = b.value % 1 AND a.value + b.value < 0",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn runaways_end_in_time_and_others_are_answered_meanwhile() {
    let server = crowded(true).await;
    let server = server
        .reopen_with(|options| {
            options.statement_memory = LIMIT;
            options.memory_limit = 8 * LIMIT;
            options.statement_timeout = Duration::from_secs(5);
        })
        .await;
    for sql in RUNAWAYS {
        let mut session = server.root();
        let runaway = tokio::spawn(async move { session.fail(sql).await });
        let (mut root, mut answers) = (server.root(), 0);
        while !runaway.is_finished() {
            let answered = tokio::time::timeout(PATIENCE, root.rows("SELECT count(*) FROM t WHERE id < 10"));
            assert_eq!(answered.await.expect(sql), json!([[9]]));
            answers += 1;
        }
        let error = runaway.await.unwrap();
        assert_eq!(error.code, ErrorCode::Cancelled, "{sql}: {error}");
        assert!(answers > 1, "{sql}: {answers} other statements were answered");
    }
    nothing_left(&server);
}

#[tokio::test]
async fn what_is_spilled_is_limited() {
    let server = crowded(true).await;
    let server = server
        .reopen_with(|options| {
            options.statement_memory = LIMIT;
            options.spill_limit = 1 << 20;
        })
        .await;
    let mut root = server.root();
    for _ in 0..2 {
        let error = root.fail("SELECT s FROM t ORDER BY s").await;
        assert_eq!(error.code, ErrorCode::StorageFull, "{error}");
        assert!(error.hint.unwrap().contains("limits.spill"));
    }
    assert_eq!(root.rows("SELECT count(*) FROM t").await, json!([[ROWS]]));
}

#[tokio::test]
async fn a_full_disk_ends_the_statement_and_nothing_else() {
    let disk = SimDisk::new();
    let server = Server::with(|options| {
        options.engine.disk = Arc::new(disk.clone());
        options.statement_memory = 4 << 20;
    })
    .await;
    let mut root = server.root();
    root.run("CREATE TABLE t (id BIGINT PRIMARY KEY, s TEXT)").await;
    for part in 0..8 {
        let (from, to) = (part * 1000 + 1, part * 1000 + 1000);
        root.run(&format!(
            "INSERT INTO t SELECT value, repeat('x', 1000) FROM generate_series({from}, {to})"
        ))
        .await;
    }
    let sort = "SELECT id, s FROM t ORDER BY s, id DESC";
    for after in [0, 1, 3] {
        let error = std::io::ErrorKind::StorageFull;
        disk.inject(Fault { error, times: 1, after, ..Fault::next_on(Operation::Write, ".spill") });
        assert_eq!(root.fail(sort).await.code, ErrorCode::StorageFull, "after {after} writes");
        disk.clear_faults();
    }
    root.run("INSERT INTO t VALUES (0, 'y')").await;
    let expected: Vec<i64> = (1..=8000).rev().chain([0]).collect();
    assert_eq!(ids(&mut root, sort).await, expected, "there is room again");
}

#[tokio::test]
async fn what_another_process_left_is_removed_but_only_by_who_holds_the_database() {
    let server = Server::start().await;
    let left = server.path().join("tmp").join("of a statement that was killed");
    std::fs::create_dir(&left).unwrap();
    let second = Instance::open(Options::new(server.path())).await;
    assert!(second.is_err() && left.exists(), "it belongs to a process that runs");
    let server = server.reopen_with(|_| ()).await;
    assert!(!left.exists());
    nothing_left(&server);
    let _: Value = server.root().rows("SELECT 1").await;
}
