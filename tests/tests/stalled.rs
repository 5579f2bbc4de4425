//! Clients that do not read: they cost little, slow nobody, and get everything once they read again.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::thread;

use kalamdb_tests::{Client, Live, LiveRequest, Options, Server, eventually};
use serde_json::json;

const CLIENTS: usize = 30;
const WRITERS: i64 = 4;
const ROWS: i64 = 150;

/// Inserts from several connections at once; every tenth row is deleted again.
fn write(server: &Server) {
    thread::scope(|scope| {
        for writer in 0..WRITERS {
            let client = server.root();
            scope.spawn(move || {
                let body = "x".repeat(8_000);
                for n in 0..ROWS {
                    let id = writer * ROWS + n;
                    client.sql_with("INSERT INTO app.t VALUES ($1, $2)", json!([id, body]));
                    if id % 10 == 0 {
                        client.sql_with("DELETE FROM app.t WHERE id = $1", json!([id]));
                    }
                }
            });
        }
    });
}

fn states(root: &Client) -> Vec<String> {
    let rows = root.rows("SELECT state FROM system.live_queries");
    rows.iter().map(|row| row["state"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn stalled_clients_are_served_later_with_every_event_exactly_once_in_bounded_memory() {
    let server = Server::start_with(Options::default().set("live.queue=64KiB"));
    let root = server.root();
    root.sql("CREATE NAMESPACE app; CREATE SHARED TABLE app.t (id BIGINT PRIMARY KEY, body TEXT)");
    let mut clients: Vec<Live> = (0..CLIENTS)
        .map(|n| match n % 3 {
            // Some share a query, others ask each their own.
            0 => LiveRequest::new(&format!("SELECT id, body FROM app.t WHERE id <> -{n} - 1")),
            _ => LiveRequest::new("SELECT id, body FROM app.t"),
        })
        .map(|request| request.open_unread(&root))
        .collect();
    let before = server.resident_bytes();
    write(&server);
    eventually("all are behind", || {
        let states = states(&root);
        (states.len() == CLIENTS && states.iter().all(|state| state == "catching_up")).then_some(())
    });
    let last = root.seq("INSERT INTO app.t VALUES (1000000, 'the end')");
    // What was written has about 5 MB, for everybody about 150. Each may hold its sockets' and its queue's share.
    if let (Some(before), Some(now)) = (before, server.resident_bytes()) {
        let grown = now.saturating_sub(before) >> 20;
        assert!(grown < 64, "{grown} MiB more for {CLIENTS} stalled clients");
    }
    for live in &mut clients {
        live.read_on();
    }
    for live in &mut clients {
        live.expect("ready");
        assert_eq!(live.snapshot().len(), 0);
        let events = live.wait_for(|event| event.id == Some(last.to_string()));
        let seqs: Vec<u64> = events.iter().map(|event| event.data["seq"].as_u64().unwrap()).collect();
        assert!(seqs.is_sorted_by(|a, b| a < b), "in the order of commits, each once");
        let of = |name: &str| {
            let rows = events.iter().filter(|event| event.name == name).flat_map(|event| event.rows());
            let mut ids: Vec<i64> = rows.map(|row| row["id"].as_i64().unwrap()).collect();
            ids.sort_unstable();
            ids
        };
        let all = WRITERS * ROWS;
        assert_eq!(of("insert"), (0..all).chain([1_000_000]).collect::<Vec<_>>());
        assert_eq!(of("delete"), (0..all).filter(|id| id % 10 == 0).collect::<Vec<_>>());
    }
    eventually("all are live again", || states(&root).iter().all(|state| state == "live").then_some(()));
}

#[test]
fn clients_that_disconnect_are_gone_within_the_second() {
    let server = Server::start();
    let root = server.root();
    root.sql("CREATE NAMESPACE app; CREATE SHARED TABLE app.t (id BIGINT PRIMARY KEY, body TEXT)");
    let request = LiveRequest::new("SELECT id, body FROM app.t");
    let mut live: Vec<Live> = (0..5).map(|_| request.open(&root)).collect();
    live.extend((0..5).map(|_| request.open_unread(&root)));
    live.iter_mut().take(5).for_each(|live| drop(live.expect("ready")));
    // The last five have no room for more: their end must be noticed although nothing can be written to them.
    write(&server);
    assert_eq!(states(&root).len(), 10);
    live.into_iter().for_each(Live::disconnect);
    let begun = std::time::Instant::now();
    eventually("all are gone", || states(&root).is_empty().then_some(()));
    let took = begun.elapsed();
    // The contract's bound, not its aim: the machine may be busy.
    assert!(took.as_secs() < 5, "{took:?}");
}
