//! What compactions leave, drop and remove.

mod common;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::gate::{Gate, PATIENCE};
use common::writer::{Writer, recovers};
use common::{
    Model, compact_beside, config, contents, create, find, insert, now, open, rows, schema, tombstones,
};
use kalamdb_engine::{
    CompactionConfig, CompactionOutcome, Config, Database, Ddl, Error, NamespaceId, NewTable, Table,
    TableKind, TableName, TableOptions,
};
use kalamdb_wal::sim::{Crash, Fault, Operation, SimClock, SimDisk};

fn files(disk: &SimDisk, end: &str) -> Vec<PathBuf> {
    let dir = Path::new("/db/tables/default/t");
    disk.files().into_iter().filter(|f| f.starts_with(dir) && f.to_string_lossy().ends_with(end)).collect()
}

/// True if some data file of the table has these bytes.
fn is_on_disk(disk: &SimDisk, text: &str) -> bool {
    files(disk, "").iter().any(|file| {
        let bytes = disk.contents(file).unwrap();
        bytes.windows(text.len()).any(|window| window == text.as_bytes())
    })
}

/// A table whose files can be searched for text.
async fn create_plain(database: &Arc<Database>, retention: Option<&str>) -> Arc<Table> {
    let options = TableOptions {
        compression: Some("none".into()),
        deleted_retention: retention.map(str::to_owned),
        ..TableOptions::default()
    };
    let new = NewTable {
        namespace: NamespaceId::new("default").unwrap(),
        name: TableName::new("t").unwrap(),
        kind: TableKind::Shared,
        schema: schema(),
        options,
    };
    database.ddl(Ddl::CreateTable(Box::new(new))).await.unwrap().table.unwrap()
}

/// A database whose time is in the test's hands, with or without compactions in the background.
async fn timed(disk: &SimDisk, workers: usize) -> (Arc<Database>, SimClock) {
    let clock = SimClock::new(1_800_000_000_000_000);
    let compaction = CompactionConfig { workers, ..CompactionConfig::default() };
    let config = Config { clock: Arc::new(clock.clone()), compaction, ..config(Arc::new(disk.clone())) };
    (Database::open(config).await.unwrap(), clock)
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let waited = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waited).await.unwrap_or_else(|_| panic!("{what}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_compaction_leaves_one_file_with_every_row_once_in_key_order() {
    for kind in 0..2 {
        let disk = SimDisk::new();
        let database = open(&disk).await;
        let schema = if kind == 0 { schema() } else { common::composite_schema() };
        let table = common::create_with(&database, "t", TableKind::Shared, schema).await.unwrap();
        let mut writer = Writer { database: &database, table: &table, model: Model::new() };
        for round in 0..5 {
            // Keys that interleave, in part; enough for several batches.
            for id in (round..3_000).step_by(7) {
                writer.model.extend(rows(id..id + 1, "new"));
            }
            let new: Vec<_> = (round..3_000).step_by(7).flat_map(|id| rows(id..id + 1, "new")).collect();
            database.commit(vec![insert(&table, None, &new)]).await.unwrap();
            writer.insert(10_000 * (round + 1)..10_000 * (round + 1) + 3_000).await;
            writer.update(14 * round..14 * round + 20, "changed").await;
            writer.delete(10_000 * (round + 1)..10_000 * (round + 1) + 10).await;
            database.flush(&table, None).await.unwrap();
        }
        let model = writer.model;
        assert_eq!(files(&disk, ".parquet").len(), 5);
        let outcome = database.compact(&table, None).await.unwrap();
        assert_eq!((outcome.segments_in, outcome.segments_out), (5, 1), "{outcome:?}");
        assert_eq!(outcome.rows_out, model.len() as u64 + 50, "the live rows and the tombstones");
        assert!(outcome.rows_in > outcome.rows_out && outcome.bytes_read > outcome.bytes_written);
        assert_eq!((files(&disk, ".parquet").len(), files(&disk, ".deletes").len()), (1, 0));
        assert_eq!(now(&database, &table, None).await, model);
        let view = database.view(&database.snapshot(), &table, None).await.unwrap();
        if kind == 0 {
            let read = kalamdb_engine::read::live_rows(&view).unwrap();
            let ids = read.iter().flat_map(|l| {
                use arrow::array::AsArray;
                l.rows.rows.column(0).as_primitive::<arrow::datatypes::Int64Type>().values().to_vec()
            });
            assert!(ids.is_sorted());
        }
        assert_eq!(database.compact(&table, None).await.unwrap(), CompactionOutcome::default());
        recovers(disk.crash(Crash::LoseUnsynced), &model, "after a crash").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_written_in_1000_flushes_holds_a_handful_of_files() {
    let disk = SimDisk::new();
    let (database, _) = timed(&disk, 1).await;
    let table = create(&database, "t", TableKind::Shared).await.unwrap();
    let (mut model, mut flushed) = (Model::new(), 0);
    for round in 0..1_000 {
        let new = rows(round * 10..round * 10 + 10, "row");
        database.commit(vec![insert(&table, None, &new)]).await.unwrap();
        model.extend(new);
        flushed += database.flush(&table, None).await.unwrap().bytes;
    }
    let segments = || database.partition_version(&table, None).unwrap().unwrap().segments.len();
    until("a handful", || segments() <= 12 && database.compactions().is_empty()).await;
    let done = database.compacted();
    let written = done.bytes_written + flushed;
    assert!(written < 3 * flushed, "{written} bytes written for {flushed} flushed, {done:?}");
    assert_eq!(now(&database, &table, None).await, model);
    // Nothing to do if those in the background came to one segment by themselves.
    database.compact(&table, None).await.unwrap();
    assert_eq!(files(&disk, ".parquet").len(), 1);
    recovers(disk.crash(Crash::LoseUnsynced), &model, "after a crash").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_is_rewritten_about_once_each_time_the_data_is_four_times_as_large() {
    let disk = SimDisk::new();
    let (database, _) = timed(&disk, 1).await;
    let table = create_plain(&database, None).await;
    let mut flushed = 0;
    for round in 0..32 {
        // Every flush is as wide as the table.
        let new: Vec<_> = (0..1_500).flat_map(|n| rows(n * 32 + round..n * 32 + round + 1, "row")).collect();
        database.commit(vec![insert(&table, None, &new)]).await.unwrap();
        flushed += database.flush(&table, None).await.unwrap().bytes;
    }
    let segments = || database.partition_version(&table, None).unwrap().unwrap().segments.len();
    until("a handful", || segments() <= 9 && database.compactions().is_empty()).await;
    let done = database.compacted();
    assert!(done.bytes_written > 0 && done.bytes_written < 3 * flushed, "{flushed} flushed, {done:?}");
    assert_eq!(now(&database, &table, None).await.len(), 32 * 1_500);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn segments_are_merged_up_to_the_maximal_size_and_not_beyond() {
    let disk = SimDisk::new();
    let limit = 40 << 10;
    let compaction = CompactionConfig { workers: 0, max_segment_bytes: limit, ..CompactionConfig::default() };
    let config = Config { compaction, ..config(Arc::new(disk.clone())) };
    let database = Database::open(config).await.unwrap();
    let table = create_plain(&database, None).await;
    let mut model = Model::new();
    for round in 0..40 {
        let new = rows(round * 50..round * 50 + 50, "row");
        database.commit(vec![insert(&table, None, &new)]).await.unwrap();
        database.flush(&table, None).await.unwrap();
        model.extend(new);
    }
    database.compact(&table, None).await.unwrap();
    let version = database.partition_version(&table, None).unwrap().unwrap();
    let sizes: Vec<u64> = version.segments.iter().map(|segment| segment.meta().bytes).collect();
    assert!(sizes.iter().all(|bytes| *bytes <= limit), "{sizes:?}");
    assert!((2..12).contains(&sizes.len()), "{sizes:?}");
    let mut ranges: Vec<_> =
        version.segments.iter().map(|s| (s.meta().min_key.clone(), s.meta().max_key.clone())).collect();
    ranges.sort();
    assert!(ranges.windows(2).all(|pair| pair[0].1 < pair[1].0), "each covers keys of its own");
    assert_eq!(database.compact(&table, None).await.unwrap(), CompactionOutcome::default());
    assert_eq!(now(&database, &table, None).await, model);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_segment_with_many_dead_rows_is_rewritten_alone() {
    let disk = SimDisk::new();
    let (database, _) = timed(&disk, 1).await;
    let table = create_plain(&database, None).await;
    let mut writer = Writer { database: &database, table: &table, model: Model::new() };
    writer.insert(0..2_000).await;
    let flushed = database.flush(&table, None).await.unwrap();
    assert!(flushed.bytes > 64 << 10, "large enough to be worth it: {flushed:?}");
    writer.update(0..400, "changed").await;
    database.flush(&table, None).await.unwrap();
    // A fifth is not many; two fifths are.
    writer.update(400..800, "changed").await;
    database.flush(&table, None).await.unwrap();
    until("it is rewritten", || database.compacted().segments_out > 0).await;
    let done = database.compacted();
    assert_eq!((done.segments_in, done.rows_in, done.rows_out), (1, 2_000, 1_200), "{done:?}");
    assert_eq!(now(&database, &table, None).await, writer.model);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_row_is_in_no_file_once_its_retention_is_over() {
    let disk = SimDisk::new();
    let (database, clock) = timed(&disk, 1).await;
    let table = create_plain(&database, None).await;
    let mut writer = Writer { database: &database, table: &table, model: Model::new() };
    writer.insert(0..50).await;
    database.flush(&table, None).await.unwrap();
    let secret = "new-25 is text";
    assert!(is_on_disk(&disk, secret));
    writer.delete(25..26).await;
    let model = writer.model;
    // Nobody flushes: the tombstone is in memory.
    clock.advance(Duration::from_secs(6 * 86_400));
    let snapshot = database.snapshot();
    tokio::task::yield_now().await;
    assert!(is_on_disk(&disk, secret));
    assert_eq!(tombstones(&database, &snapshot, &table, None).await.unwrap().len(), 1);
    drop(snapshot);
    clock.advance(Duration::from_secs(86_400 + 1));
    until("the row is gone", || !is_on_disk(&disk, secret)).await;
    let snapshot = database.snapshot();
    assert!(tombstones(&database, &snapshot, &table, None).await.unwrap().is_empty());
    assert_eq!(contents(&database, &snapshot, &table, None).await.unwrap(), model);
    // Its key is free.
    database.commit(vec![insert(&table, None, &rows(25..26, "again"))]).await.unwrap();
    let mut model = model;
    model.extend(rows(25..26, "again"));
    recovers(disk.crash(Crash::LoseUnsynced), &model, "after a crash").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_that_is_not_loaded_loses_its_deleted_rows_too() {
    let disk = SimDisk::new();
    let (database, _) = timed(&disk, 0).await;
    let table = create_plain(&database, Some("2h")).await;
    let mut writer = Writer { database: &database, table: &table, model: Model::new() };
    writer.insert(0..50).await;
    writer.delete(25..26).await;
    let model = writer.model;
    for (id, _) in database.loaded_partitions() {
        let table = database.catalog().table_by_id(id.table).unwrap().clone();
        database.flush(&table, None).await.unwrap();
    }
    database.close().await.unwrap();
    let disk = disk.crash(Crash::LoseUnsynced);
    let (database, clock) = timed(&disk, 1).await;
    assert!(is_on_disk(&disk, "new-25 is text"));
    assert!(!database.loaded_partitions().iter().any(|(id, _)| id.table == table.id), "it is not loaded");
    clock.advance(Duration::from_secs(3 * 3_600));
    until("the row is gone", || !is_on_disk(&disk, "new-25 is text")).await;
    assert_eq!(now(&database, &find(&database, "t"), None).await, model);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retention_off_keeps_deleted_rows_for_ever() {
    let disk = SimDisk::new();
    let (database, clock) = timed(&disk, 0).await;
    let table = create_plain(&database, Some("off")).await;
    let mut writer = Writer { database: &database, table: &table, model: Model::new() };
    writer.insert(0..50).await;
    writer.delete(25..26).await;
    clock.advance(Duration::from_secs(10_000 * 86_400));
    database.compact(&table, None).await.unwrap();
    writer.insert(50..51).await;
    database.compact(&table, None).await.unwrap();
    assert!(is_on_disk(&disk, "new-25 is text"));
    let dead = tombstones(&database, &database.snapshot(), &table, None).await.unwrap();
    assert_eq!(dead.into_iter().collect::<Vec<_>>(), [25]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_that_loses_its_last_row_can_be_opened_and_written() {
    let disk = SimDisk::new();
    let (database, clock) = timed(&disk, 0).await;
    let table = create_plain(&database, Some("1d")).await;
    let mut writer = Writer { database: &database, table: &table, model: Model::new() };
    writer.insert(0..50).await;
    writer.delete(0..50).await;
    clock.advance(Duration::from_secs(2 * 86_400));
    let outcome = database.compact(&table, None).await.unwrap();
    assert_eq!(outcome.rows_out, 0);
    assert_eq!(database.compact(&table, None).await.unwrap(), CompactionOutcome::default());
    assert!(now(&database, &table, None).await.is_empty());
    writer.insert(10..20).await;
    let model = writer.model;
    recovers(disk.fork().crash(Crash::LoseUnsynced), &model, "after a crash").await;
    assert_eq!(database.compact(&table, None).await.unwrap().rows_out, 10);
    assert_eq!(files(&disk, ".parquet").len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_from_before_keeps_the_versions_it_sees_and_a_view_its_files() {
    let disk = SimDisk::new();
    let database = open(&disk).await;
    let table = create(&database, "t", TableKind::Shared).await.unwrap();
    let mut writer = Writer { database: &database, table: &table, model: Model::new() };
    writer.insert(0..50).await;
    database.flush(&table, None).await.unwrap();
    let (old, was) = (database.snapshot(), writer.model.clone());
    let view = database.view(&old, &table, None).await.unwrap();
    writer.update(0..10, "changed").await;
    writer.delete(10..20).await;
    database.compact(&table, None).await.unwrap();
    assert_eq!(contents(&database, &old, &table, None).await.unwrap(), was);
    assert_eq!(files(&disk, ".parquet").len(), 2, "the view's file is still there");
    let read: usize = kalamdb_engine::read::live_rows(&view).unwrap().iter().map(|l| l.addresses.len()).sum();
    assert_eq!(read, 50);
    drop(view);
    assert_eq!(files(&disk, ".parquet").len(), 1);
    drop(old);
    let outcome = database.compact(&table, None).await.unwrap();
    assert_eq!(outcome.rows_out, 50, "40 rows and 10 tombstones");
    assert_eq!(now(&database, &table, None).await, writer.model);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_compaction_leaves_no_file_and_changes_nothing() {
    for (operation, part) in [(Operation::Write, "batch-compaction"), (Operation::Sync, "batch-compaction")] {
        let disk = SimDisk::new();
        let database = open(&disk).await;
        let table = create(&database, "t", TableKind::Shared).await.unwrap();
        let mut writer = Writer { database: &database, table: &table, model: Model::new() };
        for round in 0..3 {
            writer.insert(round * 10..round * 10 + 10).await;
            database.flush(&table, None).await.unwrap();
        }
        let before = files(&disk, "");
        let gate = Gate::before(&disk, operation, part);
        let compaction = compact_beside(&database, &table);
        gate.reached();
        let running = database.compactions();
        assert_eq!(running.len(), 1);
        assert_eq!(running[0].partition.table, table.id);
        assert!(running[0].bytes_done > 0 && running[0].bytes_done <= running[0].bytes_total);
        assert!(!database.cancel_compaction(running[0].id + 1));
        assert!(database.cancel_compaction(running[0].id));
        gate.open();
        assert!(matches!(compaction.await.unwrap(), Err(Error::Cancelled(_))));
        assert!(database.compactions().is_empty());
        assert_eq!(files(&disk, ""), before, "held at {operation:?}");
        assert_eq!(now(&database, &table, None).await, writer.model);
        assert_eq!(database.compact(&table, None).await.unwrap().segments_in, 3);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closing_and_dropping_a_table_cancel_its_compactions_however_slow() {
    for close in [true, false] {
        let disk = SimDisk::new();
        let compaction = CompactionConfig { workers: 0, bytes_per_second: 10, ..CompactionConfig::default() };
        let database = Database::open(Config { compaction, ..config(Arc::new(disk.clone())) }).await.unwrap();
        let table = create(&database, "t", TableKind::Shared).await.unwrap();
        let mut writer = Writer { database: &database, table: &table, model: Model::new() };
        for round in 0..3 {
            writer.insert(round * 10..round * 10 + 10).await;
            database.flush(&table, None).await.unwrap();
        }
        let compaction = compact_beside(&database, &table);
        until("it runs", || !database.compactions().is_empty()).await;
        if close {
            database.close().await.unwrap();
        } else {
            database.ddl(Ddl::DropTable { id: table.id }).await.unwrap();
        }
        let cancelled = compaction.await.unwrap();
        assert!(matches!(cancelled, Err(Error::Cancelled(_) | Error::Closed)), "{close}: {cancelled:?}");
        if !close {
            assert!(files(&disk, "").is_empty());
            let again = create(&database, "t", TableKind::Shared).await.unwrap();
            assert!(now(&database, &again, None).await.is_empty());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_view_that_outlives_its_table_does_not_remove_files_of_the_next_one() {
    let disk = SimDisk::new();
    let database = open(&disk).await;
    let table = create(&database, "t", TableKind::Shared).await.unwrap();
    database.commit(vec![insert(&table, None, &rows(0..10, "a"))]).await.unwrap();
    database.flush(&table, None).await.unwrap();
    let view = database.view(&database.snapshot(), &table, None).await.unwrap();
    database.commit(vec![insert(&table, None, &rows(10..20, "a"))]).await.unwrap();
    database.compact(&table, None).await.unwrap();
    let old = files(&disk, ".parquet").into_iter().next().unwrap();
    database.ddl(Ddl::DropTable { id: table.id }).await.unwrap();
    let again = create(&database, "t", TableKind::Shared).await.unwrap();
    database.commit(vec![insert(&again, None, &rows(0..10, "b"))]).await.unwrap();
    database.flush(&again, None).await.unwrap();
    // As if the new table had come to the same number.
    disk.overwrite(&old, b"another's".to_vec()).unwrap();
    drop(view);
    assert!(disk.contents(&old).is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_at_any_step_of_a_compaction_loses_nothing_and_it_works_when_there_is_room() {
    for operation in
        [Operation::Create, Operation::Write, Operation::Sync, Operation::Rename, Operation::SyncDir]
    {
        for after in 0..5 {
            let disk = SimDisk::new();
            let database = open(&disk).await;
            let table = create(&database, "t", TableKind::Shared).await.unwrap();
            let mut writer = Writer { database: &database, table: &table, model: Model::new() };
            writer.insert(0..30).await;
            database.flush(&table, None).await.unwrap();
            writer.update(0..5, "b").await;
            writer.delete(5..8).await;
            database.flush(&table, None).await.unwrap();
            let old = database.snapshot();
            writer.update(8..12, "c").await;
            database.flush(&table, None).await.unwrap();
            let error = std::io::ErrorKind::StorageFull;
            disk.inject(Fault { after, error, ..Fault::next_on(operation, "default/t") });
            let failed = database.compact(&table, None).await;
            let what = format!("{operation:?} after {after}: {failed:?}");
            assert!(matches!(failed, Err(Error::StorageFull(_)) | Ok(_)), "{what}");
            assert_eq!(now(&database, &table, None).await, writer.model, "{what}");
            assert_eq!(contents(&database, &old, &table, None).await.unwrap().len(), 27, "{what}");
            drop(old);
            recovers(disk.fork().crash(Crash::LoseUnsynced), &writer.model, &what).await;
            disk.clear_faults();
            writer.delete(20..21).await;
            database.compact(&table, None).await.unwrap();
            assert_eq!(now(&database, &table, None).await, writer.model, "{what}");
            assert_eq!(files(&disk, "").len(), 2, "{what}: one segment and the manifest");
            recovers(disk.crash(Crash::LoseUnsynced), &writer.model, &format!("{what}, compacted")).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flipped_bit_is_not_copied_into_a_new_file_with_a_good_checksum() {
    let disk = SimDisk::new();
    let database = open(&disk).await;
    let table = create(&database, "t", TableKind::Shared).await.unwrap();
    for round in 0..2 {
        database.commit(vec![insert(&table, None, &rows(round * 10..round * 10 + 10, "a"))]).await.unwrap();
        database.flush(&table, None).await.unwrap();
    }
    let file = files(&disk, ".parquet").remove(0);
    disk.flip_bit(&file, disk.contents(&file).unwrap().len() as u64 * 4).unwrap();
    let before = files(&disk, "");
    let failed = database.compact(&table, None).await;
    assert!(matches!(failed, Err(Error::PartitionDamaged { .. })), "{failed:?}");
    assert_eq!(files(&disk, ""), before);
    let refused = database.commit(vec![insert(&table, None, &rows(50..51, "x"))]).await;
    assert!(matches!(refused, Err(Error::PartitionDamaged { .. })), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn as_many_compactions_as_there_are_workers_run_at_once_and_the_others_wait() {
    let disk = SimDisk::new();
    let (database, _) = timed(&disk, 2).await;
    let held = Arc::new(AtomicBool::new(true));
    disk.set_hook({
        let held = held.clone();
        move |operation, path: &Path| {
            let compacting =
                operation == Operation::Write && path.to_string_lossy().contains("batch-compaction");
            let end = Instant::now() + PATIENCE;
            while compacting && held.load(Ordering::SeqCst) && Instant::now() < end {
                std::thread::yield_now();
            }
        }
    });
    let mut tables = Vec::new();
    for n in 0..4 {
        let table = create(&database, &format!("t{n}"), TableKind::Shared).await.unwrap();
        for round in 0..4 {
            database.commit(vec![insert(&table, None, &rows(round * 5..round * 5 + 5, "a"))]).await.unwrap();
            database.flush(&table, None).await.unwrap();
        }
        if n == 0 {
            // It has work again, which must not take the second worker to wait for the first.
            until("one begins", || database.compactions().len() == 1).await;
            database.commit(vec![insert(&table, None, &rows(90..91, "a"))]).await.unwrap();
            database.flush(&table, None).await.unwrap();
        }
        tables.push(table);
    }
    let rows_of = |n: usize| if n == 0 { 24 } else { 23 };
    until("two begin", || database.compactions().len() == 2).await;
    // One that is commanded waits like the others, and readers and writers for none of them.
    let commanded = compact_beside(&database, &tables[3]);
    let twice = compact_beside(&database, &tables[0]);
    for (n, table) in tables.iter().enumerate() {
        database.commit(vec![insert(table, None, &rows(100..103, "b"))]).await.unwrap();
        assert_eq!(now(&database, table, None).await.len(), rows_of(n));
    }
    assert_eq!(database.compactions().len(), 2, "no more than there are workers");
    held.store(false, Ordering::SeqCst);
    commanded.await.unwrap().unwrap();
    twice.await.unwrap().unwrap();
    let segments = |n: usize| {
        let dir = format!("default/t{n}/");
        disk.files()
            .iter()
            .filter(|file| {
                file.to_string_lossy().contains(&dir) && file.extension().is_some_and(|end| end == "parquet")
            })
            .count()
    };
    until("all are done", || (0..4).all(|n| segments(n) <= 2) && database.compactions().is_empty()).await;
    for (n, table) in tables.iter().enumerate() {
        assert_eq!(now(&database, table, None).await.len(), rows_of(n));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_the_compaction_of_a_partition_keeps_no_worker_from_others() {
    let disk = SimDisk::new();
    let (database, _) = timed(&disk, 2).await;
    // Too few segments for the background.
    let filled = async |name: &str| {
        let table = create(&database, name, TableKind::Shared).await.unwrap();
        for round in 0..3 {
            database.commit(vec![insert(&table, None, &rows(round * 5..round * 5 + 5, "a"))]).await.unwrap();
            database.flush(&table, None).await.unwrap();
        }
        table
    };
    let (slow, other) = (filled("slow").await, filled("other").await);
    let gate = Gate::before(&disk, Operation::Write, "slow/batch-compaction");
    let first = compact_beside(&database, &slow);
    until("it begins", || gate.is_reached()).await;
    let again: Vec<_> = (0..3).map(|_| compact_beside(&database, &slow)).collect();
    let beside = tokio::time::timeout(PATIENCE / 2, database.compact(&other, None)).await;
    assert_eq!(beside.expect("a worker is free").unwrap().segments_in, 3);
    gate.open();
    for done in again.into_iter().chain([first]) {
        done.await.unwrap().unwrap();
    }
}
