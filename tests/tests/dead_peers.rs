//! A peer that vanishes without a word, and one that is only slow.
//!
//! The test runs itself again in a network namespace of its own, where it can take the loopback interface down: that is a
//! cable that was pulled, for client and server alike. Skipped where namespaces are not to be had.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]
#![cfg(target_os = "linux")]

use std::process::Command;
use std::time::{Duration, Instant};

use kalamdb_tests::outside::is_there;
use kalamdb_tests::{LiveRequest, Options, Server, eventually};
use serde_json::json;

const INSIDE: &str = "KALAMDB_TEST_INSIDE_NAMESPACE";

#[test]
fn a_peer_that_vanished_is_cut_off_and_one_that_is_slow_is_waited_for() {
    if std::env::var_os(INSIDE).is_some() {
        return inside();
    }
    if !is_there("unshare", &["-Urn", "ip", "link", "set", "lo", "up"]) {
        return;
    }
    // Built here: inside there is no network to ask for anything.
    let binary = kalamdb_tests::kalamdb();
    let status = Command::new("unshare")
        .args(["-Urn"])
        .arg(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "a_peer_that_vanished_is_cut_off_and_one_that_is_slow_is_waited_for",
            "--nocapture",
        ])
        .env(INSIDE, "1")
        .env("KALAMDB_BINARY", binary)
        .status()
        .unwrap();
    assert!(status.success());
}

fn loopback(state: &str) {
    assert!(Command::new("ip").args(["link", "set", "lo", state]).status().unwrap().success());
}

fn inside() {
    loopback("up");
    let server = Server::start_with(
        Options::default().set("live.heartbeat=500ms").set("log_level=info,kalamdb_server=debug"),
    );
    let root = server.root();
    root.sql("CREATE NAMESPACE app; CREATE SHARED TABLE app.t (id BIGINT PRIMARY KEY, body TEXT)");
    let names = || -> Vec<String> {
        // A connection of its own: others may have been cut off with the feeds.
        let rows = server.root().rows("SELECT subscription_id AS id FROM system.live_queries ORDER BY id");
        rows.iter().map(|row| row["id"].as_str().unwrap().to_owned()).collect()
    };
    let request = |id: &str| LiveRequest::default().and(id, "SELECT id, body FROM app.t");
    let mut slow = request("slow").open_unread(&root);
    let mut live = request("live").open(&root);
    live.expect("ready");
    let body = "x".repeat(100_000);
    for id in 0..100 {
        root.sql_with("INSERT INTO app.t VALUES ($1, $2)", json!([id, body]));
    }
    // Much longer than a peer that is gone is kept. That nothing happens can only be waited for.
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(8) {
        assert_eq!(names(), ["live", "slow"], "after {:?}", begun.elapsed());
        std::thread::sleep(Duration::from_millis(200));
    }
    slow.read_on();
    slow.expect("ready");
    slow.snapshot();
    let ids: Vec<i64> = (0..100).map(|_| slow.expect("insert").rows()[0]["id"].as_i64().unwrap()).collect();
    assert_eq!(ids, (0..100).collect::<Vec<_>>(), "each once");

    let _stalled = request("stalled").with("snapshot", false).open_unread(&root);
    for id in 100..200 {
        root.sql_with("INSERT INTO app.t VALUES ($1, $2)", json!([id, body]));
    }
    assert_eq!(names(), ["live", "slow", "stalled"]);
    loopback("down");
    let begun = Instant::now();
    eventually("the server finds that nobody answers", || {
        let log = server.log();
        (log.matches("does not answer any more").count() >= 3).then_some(())
    });
    let took = begun.elapsed();
    // One of those may have been a query whose answer was not confirmed yet. The feeds owe something from their next
    // heartbeat on, and are found out in this time as well; that it passes can only be waited for.
    std::thread::sleep(Duration::from_secs(8).saturating_sub(took));
    loopback("up");
    eventually("their subscriptions are gone", || names().is_empty().then_some(()));
    eprintln!("noticed after {took:?}");
}
