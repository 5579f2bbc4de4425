//! STREAM tables over a real connection: they live in memory, and only there.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::path::Path;

use kalamdb_tests::{Client, Live, LiveRequest, Server, eventually};
use serde_json::{Value, json};

fn stream(client: &Client) {
    client.sql("CREATE NAMESPACE app");
    client
        .sql("CREATE STREAM TABLE app.typing (who TEXT, room TEXT) WITH (retention = '1h', max_buffer = 3)");
}

fn files_below(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().map_while(Result::ok) {
        if entry.path().is_dir() {
            found.extend(files_below(&entry.path()));
        } else {
            found.push(entry.path().display().to_string());
        }
    }
    found
}

#[test]
fn two_users_see_each_other_type() {
    let server = Server::start();
    let root = server.root();
    stream(&root);
    root.sql("CREATE USER 'ann' WITH PASSWORD 'long enough 1' ROLE user");
    root.sql("CREATE USER 'bob' WITH PASSWORD 'long enough 2' ROLE user");
    let (ann, bob) = (server.user("ann", "long enough 1"), server.user("bob", "long enough 2"));
    let (mut live, rows) = Live::follow(&bob, "SELECT who FROM app.typing WHERE room = 'kitchen'");
    assert!(rows.is_empty());
    ann.sql("INSERT INTO app.typing (who, room) VALUES (CURRENT_USER, 'garden')");
    let seq = ann.seq("INSERT INTO app.typing (who, room) VALUES (CURRENT_USER, 'kitchen')");
    let event = live.expect("insert");
    assert_eq!((event.id, &event.data["seq"]), (None, &json!(seq)));
    assert_eq!(event.data["rows"], json!([{"who": "ann"}]));
    ann.refused("UPDATE app.typing SET who = 'bob'", 400, "INVALID_STATEMENT");
    root.refused("FLUSH TABLE app.typing", 400, "INVALID_STATEMENT");
    live.disconnect();
    eventually("nobody listens", || root.rows("SELECT * FROM system.live_queries").is_empty().then_some(()));
}

#[test]
fn a_stream_is_empty_after_a_restart_and_its_feeds_begin_again() {
    let mut server = Server::start();
    let root = server.root();
    stream(&root);
    root.sql("CREATE SHARED TABLE app.t (id BIGINT PRIMARY KEY)");
    let request =
        LiveRequest::default().and("typing", "SELECT who FROM app.typing").and("t", "SELECT id FROM app.t");
    let mut live = request.open(&root);
    live.expect("ready");
    live.snapshot();
    live.snapshot();
    for n in 0..5 {
        root.sql(&format!("INSERT INTO app.typing (who) VALUES ('a typist number {n}')"));
        assert_eq!(live.expect("insert").rows(), [json!({"who": format!("a typist number {n}")})]);
    }
    let seq = root.seq("INSERT INTO app.t VALUES (1)");
    assert_eq!(live.expect("insert").id, Some(seq.to_string()));
    let cursor = live.last_id();
    root.sql("INSERT INTO app.t VALUES (2)");
    for restart in [Server::crash as fn(&mut Server), Server::restart] {
        restart(&mut server);
        let root = server.root();
        assert_eq!(root.number("SELECT count(*) FROM app.typing"), 0);
        let mut live = request.clone().after(&cursor).open(&root);
        live.expect("ready");
        assert_eq!(live.expect("reset").data["reason"], "not_resumable");
        assert_eq!(live.snapshot(), Vec::<Value>::new());
        let missed = live.expect("insert");
        assert_eq!((&missed.data["subscription"], missed.rows()), (&json!("t"), &[json!({"id": 2})][..]));
        root.sql("INSERT INTO app.typing (who) VALUES ('again')");
        assert_eq!(live.expect("insert").rows(), [json!({"who": "again"})]);
    }
    let data = server.data();
    let traces = |text: &str| {
        let holds = |file: &String| {
            let bytes = std::fs::read(file).unwrap_or_default();
            bytes.windows(text.len()).any(|part| part == text.as_bytes())
        };
        files_below(&data).into_iter().filter(holds).collect::<Vec<_>>()
    };
    assert_eq!(traces("a typist number"), Vec::<String>::new(), "nothing is written");
    assert!(
        !traces("typing").is_empty(),
        "but the table is in the catalog, so the search can find something"
    );
}
