//! Names and numbers that identify things, validated once at the edge.
//!
//! A [`UserId`], [`NamespaceId`] or [`TableName`] can hold anything printable a person might choose, so none of them is
//! ever used as a path component directly: [`path_component`] encodes it first.

use std::fmt;
use std::sync::Arc;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The sequence number of a commit: the number of its record in the log.
pub type Seq = u64;

/// The longest name accepted, in bytes. Percent-encoded three to one it still fits a file name.
pub const MAX_NAME_BYTES: usize = 80;

const KEPT_IN_PATHS: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'@').remove(b'+').remove(b'=');

/// A name as one path component: letters, digits and a few harmless signs stay, every other byte is percent-encoded,
/// so that no name can climb out of its directory or collide with files of ours (which contain a dot, or begin with an
/// underscore).
pub fn path_component(name: &str) -> String {
    match name.strip_prefix('_') {
        Some(rest) => format!("%5F{}", utf8_percent_encode(rest, KEPT_IN_PATHS)),
        None => utf8_percent_encode(name, KEPT_IN_PATHS).to_string(),
    }
}

/// The name a path component stands for; `None` if [`path_component`] did not make it.
pub fn from_path_component(part: &str) -> Option<String> {
    let name = percent_decode_str(part).decode_utf8().ok()?;
    (path_component(&name) == part).then(|| name.into_owned())
}

fn validate(what: &'static str, name: &str) -> Result<()> {
    let reason = if name.is_empty() {
        "is empty"
    } else if name.len() > MAX_NAME_BYTES {
        "is longer than 80 bytes"
    } else if name.chars().any(char::is_control) {
        "contains a control character"
    } else if name.trim() != name {
        "begins or ends with a space"
    } else {
        return Ok(());
    };
    let shown: String = name.chars().take(40).flat_map(char::escape_default).collect();
    Err(Error::InvalidName { what, name: shown, reason })
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks and wraps a name.
            ///
            /// # Errors
            /// [`Error::InvalidName`] if it is empty, longer than [`MAX_NAME_BYTES`], has control characters or outer spaces.
            pub fn new(name: &str) -> Result<Self> {
                validate($what, name)?;
                Ok(Self(name.into()))
            }

            /// The name as written.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name_type!(
    /// The identity of a person or program, and the owner of partitions.
    UserId,
    "user id"
);
name_type!(
    /// A namespace: a set of tables that belong together.
    NamespaceId,
    "namespace name"
);
name_type!(
    /// A table's or view's name within its namespace.
    TableName,
    "table name"
);

/// The lasting identity of a table; names can change, ids are never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TableId(pub u64);

impl fmt::Display for TableId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The lasting identity of a column within its table; never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ColumnId(pub u32);

/// One partition: a whole SHARED or SYSTEM table, or one user's part of a USER table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartitionId {
    /// The table.
    pub table: TableId,
    /// The owner, for USER tables.
    pub user: Option<UserId>,
}

impl fmt::Display for PartitionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.user {
            Some(user) => write!(f, "{}/{}", self.table, user),
            None => self.table.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_becomes_a_path_that_climbs_or_collides() {
        for name in ["..", ".", "a/b", "a\\b", "manifest.json", "%2e%2e", "C:", "ünï", "_packs"] {
            let part = path_component(name);
            assert_eq!(from_path_component(&part).as_deref(), Some(name));
            assert!(!part.starts_with('_'));
            assert!(!part.contains(['/', '\\', '.', ':']), "{name} became {part}");
        }
        assert_ne!(path_component("%2e"), path_component("."));
        assert_eq!(path_component("user-1_a"), "user-1_a");
    }

    #[test]
    fn a_bad_name_is_refused_and_the_error_does_not_repeat_control_characters() {
        for bad in ["", " a", "a\0b", "a\nb", &"x".repeat(MAX_NAME_BYTES + 1)] {
            let error = UserId::new(bad).unwrap_err().to_string();
            assert!(!error.contains('\0') && !error.contains('\n'), "{error}");
        }
    }
}
