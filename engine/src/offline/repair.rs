//! See [`super::repair`].
//!
//! Every segment says of which segments its partition consists with it in place, which delete vectors they have, and as of
//! which commit (`segments`, `flushed_seq`). Segments get their ids, rising, together with their place in the partition,
//! by flushes and compactions alike, and their names only once they and those delete vectors are durable. So the one with
//! the highest id tells the newest state; files that it does not name are orphans or were replaced. What was committed
//! later is in the log. A file with a higher id that cannot be read may tell of a newer state, so nothing is rebuilt then.

use std::path::Path;

use arrow::array::RecordBatchReader;
use bytes::Bytes;
use kalamdb_wal::{Disk, durable};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::{Finding, PartitionDir, RepairReport, check, packs, partition_dirs, read};
use crate::error::Result;
use crate::ids::{Seq, TableId, UserId};
use crate::manifest::{FILE_NAME, FORMAT, Manifest, SegmentMeta};
use crate::pack::PackManifest;
use crate::segment::facts::{FACT, Named};

/// What the replaced manifest is called from then on.
const KEPT_AS: &str = "manifest.json.damaged";

pub(super) fn repair(disk: &dyn Disk, now: i64, dir: &Path) -> Result<RepairReport> {
    let mut report = RepairReport::default();
    let log_begins = kalamdb_wal::check(disk, &dir.join("wal"))?.low_water;
    for partition in partition_dirs(disk, dir)? {
        let path = partition.path.join(FILE_NAME);
        if partition.is_of_packs() {
            repair_packs(disk, &partition, now, &mut report)?;
            continue;
        }
        match read(disk, &path).and_then(|bytes| Manifest::decode(&bytes)) {
            Ok(_) => {}
            // Not damage, and not ours to replace.
            Err(what) if what.contains("newer than") => {
                report.left.push(Finding { file: path, offset: None, what })
            }
            Err(_) => match rebuild(disk, &partition, now) {
                Ok(manifest) => {
                    set_aside(disk, &path)?;
                    manifest.store(disk, &partition.path)?;
                    // A lost newest segment leaves no trace but this one.
                    if manifest.flushed_seq + 1 < log_begins {
                        let what = format!(
                            "it is as of commit {} and the log begins at {log_begins}: a segment newer than the newest \
                             that is here would not be missed",
                            manifest.flushed_seq
                        );
                        report.notes.push(Finding { file: path.clone(), offset: None, what });
                    }
                    report.rebuilt.push(path);
                }
                Err(what) => report.left.push(Finding { file: path, offset: None, what }),
            },
        }
    }
    // What is damaged still, that is: segments, delete vectors, the log.
    let after = check::check(disk, dir)?;
    let known = report.left.clone();
    report.left.extend(after.damage.into_iter().filter(|f| !known.iter().any(|k| k.file == f.file)));
    if let kalamdb_wal::Verdict::Corrupt { segment, offset, reason, .. } = after.log.verdict {
        report.left.push(Finding { file: segment, offset: Some(offset), what: reason });
    }
    Ok(report)
}

fn repair_packs(disk: &dyn Disk, dir: &PartitionDir, now: i64, report: &mut RepairReport) -> Result<()> {
    let path = dir.path.join(FILE_NAME);
    let what = match read(disk, &path).and_then(|bytes| PackManifest::decode(&bytes)) {
        Ok(_) => return Ok(()),
        Err(what) => what,
    };
    // Of a newer version it is not damage, and not ours to replace.
    let rebuilt = if what.contains("newer than") { Err(what) } else { packs::rebuild(disk, dir, now) };
    match rebuilt {
        Ok(manifest) => {
            set_aside(disk, &path)?;
            manifest.store(disk, &dir.path)?;
            report.rebuilt.push(path);
        }
        Err(what) => report.left.push(Finding { file: path, offset: None, what }),
    }
    Ok(())
}

fn set_aside(disk: &dyn Disk, manifest: &Path) -> Result<()> {
    if disk.exists(manifest).map_err(|e| crate::Error::io("look for a manifest", e))? {
        durable::rename(disk, manifest, &manifest.with_file_name(KEPT_AS))?;
    }
    Ok(())
}

/// What a segment says of itself.
struct Facts {
    meta: SegmentMeta,
    table: TableId,
    user: Option<UserId>,
    segments: Vec<Named>,
    flushed: Seq,
}

fn rebuild(disk: &dyn Disk, partition: &PartitionDir, now: i64) -> Result<Manifest, String> {
    let (mut whole, mut broken) = (Vec::new(), Vec::new());
    for (id, name) in partition.files.iter().filter_map(|name| Some((segment_id(name)?, name))) {
        match read(disk, &partition.path.join(name)).and_then(|bytes| facts(name, bytes)) {
            Ok(facts) => whole.push(facts),
            Err(what) => broken.push((id, format!("{name}: {what}"))),
        }
    }
    let newest = whole.iter().max_by_key(|s| s.meta.id).ok_or("there is no segment to rebuild it from")?;
    if let Some((_, what)) = broken.iter().find(|(id, _)| *id > newest.meta.id) {
        return Err(format!("a newer segment than those that can be read is damaged: {what}"));
    }
    let mut segments = Vec::with_capacity(newest.segments.len());
    for named in &newest.segments {
        let found = whole.iter().find(|s| s.meta.id == named.id);
        let why = || match broken.iter().find(|(id, _)| *id == named.id) {
            Some((_, what)) => format!("a segment that belongs to it is damaged: {what}"),
            None => format!("segment {} that belongs to it is missing", named.id),
        };
        let mut meta = found.ok_or_else(why)?.meta.clone();
        (meta.deletes_path, meta.deleted_rows) = (named.deletes_path.clone(), named.deleted_rows);
        check_deletes(disk, partition, &meta)?;
        segments.push(meta);
    }
    let created_at = segments.iter().map(|s| s.created_at).min().unwrap_or(now);
    Ok(Manifest {
        format_version: FORMAT,
        table_id: newest.table,
        user_id: newest.user.clone(),
        version: newest.meta.id + 1,
        schema_version: newest.meta.schema_version,
        created_at,
        updated_at: now.max(newest.meta.created_at),
        flushed_seq: newest.flushed,
        next_segment_id: newest.meta.id + 1,
        segments,
    })
}

/// The number in a segment file's name.
fn segment_id(name: &str) -> Option<u64> {
    name.strip_prefix("batch-")?.strip_suffix(".parquet")?.parse().ok()
}

fn check_deletes(disk: &dyn Disk, partition: &PartitionDir, meta: &SegmentMeta) -> Result<(), String> {
    let Some(name) = &meta.deletes_path else { return Ok(()) };
    check::check_deletes(read(disk, &partition.path.join(name)), meta)
        .map_err(|what| format!("{name}: {what}"))
}

fn facts(name: &str, bytes: Bytes) -> Result<Facts, String> {
    let (len, crc32) = (bytes.len() as u64, crc32fast::hash(&bytes));
    let builder = ParquetRecordBatchReaderBuilder::try_new(bytes).map_err(|e| e.to_string())?;
    let parquet = builder.metadata().clone();
    let rows = count(builder.build().map_err(|e| e.to_string())?)?;
    let stored = parquet.file_metadata().key_value_metadata().map_or(&[][..], Vec::as_slice);
    let fact = |key: &str| {
        let found = stored.iter().find(|kv| kv.key.strip_prefix(FACT) == Some(key));
        found.and_then(|kv| kv.value.as_deref())
    };
    let text = |key: &str| fact(key).ok_or_else(|| format!("it does not say its {key}"));
    let number = |key: &str| text(key)?.parse::<u64>().map_err(|_| format!("its {key} is not a number"));
    if number("format_version")? > u64::from(FORMAT) {
        return Err("a newer version wrote it".into());
    }
    let user = fact("user_id").map(UserId::new).transpose().map_err(|e| e.to_string())?;
    let meta = SegmentMeta {
        id: number("segment_id")?,
        path: name.to_owned(),
        level: number("level")? as u32,
        rows,
        live_row_groups: number("live_row_groups")? as u32,
        tombstones: number("tombstones")?,
        oldest_tombstone: fact("oldest_tombstone").and_then(|time| time.parse().ok()),
        bytes: len,
        min_seq: number("min_seq")?,
        max_seq: number("max_seq")?,
        schema_version: number("schema_version")? as u32,
        created_at: number("created_at")? as i64,
        crc32,
        min_key: text("min_key")?.to_owned(),
        max_key: text("max_key")?.to_owned(),
        columns: serde_json::from_str(text("columns")?).map_err(|e| e.to_string())?,
        deletes_path: None,
        deleted_rows: 0,
    };
    let segments = serde_json::from_str(text("segments")?).map_err(|e| e.to_string())?;
    let flushed = number("flushed_seq")?;
    Ok(Facts { meta, table: TableId(number("table_id")?), user, segments, flushed })
}

/// Decodes every row, since there is no checksum left to hold the file against.
fn count(reader: impl RecordBatchReader) -> Result<u64, String> {
    let mut rows = 0;
    for batch in reader {
        rows += batch.map_err(|e| e.to_string())?.num_rows() as u64;
    }
    Ok(rows)
}
