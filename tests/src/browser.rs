//! A headless Chromium, driven over the DevTools protocol through its pipe.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, channel};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::outside::is_there;
use crate::{PATIENCE, eventually};

/// A browser. Dropping it ends it.
#[derive(Debug)]
pub struct Browser {
    child: Child,
    pipe: Mutex<Pipe>,
    _profile: TempDir,
}

#[derive(Debug)]
struct Pipe {
    input: ChildStdin,
    messages: Receiver<Value>,
    next: u64,
}

/// A window with cookies of its own.
#[derive(Debug)]
pub struct Window<'a> {
    browser: &'a Browser,
    session: Value,
}

impl Browser {
    /// Starts the browser; none if there is no Chromium.
    pub fn start() -> Option<Self> {
        if !is_there("chromium", &["--version"]) {
            return None;
        }
        let profile = tempfile::tempdir().expect("a directory for the profile");
        let mut command = Command::new("sh");
        // The browser reads commands from descriptor 3 and writes answers to 4.
        command.args(["-c", "exec chromium \"$@\" 3<&0 4>&1 </dev/null >/dev/null", "chromium"]);
        command.args(["--headless=new", "--remote-debugging-pipe", "--no-sandbox", "--no-first-run"]);
        command.args(["--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking"]);
        command.arg(format!("--user-data-dir={}", profile.path().display())).arg("about:blank");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("the browser starts");
        let input = child.stdin.take().expect("it is piped");
        let mut output = BufReader::new(child.stdout.take().expect("it is piped"));
        let (sender, messages) = channel();
        std::thread::spawn(move || {
            let mut message = Vec::new();
            while output.read_until(0, &mut message).is_ok_and(|read| read > 0) {
                message.pop();
                let parsed = serde_json::from_slice(&message).expect("the browser speaks JSON");
                if sender.send(parsed).is_err() {
                    return;
                }
                message.clear();
            }
        });
        let pipe = Mutex::new(Pipe { input, messages, next: 1 });
        Some(Self { child, pipe, _profile: profile })
    }

    /// Opens a window on a page and waits until it is loaded.
    ///
    /// # Panics
    /// If it cannot be.
    pub fn open(&self, url: &str) -> Window<'_> {
        let context = self.call("Target.createBrowserContext", json!({}), None);
        let target =
            json!({"url": url, "browserContextId": context["browserContextId"], "width": 480, "height": 640});
        let target = self.call("Target.createTarget", target, None);
        let attach = json!({"targetId": target["targetId"], "flatten": true});
        let session = self.call("Target.attachToTarget", attach, None)["sessionId"].clone();
        let window = Window { browser: self, session };
        window.wait_for(&format!(
            "location.href.startsWith({}) && document.readyState == 'complete'",
            json!(url)
        ));
        window
    }

    fn call(&self, method: &str, params: Value, session: Option<&Value>) -> Value {
        let mut pipe = self.pipe.lock().expect("no other test of this browser failed");
        let id = pipe.next;
        pipe.next += 1;
        let mut message = json!({"id": id, "method": method, "params": params});
        if let Some(session) = session {
            message["sessionId"] = session.clone();
        }
        let mut bytes = message.to_string().into_bytes();
        bytes.push(0);
        pipe.input.write_all(&bytes).expect("the browser runs");
        loop {
            let mut answer = pipe.messages.recv_timeout(PATIENCE).expect("the browser answers");
            if answer["id"] == id {
                assert!(answer.get("error").is_none(), "{method}: {answer}");
                return answer["result"].take();
            }
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Window<'_> {
    /// The value of an expression, awaited if it is a promise.
    ///
    /// # Panics
    /// If it throws.
    pub fn eval(&self, expression: &str) -> Value {
        let params = json!({"expression": expression, "awaitPromise": true, "returnByValue": true, "userGesture": true});
        let mut answer = self.browser.call("Runtime.evaluate", params, Some(&self.session));
        assert!(answer.get("exceptionDetails").is_none(), "{expression}: {answer}");
        answer["result"]["value"].take()
    }

    /// Asks until an expression is true.
    ///
    /// # Panics
    /// If it is not before the deadline.
    pub fn wait_for(&self, expression: &str) {
        eventually(expression, || (self.eval(expression) == true).then_some(()));
    }

    /// Saves a picture of the window.
    ///
    /// # Panics
    /// If it cannot be written.
    #[expect(clippy::disallowed_methods, reason = "a picture for people, nothing of the database")]
    pub fn screenshot(&self, path: &Path) {
        let shot = self.browser.call("Page.captureScreenshot", json!({"format": "png"}), Some(&self.session));
        let data = STANDARD.decode(shot["data"].as_str().expect("a picture")).expect("base64");
        std::fs::write(path, data).expect("the picture is written");
    }
}
