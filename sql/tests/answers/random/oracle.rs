//! SQLite in a Python process, as a second opinion.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

const SCRIPT: &str = include_str!("oracle.py");

/// The first version with FULL JOIN.
const OLDEST: [u64; 2] = [3, 39];

/// What the oracle says of a statement.
#[derive(Debug)]
pub(crate) enum Answer {
    Rows(Vec<Vec<Value>>),
    Changed(i64),
    Error(String),
}

pub(crate) struct Oracle {
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Oracle {
    /// `None` if there is no Python, or none with an SQLite that is new enough.
    pub(crate) fn start() -> Option<Self> {
        let mut process = Command::new("python3")
            .args(["-c", SCRIPT])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let (input, output) = (process.stdin.take()?, BufReader::new(process.stdout.take()?));
        let mut oracle = Self { process, input, output };
        let (_, version) = oracle.read()?;
        let version: [u64; 2] = serde_json::from_value(version).ok()?;
        (version >= OLDEST).then_some(oracle)
    }

    pub(crate) fn ask(&mut self, sql: &str) -> Answer {
        writeln!(self.input, "{}", json!(sql)).unwrap();
        let (kind, value) = self.read().expect("the oracle answers");
        match kind.as_str() {
            "rows" => Answer::Rows(serde_json::from_value(value).unwrap()),
            "changed" => Answer::Changed(value.as_i64().unwrap()),
            _ => Answer::Error(value.to_string()),
        }
    }

    fn read(&mut self) -> Option<(String, Value)> {
        let mut line = String::new();
        self.output.read_line(&mut line).ok()?;
        serde_json::from_str(&line).ok()
    }
}

impl Drop for Oracle {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
