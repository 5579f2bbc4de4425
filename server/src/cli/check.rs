//! `kalamdb check` and `kalamdb repair`: for a data directory that no server uses.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

/// Arguments of `kalamdb check`.
#[derive(Args)]
pub(crate) struct CheckArgs {
    /// The data directory
    dir: PathBuf,
}

/// Arguments of `kalamdb repair`.
#[derive(Args)]
pub(crate) struct RepairArgs {
    /// The data directory
    dir: PathBuf,
}

/// Exit code for damage, and for a directory that cannot be looked at.
const DAMAGE: u8 = 2;

/// Verifies log, manifests, segments and delete vectors, and changes nothing.
pub(crate) fn check(args: &CheckArgs) -> ExitCode {
    unavailable(&args.dir)
}

/// Rebuilds manifests from segments.
pub(crate) fn repair(args: &RepairArgs) -> ExitCode {
    unavailable(&args.dir)
}

fn unavailable(dir: &std::path::Path) -> ExitCode {
    eprintln!("kalamdb: {} was not looked at: this build cannot verify files yet", dir.display());
    ExitCode::from(DAMAGE)
}
