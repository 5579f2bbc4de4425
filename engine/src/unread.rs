//! Why a file of ours could not be used: because of what it holds, which stays so, or because of the moment.
//!
//! A file that is missing, cut or changed is damage: its partition is closed until a restart, so that nobody takes a part of
//! its rows for all of them. A disk that gave an error, or a store that did not answer, says nothing about the file: that
//! read fails, and the next one tries again.

use std::fmt;
use std::io;
use std::sync::Arc;

use crate::error::Error;
use crate::ids::PartitionId;

/// See the module.
#[derive(Debug, Clone)]
pub enum Unread {
    /// The file is not what was written, in words that begin with its name.
    Damaged(String),
    /// It could not be read now.
    NotNow(Error),
}

impl Unread {
    /// Judges an I/O error of reading `file`.
    pub(crate) fn io(file: impl fmt::Display, error: impl Into<Arc<io::Error>>) -> Self {
        let error = error.into();
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof => {
                Self::Damaged(format!("{file}: {error}"))
            }
            _ => Self::NotNow(Error::Io { action: format!("read {file}"), source: error }),
        }
    }

    /// The same for an error of the durable file moves.
    pub(crate) fn durable(file: impl fmt::Display, error: kalamdb_wal::Error) -> Self {
        match error {
            kalamdb_wal::Error::Io { source, .. } => Self::io(file, source),
            other => Self::NotNow(other.into()),
        }
    }

    /// As the error of whoever wanted the partition.
    pub(crate) fn of(self, partition: &PartitionId) -> Error {
        match self {
            Self::Damaged(reason) => Error::PartitionDamaged { partition: partition.clone(), reason },
            Self::NotNow(error) => error,
        }
    }
}

impl From<String> for Unread {
    fn from(reason: String) -> Self {
        Self::Damaged(reason)
    }
}

impl From<&str> for Unread {
    fn from(reason: &str) -> Self {
        Self::Damaged(reason.to_owned())
    }
}

impl From<Unread> for Error {
    fn from(unread: Unread) -> Self {
        match unread {
            Unread::Damaged(reason) => Self::Corrupt(reason),
            Unread::NotNow(error) => error,
        }
    }
}

/// The verdict on a file that was read once: what was made of it, or how it is damaged. An error of the moment is no
/// verdict.
#[derive(Debug)]
pub(crate) struct Once<T> {
    verdict: std::sync::OnceLock<Result<T, String>>,
    /// Held while it is being read, so that it is read by one.
    reading: parking_lot::Mutex<()>,
}

impl<T> Default for Once<T> {
    fn default() -> Self {
        Self { verdict: std::sync::OnceLock::new(), reading: parking_lot::Mutex::new(()) }
    }
}

impl<T> Once<T> {
    /// What was made of the file, if it was read.
    pub(crate) fn get(&self) -> Option<&T> {
        self.verdict.get()?.as_ref().ok()
    }

    /// What `read` makes of it, once it succeeds or finds damage.
    ///
    /// # Errors
    /// The damage, also on every later call; an error of the moment, after which the next call reads again.
    pub(crate) fn get_or_read(&self, read: impl FnOnce() -> Result<T, Unread>) -> Result<&T, Unread> {
        if self.verdict.get().is_none() {
            let _one = self.reading.lock();
            if self.verdict.get().is_none() {
                let verdict = match read() {
                    Ok(value) => Ok(value),
                    Err(Unread::Damaged(reason)) => Err(reason),
                    Err(now @ Unread::NotNow(_)) => return Err(now),
                };
                // Nobody else sets it: we hold the lock.
                let _ = self.verdict.set(verdict);
            }
        }
        match self.verdict.get() {
            Some(Ok(value)) => Ok(value),
            Some(Err(reason)) => Err(Unread::Damaged(reason.clone())),
            None => Err(Unread::NotNow(Error::internal("read a file", "no verdict"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_is_final_and_an_error_of_the_moment_is_not() {
        let once = Once::<u32>::default();
        let busy = || Err(Unread::io("a", io::Error::from(io::ErrorKind::TimedOut)));
        assert!(matches!(once.get_or_read(busy), Err(Unread::NotNow(Error::Io { .. }))));
        assert_eq!(once.get_or_read(|| Ok(3)).unwrap(), &3);
        assert_eq!(once.get_or_read(|| panic!("it is read once")).unwrap(), &3);
        let lost = Once::<u32>::default();
        let missing = || Err(Unread::io("a", io::Error::from(io::ErrorKind::NotFound)));
        assert!(matches!(lost.get_or_read(missing), Err(Unread::Damaged(_))));
        assert!(matches!(lost.get_or_read(|| Ok(3)), Err(Unread::Damaged(_))));
    }
}
