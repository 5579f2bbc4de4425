//! Checking packs, and rebuilding their manifest from what each says of itself.
//!
//! A pack that a merge wrote names those whose slices it has; they are orphans, if they are still there. All others count.
//! Slices say themselves which commit they are the state at, so one too many does no harm; one too few would take its
//! users back in time, so nothing is rebuilt beside a pack that cannot be read.

use std::collections::BTreeSet;

use bytes::Bytes;
use kalamdb_wal::Disk;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::file::metadata::ParquetMetaDataReader;

use super::{CheckReport, Finding, PartitionDir, read};
use crate::ids::{Seq, TableId, UserId};
use crate::manifest::FILE_NAME;
use crate::pack::{PackManifest, PackMeta, is_pack, verify};
use crate::segment::facts::FACT;

pub(super) fn check(disk: &dyn Disk, dir: &PartitionDir, last: Option<Seq>, report: &mut CheckReport) {
    let path = dir.path.join(FILE_NAME);
    let manifest = match read(disk, &path).and_then(|bytes| PackManifest::decode(&bytes)) {
        Ok(manifest) => manifest,
        Err(what) => return report.damage.push(Finding { file: path, offset: None, what }),
    };
    for meta in &manifest.packs {
        report.segments += 1;
        report.bytes += meta.bytes;
        let file = dir.path.join(&meta.path);
        if let Err(what) = read(disk, &file).and_then(|bytes| check_pack(&bytes, meta)) {
            report.damage.push(Finding { file, offset: None, what });
        } else if let Some(last) = last.filter(|last| *last < meta.max_state) {
            let what =
                format!("it is at commit {}, the log ends at {last}: log files are missing", meta.max_state);
            report.damage.push(Finding { file, offset: None, what });
        }
    }
    let named = |name: &&String| !manifest.packs.iter().any(|pack| pack.path == **name);
    let orphans = dir.files.iter().filter(|name| is_pack(name)).filter(named);
    report.orphans.extend(orphans.map(|name| dir.path.join(name)));
}

fn check_pack(bytes: &Bytes, meta: &PackMeta) -> Result<(), String> {
    verify(bytes, meta)?;
    let parquet = ParquetMetaDataReader::new().parse_and_finish(bytes).map_err(|e| e.to_string())?;
    match parquet.file_metadata().num_rows() as u64 == meta.rows {
        true => Ok(()),
        false => {
            Err(format!("{} rows where the manifest says {}", parquet.file_metadata().num_rows(), meta.rows))
        }
    }
}

pub(super) fn rebuild(disk: &dyn Disk, dir: &PartitionDir, now: i64) -> Result<PackManifest, String> {
    let (mut packs, mut replaced, mut table) = (Vec::new(), BTreeSet::new(), None);
    for name in dir.files.iter().filter(|name| is_pack(name)) {
        let facts = read(disk, &dir.path.join(name)).and_then(|bytes| facts(name, &bytes));
        let (id, meta, replaces) = facts.map_err(|what| format!("{name}: {what}"))?;
        if *table.get_or_insert(id) != id {
            return Err(format!("{name} belongs to another table"));
        }
        replaced.extend(replaces);
        packs.push(meta);
    }
    let table = table.ok_or("there is no pack to rebuild it from")?;
    let next_pack_id = packs.iter().map(|pack| pack.id + 1).max().unwrap_or(1);
    packs.retain(|pack| !replaced.contains(&pack.id));
    packs.sort_by_key(|pack| pack.id);
    let version = next_pack_id;
    Ok(PackManifest { version, next_pack_id, packs, ..PackManifest::empty(table, now) })
}

fn facts(name: &str, bytes: &Bytes) -> Result<(TableId, PackMeta, Vec<u64>), String> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(bytes.clone()).map_err(|e| e.to_string())?;
    let stored = builder.metadata().file_metadata().key_value_metadata().cloned().unwrap_or_default();
    let mut rows = 0;
    // Every row is decoded, since there is no checksum left to hold the file against.
    for batch in builder.build().map_err(|e| e.to_string())? {
        rows += batch.map_err(|e| e.to_string())?.num_rows() as u64;
    }
    let text = |key: &str| {
        let found = stored.iter().find(|kv| kv.key.strip_prefix(FACT) == Some(key));
        found.and_then(|kv| kv.value.as_deref()).ok_or_else(|| format!("it does not say its {key}"))
    };
    let number = |key: &str| text(key)?.parse::<u64>().map_err(|_| format!("its {key} is not a number"));
    let user = |key: &str| UserId::new(text(key)?).map_err(|e| e.to_string());
    if number("pack_format")? > u64::from(crate::pack::FORMAT) {
        return Err("a newer version wrote it".into());
    }
    let replaces = text("replaces")?.split(',').filter(|id| !id.is_empty());
    let replaces = replaces.map(|id| id.parse().map_err(|_| "it replaces what is no pack".to_owned()));
    let meta = PackMeta {
        id: number("pack_id")?,
        path: name.to_owned(),
        rows,
        users: number("users")?,
        bytes: bytes.len() as u64,
        crc32: crc32fast::hash(bytes),
        schema_version: number("schema_version")? as u32,
        created_at: number("created_at")? as i64,
        min_user: user("min_user")?,
        max_user: user("max_user")?,
        min_state: number("min_state")?,
        max_state: number("max_state")?,
        oldest_tombstone: text("oldest_tombstone").ok().and_then(|at| at.parse().ok()),
    };
    Ok((TableId(number("table_id")?), meta, replaces.collect::<Result<_, _>>()?))
}
