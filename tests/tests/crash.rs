//! `kill -9` under load, again and again: what was acknowledged stays, nothing is there twice.
//!
//! `KALAMDB_CRASH_ROUNDS` sets the number of rounds. Where the process is when it is killed is up to the scheduler; what
//! the test chooses itself follows from the number of the round.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::thread;

use kalamdb_tests::{Client, RaiseOnDrop, Server, eventually};
use serde_json::{Value, json};

const WRITERS: usize = 64;

/// What writers did over all rounds.
#[derive(Default)]
struct Ledger {
    next: AtomicI64,
    /// Ids whose insert was acknowledged, and the version that their last acknowledged update wrote.
    acknowledged: Mutex<Vec<(i64, i64)>>,
    count: AtomicUsize,
}

fn send(client: &Client, sql: &str, params: Value) -> bool {
    let body = json!({"sql": sql, "params": params}).to_string();
    match client.try_post("/api/sql", &[("content-type", "application/json")], body.as_bytes()) {
        Ok(reply) if reply.status == 200 => true,
        Ok(reply) => panic!("{sql}: {}", reply.text),
        Err(_) => false,
    }
}

impl Ledger {
    /// Inserts pairs of rows, and changes every third one, until the server is gone.
    fn write(&self, client: &Client, stopped: &AtomicBool) {
        while !stopped.load(Ordering::Relaxed) {
            let id = self.next.fetch_add(1, Ordering::Relaxed);
            if !send(client, "INSERT INTO app.t VALUES ($1, 0, 0), ($2, 0, 1)", json!([2 * id, 2 * id + 1])) {
                return;
            }
            let changed = id % 3 != 0
                || send(
                    client,
                    "UPDATE app.t SET version = 1 WHERE id = $1 OR id = $2",
                    json!([2 * id, 2 * id + 1]),
                );
            self.acknowledged.lock().unwrap().push((id, i64::from(id % 3 == 0 && changed)));
            self.count.fetch_add(1, Ordering::Relaxed);
            if !changed {
                return;
            }
        }
    }

    fn check(&self, client: &Client, round: usize) {
        let rows = client.grid("SELECT id, version, half FROM app.t ORDER BY id");
        let number = |value: &Value| value.as_i64().expect("a number");
        let found: Vec<(i64, i64, i64)> =
            rows.iter().map(|row| (number(&row[0]), number(&row[1]), number(&row[2]))).collect();
        for pair in found.chunks(2) {
            let [first, second] = pair else { panic!("round {round}: half a commit: {pair:?}") };
            assert_eq!(
                (first.0 + 1, first.0 % 2, first.1, first.2, second.2),
                (second.0, 0, second.1, 0, 1),
                "round {round}: {pair:?}"
            );
        }
        let version_of = |id: i64| found.binary_search_by_key(&id, |row| row.0).ok().map(|at| found[at].1);
        for (id, version) in self.acknowledged.lock().unwrap().iter() {
            let there = version_of(2 * id);
            assert!(
                there.is_some_and(|there| there >= *version),
                "round {round}: row {id} at {version} became {there:?}"
            );
        }
        assert_eq!(client.number("SELECT count(*) FROM app.t"), found.len() as i64);
        let distinct = "SELECT count(DISTINCT id) FROM app.t WHERE _seq > 0";
        assert_eq!(client.number(distinct), found.len() as i64, "round {round}");
    }
}

fn rounds() -> usize {
    std::env::var("KALAMDB_CRASH_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(3)
}

#[test]
fn every_acknowledged_row_survives_kill_9_under_load_and_none_is_there_twice() {
    let mut server = Server::start();
    server.root().sql(
        "CREATE NAMESPACE app; \
         CREATE SHARED TABLE app.t (id BIGINT PRIMARY KEY, version INT NOT NULL, half INT NOT NULL) FLUSH POLICY ROWS 500",
    );
    let ledger = Ledger::default();
    for round in 0..rounds() {
        let (client, stopped) = (server.root(), AtomicBool::new(false));
        let until = ledger.count.load(Ordering::Relaxed) + 150 + (round * 271) % 400;
        thread::scope(|scope| {
            let _end = RaiseOnDrop(&stopped);
            for _ in 0..WRITERS {
                scope.spawn(|| ledger.write(&client, &stopped));
            }
            eventually("enough is written", || (ledger.count.load(Ordering::Relaxed) >= until).then_some(()));
            if round % 2 == 1 {
                // A flush is under way when the end comes.
                send(&client, "FLUSH TABLE app.t NOWAIT", json!([]));
            }
            server.kill9();
        });
        server.launch();
        ledger.check(&server.root(), round);
    }
    server.root().sql("FLUSH TABLE app.t");
    server.restart();
    ledger.check(&server.root(), rounds());
}
