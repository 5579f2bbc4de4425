//! See [`super::check`].

use std::path::Path;

use bytes::Bytes;
use kalamdb_wal::{Disk, Verdict};
use parquet::file::metadata::ParquetMetaDataReader;

use super::{CheckReport, Finding, PartitionDir, packs, partition_dirs, read};
use crate::delete_vector;
use crate::error::Result;
use crate::ids::Seq;
use crate::manifest::{FILE_NAME, Manifest, SegmentMeta};
use crate::partition::is_data_file;

pub(super) fn check(disk: &dyn Disk, dir: &Path) -> Result<CheckReport> {
    let log = kalamdb_wal::check(disk, &dir.join("wal"))?;
    let last = last_commit(&log);
    let mut report =
        CheckReport { log, partitions: 0, segments: 0, bytes: 0, damage: Vec::new(), orphans: Vec::new() };
    for partition in partition_dirs(disk, dir)? {
        match partition.is_of_packs() {
            true => packs::check(disk, &partition, last, &mut report),
            false => check_partition(disk, &partition, last, &mut report),
        }
    }
    Ok(report)
}

/// The newest commit the log has; `None` if it is damaged and may have had more.
fn last_commit(log: &kalamdb_wal::CheckReport) -> Option<Seq> {
    if matches!(log.verdict, Verdict::Corrupt { .. }) {
        return None;
    }
    Some(log.segments.last().map_or(0, |segment| segment.first + segment.records - 1))
}

fn check_partition(disk: &dyn Disk, partition: &PartitionDir, last: Option<Seq>, report: &mut CheckReport) {
    report.partitions += 1;
    let path = partition.path.join(FILE_NAME);
    let manifest = match read(disk, &path).and_then(|bytes| Manifest::decode(&bytes)) {
        Ok(manifest) => manifest,
        Err(what) => return report.damage.push(Finding { file: path, offset: None, what }),
    };
    if let Some(last) = last.filter(|last| *last < manifest.flushed_seq) {
        let what = format!(
            "it is at commit {}, the log ends at {last}: log files are missing",
            manifest.flushed_seq
        );
        report.damage.push(Finding { file: path, offset: None, what });
    }
    for meta in &manifest.segments {
        report.segments += 1;
        report.bytes += meta.bytes;
        let mut damaged = |name: &str, offset, what| {
            report.damage.push(Finding { file: partition.path.join(name), offset, what });
        };
        if let Err((offset, what)) = check_segment(read(disk, &partition.path.join(&meta.path)), meta) {
            damaged(&meta.path, offset, what);
        }
        if let Some(name) = &meta.deletes_path
            && let Err(what) = check_deletes(read(disk, &partition.path.join(name)), meta)
        {
            damaged(name, None, what);
        }
    }
    let named = |name: &str| {
        manifest.segments.iter().any(|s| s.path == name || s.deletes_path.as_deref() == Some(name))
    };
    let orphans = partition.files.iter().filter(|name| is_data_file(name) && !named(name));
    report.orphans.extend(orphans.map(|name| partition.path.join(name)));
}

fn check_segment(bytes: Result<Bytes, String>, meta: &SegmentMeta) -> Result<(), (Option<u64>, String)> {
    let bytes = bytes.map_err(|what| (None, what))?;
    let len = bytes.len() as u64;
    if len != meta.bytes {
        return Err((
            Some(len.min(meta.bytes)),
            format!("{len} bytes where the manifest says {}", meta.bytes),
        ));
    }
    if crc32fast::hash(&bytes) != meta.crc32 {
        return Err((None, "the checksum does not match the manifest's".into()));
    }
    let parquet = ParquetMetaDataReader::new().parse_and_finish(&bytes).map_err(|e| (None, e.to_string()))?;
    match parquet.file_metadata().num_rows() as u64 == meta.rows {
        true => Ok(()),
        false => Err((
            None,
            format!("{} rows where the manifest says {}", parquet.file_metadata().num_rows(), meta.rows),
        )),
    }
}

pub(super) fn check_deletes(bytes: Result<Bytes, String>, meta: &SegmentMeta) -> Result<(), String> {
    let rows = delete_vector::decode(&bytes?)?;
    match rows.len() == meta.deleted_rows {
        true => Ok(()),
        false => Err(format!("it names {} rows where the manifest says {}", rows.len(), meta.deleted_rows)),
    }
}
