//! A server process in a directory of its own.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::client::Client;
use crate::{PATIENCE, binary, eventually};

/// The user that a new server has.
pub const ROOT: &str = "root";
/// The password that the harness gives to [`ROOT`].
pub const PASSWORD: &str = "correct horse battery staple";

/// How a server is started.
#[derive(Debug, Clone, Default)]
pub struct Options {
    settings: Vec<String>,
    environment: Vec<(String, String)>,
    generated_password: bool,
    same_port: bool,
}

impl Options {
    /// A setting as in `--set NAME=VALUE`.
    #[must_use]
    pub fn set(mut self, setting: &str) -> Self {
        self.settings.push(setting.into());
        self
    }

    /// A variable of the server's environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Every start of the server listens where the first one did, so that clients find it again.
    #[must_use]
    pub fn same_port(mut self) -> Self {
        self.same_port = true;
        self
    }

    /// Lets the server choose the password of `root`.
    #[must_use]
    pub fn generated_password(mut self) -> Self {
        self.generated_password = true;
        self
    }
}

/// A server. Dropping it kills the process and removes its directory; if the test has failed, its log is printed.
#[derive(Debug)]
pub struct Server {
    directory: TempDir,
    options: Options,
    process: Option<Process>,
    /// Where the next process listens.
    listen: String,
    /// What earlier processes in this directory wrote.
    history: String,
}

#[derive(Debug)]
struct Process {
    child: Child,
    address: String,
    log: Arc<Mutex<String>>,
}

impl Server {
    /// Starts a server with the harness' defaults in a new directory.
    pub fn start() -> Self {
        Self::start_with(Options::default())
    }

    /// Starts a server in a new directory.
    ///
    /// # Panics
    /// If it is not ready before the deadline.
    pub fn start_with(options: Options) -> Self {
        let directory = tempfile::Builder::new().prefix("kalamdb-test-").tempdir().unwrap();
        let listen = "127.0.0.1:0".to_owned();
        let mut server = Self { directory, options, process: None, listen, history: String::new() };
        server.launch();
        server
    }

    /// Starts the stopped server again, in the same directory, perhaps on another port.
    ///
    /// # Panics
    /// If it runs, or is not ready before the deadline.
    pub fn launch(&mut self) {
        assert!(self.process.is_none(), "the server runs");
        let mut command = self.command();
        let mut child = command.spawn().expect("the kalamdb binary starts");
        let log = Arc::new(Mutex::new(String::new()));
        follow(child.stderr.take().expect("it is piped"), log.clone());
        self.process = Some(Process { child, address: String::new(), log: log.clone() });
        let address = eventually("the server says where it listens", || {
            if let Some(status) = self.child().try_wait().unwrap() {
                panic!("the server ended with {status}: {}", self.log());
            }
            log.lock().unwrap().lines().find_map(address_in)
        });
        if self.options.same_port {
            self.listen.clone_from(&address);
        }
        self.process.as_mut().expect("it was just started").address = address;
        let client = self.root();
        eventually("the server is ready", || (client.get("/ready").status == 200).then_some(()));
    }

    fn command(&self) -> Command {
        let mut command = Command::new(binary::kalamdb());
        command.arg("serve").arg("--data").arg(self.data()).args(["--listen", &self.listen]);
        for setting in &self.options.settings {
            command.args(["--set", setting]);
        }
        without_settings(&mut command);
        command.envs(self.options.environment.iter().map(|(name, value)| (name, value)));
        if !self.options.generated_password {
            command.env("KALAMDB_ROOT_PASSWORD", PASSWORD);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        command
    }

    /// The server's data directory.
    pub fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// A directory for files of the test, removed with the server.
    pub fn scratch(&self) -> &Path {
        self.directory.path()
    }

    /// `http://host:port` of the running process.
    pub fn url(&self) -> String {
        let process = self.process.as_ref().expect("the server runs");
        format!("http://{}", process.address)
    }

    /// A client that is [`ROOT`].
    pub fn root(&self) -> Client {
        self.user(ROOT, PASSWORD)
    }

    /// A client that logs in with these credentials.
    pub fn user(&self, name: &str, password: &str) -> Client {
        Client::new(&self.url(), name, password)
    }

    /// The running process, as the system numbers it.
    ///
    /// # Panics
    /// If there is none.
    pub fn process_id(&self) -> u32 {
        self.process.as_ref().expect("the server runs").child.id()
    }

    /// Memory of the running process, where the system tells.
    pub fn resident_bytes(&self) -> Option<u64> {
        let id = self.process.as_ref()?.child.id();
        let pages = std::fs::read_to_string(format!("/proc/{id}/statm")).ok()?;
        let pages: u64 = pages.split_whitespace().nth(1)?.parse().ok()?;
        Some(pages * 4096)
    }

    /// What the server wrote so far, this process and those before it.
    pub fn log(&self) -> String {
        let current = self.process.as_ref().map(|process| process.log.lock().unwrap().clone());
        format!("{}{}", self.history, current.unwrap_or_default())
    }

    /// Kills the process as nothing can prevent, and waits until it is gone.
    pub fn kill9(&mut self) {
        self.child().kill().unwrap();
        self.child().wait().unwrap();
        self.forget();
    }

    /// Sends SIGTERM and waits for the end.
    ///
    /// # Panics
    /// If the process does not end before the deadline.
    pub fn terminate(&mut self) -> ExitStatus {
        self.signal("TERM");
        self.wait()
    }

    /// Sends a signal and returns at once.
    pub fn signal(&mut self, name: &str) {
        let pid = self.child().id().to_string();
        let sent = Command::new("sh").args(["-c", "kill -s \"$0\" \"$1\"", name, &pid]).status().unwrap();
        assert!(sent.success(), "signal {name} cannot be sent to {pid}");
    }

    /// Waits for the process to end by itself.
    ///
    /// # Panics
    /// If it does not end before the deadline.
    pub fn wait(&mut self) -> ExitStatus {
        let status = eventually("the server ends", || self.child().try_wait().unwrap());
        self.forget();
        status
    }

    /// SIGTERM, which must end in success, and a new start.
    pub fn restart(&mut self) {
        let status = self.terminate();
        assert!(status.success(), "the server ended with {status}: {}", self.log());
        self.launch();
    }

    /// `kill -9` and a new start.
    pub fn crash(&mut self) {
        self.kill9();
        self.launch();
    }

    /// The output of a second server on the same directory, which is expected to refuse.
    ///
    /// # Panics
    /// If it runs on.
    pub fn start_rival(&self) -> (ExitStatus, String) {
        let mut rival = self.command().spawn().unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let reader = follow(rival.stderr.take().expect("it is piped"), log.clone());
        let deadline = Instant::now() + PATIENCE;
        while rival.try_wait().unwrap().is_none() {
            if Instant::now() > deadline {
                rival.kill().unwrap();
                panic!("the rival runs on: {}", log.lock().unwrap());
            }
            std::thread::sleep(Duration::from_millis(3));
        }
        reader.join().unwrap();
        let written = log.lock().unwrap().clone();
        (rival.wait().unwrap(), written)
    }

    fn child(&mut self) -> &mut Child {
        &mut self.process.as_mut().expect("the server runs").child
    }

    fn forget(&mut self) {
        self.history = self.log();
        self.process = None;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of the server in {}\n{}---", self.data().display(), self.log());
        }
        if let Some(process) = &mut self.process {
            // It may be gone already.
            drop(process.child.kill());
            drop(process.child.wait());
        }
    }
}

/// Removes what the environment of the test would tell the program.
pub(crate) fn without_settings(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("KALAMDB_") {
            command.env_remove(name);
        }
    }
}

fn follow(
    output: impl std::io::Read + Send + 'static,
    log: Arc<Mutex<String>>,
) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            let mut log = log.lock().unwrap();
            log.push_str(&line);
            log.push('\n');
        }
    })
}

fn address_in(line: &str) -> Option<String> {
    let (_, rest) = line.split_once("listens on http://")?;
    Some(rest.chars().take_while(|c| c.is_ascii_digit() || matches!(c, '.' | ':')).collect())
}
