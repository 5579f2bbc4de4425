//! `kalamdb-benches live-load`: how fast commits reach subscribers, and what subscribers cost.
//!
//! | file | |
//! |---|---|
//! | `side`, `kalamdb`, `postgres`, `pocketbase` | the servers, each started for the run, all asked the same |
//! | `process` | a server's process, its memory and processor time |
//! | `feed` | subscribers |
//! | `delivery` | latency and fan-out on one table, beside the others |
//! | `ours` | what only KalamDB is asked: idle feeds, one partition per user, stalled clients, streams |
//!
//! A row has about 100 bytes. A latency is the time from before the request that writes the row is sent until a
//! subscriber has read the event: it contains the commit, with its sync to disk where the server does one. The
//! subscribers and the writers share the machine with the server.

mod delivery;
mod feed;
mod kalamdb;
mod ours;
mod pocketbase;
mod postgres;
mod process;
mod side;

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use tempfile::TempDir;

use crate::report::Outcome;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// Paced commits on one table, each delivered to all subscribers.
    Latency,
    /// As many commits as the server takes, each delivered to all subscribers.
    Fanout,
    /// One feed per user, each on a partition of its own.
    Users,
    /// Feeds to which nothing happens.
    Idle,
    /// Clients that do not read, beside writers.
    Stalled,
    /// A STREAM table.
    Stream,
}

/// See the module.
#[derive(Debug, Clone, Args)]
pub struct LiveLoad {
    /// What is measured.
    #[arg(value_enum)]
    pub kind: Kind,
    /// Subscribers.
    #[arg(long, default_value_t = 1_000)]
    pub subscribers: usize,
    /// Connections that write.
    #[arg(long, default_value_t = 4)]
    pub writers: usize,
    /// How long one run writes or waits.
    #[arg(long, default_value_t = 10)]
    pub seconds: u64,
    /// Alternating runs; medians are printed.
    #[arg(long, default_value_t = 3)]
    pub runs: usize,
    /// The `kalamdb` binary.
    #[arg(long, default_value = "target/release/kalamdb")]
    pub kalamdb: PathBuf,
    /// Directory of PostgreSQL's `initdb` and `postgres`: compares with LISTEN and NOTIFY.
    #[arg(long)]
    pub postgres: Option<PathBuf>,
    /// The `pocketbase` binary: compares with its realtime subscriptions.
    #[arg(long)]
    pub pocketbase: Option<PathBuf>,
    /// Where servers put their files.
    #[arg(long, default_value = "target")]
    pub scratch: PathBuf,
}

impl LiveLoad {
    fn directory(&self) -> std::io::Result<TempDir> {
        tempfile::tempdir_in(absolute(&self.scratch)?)
    }
}

fn absolute(path: &Path) -> std::io::Result<PathBuf> {
    std::path::absolute(path)
}

/// Runs it and prints what it found.
///
/// # Errors
/// Whatever keeps it from measuring.
pub fn run(load: &LiveLoad) -> Outcome<()> {
    // One thread for all who write: the server needs the others.
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        match load.kind {
            Kind::Latency => delivery::latency(load).await,
            Kind::Fanout => delivery::fanout(load).await,
            Kind::Users => ours::users(load).await,
            Kind::Idle => ours::idle(load).await,
            Kind::Stalled => ours::stalled(load).await,
            Kind::Stream => ours::stream(load).await,
        }
    })
}
