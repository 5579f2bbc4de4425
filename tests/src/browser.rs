//! Chromium without a window, driven over its debugging pipe.

use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::PATIENCE;

const NAMES: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];

/// A browser, ended when it is dropped.
#[derive(Debug)]
pub struct Browser {
    process: Child,
    commands: BufWriter<ChildStdin>,
    answers: BufReader<ChildStdout>,
    next: u64,
}

/// A window of a browser: its session.
#[derive(Debug, Clone)]
pub struct Page(String);

impl Browser {
    /// Starts a browser with a profile in `dir`; `None` if none is installed.
    pub fn start(dir: &Path) -> Option<Self> {
        let installed = |name: &&&str| {
            let version =
                Command::new(name).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
            version.is_ok_and(|status| status.success())
        };
        let name = NAMES.iter().find(installed)?;
        // The browser reads commands from descriptor 3 and answers on 4.
        let script = format!(
            "exec {name} --headless --no-sandbox --disable-gpu --no-first-run --disable-dev-shm-usage \
             --remote-debugging-pipe --user-data-dir=\"$1\" about:blank 3<&0 4>&1 </dev/null >/dev/null 2>&1"
        );
        let mut process = Command::new("sh")
            .args(["-c", &script, "sh"])
            .arg(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a shell");
        let commands = BufWriter::new(process.stdin.take().expect("a pipe"));
        let answers = BufReader::new(process.stdout.take().expect("a pipe"));
        Some(Self { process, commands, answers, next: 1 })
    }

    /// A window with a profile of its own, as if it were another person's browser.
    pub fn open(&mut self, url: &str) -> Page {
        let context = self.call(None, "Target.createBrowserContext", json!({}))["browserContextId"].clone();
        let target = self.call(None, "Target.createTarget", json!({"url": url, "browserContextId": context}));
        let attach = json!({"targetId": target["targetId"], "flatten": true});
        let session = self.call(None, "Target.attachToTarget", attach)["sessionId"].clone();
        Page(session.as_str().expect("a session").to_owned())
    }

    /// The value of a JavaScript expression in a window; promises are awaited.
    ///
    /// # Panics
    /// If it throws.
    pub fn evaluate(&mut self, page: &Page, expression: &str) -> Value {
        let params = json!({"expression": expression, "awaitPromise": true, "returnByValue": true});
        let answer = self.call(Some(page), "Runtime.evaluate", params);
        assert!(answer["exceptionDetails"].is_null(), "{expression}: {answer}");
        answer["result"]["value"].clone()
    }

    /// Asks until a JavaScript expression is true.
    ///
    /// # Panics
    /// After [`PATIENCE`].
    pub fn until(&mut self, page: &Page, expression: &str) {
        let deadline = Instant::now() + PATIENCE;
        // Nothing to evaluate in before the page is there.
        while self.evaluate(page, &format!("document.readyState === 'complete' && !!({expression})")) != true
        {
            if Instant::now() > deadline {
                let text = self.evaluate(page, "document.body.innerText");
                panic!("{expression}: not within {PATIENCE:?}; the page says {text}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn call(&mut self, page: Option<&Page>, method: &str, params: Value) -> Value {
        let id = self.next;
        self.next += 1;
        let mut command = json!({"id": id, "method": method, "params": params});
        if let Some(Page(session)) = page {
            command["sessionId"] = session.as_str().into();
        }
        self.commands.write_all(command.to_string().as_bytes()).expect("the browser listens");
        self.commands.write_all(&[0]).expect("the browser listens");
        self.commands.flush().expect("the browser listens");
        loop {
            let mut bytes = Vec::new();
            self.answers.read_until(0, &mut bytes).expect("the browser answers");
            assert!(bytes.pop() == Some(0), "the browser ended");
            let answer: Value = serde_json::from_slice(&bytes).expect("JSON");
            // Everything else is an event that nobody asked for.
            if answer["id"] == id {
                assert!(answer["error"].is_null(), "{method}: {answer}");
                return answer["result"].clone();
            }
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}
