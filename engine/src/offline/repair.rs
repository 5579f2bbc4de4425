//! See [`super::repair`].
//!
//! Every segment says from which commit to which it brings its partition (`after_seq`, `flushed_seq`). The newest whole
//! one is the state to restore, and the chain of the others that lead to it must reach back to the beginning; files
//! outside of the chain are orphans. A segment is written after its flush's delete vectors, whose names carry the id of
//! the flush's segment, so of each older segment the newest vector that is not newer than the newest segment holds. What
//! was committed later is in the log.

use std::collections::BTreeMap;
use std::path::Path;

use arrow::array::RecordBatchReader;
use bytes::Bytes;
use kalamdb_wal::{Disk, durable};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::{Finding, PartitionDir, RepairReport, check, partition_dirs, read};
use crate::delete_vector;
use crate::error::Result;
use crate::ids::{Seq, TableId, UserId};
use crate::manifest::{FILE_NAME, FORMAT, Manifest, SegmentMeta};
use crate::segment::write::FACT;

/// What the replaced manifest is called from then on.
const KEPT_AS: &str = "manifest.json.damaged";

pub(super) fn repair(disk: &dyn Disk, now: i64, dir: &Path) -> Result<RepairReport> {
    let mut report = RepairReport::default();
    let log_begins = kalamdb_wal::check(disk, &dir.join("wal"))?.low_water;
    for partition in partition_dirs(disk, dir)? {
        let path = partition.path.join(FILE_NAME);
        match read(disk, &path).and_then(|bytes| Manifest::decode(&bytes)) {
            Ok(_) => {}
            // Not damage, and not ours to replace.
            Err(what) if what.contains("newer than") => {
                report.left.push(Finding { file: path, offset: None, what })
            }
            Err(_) => match rebuild(disk, &partition, now) {
                Ok(manifest) => {
                    if disk.exists(&path).map_err(|e| crate::Error::io("look for a manifest", e))? {
                        durable::rename(disk, &path, &partition.path.join(KEPT_AS))?;
                    }
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

/// What a segment says of itself.
struct Facts {
    meta: SegmentMeta,
    table: TableId,
    user: Option<UserId>,
    after: Seq,
    flushed: Seq,
}

fn rebuild(disk: &dyn Disk, partition: &PartitionDir, now: i64) -> Result<Manifest, String> {
    let (mut whole, mut broken) = (Vec::new(), Vec::new());
    for name in partition.files.iter().filter(|name| name.starts_with("batch-") && name.ends_with(".parquet"))
    {
        match read(disk, &partition.path.join(name)).and_then(|bytes| facts(name, bytes)) {
            Ok(facts) => whole.push(facts),
            Err(what) => broken.push(format!("{name}: {what}")),
        }
    }
    let mut segments = chain(whole).map_err(|what| match broken.is_empty() {
        true => what,
        false => format!("{what} ({})", broken.join("; ")),
    })?;
    let newest = segments.last().map_or(0, |s| s.meta.id);
    for segment in &mut segments {
        find_deletes(disk, partition, &mut segment.meta, newest)?;
    }
    let (first, last) =
        segments.first().zip(segments.last()).ok_or("there is no segment to rebuild it from")?;
    Ok(Manifest {
        format_version: FORMAT,
        table_id: last.table,
        user_id: last.user.clone(),
        version: segments.len() as u64 + 1,
        schema_version: last.meta.schema_version,
        created_at: first.meta.created_at,
        updated_at: now.max(last.meta.created_at),
        flushed_seq: last.flushed,
        next_segment_id: newest + 1,
        segments: segments.into_iter().map(|s| s.meta).collect(),
    })
}

/// The segments that lead from nothing to the newest state, oldest first.
fn chain(segments: Vec<Facts>) -> Result<Vec<Facts>, String> {
    let mut by_end: BTreeMap<(Seq, u64), Facts> =
        segments.into_iter().map(|s| ((s.flushed, s.meta.id), s)).collect();
    let mut chain: Vec<Facts> = by_end.pop_last().map(|(_, last)| last).into_iter().collect();
    while let Some(after) = chain.last().map(|s| s.after).filter(|after| *after > 0) {
        // Of several attempts at one flush the last one counts.
        let before = by_end.range(..=(after, u64::MAX)).next_back().map(|(key, _)| *key);
        let before = before.filter(|(flushed, _)| *flushed == after).and_then(|key| by_end.remove(&key));
        chain.push(
            before
                .ok_or_else(|| format!("the segment that ends with commit {after} is missing or damaged"))?,
        );
    }
    chain.reverse();
    Ok(chain)
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
    let (after, flushed) = (number("after_seq")?, number("flushed_seq")?);
    Ok(Facts { meta, table: TableId(number("table_id")?), user, after, flushed })
}

/// Decodes every row, since there is no checksum left to hold the file against.
fn count(reader: impl RecordBatchReader) -> Result<u64, String> {
    let mut rows = 0;
    for batch in reader {
        rows += batch.map_err(|e| e.to_string())?.num_rows() as u64;
    }
    Ok(rows)
}

fn find_deletes(
    disk: &dyn Disk,
    partition: &PartitionDir,
    meta: &mut SegmentMeta,
    newest: u64,
) -> Result<(), String> {
    let prefix = format!("batch-{}-", meta.id);
    let attempt = |name: &String| name.strip_prefix(&prefix)?.strip_suffix(".deletes")?.parse::<u64>().ok();
    let vectors = partition.files.iter().filter_map(|name| Some((attempt(name)?, name)));
    let Some((_, name)) = vectors.filter(|(attempt, _)| *attempt <= newest).max() else { return Ok(()) };
    let bytes = read(disk, &partition.path.join(name)).map_err(|what| format!("{name}: {what}"))?;
    meta.deleted_rows = delete_vector::decode(&bytes).map_err(|what| format!("{name}: {what}"))?.len();
    meta.deletes_path = Some(name.clone());
    Ok(())
}
