//! The engine's errors. The SQL layer maps each to one public code.

use std::path::PathBuf;
use std::sync::Arc;

use crate::ids::{PartitionId, Seq};

/// Result of an engine call.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong in the engine.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A name that cannot be used.
    #[error("{what} {name:?} {reason}")]
    InvalidName {
        /// Which kind of name.
        what: &'static str,
        /// The name, shortened and escaped.
        name: String,
        /// Why not.
        reason: &'static str,
    },
    /// A schema that cannot be built.
    #[error("{0}")]
    InvalidSchema(String),
    /// A row's key is taken.
    #[error("duplicate key in table {table}: {key}")]
    UniqueViolation {
        /// Qualified table name.
        table: String,
        /// The key, as `column = value` pairs.
        key: String,
    },
    /// NULL in a NOT NULL column.
    #[error("column {column:?} of table {table} must not be NULL")]
    NotNullViolation {
        /// Qualified table name.
        table: String,
        /// Column name.
        column: String,
    },
    /// A row of the write set was changed by a later commit, or its table's schema was; the caller may retry.
    #[error("a row was changed by a concurrent transaction")]
    Conflict,
    /// A namespace, table, ... that is there already.
    #[error("{what} {name} already exists")]
    AlreadyExists {
        /// Which kind of thing.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// A namespace that is not there.
    #[error("namespace {0} does not exist")]
    NamespaceNotFound(String),
    /// A table that is not there (any more).
    #[error("table {0} does not exist")]
    TableNotFound(String),
    /// The thing cannot go while others use it.
    #[error("{what} {name} is in use by {users}")]
    InUse {
        /// Which kind of thing.
        what: &'static str,
        /// Its name.
        name: String,
        /// What uses it.
        users: String,
    },
    /// The log failed: no write is possible until a restart, reads go on.
    #[error("the log failed and the database is read-only until it is restarted: {0}")]
    ReadOnly(String),
    /// The disk has no room.
    #[error("no space left on the device ({0})")]
    StorageFull(String),
    /// A commit larger than one log record can be.
    #[error("{0}")]
    TooLarge(String),
    /// More writes than can be taken; try again later.
    #[error("overloaded: {0}")]
    Overloaded(&'static str),
    /// The log no longer holds that position.
    #[error("the log no longer holds position {asked}; its first is {first}")]
    Expired {
        /// What was asked for.
        asked: Seq,
        /// The oldest position held.
        first: Seq,
    },
    /// A partition's files are damaged; other partitions are not affected.
    #[error("partition {partition} is closed: {reason}")]
    PartitionDamaged {
        /// Which one.
        partition: PartitionId,
        /// File and what is wrong with it.
        reason: String,
    },
    /// Damage that stops the database from opening, with file and offset.
    #[error("damaged: {0}")]
    Corrupt(String),
    /// The directory is in use by another process.
    #[error("{0} is in use by another kalamdb process")]
    Locked(PathBuf),
    /// What was asked for was cancelled before its end.
    #[error("the {0} was cancelled")]
    Cancelled(&'static str),
    /// The database is shutting down.
    #[error("the database is shutting down")]
    Closed,
    /// The files were written by a newer version.
    #[error("{0}")]
    NewerFormat(String),
    /// An I/O error, with what was being done.
    #[error("{action}: {source}")]
    Io {
        /// What was being done, with the path.
        action: String,
        /// The system's error.
        source: Arc<std::io::Error>,
    },
    /// An error of Arrow or Parquet on our own data: a bug or damage.
    #[error("{action}: {reason}")]
    Internal {
        /// What was being done.
        action: &'static str,
        /// The library's error.
        reason: String,
    },
}

impl Error {
    /// Wraps an I/O error; a full disk gets its own variant.
    pub fn io(action: impl Into<String>, source: std::io::Error) -> Self {
        let action = action.into();
        match source.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Self::StorageFull(action),
            _ => Self::Io { action, source: Arc::new(source) },
        }
    }

    /// Wraps an error that should not happen on data of our own.
    pub fn internal(action: &'static str, reason: impl std::fmt::Display) -> Self {
        Self::Internal { action, reason: reason.to_string() }
    }
}

impl From<kalamdb_wal::Error> for Error {
    fn from(error: kalamdb_wal::Error) -> Self {
        use kalamdb_wal::Error as Wal;
        match error {
            Wal::StorageFull { .. } => Self::StorageFull(error.to_string()),
            Wal::Expired { first } => Self::Expired { asked: 0, first },
            Wal::Corrupt { .. } | Wal::Replay { .. } => Self::Corrupt(error.to_string()),
            Wal::Closed => Self::Closed,
            Wal::NewerFormat { .. } => Self::NewerFormat(error.to_string()),
            Wal::Locked { path } => Self::Locked(path),
            Wal::TooLarge { .. } => Self::TooLarge(error.to_string()),
            Wal::Io { op, path, source } => Self::Io { action: format!("{op} {}", path.display()), source },
            other => Self::ReadOnly(other.to_string()),
        }
    }
}
