//! `kalamdb check` and `kalamdb repair`: for a data directory that no server uses.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use kalamdb_sql::engine::LogVerdict as Verdict;
use kalamdb_sql::engine::offline::{self, CheckReport};
use kalamdb_sql::engine::store::Stores;

use crate::config::{self, ConfigError, Flags};
use crate::stores;

/// Arguments of `kalamdb check` and `kalamdb repair`.
#[derive(Args)]
pub(crate) struct OfflineArgs {
    /// The data directory
    dir: PathBuf,
    /// The server's TOML file, if it has credentials of object stores
    #[arg(long, value_name = "FILE", env = "KALAMDB_CONFIG")]
    config: Option<PathBuf>,
}

impl OfflineArgs {
    /// The stores that the server of that file would use.
    fn stores(&self) -> Result<Arc<dyn Stores>, ConfigError> {
        let Some(file) = &self.config else { return Ok(stores::configured(&BTreeMap::new())) };
        let flags = Flags { file: Some(file.clone()), settings: Vec::new() };
        Ok(stores::configured(&config::load(&flags, std::env::vars_os())?.config.credentials))
    }
}

/// Exit code for damage, and for a directory that cannot be looked at.
const DAMAGE: u8 = 2;

/// Verifies log, manifests, segments and delete vectors, and changes nothing. Exit code 0 if all is as it was written, 1
/// if only the last write to the log was cut short, 2 for damage.
pub(crate) fn check(args: &OfflineArgs) -> ExitCode {
    or_failed(|| {
        let report = offline::check(&args.dir, args.stores()?)?;
        tell(&report);
        Ok(ExitCode::from(report.condition().exit_code()))
    })
}

fn tell(report: &CheckReport) {
    println!(
        "log: {} records, {} bytes in {} segments",
        report.log.records,
        report.log.bytes,
        report.log.segments.len()
    );
    match &report.log.verdict {
        Verdict::Clean => println!("log: clean"),
        Verdict::TornTail { segment, at } => {
            println!(
                "log: torn tail in {} at byte {at}: the last write was cut short; opening drops it",
                segment.display()
            );
        }
        Verdict::Corrupt { segment, offset, reason, following } => {
            let file = segment.display();
            println!("damage: {file} at byte {offset}: {reason}; {following} whole records follow it");
        }
    }
    println!(
        "tables: {} partitions, {} segments, {} bytes",
        report.partitions, report.segments, report.bytes
    );
    report.damage.iter().for_each(|finding| println!("damage: {finding}"));
    report.orphans.iter().for_each(|file| println!("orphan: {} (removed when next used)", file.display()));
}

/// Rebuilds manifests from segments. Exit code 0 if nothing is left to mend, 2 otherwise.
pub(crate) fn repair(args: &OfflineArgs) -> ExitCode {
    or_failed(|| {
        let report = offline::repair(&args.dir, args.stores()?)?;
        report.rebuilt.iter().for_each(|file| println!("rebuilt: {}", file.display()));
        report.notes.iter().for_each(|note| println!("note: {note}"));
        report.left.iter().for_each(|finding| println!("damage: {finding}"));
        if report.rebuilt.is_empty() && report.left.is_empty() {
            println!("nothing to repair");
        }
        Ok(if report.left.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(DAMAGE) })
    })
}

fn or_failed(run: impl FnOnce() -> Result<ExitCode, Box<dyn std::error::Error>>) -> ExitCode {
    run().unwrap_or_else(|error| {
        eprintln!("kalamdb: {error}");
        ExitCode::from(DAMAGE)
    })
}
