//! `kalamdb version`.

use kalamdb_sql::engine::{LOG_FORMAT, codec, manifest};

use super::error::{CliResult, print};

/// Prints version, commit and the versions of the file formats: what this program writes, and the newest it reads.
///
/// # Errors
/// If nobody reads it.
pub(crate) fn run() -> CliResult {
    print(&format!(
        "kalamdb {}\ncommit {}\nformats: log {LOG_FORMAT}, log record {}, manifest {}\n",
        env!("CARGO_PKG_VERSION"),
        env!("KALAMDB_COMMIT"),
        codec::record::FORMAT,
        manifest::FORMAT,
    ))
}
