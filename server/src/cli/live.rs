//! `\live`: a live query on the terminal.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use super::client::{self, Client};
use super::error::{CliError, CliResult, print};
use super::feed;

/// How often a feed that is silent looks for Ctrl-C.
const LOOK: Duration = Duration::from_millis(100);

/// The query that a `\live` asks to follow.
pub(crate) fn asked(entered: &str) -> Option<&str> {
    let query = entered.trim().strip_prefix("\\live")?;
    let apart = query.is_empty() || query.starts_with(char::is_whitespace);
    apart.then(|| query.trim().trim_end_matches(';').trim())
}

/// Shows the events of a live query until Ctrl-C or its end.
///
/// # Errors
/// Why it cannot be live; if the feed ends without saying why.
pub(crate) fn follow(client: &Client, sql: &str, namespace: Option<&str>) -> CliResult {
    if sql.is_empty() {
        return Err(CliError::message("write the query after it: \\live SELECT ..."));
    }
    let body = client::reader(client.live(sql, namespace)?);
    let (events, shown) = mpsc::channel();
    // The thread ends with the feed, or at the next event after nobody listens any more.
    thread::spawn(move || feed::read(body, |event| events.send(event).is_ok()));
    let interrupts = Interrupts::begin()?;
    let mut over = false;
    loop {
        match shown.recv_timeout(LOOK) {
            Ok(event) => {
                over |= feed::is_last(&event);
                let lines = feed::show(&event);
                print(&lines.iter().map(|line| format!("{line}\n")).collect::<String>())?;
            }
            Err(mpsc::RecvTimeoutError::Disconnected) if over => return Ok(()),
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                return Err(CliError::message("the connection to the server is lost"));
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {}
        }
        if interrupts.came() {
            println!();
            return Ok(());
        }
    }
}

/// Ctrl-C as something to ask about, instead of the end of the process.
struct Interrupts {
    runtime: tokio::runtime::Runtime,
    signal: std::cell::RefCell<tokio::signal::unix::Signal>,
}

impl Interrupts {
    fn begin() -> CliResult<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let entered = runtime.enter();
        let signal = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())?;
        drop(entered);
        Ok(Self { runtime, signal: signal.into() })
    }

    fn came(&self) -> bool {
        let mut signal = self.signal.borrow_mut();
        let waiting = async { tokio::time::timeout(Duration::from_millis(1), signal.recv()).await.is_ok() };
        self.runtime.block_on(waiting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_live_query_is_what_follows_the_command() {
        assert_eq!(asked(" \\live SELECT *\nFROM t ;\n"), Some("SELECT *\nFROM t"));
        assert_eq!(asked("\\live"), Some(""));
        assert_eq!(asked("\\lively"), None);
        assert_eq!(asked("SELECT 1"), None);
    }
}
