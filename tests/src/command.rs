//! The commands other than `serve`.

use std::io::{Read, Write};
use std::process::{Child, ChildStdin, Stdio};

use crate::server::{PASSWORD, Server, without_settings};
use crate::{binary, eventually};

/// A command that runs, with its standard input open.
#[derive(Debug)]
pub struct Command {
    child: Child,
    stdout: std::thread::JoinHandle<String>,
    stderr: std::thread::JoinHandle<String>,
}

/// How a command ended.
#[derive(Debug, PartialEq, Eq)]
pub struct Finished {
    /// Its exit code.
    pub code: i32,
    /// What it wrote.
    pub stdout: String,
    /// What it complained about.
    pub stderr: String,
}

impl Command {
    /// Starts `kalamdb` with these arguments and this environment.
    pub fn start(args: &[&str], environment: &[(&str, &str)]) -> Self {
        let mut command = std::process::Command::new(binary::kalamdb());
        without_settings(&mut command);
        command.args(args).envs(environment.iter().copied());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the kalamdb binary starts");
        let stdout = gather(child.stdout.take().expect("it is piped"));
        let stderr = gather(child.stderr.take().expect("it is piped"));
        Self { child, stdout, stderr }
    }

    /// Starts a client command as `root` of a server.
    pub fn at(server: &Server, args: &[&str]) -> Self {
        Self::start(args, &[("KALAMDB_URL", &server.url()), ("KALAMDB_PASSWORD", PASSWORD)])
    }

    /// Runs a command that reads no input to its end.
    pub fn run(args: &[&str], environment: &[(&str, &str)]) -> Finished {
        Self::start(args, environment).finish()
    }

    /// The command's standard input; dropping it ends the input.
    pub fn input(&mut self) -> ChildStdin {
        self.child.stdin.take().expect("the input was not taken before")
    }

    /// Gives the command this input, and waits for its end.
    pub fn feed(mut self, input: &[u8]) -> Finished {
        let mut stdin = self.input();
        // A command may end before it has read everything.
        drop(stdin.write_all(input));
        drop(stdin);
        self.finish()
    }

    /// Ends the input and waits for the command's end.
    ///
    /// # Panics
    /// If it does not end before the deadline.
    pub fn finish(mut self) -> Finished {
        drop(self.child.stdin.take());
        let status = eventually("the command ends", || self.child.try_wait().unwrap());
        let text = |reader: std::thread::JoinHandle<String>| reader.join().unwrap();
        Finished { code: status.code().unwrap_or(-1), stdout: text(self.stdout), stderr: text(self.stderr) }
    }
}

impl Finished {
    /// The output of a command that must have succeeded.
    pub fn success(self) -> String {
        assert_eq!(self.code, 0, "{}\n{}", self.stdout, self.stderr);
        self.stdout
    }
}

fn gather(mut output: impl Read + Send + 'static) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // What was read before a failure is worth showing.
        drop(output.read_to_end(&mut bytes));
        String::from_utf8_lossy(&bytes).into_owned()
    })
}
