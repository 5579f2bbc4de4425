//! Statements that would run for hours at a real server: others are answered meanwhile, and nothing of them is left when their
//! client goes away or the process is killed.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::io::Write;
use std::net::TcpStream;

use kalamdb_tests::{Client, Options, Server, eventually};
use serde_json::json;

/// A sort and groups that spill, and pairs of rows that a condition rejects one and all.
const RUNAWAYS: [&str; 3] = [
    "SELECT value AS runaway FROM generate_series(1, 100000000000) ORDER BY value % 7, value",
    "SELECT value % 1000000007 AS runaway, count(*) FROM generate_series(1, 100000000000) GROUP BY 1",
    "SELECT count(*) AS runaway FROM generate_series(1, 1000000) a JOIN generate_series(1, 1000000) b ON a.value + b.value < 0",
];

fn server() -> Server {
    Server::start_with(Options::default().set("limits.statement_memory=16MiB"))
}

/// Sends a statement and does not wait for its answer.
fn send(client: &Client, sql: &str) -> TcpStream {
    let address = client.url().strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    let head = format!(
        "POST /api/sql HTTP/1.1\r\nhost: {address}\r\nauthorization: {}\r\ncontent-type: text/plain\r\ncontent-length: {}\r\n\r\n",
        client.authorization().unwrap(),
        sql.len(),
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(sql.as_bytes()).unwrap();
    stream
}

fn running(client: &Client) -> i64 {
    let sql =
        "SELECT count(*) FROM system.queries WHERE sql LIKE '%runaway%' AND sql NOT LIKE '%system.queries%'";
    client.grid(sql)[0][0].as_i64().unwrap()
}

#[test]
fn a_statement_ends_when_its_client_goes_away_and_others_are_answered_meanwhile() {
    let server = server();
    let root = server.root();
    for sql in RUNAWAYS {
        let stream = send(&root, sql);
        eventually("the statement runs", || (running(&root) == 1).then_some(()));
        for n in 0..5 {
            assert_eq!(root.grid(&format!("SELECT {n} + 1")), vec![vec![json!(n + 1)]], "beside {sql}");
        }
        assert_eq!(running(&root), 1, "it has not ended by itself: {sql}");
        drop(stream);
        eventually("it has ended", || (running(&root) == 0).then_some(()));
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_server_that_is_killed_while_it_spills_leaves_nothing_behind() {
    let mut server = server();
    let root = server.root();
    root.grid("SELECT 1");
    let _stream = send(&root, RUNAWAYS[0]);
    let descriptors = format!("/proc/{}/fd", server.process_id());
    eventually("the statement spills", || {
        let mut files = std::fs::read_dir(&descriptors)
            .unwrap()
            .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
        files.any(|file| file.to_string_lossy().contains(".spill")).then_some(())
    });
    let left = || std::fs::read_dir(server.data().join("tmp")).unwrap().count();
    assert_eq!(left(), 0, "what is spilled has no name");
    server.crash();
    assert_eq!(std::fs::read_dir(server.data().join("tmp")).unwrap().count(), 0);
    assert_eq!(server.root().grid("SELECT 1"), vec![vec![json!(1)]]);
}
