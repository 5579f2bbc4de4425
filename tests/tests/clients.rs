//! Feeds read by clients that we did not write. A client that is not installed is skipped.
//!
//! `KALAMDB_TEST_PYTHON` names a Python that has `httpx-sse`; npm's `eventsource` is looked for where `NODE_PATH` says;
//! `KALAMDB_TEST_RUST` names the program that `cargo build` makes of `examples/rust`, which is not part of the workspace.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::process::{Command, Stdio};

use kalamdb_tests::docs::{example, repository};
use kalamdb_tests::outside::{Outside, is_there};
use kalamdb_tests::{Browser, Options, PASSWORD, ROOT, Server, eventually};
use serde_json::{Value, json};

/// A server that comes back on the same port, with a table that holds one row.
fn server() -> Server {
    let server = Server::start_with(Options::default().same_port());
    let root = server.root();
    root.sql("CREATE NAMESPACE app; CREATE SHARED TABLE app.messages (id BIGINT PRIMARY KEY, content TEXT)");
    root.sql("INSERT INTO app.messages VALUES (1, 'first')");
    server
}

/// What a client that reconnects by itself, and prints each event as its name and its data, must print.
fn follows_across_a_crash(mut server: Server, client: &Outside) {
    client.after("ready ");
    let snapshot = client.after("snapshot ");
    assert_eq!(snapshot["rows"], json!([{"id": 1, "content": "first"}]));
    server.root().sql("INSERT INTO app.messages VALUES (2, 'second')");
    assert_eq!(client.after("insert ")["rows"], json!([{"id": 2, "content": "second"}]));
    server.crash();
    let root = server.root();
    root.sql("DELETE FROM app.messages WHERE id = 1");
    root.sql("INSERT INTO app.messages VALUES (3, 'third')");
    let events: Vec<String> = eventually("the third row arrives", || {
        let mut events = Vec::new();
        loop {
            let line = client.line();
            let name = line.split(' ').next().unwrap_or_default().to_owned();
            let last = line.contains("third");
            events.push(name);
            if last {
                return Some(events);
            }
        }
    });
    assert_eq!(events, ["ready", "delete", "insert"], "it goes on where it was");
}

#[test]
fn curl_reads_a_feed_and_resumes_it_with_the_last_id() {
    if !is_there("curl", &["--version"]) {
        return;
    }
    let mut server = server();
    let curl = |server: &Server, last: Option<&str>| {
        let mut command = Command::new("curl");
        command.args(["-sS", "-N", "-u", &format!("{ROOT}:{PASSWORD}"), "-G"]);
        command.arg(format!("{}/api/live", server.url()));
        command.args(["--data-urlencode", "sql=SELECT id FROM app.messages"]);
        if let Some(id) = last {
            command.args(["-H", &format!("Last-Event-ID: {id}")]);
        }
        Outside::start(command)
    };
    let first = curl(&server, None);
    assert_eq!(first.line(), "retry: 1000");
    let id = first.after("id: ").to_string();
    assert_eq!(first.after("data: ")["rows"], json!([{"id": 1}]));
    drop(first);
    server.root().sql("DELETE FROM app.messages");
    server.restart();
    let second = curl(&server, Some(&id));
    assert_eq!(second.after("id: ").to_string(), id);
    assert_eq!(second.after("data: ")["seq"].to_string(), id, "ready");
    assert_eq!(second.after("data: ")["rows"], json!([{"id": 1}]), "the delete");
}

#[test]
fn many_feeds_share_one_connection_of_http_2() {
    const FEEDS: usize = 24;
    if !is_there("node", &["--version"]) {
        return;
    }
    let server = server();
    let root = server.root();
    let connections = || {
        let text = root.get("/metrics").text;
        let line = text.lines().find_map(|line| line.strip_prefix("kalamdb_connections "));
        line.unwrap().parse::<u64>().unwrap()
    };
    let script = r#"
        const [url, authorization, feeds] = process.argv.slice(1);
        const client = require('http2').connect(url);
        for (let n = 0; n < Number(feeds); n += 1) {
          const sql = encodeURIComponent(`SELECT id FROM app.messages WHERE id > -${n + 1}`);
          const feed = client.request({ ':path': `/api/live?id=feed-${n}&sql=${sql}`, authorization });
          let text = '';
          feed.setEncoding('utf8').on('data', (part) => {
            text += part;
            const insert = /event: insert\ndata: (.*)\n/.exec(text);
            if (insert) { console.log('insert ' + insert[1]); text = ''; }
          });
        }
    "#;
    let mut command = Command::new("node");
    command.args(["-e", script, &server.url(), root.authorization().unwrap(), &FEEDS.to_string()]);
    let client = Outside::start(command);
    let feeds = || root.number("SELECT count(*) FROM system.live_queries") as usize;
    eventually("all feeds are open", || (feeds() == FEEDS).then_some(()));
    // Theirs, and those of this test's own client.
    assert!(connections() < 5, "{}", connections());
    root.sql("INSERT INTO app.messages VALUES (2, 'to all')");
    let mut told: Vec<String> =
        (0..FEEDS).map(|_| client.after("insert ")["subscription"].as_str().unwrap().to_owned()).collect();
    told.sort();
    let mut expected: Vec<String> = (0..FEEDS).map(|n| format!("feed-{n}")).collect();
    expected.sort();
    assert_eq!(told, expected);
    drop(client);
    eventually("all are gone with the connection", || (feeds() == 0).then_some(()));
}

#[test]
fn the_example_for_python_goes_on_after_the_server_was_killed() {
    let python = std::env::var("KALAMDB_TEST_PYTHON").unwrap_or_else(|_| "python3".into());
    if !is_there(&python, &["-c", "import httpx_sse"]) {
        return;
    }
    let server = server();
    let script = example("live.md", "python")
        .replace("http://127.0.0.1:8080", &server.url())
        .replace(r#"("ann", "secret")"#, &format!("({ROOT:?}, {PASSWORD:?})"))
        .replace("json.loads(event.data))", "event.data, flush=True)");
    assert!(
        script.contains(&server.url()) && script.contains(PASSWORD) && script.contains("flush"),
        "{script}"
    );
    let mut command = Command::new(python);
    command.args(["-c", &script]).stderr(Stdio::inherit());
    follows_across_a_crash(server, &Outside::start(command));
}

#[test]
fn the_example_for_rust_is_the_one_shown_and_goes_on_after_the_server_was_killed() {
    let shown = example("live.md", "rust");
    let source = std::fs::read_to_string(repository().join("examples/rust/src/main.rs")).unwrap();
    assert_eq!(shown, source, "docs/live.md shows examples/rust/src/main.rs");
    let Ok(program) = std::env::var("KALAMDB_TEST_RUST") else {
        eprintln!("skipped: KALAMDB_TEST_RUST names no program");
        return;
    };
    let server = server();
    server.root().sql("CREATE USER 'ann' WITH PASSWORD 'secret' ROLE user");
    let mut command = Command::new(program);
    command.arg(server.url());
    follows_across_a_crash(server, &Outside::start(command));
}

#[test]
fn the_example_for_node_goes_on_after_the_server_was_killed() {
    if !is_there("node", &["-e", "require('eventsource')"]) {
        return;
    }
    let server = server();
    let script = example("live.md", "cjs")
        .replace("http://127.0.0.1:8080", &server.url())
        .replace("'ann:secret'", &format!("'{ROOT}:{PASSWORD}'"));
    assert!(script.contains(&server.url()) && script.contains(PASSWORD), "{script}");
    let mut command = Command::new("node");
    command.args(["-e", &script]);
    follows_across_a_crash(server, &Outside::start(command));
}

#[test]
fn the_example_for_browsers_keeps_its_rows_right_across_a_restart_and_a_crash() {
    let Some(browser) = Browser::start() else { return };
    let mut server = server();
    // Any page of the server's own origin.
    let window = browser.open(&format!("{}/health", server.url()));
    let login = json!({"username": ROOT, "password": PASSWORD});
    window.eval(&format!(
        "fetch('/api/auth/login', {{method: 'POST', body: JSON.stringify({login}), \
         headers: {{'Content-Type': 'application/json', 'X-Requested-With': 'test'}}}}).then((a) => a.json())"
    ));
    window.eval(&format!(
        "window.drawn = []; window.snapshots = 0; window.draw = (rows) => {{ window.drawn = rows; }};\n{}\n\
         feed.addEventListener('snapshot', () => {{ window.snapshots += 1; }});",
        example("live.md", "js")
    ));
    let shows = |ids: Value| {
        window.wait_for(&format!(
            "JSON.stringify(window.drawn.map((r) => r.id).sort()) == JSON.stringify({ids})"
        ));
    };
    shows(json!([1]));
    server.root().sql("INSERT INTO app.messages VALUES (2, 'second')");
    shows(json!([1, 2]));
    for (n, restart) in [Server::restart as fn(&mut Server), Server::crash].into_iter().enumerate() {
        restart(&mut server);
        let root = server.root();
        root.sql(&format!("DELETE FROM app.messages WHERE id = {}", n + 1));
        root.sql(&format!("INSERT INTO app.messages VALUES ({}, 'while the browser was away')", n + 3));
        shows(json!([n + 2, n + 3]));
    }
    assert_eq!(window.eval("window.snapshots"), 1, "it went on from its last id");
}

#[test]
fn two_people_chat_in_two_windows() {
    if !is_there("python3", &["--version"]) {
        return;
    }
    let Some(browser) = Browser::start() else { return };
    let server = Server::start();
    let chat = repository().join("examples/chat");
    server.root().sql(&std::fs::read_to_string(chat.join("setup.sql")).unwrap());
    let mut command = Command::new("python3");
    command.arg(chat.join("server.py")).args(["0", &server.url()]);
    let backend = Outside::start(command);
    let page = backend.line().split(' ').next_back().unwrap().to_owned();
    let enter = |who: &str, password: &str, peer: &str| {
        let window = browser.open(&page);
        for (field, value) in [("user", who), ("password", password), ("peer", peer)] {
            window.eval(&format!("document.getElementById('{field}').value = {}", json!(value)));
        }
        window.eval("document.getElementById('login').requestSubmit()");
        window.wait_for(&format!("document.getElementById('state').textContent == '{who} and {peer}'"));
        window
    };
    let (ann, bob) = (enter("ann", "ann likes tea", "bob"), enter("bob", "bob likes rain", "ann"));
    let type_text = |text: &str| {
        format!(
            "(() => {{ const body = document.getElementById('body'); body.value = {}; body.dispatchEvent(new Event('input')); }})()",
            json!(text)
        )
    };
    let shown = "[...document.querySelectorAll('#messages li')].map((m) => m.className + ':' + m.textContent).join('|')";
    let typing = "document.getElementById('typing').textContent";
    ann.eval(&type_text("hello"));
    bob.wait_for(&format!("{typing} == 'ann is typing …'"));
    assert_eq!(ann.eval(typing), "", "nobody types to ann");
    ann.eval("document.getElementById('send').requestSubmit()");
    bob.wait_for(&format!("{shown} == ':hello'"));
    ann.wait_for(&format!("{shown} == 'mine:hello'"));
    bob.eval(&type_text("hello yourself"));
    ann.wait_for(&format!("{typing} == 'bob is typing …'"));
    bob.eval("document.getElementById('send').requestSubmit()");
    ann.wait_for(&format!("{shown} == 'mine:hello|:hello yourself'"));
    bob.wait_for(&format!("{shown} == ':hello|mine:hello yourself'"));
    if let Some(directory) = std::env::var_os("KALAMDB_SCREENSHOTS") {
        ann.screenshot(&std::path::Path::new(&directory).join("chat-ann.png"));
        bob.screenshot(&std::path::Path::new(&directory).join("chat-bob.png"));
    }
    // Typing is forgotten, and the two copies of a message are each their owner's.
    bob.wait_for(&format!("{typing} == ''"));
    let copies = "SELECT count(*) FROM chat.messages WHERE _user IN ('ann', 'bob')";
    assert_eq!(server.root().number(copies), 4);
}
