//! The end of a server: SIGTERM under load, and a second server on the same directory.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::thread;

use kalamdb_tests::{Client, RaiseOnDrop, Server, eventually};
use serde_json::json;

#[test]
fn sigterm_under_load_ends_in_success_and_every_answer_counts() {
    const WRITERS: usize = 16;
    let mut server = Server::start();
    server.root().sql("CREATE NAMESPACE app; CREATE SHARED TABLE app.t (id BIGINT PRIMARY KEY)");
    let (next, ended, told) = (AtomicI64::new(0), AtomicBool::new(false), Mutex::new(BTreeSet::new()));
    let refusals = Mutex::new(Vec::new());
    let client = server.root();
    let write = || {
        while !ended.load(Ordering::Relaxed) {
            let id = next.fetch_add(1, Ordering::Relaxed);
            let body = json!({"sql": "INSERT INTO app.t VALUES ($1)", "params": [id]}).to_string();
            match client.try_post("/api/sql", &[("content-type", "application/json")], body.as_bytes()) {
                Ok(reply) if reply.status == 200 => drop(told.lock().unwrap().insert(id)),
                Ok(reply) => return refusals.lock().unwrap().push((reply.status, reply.text)),
                // The server no longer takes connections.
                Err(_) => return,
            }
        }
    };
    let status = thread::scope(|scope| {
        let _end = RaiseOnDrop(&ended);
        for _ in 0..WRITERS {
            scope.spawn(write);
        }
        eventually("there is load", || (told.lock().unwrap().len() > 100).then_some(()));
        server.terminate()
    });
    assert!(status.success(), "{status}");
    for (status, text) in refusals.into_inner().unwrap() {
        assert!(status == 503 && text.contains("SHUTTING_DOWN"), "{status}: {text}");
    }
    server.launch();
    let rows = server.root().grid("SELECT id FROM app.t");
    let found: BTreeSet<i64> = rows.iter().map(|row| row[0].as_i64().unwrap()).collect();
    assert_eq!(found.len(), rows.len(), "no row is there twice");
    let told = told.into_inner().unwrap();
    assert!(
        told.is_subset(&found),
        "acknowledged but gone: {:?}",
        told.difference(&found).collect::<Vec<_>>()
    );
}

/// A statement that takes long enough to be caught in flight.
fn long_query(client: &Client) -> Result<serde_json::Value, String> {
    client.try_sql(
        "SELECT count(*) AS n FROM (SELECT a.value * b.value AS p FROM generate_series(1, 3000) a, generate_series(1, 3000) b) x WHERE p % 7 = 3",
    )
}

#[test]
fn a_statement_in_flight_at_sigterm_is_finished() {
    let mut server = Server::start();
    let client = server.root();
    let (answer, status) = thread::scope(|scope| {
        let query = scope.spawn(|| long_query(&client));
        let running = "SELECT count(*) FROM system.queries WHERE sql LIKE '%generate_series(1, 3000)%' AND sql NOT LIKE '%system.queries%'";
        eventually("the statement runs", || {
            (query.is_finished() || client.number(running) > 0).then_some(())
        });
        let status = server.terminate();
        (query.join().unwrap(), status)
    });
    assert!(status.success(), "{status}");
    match answer {
        Ok(answer) => assert_eq!(answer["results"][0]["row_count"], 1),
        Err(error) => assert!(error.contains("SHUTTING_DOWN"), "{error}"),
    }
}

#[test]
fn a_second_server_on_the_same_directory_refuses_and_harms_nothing() {
    let mut server = Server::start();
    server.root().sql("CREATE NAMESPACE app; CREATE SHARED TABLE app.t (id BIGINT PRIMARY KEY); INSERT INTO app.t VALUES (1)");
    let (status, output) = server.start_rival();
    assert_eq!(status.code(), Some(1), "{output}");
    assert!(output.contains("lock") || output.contains("in use") || output.contains("another"), "{output}");
    server.root().sql("INSERT INTO app.t VALUES (2)");
    server.crash();
    assert_eq!(
        server.root().number("SELECT count(*) FROM app.t"),
        2,
        "a killed server leaves no lock behind"
    );
}
