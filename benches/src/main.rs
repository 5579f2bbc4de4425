//! `kalamdb-benches report`: the side-by-side table.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

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
    },
}

fn main() -> ExitCode {
    let Command::Report { only, runs, scratch } = Arguments::parse().command;
    match kalamdb_benches::report::run(&only, runs, &scratch) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
