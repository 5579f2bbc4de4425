//! A table with very many users of few rows each: what a checkpoint of it costs in packs and with files for each user, and
//! what opening it and keeping its users in memory costs.

use std::fs;
use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use kalamdb_engine::read::live_rows;
use kalamdb_engine::{
    CompactionConfig, Config, Database, Ddl, MemoryReport, PartitionWrite, Table, TableKind, UserId,
};
use tokio::runtime::Runtime;

use crate::place::Place;
use crate::report::{Budget, Comparison, Outcome, Sample};
use crate::table::{new_table, rows};

const USERS: usize = 100_000;
/// As many would take minutes with files of their own.
const WITH_FILES: usize = 5_000;
const ROWS: i64 = 10;
/// Users that one commit writes to.
const AT_ONCE: usize = 500;

/// See the module.
#[derive(Debug)]
pub struct SmallPartitions;

impl Comparison for SmallPartitions {
    fn name(&self) -> &'static str {
        "engine-users"
    }

    fn run(&self, place: &Place) -> Outcome<Vec<Sample>> {
        let packed = measure(place, USERS, 4_096)?;
        let alone = measure(place, WITH_FILES, 0)?;
        let line = |what: &str, beside, ours, theirs, unit, budget| Sample {
            work: format!("engine: {USERS} users with {ROWS} rows, {what}"),
            beside,
            ours,
            theirs,
            unit,
            budget,
        };
        let files = "files for each user";
        Ok(vec![
            line("checkpoint, time per user", files, packed.flush_us, alone.flush_us, "us", Budget::None),
            line("files per 1,000 users", files, packed.files, alone.files, "files", Budget::None),
            line("bytes on disk per user", files, packed.bytes, alone.bytes, "bytes", Budget::None),
            line("opening", "one second", packed.open_ms, 1e3, "ms", Budget::AtMost(1.0)),
            line(
                "read across all of them, per user",
                "a view of each",
                packed.scan_us,
                packed.views_us,
                "us",
                Budget::AtMost(1.0),
            ),
            line("loaded after opening", "one partition", packed.loaded + 1.0, 1.0, "", Budget::AtMost(1.0)),
            line(
                "hot partition beside rows",
                "1 KiB",
                packed.hot_bytes,
                1_024.0,
                "bytes",
                Budget::AtMost(1.0),
            ),
        ])
    }
}

#[derive(Debug)]
struct Measured {
    flush_us: f64,
    files: f64,
    bytes: f64,
    open_ms: f64,
    /// Reading all rows of all users, per user: together, and one after the other.
    scan_us: f64,
    views_us: f64,
    /// Users' partitions that opening loaded.
    loaded: f64,
    hot_bytes: f64,
}

fn measure(place: &Place, users: usize, pack_rows: u64) -> Outcome<Measured> {
    let dir = place.dir()?;
    let dir = dir.path().join("db");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build()?;
    let database = runtime.block_on(Database::open(config(place, &dir, pack_rows)))?;
    let new = Ddl::CreateTable(Box::new(new_table(TableKind::User)?));
    let table = runtime.block_on(database.ddl(new))?.table.ok_or("no table was made")?;
    fill(&runtime, &database, &table, users)?;
    let hot = database.memory();
    let begun = Instant::now();
    // What the database does by itself once the log is long enough.
    runtime.block_on(database.flush_table(&table))?;
    let flush_us = begun.elapsed().as_secs_f64() * 1e6 / users as f64;
    for (id, _) in database.loaded_partitions().into_iter().filter(|(id, _)| id.user.is_none()) {
        let table = database.catalog().table_by_id(id.table).ok_or("a table is gone")?.clone();
        runtime.block_on(database.flush(&table, None))?;
    }
    runtime.block_on(database.close())?;
    drop(database);
    let (files, bytes) = files_in(&dir.join("tables"))?;
    let begun = Instant::now();
    let database = runtime.block_on(Database::open(config(place, &dir, pack_rows)))?;
    let open_ms = begun.elapsed().as_secs_f64() * 1e3;
    let loaded = database.loaded_partitions().iter().filter(|(id, _)| id.user.is_some()).count();
    let (scan_us, views_us) = (scan(&runtime, &database, users)?, views(&runtime, &database, users)?);
    runtime.block_on(database.close())?;
    Ok(Measured {
        flush_us,
        files: files as f64 * 1e3 / users as f64,
        bytes: bytes as f64 / users as f64,
        open_ms,
        scan_us,
        views_us,
        loaded: loaded as f64,
        hot_bytes: beside_rows(&hot, users),
    })
}

/// Reads a column of the rows of all users at once; microseconds per user.
fn scan(runtime: &Runtime, database: &Arc<Database>, users: usize) -> Outcome<f64> {
    let table = database.catalog().table("default", "rows").ok_or("no table")?.clone();
    let begun = Instant::now();
    let all = runtime.block_on(database.all_users(&database.snapshot(), &table))?;
    let mut rows = 0;
    for part in 0..all.small.parts() {
        for batch in all.small.read(part, &[0, 3], false) {
            rows += black_box(batch?).users.len();
        }
    }
    let took = begun.elapsed().as_secs_f64() * 1e6 / users as f64;
    if all.large.is_empty() && rows as i64 != users as i64 * ROWS {
        return Err("rows are missing".into());
    }
    Ok(took)
}

/// The same by a view of each user, of the first of them.
fn views(runtime: &Runtime, database: &Arc<Database>, users: usize) -> Outcome<f64> {
    let table = database.catalog().table("default", "rows").ok_or("no table")?.clone();
    let some = users.min(WITH_FILES);
    let begun = Instant::now();
    let snapshot = database.snapshot();
    for user in 0..some {
        let user = UserId::new(&format!("user-{user:06}"))?;
        let view = runtime.block_on(database.view(&snapshot, &table, Some(&user)))?;
        black_box(live_rows(&view)?);
    }
    Ok(begun.elapsed().as_secs_f64() * 1e6 / some as f64)
}

fn config(place: &Place, dir: &Path, pack_rows: u64) -> Config {
    let compaction = CompactionConfig { workers: 0, bytes_per_second: 0, ..CompactionConfig::default() };
    Config { disk: place.disk(), compaction, pack_rows, memtable_bytes: 4 << 30, ..Config::new(dir) }
}

fn fill(runtime: &Runtime, database: &Arc<Database>, table: &Arc<Table>, users: usize) -> Outcome<()> {
    for first in (0..users).step_by(AT_ONCE) {
        let mut writes = Vec::with_capacity(AT_ONCE);
        for user in first..users.min(first + AT_ONCE) {
            let mut write =
                PartitionWrite::new(table.clone(), Some(UserId::new(&format!("user-{user:06}"))?));
            let key = user as i64 * ROWS;
            write.insert = Some(rows(table, key..key + ROWS)?);
            writes.push(write);
        }
        runtime.block_on(database.commit(writes))?;
    }
    Ok(())
}

/// Bytes of memory per partition that are not rows.
fn beside_rows(memory: &MemoryReport, users: usize) -> f64 {
    memory.overhead_bytes as f64 / users as f64
}

/// Files below a directory, and their bytes.
fn files_in(dir: &Path) -> Outcome<(u64, u64)> {
    let (mut files, mut bytes) = (0, 0);
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            let (more, size) = files_in(&entry.path())?;
            (files, bytes) = (files + more, bytes + size);
        } else {
            (files, bytes) = (files + 1, bytes + entry.metadata()?.len());
        }
    }
    Ok((files, bytes))
}
