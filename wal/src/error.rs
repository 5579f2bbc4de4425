//! Everything that can go wrong in the log, as one type that can be cloned: a single failure is handed to every
//! waiter, so its cause is shared.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Lsn;

/// What a call on the log, or on the durable file helpers, can fail with.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused a call. Never means the end of the log.
    #[error("cannot {op} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb.
        op: &'static str,
        /// The file or directory it was tried on.
        path: PathBuf,
        /// What the system said.
        source: Arc<io::Error>,
    },
    /// There is no space left. Nothing was taken in: the call may be repeated when there is space again.
    #[error("no space left on the device of {}", path.display())]
    StorageFull {
        /// The file or directory that could not grow.
        path: PathBuf,
    },
    /// The bytes on disk are not what was written. Nothing has been changed.
    #[error("{} is damaged at byte {offset}: {reason}", segment.display())]
    Corrupt {
        /// The damaged file.
        segment: PathBuf,
        /// Where in the file, in bytes from its start.
        offset: u64,
        /// What is wrong there.
        reason: String,
    },
    /// A write or sync failed earlier. The log takes nothing more until it is opened anew; what is durable can be read.
    #[error("the log stopped after a failure: {cause}")]
    Poisoned {
        /// The failure.
        cause: Arc<Error>,
    },
    /// The wanted record is no longer retained.
    #[error("the log begins at record {first}")]
    Expired {
        /// The oldest record that can be read.
        first: Lsn,
    },
    /// The record number lies beyond what the call allows.
    #[error("record {lsn} is beyond {limit}, the newest this may name")]
    OutOfRange {
        /// The number given.
        lsn: Lsn,
        /// The largest number allowed.
        limit: Lsn,
    },
    /// The record is larger than [`MAX_RECORD`](super::MAX_RECORD).
    #[error("a record of {bytes} bytes is larger than the limit of {limit}")]
    TooLarge {
        /// Size of the payload.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The file was written by a newer version of this crate.
    #[error("{} has format version {version}, newer than this program knows", path.display())]
    NewerFormat {
        /// The file.
        path: PathBuf,
        /// The version it carries.
        version: u32,
    },
    /// Another process (or another handle of this one) has the log open.
    #[error("{} is in use", path.display())]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// The log has been closed.
    #[error("the log is closed")]
    Closed,
    /// The replay callback refused a record.
    #[error("cannot replay record {lsn}: {source}")]
    Replay {
        /// The record.
        lsn: Lsn,
        /// What the callback said.
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
}

impl Error {
    /// An [`Error::Io`], or [`Error::StorageFull`] if that is what the system said.
    pub fn io(op: &'static str, path: &Path, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Self::StorageFull { path: path.to_owned() }
            }
            _ => Self::Io { op, path: path.to_owned(), source: Arc::new(source) },
        }
    }

    /// What a replay callback returns when it cannot take a record.
    pub fn replay(lsn: Lsn, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Replay { lsn, source: Arc::new(source) }
    }

    /// True if the call may succeed later without reopening the log.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::StorageFull { .. })
    }

    pub(crate) fn corrupt(path: &Path, offset: u64, reason: impl Into<String>) -> Self {
        Self::Corrupt { segment: path.to_owned(), offset, reason: reason.into() }
    }

    /// The error every later caller gets after this one; a poisoned log does not wrap its cause twice.
    pub(crate) fn poison(self) -> Self {
        match self {
            Self::Poisoned { .. } => self,
            cause => Self::Poisoned { cause: Arc::new(cause) },
        }
    }
}

/// Adds the verb and the path to an `io::Error`.
pub(crate) trait IoContext<T> {
    fn at(self, op: &'static str, path: &Path) -> Result<T, Error>;
}

impl<T> IoContext<T> for io::Result<T> {
    fn at(self, op: &'static str, path: &Path) -> Result<T, Error> {
        self.map_err(|source| Error::io(op, path, source))
    }
}
