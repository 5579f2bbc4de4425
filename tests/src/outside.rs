//! Programs that are not ours, as clients.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

use serde_json::Value;

use crate::PATIENCE;

/// A running program whose standard output is read line by line. Dropping it kills it.
#[derive(Debug)]
pub struct Outside {
    child: Child,
    lines: Receiver<String>,
}

/// True if a program can be run with these arguments. If not, says that the test is skipped.
pub fn is_there(program: &str, args: &[&str]) -> bool {
    let ran = Command::new(program).args(args).stdin(Stdio::null()).output();
    let there = ran.is_ok_and(|output| output.status.success());
    if !there {
        eprintln!("skipped: `{program} {}` does not work on this machine", args.join(" "));
    }
    there
}

impl Outside {
    /// Starts a program.
    ///
    /// # Panics
    /// If it does not start.
    pub fn start(mut command: Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self { child, lines }
    }

    /// The next line.
    ///
    /// # Panics
    /// If there is none before the deadline.
    pub fn line(&self) -> String {
        self.lines.recv_timeout(PATIENCE).expect("the program writes another line")
    }

    /// The next line that begins with this; gives back the rest of it as JSON.
    ///
    /// # Panics
    /// If there is none before the deadline, or it is no JSON.
    pub fn after(&self, begin: &str) -> Value {
        loop {
            if let Some(rest) = self.line().strip_prefix(begin) {
                return serde_json::from_str(rest).unwrap_or_else(|error| panic!("{error}: {rest:?}"));
            }
        }
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
