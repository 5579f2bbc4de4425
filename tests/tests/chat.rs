//! `examples/chat` in two windows of a real browser. Skipped where Chromium or Python is not installed.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use kalamdb_tests::{Browser, Options, Page, Server};
use serde_json::json;

struct Backend {
    process: Child,
    url: String,
}

impl Backend {
    /// The example's backend on a free port; `None` if Python is not installed.
    fn start(dir: &Path, kalamdb: &str) -> Option<Self> {
        let mut process = Command::new("python3")
            .arg(dir.join("server.py"))
            .args(["0", kalamdb])
            .stdout(Stdio::piped())
            .spawn()
            .ok()?;
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let url = line.trim().rsplit(' ').next().unwrap().to_owned();
        Some(Self { process, url })
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

fn open(browser: &mut Browser, url: &str, user: &str, password: &str, peer: &str) -> Page {
    let page = browser.open(url);
    browser.until(&page, "document.getElementById('login')");
    for (id, value) in [("user", user), ("password", password), ("peer", peer)] {
        browser.evaluate(&page, &format!("document.getElementById('{id}').value = {}", json!(value)));
    }
    browser.evaluate(&page, "document.getElementById('login').requestSubmit()");
    browser.until(&page, &format!("document.getElementById('state').textContent === '{user} and {peer}'"));
    page
}

fn say(browser: &mut Browser, page: &Page, text: &str) {
    browser.evaluate(page, &format!("document.getElementById('body').value = {}", json!(text)));
    browser.evaluate(page, "document.getElementById('send').requestSubmit()");
}

fn shows(texts: &[&str]) -> String {
    let list = "[...document.querySelectorAll('#messages li')].map((item) => item.textContent)";
    format!("JSON.stringify({list}) === JSON.stringify({})", json!(texts))
}

#[test]
fn two_people_in_two_windows_see_what_the_other_writes_and_that_they_type() {
    let mut server = Server::start_with(Options::default().same_address());
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../examples/chat");
    let profile = server.scratch().join("browser");
    let Some(mut browser) = Browser::start(&profile) else {
        eprintln!("skipped: no Chromium");
        return;
    };
    let Some(backend) = Backend::start(&dir, &server.url()) else {
        eprintln!("skipped: no Python");
        return;
    };
    server.root().sql(&std::fs::read_to_string(dir.join("setup.sql")).unwrap());
    let ann = open(&mut browser, &backend.url, "ann", "ann likes tea", "bob");
    let bob = open(&mut browser, &backend.url, "bob", "bob likes rain", "ann");
    browser.evaluate(&ann, "document.getElementById('body').dispatchEvent(new Event('input'))");
    browser.until(&bob, "document.getElementById('typing').textContent.startsWith('ann is typing')");
    say(&mut browser, &ann, "tea?");
    browser.until(&bob, &shows(&["tea?"]));
    say(&mut browser, &bob, "it rains");
    for page in [&ann, &bob] {
        browser.until(page, &shows(&["tea?", "it rains"]));
    }
    // The same address after a restart: both windows go on by themselves, and miss nothing.
    server.crash();
    server.user("ann", "ann likes tea").sql(
        "INSERT INTO chat.messages (id, peer, sender, body) VALUES (9000000000000000, 'bob', 'ann', 'back again')",
    );
    browser.until(&ann, &shows(&["tea?", "it rains", "back again"]));
    browser.until(&bob, &shows(&["tea?", "it rains"]));
}
