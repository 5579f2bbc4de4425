//! Compactions that nobody asked for are jobs: seen, ended by KILL JOB, and failed after a crash.

use std::sync::Arc;
use std::time::Duration;

use kalamdb_wal::sim::{Crash, SimDisk};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::harness::{Client, Server};

const PATIENCE: Duration = Duration::from_secs(20);
/// Bytes a second with which a compaction here takes some ten seconds.
const SLOW: u64 = 3_000;

/// A database on `disk` whose compactions read and write so many bytes a second.
async fn server(disk: &SimDisk, bytes_per_second: u64) -> Server {
    Server::with(|options| {
        options.engine.dir = "/db".into();
        options.engine.disk = Arc::new(disk.clone());
        options.engine.compaction.workers = 1;
        options.engine.compaction.bytes_per_second = bytes_per_second;
    })
    .await
}

/// Gives a table enough segments for the background to merge some.
async fn crowd(root: &mut Client) {
    root.run("CREATE TABLE t (id BIGINT PRIMARY KEY, s TEXT)").await;
    for round in 0..12 {
        root.run(&format!("INSERT INTO t SELECT value * 12 + {round}, repeat('x', 50) FROM generate_series(1, 50); FLUSH TABLE t")).await;
    }
}

/// Waits for a job of the background with this status.
async fn job(root: &mut Client, status: &str) -> Vec<Value> {
    let sql = format!(
        "SELECT job_id, table_name, parameters, result, error_message, finished_at IS NOT NULL FROM system.jobs \
         WHERE job_type = 'compact' AND status = '{status}' ORDER BY created_at LIMIT 1"
    );
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(row) = root.rows(&sql).await[0].as_array() {
            return row.clone();
        }
        assert!(Instant::now() < deadline, "no compaction is {status}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_compaction_of_the_background_is_a_completed_job() {
    let server = server(&SimDisk::new(), 0).await;
    let mut root = server.root();
    crowd(&mut root).await;
    let completed = job(&mut root, "completed").await;
    assert_eq!(completed[1..3], [json!("t"), json!({"background": true, "user": null})]);
    assert!(completed[3]["segments_in"].as_u64().unwrap() > 1, "{completed:?}");
    assert_eq!(completed[4..], [Value::Null, json!(true)]);
    assert_eq!(root.rows("SELECT count(*) FROM t").await, json!([[600]]));
    let ours = "SELECT count(*) FROM system.jobs WHERE job_type = 'compact' AND namespace_id = 'system'";
    assert_eq!(root.rows(ours).await, json!([[0]]), "noting those of system.jobs would make more");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_job_ends_a_compaction_of_the_background() {
    let server = server(&SimDisk::new(), SLOW).await;
    let mut root = server.root();
    crowd(&mut root).await;
    let running = job(&mut root, "running").await;
    assert_eq!(running[5], json!(false));
    let id = running[0].as_str().unwrap();
    root.run(&format!("KILL JOB '{id}'")).await;
    let cancelled = job(&mut root, "cancelled").await;
    assert_eq!((cancelled[0].as_str().unwrap(), &cancelled[5]), (id, &json!(true)));
    assert_eq!(root.rows("SELECT count(*) FROM t").await, json!([[600]]));
    // One that a statement began ends in the middle of a partition too.
    let begun = root.rows("COMPACT TABLE t NOWAIT").await;
    let id = begun[0][0].as_str().unwrap().to_owned();
    let deadline = Instant::now() + PATIENCE;
    while server.instance.database().compactions().is_empty() {
        assert!(Instant::now() < deadline, "nothing is compacted");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    root.run(&format!("KILL JOB '{id}'")).await;
    let status = format!("SELECT status FROM system.jobs WHERE job_id = '{id}'");
    while root.rows(&status).await != json!([["cancelled"]]) {
        assert!(Instant::now() < deadline, "the job does not end");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    server.instance.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_compaction_that_a_crash_interrupted_has_failed() {
    let disk = SimDisk::new();
    let before = server(&disk, SLOW).await;
    let mut root = before.root();
    crowd(&mut root).await;
    let id = job(&mut root, "running").await[0].clone();
    let after = server(&disk.crash(Crash::KillProcess), SLOW).await;
    let failed = job(&mut after.root(), "failed").await;
    assert_eq!(failed[0], id);
    assert!(failed[4].as_str().unwrap().contains("server stopped"), "{failed:?}");
    assert_eq!(after.root().rows("SELECT count(*) FROM t").await, json!([[600]]));
    // What is still compacted would hold up the end of the test.
    assert!(before.instance.close().await.is_err(), "its disk is gone");
    after.instance.close().await.unwrap();
}
