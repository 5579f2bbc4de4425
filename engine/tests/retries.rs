//! Flushes and compactions of the background that fail are tried again, and are seen to fail meanwhile.

mod common;

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::gate::{Gate, PATIENCE};
use common::writer::{Writer, recovers};
use common::{Model, config, create, create_as, insert, now, open, rows, schema};
use kalamdb_engine::{
    BackgroundFailure, BackgroundWork, CompactionConfig, Config, Database, Error, Table, TableKind,
    TableOptions, UserId,
};
use kalamdb_wal::sim::{Crash, Fault, Operation, SimClock, SimDisk};

/// Tries again soon, or once a test's patience is over; with so many compactions at a time.
async fn background(disk: &SimDisk, retry_after: Duration, workers: usize) -> Arc<Database> {
    let compaction = CompactionConfig { workers, ..CompactionConfig::default() };
    let config = Config { retry_after, compaction, flush_rows: 10, ..config(Arc::new(disk.clone())) };
    Database::open(config).await.unwrap()
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

fn failure_of(database: &Database, work: BackgroundWork) -> Option<BackgroundFailure> {
    database.background_failures().into_iter().find(|failure| failure.work == work)
}

fn segments(disk: &SimDisk, table: &Table) -> usize {
    let dir = Path::new("/db/tables/default").join(table.name.as_str());
    let files = disk.files().into_iter().filter(|file| file.starts_with(&dir));
    files.filter(|file| file.extension().is_some_and(|end| end == "parquet")).count()
}

/// Counts how often files are begun whose names contain `part`.
fn attempts(disk: &SimDisk, part: &'static str) -> Arc<AtomicUsize> {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    disk.set_hook(move |operation, path: &Path| {
        let begun = operation == Operation::Create && path.to_string_lossy().contains(part);
        counted.fetch_add(usize::from(begun), Ordering::SeqCst);
    });
    count
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_background_flush_that_failed_is_tried_again_until_it_succeeds() {
    for (operation, error) in
        [(Operation::Write, ErrorKind::StorageFull), (Operation::Sync, ErrorKind::Other)]
    {
        let disk = SimDisk::new();
        let database = background(&disk, Duration::from_millis(1), 0).await;
        let table = create(&database, "t", TableKind::Shared).await.unwrap();
        let attempts = attempts(&disk, "batch-flush");
        disk.inject(Fault { times: u64::MAX, error, ..Fault::next_on(operation, "batch-flush") });
        let mut writer = Writer { database: &database, table: &table, model: Model::new() };
        writer.insert(0..10).await;
        until("it is tried again and again", || attempts.load(Ordering::SeqCst) >= 3).await;
        until("it shows", || failure_of(&database, BackgroundWork::Flush).is_some_and(|f| f.attempts >= 2))
            .await;
        let failure = failure_of(&database, BackgroundWork::Flush).unwrap();
        assert_eq!(failure.partition.table, table.id);
        match error {
            ErrorKind::StorageFull => assert!(matches!(failure.error, Error::StorageFull(_)), "{failure:?}"),
            _ => assert!(matches!(failure.error, Error::Io { .. }), "{failure:?}"),
        }
        writer.insert(10..30).await;
        assert_eq!(now(&database, &table, None).await, writer.model);
        recovers(disk.fork().crash(Crash::LoseUnsynced), &writer.model, "while flushes fail").await;
        disk.clear_faults();
        until("it succeeds", || failure_of(&database, BackgroundWork::Flush).is_none()).await;
        until("its rows are in a file", || segments(&disk, &table) > 0).await;
        assert_eq!(now(&database, &table, None).await, writer.model);
        recovers(disk.crash(Crash::LoseUnsynced), &writer.model, "after a flush that failed").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_commits_do_not_make_a_failing_flush_try_more_often() {
    let disk = SimDisk::new();
    let database = background(&disk, PATIENCE * 10, 0).await;
    let table = create(&database, "t", TableKind::Shared).await.unwrap();
    let attempts = attempts(&disk, "batch-flush");
    disk.inject(Fault { times: u64::MAX, ..Fault::next_on(Operation::Write, "batch-flush") });
    let mut writer = Writer { database: &database, table: &table, model: Model::new() };
    writer.insert(0..10).await;
    until("it fails", || failure_of(&database, BackgroundWork::Flush).is_some()).await;
    for round in 1..20 {
        writer.insert(round * 10..round * 10 + 10).await;
    }
    // Asked for after all the others, and in the same order.
    let other = create(&database, "other", TableKind::Shared).await.unwrap();
    disk.clear_faults();
    database.commit(vec![insert(&other, None, &rows(0..10, "a"))]).await.unwrap();
    let flushed = || disk.files().iter().any(|file| file.ends_with("other/manifest.json"));
    until("another table's flush came through", flushed).await;
    assert_eq!(failure_of(&database, BackgroundWork::Flush).unwrap().attempts, 1);
    assert_eq!(attempts.load(Ordering::SeqCst), 2, "one that failed, and the other table's");
    // Whoever commands one does not wait, and ends the trouble.
    database.flush(&table, None).await.unwrap();
    assert!(database.background_failures().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_background_pack_that_failed_is_tried_again_until_it_succeeds() {
    let (disk, clock) = (SimDisk::new(), SimClock::new(1_800_000_000_000_000));
    let base = config(Arc::new(disk.clone()));
    let config = Config { retry_after: Duration::from_millis(1), clock: Arc::new(clock.clone()), ..base };
    let database = Database::open(config).await.unwrap();
    let options = TableOptions { flush_interval_secs: Some(60), ..TableOptions::default() };
    let table = create_as(&database, "u", TableKind::User, schema(), options).await.unwrap();
    let error = ErrorKind::StorageFull;
    disk.inject(Fault { times: u64::MAX, error, ..Fault::next_on(Operation::Write, "_packs/pack") });
    let users = ["ann", "bob"].map(|name| UserId::new(name).unwrap());
    for user in &users {
        database.commit(vec![insert(&table, Some(user), &rows(0..9, "a"))]).await.unwrap();
    }
    let before = now(&database, &table, Some(&users[0])).await;
    clock.advance(Duration::from_secs(61));
    let failed = || failure_of(&database, BackgroundWork::Flush).is_some_and(|f| f.attempts >= 2);
    until("it is tried again", failed).await;
    let failure = failure_of(&database, BackgroundWork::Flush).unwrap();
    assert_eq!(
        (failure.partition.table, &failure.partition.user),
        (table.id, &None),
        "for all users together"
    );
    assert!(matches!(failure.error, Error::StorageFull(_)), "{failure:?}");
    disk.clear_faults();
    until("it succeeds", || database.background_failures().is_empty()).await;
    let packed = || disk.files().iter().any(|file| file.to_string_lossy().contains("_packs/pack-"));
    assert!(packed(), "{:?}", disk.files());
    let database = open(&disk.crash(Crash::LoseUnsynced)).await;
    for user in &users {
        assert_eq!(now(&database, &common::find(&database, "u"), Some(user)).await, before);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_background_compaction_that_failed_is_tried_again_until_it_succeeds() {
    // The file that is read, and the one that is written.
    for (operation, part, error) in [
        (Operation::Read, "default/t/batch-", ErrorKind::Other),
        (Operation::Write, "batch-compaction", ErrorKind::StorageFull),
        (Operation::Sync, "batch-compaction", ErrorKind::Other),
    ] {
        let disk = SimDisk::new();
        let database = background(&disk, Duration::from_millis(1), 1).await;
        let table = create(&database, "t", TableKind::Shared).await.unwrap();
        disk.inject(Fault { times: u64::MAX, error, ..Fault::next_on(operation, part) });
        let mut writer = Writer { database: &database, table: &table, model: Model::new() };
        for round in 0..4 {
            writer.insert(round * 5..round * 5 + 5).await;
            database.flush(&table, None).await.unwrap();
        }
        let what = format!("{operation:?} on {part}");
        let tried_again =
            || failure_of(&database, BackgroundWork::Compaction).is_some_and(|f| f.attempts >= 2);
        until(&what, tried_again).await;
        let failure = failure_of(&database, BackgroundWork::Compaction).unwrap();
        match error {
            ErrorKind::StorageFull => assert!(matches!(failure.error, Error::StorageFull(_)), "{failure:?}"),
            _ => assert!(matches!(failure.error, Error::Io { .. }), "{failure:?}"),
        }
        assert_eq!(segments(&disk, &table), 4, "{what}");
        // The partition is not closed for an error of the moment.
        writer.insert(100..103).await;
        recovers(disk.fork().crash(Crash::LoseUnsynced), &writer.model, &what).await;
        disk.clear_faults();
        until(&what, || database.background_failures().is_empty()).await;
        until(&what, || segments(&disk, &table) == 1).await;
        assert_eq!(now(&database, &table, None).await, writer.model);
        recovers(disk.crash(Crash::LoseUnsynced), &writer.model, &format!("{what}, compacted")).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_background_compaction_that_was_cancelled_is_no_failure_and_the_next_flush_asks_anew() {
    let disk = SimDisk::new();
    // One worker: what asks later is compacted later.
    let database = background(&disk, Duration::from_millis(1), 1).await;
    let table = create(&database, "t", TableKind::Shared).await.unwrap();
    let other = create(&database, "other", TableKind::Shared).await.unwrap();
    let gate = Gate::before(&disk, Operation::Write, "t/batch-compaction");
    let mut writer = Writer { database: &database, table: &table, model: Model::new() };
    for round in 0..4 {
        writer.insert(round * 5..round * 5 + 5).await;
        database.flush(&table, None).await.unwrap();
    }
    until("a compaction begins", || gate.is_reached()).await;
    // Asks for another one while this one runs.
    writer.insert(20..25).await;
    database.flush(&table, None).await.unwrap();
    let running = database.compactions();
    assert!(database.cancel_compaction(running[0].id));
    gate.open();
    until("it ends", || database.compactions().is_empty()).await;
    for round in 0..4 {
        database.commit(vec![insert(&other, None, &rows(round..round + 1, "x"))]).await.unwrap();
        database.flush(&other, None).await.unwrap();
    }
    until("one that was asked for later is done", || segments(&disk, &other) == 1).await;
    assert!(database.background_failures().is_empty());
    assert_eq!(segments(&disk, &table), 5, "nothing was changed");
    assert_eq!(now(&database, &table, None).await, writer.model);
    writer.insert(50..55).await;
    database.flush(&table, None).await.unwrap();
    until("the next one is done", || segments(&disk, &table) == 1).await;
    assert_eq!(now(&database, &table, None).await, writer.model);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_cannot_be_read_for_a_moment_closes_nothing() {
    let disk = SimDisk::new();
    let database = open(&disk).await;
    let table = create(&database, "t", TableKind::Shared).await.unwrap();
    let mut writer = Writer { database: &database, table: &table, model: Model::new() };
    writer.insert(0..20).await;
    database.flush(&table, None).await.unwrap();
    writer.update(0..5, "b").await;
    database.flush(&table, None).await.unwrap();
    let model = writer.model;
    drop(database);
    // The manifest, a delete vector, a segment: each fails once, whoever asks then gets everything.
    for part in ["default/t/manifest.json", ".deletes", ".parquet"] {
        let disk = disk.fork().crash(Crash::LoseUnsynced);
        let config = Config { evict_after: Duration::ZERO, ..config(Arc::new(disk.clone())) };
        let database = Database::open(config).await.unwrap();
        let table = common::find(&database, "t");
        database.evict();
        assert!(
            database.loaded_partitions().iter().all(|(id, _)| id.table != table.id),
            "it is on disk alone"
        );
        disk.inject(Fault::next_on(Operation::Read, part));
        let failed = async {
            let view = database.view(&database.snapshot(), &table, None).await?;
            common::contents_of(&view)
        };
        let failed = failed.await;
        assert!(matches!(failed, Err(Error::Io { .. })), "{part}: {failed:?}");
        assert_eq!(now(&database, &table, None).await, model, "{part}");
        database.commit(vec![insert(&table, None, &rows(90..91, "x"))]).await.unwrap();
    }
}
