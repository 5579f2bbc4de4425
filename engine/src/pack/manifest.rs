//! `_packs/manifest.json`: which pack files of a USER table count.
//!
//! It is replaced atomically, and only after every file it names is durable; an empty one comes before the first pack, so
//! that packs without a manifest have lost it. A file it does not name is an orphan.

use std::path::Path;

use kalamdb_wal::{Disk, durable};
use serde::{Deserialize, Serialize};

use super::DIR;
use crate::error::{Error, Result};
use crate::ids::{Seq, TableId, UserId};
use crate::manifest::FILE_NAME;
use crate::sealed;

/// The format version this code writes, and the newest it reads.
pub(crate) const FORMAT: u32 = 1;

/// The packs of a table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PackManifest {
    /// 1.
    pub format_version: u32,
    /// The table.
    pub table_id: TableId,
    /// Counts the replacements of this file.
    pub version: u64,
    /// When this was written, microseconds since the epoch.
    pub updated_at: i64,
    /// The id the next pack gets, at least.
    pub next_pack_id: u64,
    /// The packs, oldest first.
    pub packs: Vec<PackMeta>,
}

/// One pack file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PackMeta {
    /// Unique within the table.
    pub id: u64,
    /// File name, relative to the manifest's directory.
    pub path: String,
    /// Rows, tombstones included.
    pub rows: u64,
    /// Users with a slice.
    pub users: u64,
    /// File size in bytes.
    pub bytes: u64,
    /// CRC-32 of the whole file.
    pub crc32: u32,
    /// The schema version of its rows.
    pub schema_version: u32,
    /// When it was written, microseconds since the epoch.
    pub created_at: i64,
    /// The first user, by the order of bytes.
    pub min_user: UserId,
    /// The last user.
    pub max_user: UserId,
    /// The oldest commit that a slice is the state at.
    pub min_state: Seq,
    /// The newest such commit.
    pub max_state: Seq,
    /// When the oldest row that was deleted was, microseconds since the epoch; absent if there is none, and in files of
    /// before this was noted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest_tombstone: Option<i64>,
}

impl PackMeta {
    /// False if the pack cannot hold a slice of this user.
    pub fn may_hold(&self, user: &UserId) -> bool {
        (&self.min_user..=&self.max_user).contains(&user)
    }
}

impl PackManifest {
    /// That of a table without packs.
    pub fn empty(table_id: TableId, now: i64) -> Self {
        Self {
            format_version: FORMAT,
            table_id,
            version: 0,
            updated_at: now,
            next_pack_id: 1,
            packs: Vec::new(),
        }
    }

    /// Reads a file's bytes.
    ///
    /// # Errors
    /// What is wrong with them, in words.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        sealed::decode(bytes, FORMAT)
    }

    /// Reads the manifest in a directory of packs; `None` if it has none.
    ///
    /// # Errors
    /// An I/O error; [`Error::Corrupt`] if it is not what was written.
    pub fn load(disk: &dyn Disk, dir: &Path) -> Result<Option<Self>> {
        let path = dir.join(FILE_NAME);
        if !disk.exists(&path).map_err(|e| Error::io(format!("look for {}", path.display()), e))? {
            return Ok(None);
        }
        let bytes = durable::read_file(disk, &path)?;
        Self::decode(&bytes).map(Some).map_err(|reason| damaged(&reason))
    }

    /// Replaces the manifest in a directory of packs atomically; it is durable when this returns.
    ///
    /// # Errors
    /// An I/O error; whether the new one is in place is not known then.
    pub fn store(&self, disk: &dyn Disk, dir: &Path) -> Result<()> {
        Ok(durable::replace_file(disk, &dir.join(FILE_NAME), &sealed::encode(self)?)?)
    }
}

/// The error of a manifest that is not what was written.
pub(super) fn damaged(reason: &str) -> Error {
    Error::Corrupt(format!("{DIR}/{FILE_NAME}: {reason}"))
}
