//! `manifest.json`: the authority on what a partition has in Parquet.
//!
//! The file is JSON that anybody may read. Its last member, `crc32`, is the checksum of every byte before that member,
//! so a damaged file is told from a valid one. It is replaced atomically (write aside, sync, rename, sync directory),
//! and only after every file it names is durable. It states the partition exactly as it was at commit `flushed_seq`:
//! whatever came later is in the log.
//!
//! A partition gets an empty manifest before its first segment. A directory with segments and no manifest has therefore
//! lost it, and is refused.

use std::path::Path;

use kalamdb_wal::{Disk, durable};
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::ids::{Seq, TableId, UserId};
use crate::sealed;
use crate::stats::ColumnStats;
use crate::unread::Unread;

/// The file's name in a partition's directory.
pub const FILE_NAME: &str = "manifest.json";
/// The format version this code writes, and the newest it reads.
pub const FORMAT: u32 = 1;

/// What a partition has in Parquet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// See [`FORMAT`].
    pub format_version: u32,
    /// The table.
    pub table_id: TableId,
    /// The owner, for USER tables.
    pub user_id: Option<UserId>,
    /// Counts the replacements of this file.
    pub version: u64,
    /// The table's schema version when this was written.
    pub schema_version: u32,
    /// When the partition got its first manifest, microseconds since the epoch.
    pub created_at: i64,
    /// When this was written, microseconds since the epoch.
    pub updated_at: i64,
    /// Every commit up to this one is in the segments and delete vectors, none after it.
    pub flushed_seq: Seq,
    /// The id the next segment gets, at least.
    pub next_segment_id: u64,
    /// The segments, oldest first.
    pub segments: Vec<SegmentMeta>,
}

/// One Parquet file. Its live rows come first, in row groups of their own; tombstones follow in others.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SegmentMeta {
    /// Unique within the partition.
    pub id: u64,
    /// File name, relative to the partition's directory.
    pub path: String,
    /// How many compactions are between its rows and their flush, at most; 0 for a flush.
    pub level: u32,
    /// Rows, tombstones included.
    pub rows: u64,
    /// Row groups of live rows; the others hold tombstones.
    pub live_row_groups: u32,
    /// Tombstones among the rows.
    pub tombstones: u64,
    /// The commit time of the oldest of them, microseconds since the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest_tombstone: Option<i64>,
    /// File size in bytes.
    pub bytes: u64,
    /// The oldest commit with a row here.
    pub min_seq: Seq,
    /// The newest commit with a row here.
    pub max_seq: Seq,
    /// The schema version it was written with.
    pub schema_version: u32,
    /// When it was written, microseconds since the epoch.
    pub created_at: i64,
    /// CRC-32 of the whole file.
    pub crc32: u32,
    /// Lowest key, tombstones included: order-preserving bytes, hexadecimal.
    pub min_key: String,
    /// Highest key, likewise.
    pub max_key: String,
    /// Per column, of the live rows.
    pub columns: Vec<ColumnStats>,
    /// The delete vector's file name, if rows were superseded since the file was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deletes_path: Option<String>,
    /// How many rows the delete vector names.
    #[serde(default)]
    pub deleted_rows: u64,
}

impl SegmentMeta {
    /// Rows that are not tombstones, superseded ones included.
    pub fn live_rows(&self) -> u64 {
        self.rows - self.tombstones
    }
}

impl Manifest {
    /// The manifest of a partition without segments.
    pub fn empty(table_id: TableId, user_id: Option<UserId>, schema_version: u32, now: i64) -> Self {
        Self {
            format_version: FORMAT,
            table_id,
            user_id,
            version: 0,
            schema_version,
            created_at: now,
            updated_at: now,
            flushed_seq: 0,
            next_segment_id: 1,
            segments: Vec::new(),
        }
    }

    /// The file's bytes.
    ///
    /// # Errors
    /// [`Error::Internal`] if it cannot be written as JSON.
    pub fn encode(&self) -> Result<Vec<u8>> {
        sealed::encode(self)
    }

    /// Reads a file's bytes.
    ///
    /// # Errors
    /// What is wrong with them, in words.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        let manifest: Self = sealed::decode(bytes, FORMAT)?;
        match manifest.segments.iter().find(|segment| segment.tombstones > segment.rows) {
            Some(segment) => Err(format!("segment {} has more tombstones than rows", segment.id)),
            None => Ok(manifest),
        }
    }

    /// Reads a partition directory's manifest; `None` if it has none.
    ///
    /// # Errors
    /// What is wrong with it, or why it cannot be read now.
    pub fn load(disk: &dyn Disk, dir: &Path) -> Result<Option<Self>, Unread> {
        let path = dir.join(FILE_NAME);
        if !disk.exists(&path).map_err(|e| Unread::io(FILE_NAME, e))? {
            return Ok(None);
        }
        let bytes = durable::read_file(disk, &path).map_err(|e| Unread::durable(FILE_NAME, e))?;
        Ok(Some(Self::decode(&bytes).map_err(|reason| format!("{FILE_NAME}: {reason}"))?))
    }

    /// Replaces a partition directory's manifest atomically; it is durable when this returns.
    ///
    /// # Errors
    /// An I/O error; the old file is then still in place.
    pub fn store(&self, disk: &dyn Disk, dir: &Path) -> Result<()> {
        Ok(durable::replace_file(disk, &dir.join(FILE_NAME), &self.encode()?)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_and_any_flipped_bit_is_noticed() {
        let mut manifest = Manifest::empty(TableId(7), Some(UserId::new("u1").unwrap()), 1, 5);
        manifest.flushed_seq = 42;
        let bytes = manifest.encode().unwrap();
        assert_eq!(Manifest::decode(&bytes).unwrap(), manifest);
        let value: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(value["flushed_seq"], 42, "the file is plain JSON");
        for at in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[at / 8] ^= 1 << (at % 8);
            if let Ok(read) = Manifest::decode(&damaged) {
                assert_eq!(read, manifest, "bit {at} changed what was read");
            }
        }
        for cut in 0..bytes.len() - 2 {
            assert!(Manifest::decode(&bytes[..cut]).is_err(), "cut at {cut}");
        }
    }
}
