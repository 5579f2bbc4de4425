//! A harness for tests of the real binary over real HTTP, and nothing else: no crate of the database is called here.
//!
//! [`Server`] runs `kalamdb serve` in a directory of its own on a free port, and can kill, stop and restart it. [`Client`]
//! is somebody who sends SQL; [`Live`] follows a feed; [`Command`] runs the other commands. Everything waits with a deadline and
//! panics with what it saw, because that is what a test should do.

#![allow(clippy::unwrap_used, reason = "a harness panics: its caller is a test")]

mod binary;
mod browser;
mod chunked;
mod client;
mod command;
pub mod docs;
pub mod flights;
mod live;
pub mod outside;
mod server;
mod sse;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

pub use binary::kalamdb;
pub use browser::{Browser, Window};
pub use client::{Client, Refusal, Reply, encode};
pub use command::{Command, Finished};
pub use live::{Live, LiveRequest};
pub use server::{Options, PASSWORD, ROOT, Server};
pub use sse::Event;

/// Long enough for a loaded machine. A test that passes never waits for it.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Asks again and again until there is an answer.
///
/// # Panics
/// After [`PATIENCE`], saying what was waited for.
pub fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(3));
    }
}

/// Raises a flag when it is dropped, so that threads which work until then end also when the test fails.
#[derive(Debug)]
pub struct RaiseOnDrop<'a>(pub &'a AtomicBool);

impl Drop for RaiseOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
