//! The servers that are measured: each a process of its own on a free port, with its files in a directory that goes
//! with it.

use std::io::{self, BufRead, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// How long a server may take to start.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running server. Dropping it ends the process.
#[derive(Debug)]
pub struct Process {
    child: Child,
    /// `host:port`.
    pub address: String,
    _directory: TempDir,
}

/// What a process uses.
#[derive(Debug, Clone, Copy)]
pub struct Usage {
    /// Bytes of memory that are its own or mapped, and resident.
    pub resident: u64,
    /// Seconds of processor time since its start.
    pub cpu: f64,
}

impl Process {
    /// Starts a server that says on stderr where it listens, after `listens on http://`.
    ///
    /// # Errors
    /// If it does not start.
    pub fn announced(mut command: Command, directory: TempDir) -> io::Result<Self> {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
        let stderr = child.stderr.take().ok_or(io::ErrorKind::BrokenPipe)?;
        let mut lines = BufReader::new(stderr).lines();
        let mut written = String::new();
        let address = loop {
            let line = lines.next().transpose()?.ok_or_else(|| io::Error::other(written.clone()))?;
            if let Some((_, rest)) = line.split_once("listens on http://") {
                break rest.chars().take_while(|c| c.is_ascii_digit() || matches!(c, '.' | ':')).collect();
            }
            written.push_str(&line);
            written.push('\n');
        };
        // A full pipe would stop it.
        std::thread::spawn(move || lines.for_each(drop));
        Ok(Self { child, address, _directory: directory })
    }

    /// Starts a server that listens on `address`, and waits until it does.
    ///
    /// # Errors
    /// If it does not start.
    pub fn listening(mut command: Command, address: String, directory: TempDir) -> io::Result<Self> {
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let mut process = Self { child, address, _directory: directory };
        let begun = Instant::now();
        while std::net::TcpStream::connect(&process.address).is_err() {
            if let Some(status) = process.child.try_wait()? {
                return Err(io::Error::other(format!("{command:?} ended with {status}")));
            }
            if begun.elapsed() > PATIENCE {
                return Err(io::ErrorKind::TimedOut.into());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(process)
    }

    /// What it uses now.
    ///
    /// # Errors
    /// Elsewhere than on Linux.
    pub fn usage(&self) -> io::Result<Usage> {
        let directory = Path::new("/proc").join(self.child.id().to_string());
        let numbers = |text: String| -> Vec<u64> {
            text.split_whitespace().map(|word| word.parse().unwrap_or_default()).collect()
        };
        let memory = numbers(std::fs::read_to_string(directory.join("statm"))?);
        let stat = std::fs::read_to_string(directory.join("stat"))?;
        let after_name = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
        let stat = numbers(after_name.into());
        let at = |list: &[u64], index: usize| list.get(index).copied().unwrap_or_default();
        // A page has 4 KiB and a tick 10 ms wherever this runs.
        Ok(Usage { resident: at(&memory, 1) * 4096, cpu: (at(&stat, 11) + at(&stat, 12)) as f64 / 100.0 })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // PostgreSQL ends its own processes on this signal; the others end as well.
        let asked = Command::new("kill").args(["-INT", &self.child.id().to_string()]).status();
        let begun = Instant::now();
        while asked.is_ok() && begun.elapsed() < Duration::from_secs(15) {
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A port that nobody listens on just now.
///
/// # Errors
/// From the network.
pub fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
