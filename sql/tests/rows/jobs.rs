//! Jobs: their rows, ending them, and EXPORT.

use std::time::Duration;

use kalamdb_sql::engine::{PartitionWrite, arrow, system};
use kalamdb_sql::{ErrorCode, Instance, Options};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::harness::{Client, Server, encode};

async fn job_of(root: &mut Client, sql: &str) -> (String, Value) {
    let rows = encode(root.run(sql).await, kalamdb_sql::RowFormat::Arrays).await;
    (rows[0][0].as_str().unwrap().to_owned(), rows[0][1].clone())
}

async fn status(root: &mut Client, id: &str) -> Value {
    root.rows(&format!("SELECT status FROM system.jobs WHERE job_id = '{id}'")).await[0][0].clone()
}

/// Waits until a job has ended.
async fn ended(root: &mut Client, id: &str) -> String {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        match status(root, id).await.as_str() {
            Some("running") => assert!(Instant::now() < deadline, "job {id} does not end"),
            Some(other) => return other.to_owned(),
            None => panic!("job {id} has no row"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_flush_is_a_job_with_a_row_of_what_it_did() {
    let server = Server::start().await;
    let mut root = server.root();
    root.run("CREATE TABLE t (id BIGINT PRIMARY KEY); INSERT INTO t VALUES (1), (2)").await;
    let (id, result) = job_of(&mut root, "FLUSH TABLE t").await;
    assert_eq!((&result["rows"], &result["segments"]), (&json!(2), &json!(1)));
    let row = root
        .rows(&format!(
            "SELECT job_type, namespace_id, table_name, status, progress, error_message, bytes_written > 0, \
             finished_at >= created_at FROM system.jobs WHERE job_id = '{id}'"
        ))
        .await;
    assert_eq!(row, json!([["flush", "default", "t", "completed", 1.0, null, true, true]]));
    let (id, result) = job_of(&mut root, "FLUSH ALL NOWAIT").await;
    assert_eq!(result, Value::Null);
    assert_eq!(ended(&mut root, &id).await, "completed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_can_be_killed_by_dba_and_only_while_it_runs() {
    let server = Server::start().await;
    let mut root = server.root();
    root.run("CREATE USER TABLE t (id BIGINT PRIMARY KEY)").await;
    for user in 0..200 {
        server.user(&format!("u{user}")).run("INSERT INTO t VALUES (1)").await;
    }
    let (id, _) = job_of(&mut root, "FLUSH TABLE t NOWAIT").await;
    assert_eq!(server.user("u1").fail(&format!("KILL JOB '{id}'")).await.code, ErrorCode::PermissionDenied);
    // It may have ended by itself meanwhile.
    match root.try_run(&format!("KILL JOB '{id}'"), &[]).await {
        Ok(_) => assert_eq!(ended(&mut root, &id).await, "cancelled"),
        Err(error) => {
            assert_eq!(error.code, ErrorCode::InvalidStatement, "{error}");
            assert_eq!(ended(&mut root, &id).await, "completed");
        }
    }
    assert_eq!(root.fail(&format!("KILL JOB '{id}'")).await.code, ErrorCode::InvalidStatement);
    let error = root.fail("KILL JOB 'nosuch'").await;
    assert_eq!((error.code, error.position.map(|at| at.column)), (ErrorCode::NotFound, Some(10)));
}

#[tokio::test]
async fn a_job_that_a_stop_interrupted_has_failed_when_the_server_is_back() {
    let dir = tempfile::tempdir().unwrap();
    let instance = Instance::open(Options::new(dir.path())).await.unwrap();
    let database = instance.database();
    let table = database.catalog().table_by_id(system::JOBS).unwrap().clone();
    let mut cells = vec![system::Cell::Null; table.schema.columns().len()];
    for (at, column) in table.schema.columns().iter().enumerate() {
        match column.name.as_str() {
            "job_id" => cells[at] = "7".into(),
            "job_type" => cells[at] = "export".into(),
            "status" => cells[at] = "running".into(),
            "progress" => cells[at] = system::Cell::Double(0.5),
            "created_at" => cells[at] = 1_700_000_000_000_000_i64.into(),
            _ => {}
        }
    }
    let mut write = PartitionWrite::new(table.clone(), None);
    write.insert = Some(system::batch(&table.schema, &[cells]).unwrap());
    database.commit(vec![write]).await.unwrap();
    instance.close().await.unwrap();
    drop(instance);
    let server = Server::open(dir).await;
    let rows = "SELECT job_type, status, progress, error_message LIKE '%server stopped%', finished_at IS NOT NULL \
                FROM system.jobs WHERE job_id = '7'";
    assert_eq!(server.root().rows(rows).await, json!([["export", "failed", 0.5, true, true]]));
}

#[tokio::test]
async fn all_rows_of_one_person_are_exported_and_nothing_of_others() {
    let server = Server::start().await;
    let mut root = server.root();
    root.run("CREATE USER 'ann' WITH PASSWORD 'long enough'; CREATE NAMESPACE app").await;
    root.run("CREATE USER TABLE app.notes (id BIGINT PRIMARY KEY, body TEXT); CREATE USER TABLE app.empty (id BIGINT PRIMARY KEY)").await;
    server.user("ann").run("INSERT INTO app.notes VALUES (1, 'flushed'), (2, 'gone')").await;
    server.user("bob").run("INSERT INTO app.notes VALUES (1, 'of bob')").await;
    root.run("FLUSH TABLE app.notes").await;
    server
        .user("ann")
        .run("INSERT INTO app.notes VALUES (3, 'hot'); DELETE FROM app.notes WHERE id = 2")
        .await;
    let target = tempfile::tempdir().unwrap();
    let path = target.path().join("ann");
    let export = format!("EXPORT USER 'ann' TO '{}'", path.display());
    assert_eq!(server.user("ann").fail(&export).await.code, ErrorCode::PermissionDenied);
    let (_, result) = job_of(&mut root, &export).await;
    assert_eq!(result["tables"].as_array().unwrap().len(), 1, "{result}");
    assert_eq!(result["account"]["role"], "user");
    assert!(!result.to_string().contains("argon"), "{result}");
    let names: Vec<_> = std::fs::read_dir(&path).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names.len(), 2, "{names:?}");
    let file = std::fs::File::open(path.join("app.notes.parquet")).unwrap();
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap();
    let batches: Vec<_> = reader.map(Result::unwrap).collect();
    let text = arrow_text(&batches);
    assert!(text.contains("flushed") && text.contains("hot") && text.contains("gone"), "{text}");
    assert!(!text.contains("of bob"), "{text}");
    let beside: Vec<_> = std::fs::read_dir(target.path()).unwrap().collect();
    assert_eq!(beside.len(), 1, "nothing is left beside it");
    assert_eq!(root.fail(&export).await.code, ErrorCode::AlreadyExists);
    for (path, code) in [("../out", ErrorCode::InvalidParameter), ("", ErrorCode::InvalidParameter)] {
        let error = root.fail(&format!("EXPORT USER 'ann' TO '{path}'")).await;
        assert_eq!((error.code, error.position.map(|at| at.column)), (code, Some(22)), "{path}");
    }
    let audit = "SELECT actor, subject FROM system.audit_log WHERE action = 'export_user'";
    assert_eq!(root.rows(audit).await[0], json!(["root", "ann"]));
}

fn arrow_text(batches: &[arrow::array::RecordBatch]) -> String {
    batches.iter().map(|batch| format!("{batch:?}")).collect()
}

#[tokio::test]
async fn compact_merges_the_files_of_a_table() {
    let server = Server::start().await;
    let mut root = server.root();
    root.run("CREATE TABLE t (id BIGINT PRIMARY KEY, n INT); CREATE USER TABLE u (id BIGINT PRIMARY KEY)")
        .await;
    for id in 0..4 {
        root.run(&format!("INSERT INTO t VALUES ({id}, 0); FLUSH TABLE t; UPDATE t SET n = n + 1")).await;
    }
    let (id, result) = job_of(&mut root, "COMPACT TABLE t").await;
    assert_eq!((&result["partitions"], &result["segments_out"]), (&json!(1), &json!(1)), "{result}");
    assert_eq!(status(&mut root, &id).await, "completed");
    let rows = root.rows("SELECT id, n FROM t ORDER BY id").await;
    assert_eq!(rows, json!([[0, 4], [1, 3], [2, 2], [3, 1]]));
    let kind = format!("SELECT job_type FROM system.jobs WHERE job_id = '{id}'");
    assert_eq!(root.rows(&kind).await, json!([["compact"]]));
    assert_eq!(server.user("a").fail("COMPACT TABLE t").await.code, ErrorCode::PermissionDenied);
    assert_eq!(root.fail("COMPACT TABLE t FOR USER 'a'").await.code, ErrorCode::InvalidStatement);
    let (_, result) = job_of(&mut root, "COMPACT TABLE u FOR USER 'nobody'").await;
    assert_eq!(result["segments_out"], 0);
}

#[tokio::test]
async fn compact_keeps_users_with_few_rows_together() {
    let server = Server::start().await;
    let mut root = server.root();
    root.run("CREATE USER TABLE u (id BIGINT PRIMARY KEY, n INT)").await;
    for user in ["a", "b", "c"] {
        server.user(user).run("INSERT INTO u VALUES (1, 1), (2, 2)").await;
    }
    root.run("FLUSH TABLE u").await;
    server.user("a").run("UPDATE u SET n = 3 WHERE id = 1").await;
    let (_, result) = job_of(&mut root, "COMPACT TABLE u").await;
    // Two packs became one, and nobody got files of their own.
    assert_eq!((&result["partitions"], &result["segments_in"]), (&json!(0), &json!(2)), "{result}");
    assert_eq!((&result["segments_out"], &result["rows_out"]), (&json!(1), &json!(6)), "{result}");
    assert_eq!(server.user("a").rows("SELECT id, n FROM u ORDER BY id").await, json!([[1, 3], [2, 2]]));
}

#[tokio::test]
async fn purge_removes_the_rows_of_one_person_from_every_table() {
    let server = Server::start().await;
    let mut root = server.root();
    root.run("CREATE USER TABLE a (id BIGINT PRIMARY KEY); CREATE USER TABLE b (id BIGINT PRIMARY KEY)")
        .await;
    for user in ["ann", "bob"] {
        let mut client = server.user(user);
        client.run("INSERT INTO a VALUES (1), (2); INSERT INTO b VALUES (1)").await;
        root.run("FLUSH ALL").await;
        client.run("INSERT INTO a VALUES (3); DELETE FROM a WHERE id = 1").await;
    }
    assert_eq!(server.user("ann").fail("PURGE USER 'ann'").await.code, ErrorCode::PermissionDenied);
    let (id, _) = job_of(&mut root, "PURGE USER 'ann'").await;
    assert_eq!(status(&mut root, &id).await, "completed");
    let rows = "SELECT (SELECT count(*) FROM a) AS a, (SELECT count(*) FROM b) AS b, (SELECT count(*) FROM a WHERE _deleted) AS gone";
    assert_eq!(server.user("ann").rows(rows).await, json!([[0, 0, 0]]));
    assert_eq!(server.user("bob").rows(rows).await, json!([[2, 1, 1]]));
    server.user("ann").run("INSERT INTO a VALUES (1)").await;
}
