//! `kalamdb-benches report`: the side-by-side table.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use kalamdb_benches::http_load::{self, Load};
use kalamdb_benches::live_load::{self, LiveLoad};
use kalamdb_benches::place::Place;
use kalamdb_benches::report::{self, Outcome};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
#[command(about = "Benchmarks of KalamDB beside physical limits and other systems")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs the comparisons and prints their ratios as one Markdown table.
    Report {
        /// Only comparisons whose name contains this.
        #[arg(long, default_value = "")]
        only: String,
        /// Alternating runs of which the median counts.
        #[arg(long, default_value_t = 5)]
        runs: usize,
        /// Where to put files; a directory on the disk that is to be measured.
        #[arg(long, default_value = "target")]
        scratch: PathBuf,
        /// Every sync sleeps for this many microseconds instead: for a disk that others use meanwhile. The scratch
        /// directory is best in memory then.
        #[arg(long)]
        sync_us: Option<u64>,
    },
    /// Inserts single rows into a running server over many connections and prints rows per second and latencies.
    InsertLoad {
        /// `host:port` of the server; the password of `root` is taken from KALAMDB_PASSWORD.
        #[arg(long, default_value = "127.0.0.1:8080")]
        address: String,
        /// Connections, each with one request under way.
        #[arg(long, default_value_t = 64)]
        connections: usize,
        /// How long, in seconds.
        #[arg(long, default_value_t = 10)]
        seconds: u64,
    },
    /// Measures live feeds: starts the servers by itself.
    LiveLoad(LiveLoad),
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Report { only, runs, scratch, sync_us } => {
            let place = match sync_us {
                None => Place::real(scratch),
                Some(us) => Place::paced(scratch, Duration::from_micros(us)),
            };
            report::run(&only, runs, &place)
        }
        Command::InsertLoad { address, connections, seconds } => insert_load(address, connections, seconds),
        Command::LiveLoad(load) => live_load::run(&load),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn insert_load(address: String, connections: usize, seconds: u64) -> Outcome<()> {
    let password = std::env::var("KALAMDB_PASSWORD").map_err(|_| "KALAMDB_PASSWORD is not set")?;
    let credentials = format!("root:{password}");
    let load = Load { address, credentials, connections, duration: Duration::from_secs(seconds) };
    let done = tokio::runtime::Runtime::new()?.block_on(http_load::run(&load))?;
    println!(
        "{connections} connections: {:.0} rows/s, p50 {:.3} ms, p99 {:.3} ms",
        done.per_second, done.p50_ms, done.p99_ms
    );
    Ok(())
}
