//! `kalamdb version`.

use super::error::{CliResult, print};

/// Prints version, commit and the versions of the file formats.
///
/// # Errors
/// If nobody reads it.
pub(crate) fn run() -> CliResult {
    print(&format!("kalamdb {}\ncommit {}\n", env!("CARGO_PKG_VERSION"), env!("KALAMDB_COMMIT")))
}
