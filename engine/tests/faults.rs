//! Disks that fail, fill up or rot.

mod common;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::{Model, commit, config, create, delete, find, insert, now, open, rows, update};
use kalamdb_engine::{Database, Error, Manifest, Table, TableKind};
use kalamdb_wal::sim::{Crash, Fault, Operation, SimDisk};

/// A table with two flushes behind it: two segments, of which the first has a delete vector.
async fn filled(database: &Arc<Database>, name: &str) -> (Arc<Table>, Model) {
    let table = create(database, name, TableKind::Shared).await.unwrap();
    database.commit(vec![insert(&table, None, &rows(0..20, "a"))]).await.unwrap();
    database.flush(&table, None).await.unwrap();
    commit(database, update(database, &table, None, |id| id < 5, "b").await).await.unwrap();
    commit(database, delete(database, &table, None, |id| id == 9).await).await.unwrap();
    database.flush(&table, None).await.unwrap();
    let model = now(database, &table, None).await;
    (table, model)
}

fn file(disk: &SimDisk, table: &str, end: &str) -> PathBuf {
    let dir = Path::new("/db/tables/default").join(table);
    let mut files = disk.files().into_iter();
    files.find(|f| f.starts_with(&dir) && f.to_string_lossy().ends_with(end)).expect("there is such a file")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_cannot_sync_makes_the_database_read_only_until_a_restart() {
    let disk = SimDisk::new();
    let database = open(&disk).await;
    let (table, model) = filled(&database, "t").await;
    disk.inject(Fault::next_on(Operation::Sync, ".wal"));
    let syncs = Arc::new(AtomicUsize::new(0));
    disk.set_hook({
        let syncs = syncs.clone();
        move |operation, path| {
            let log = operation == Operation::Sync && path.extension().is_some_and(|e| e == "wal");
            syncs.fetch_add(usize::from(log), Ordering::SeqCst);
        }
    });
    let tasks: Vec<_> = (0..16)
        .map(|n| {
            let (database, table) = (database.clone(), table.clone());
            tokio::spawn(async move {
                database.commit(vec![insert(&table, None, &rows(100 + n..101 + n, "x"))]).await
            })
        })
        .collect();
    for task in tasks {
        let answer = tokio::time::timeout(common::gate::PATIENCE, task).await.expect("everybody is answered");
        assert!(matches!(answer.unwrap(), Err(Error::ReadOnly(_))));
    }
    assert!(matches!(
        database.commit(vec![insert(&table, None, &rows(300..301, "x"))]).await,
        Err(Error::ReadOnly(_))
    ));
    let dropped = database.ddl(kalamdb_engine::Ddl::DropTable { id: table.id }).await;
    assert!(matches!(dropped, Err(Error::ReadOnly(_))), "{dropped:?}");
    assert!(database.flush(&table, None).await.is_err(), "what is not durable must not get into a segment");
    assert!(matches!(database.until_visible(database.visible() + 1).await, Err(Error::ReadOnly(_))));
    assert_eq!(syncs.load(Ordering::SeqCst), 1, "a sync is never tried again");
    assert_eq!(now(&database, &table, None).await, model, "reads go on");
    let database = open(&disk.crash(Crash::LoseUnsynced)).await;
    let table = find(&database, "t");
    assert_eq!(now(&database, &table, None).await, model);
    database.commit(vec![insert(&table, None, &rows(100..101, "x"))]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_at_any_write_of_a_flush_loses_nothing_and_the_flush_works_when_there_is_room() {
    for operation in
        [Operation::Create, Operation::Write, Operation::Sync, Operation::Rename, Operation::SyncDir]
    {
        for after in 0..6 {
            let disk = SimDisk::new();
            let database = open(&disk).await;
            let (table, _) = filled(&database, "t").await;
            commit(&database, update(&database, &table, None, |id| id < 12, "c").await).await.unwrap();
            database.commit(vec![insert(&table, None, &rows(50..60, "d"))]).await.unwrap();
            let model = now(&database, &table, None).await;
            let error = std::io::ErrorKind::StorageFull;
            disk.inject(Fault { after, error, ..Fault::next_on(operation, "default/t") });
            let failed = database.flush(&table, None).await;
            let what = format!("{operation:?} after {after}: {failed:?}");
            assert!(matches!(failed, Err(Error::StorageFull(_)) | Ok(_)), "{what}");
            assert_eq!(now(&database, &table, None).await, model, "{what}");
            let crashed = open(&disk.fork().crash(Crash::LoseUnsynced)).await;
            assert_eq!(now(&crashed, &find(&crashed, "t"), None).await, model, "{what}, crashed");
            disk.clear_faults();
            commit(&database, delete(&database, &table, None, |id| id == 51).await).await.unwrap();
            database.flush(&table, None).await.unwrap();
            let model = now(&database, &table, None).await;
            assert!(!model.contains_key(&51));
            let crashed = open(&disk.crash(Crash::LoseUnsynced)).await;
            assert_eq!(now(&crashed, &find(&crashed, "t"), None).await, model, "{what}, flushed and crashed");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_under_the_log_refuses_commits_and_takes_them_when_there_is_room() {
    let disk = SimDisk::new();
    let database = open(&disk).await;
    let table = create(&database, "t", TableKind::Shared).await.unwrap();
    disk.set_capacity(Some(disk.used()));
    let mut taken = Model::new();
    let refused = loop {
        let id = taken.len() as i64 * 50;
        let new = rows(id..id + 50, "text that fills the log");
        match database.commit(vec![insert(&table, None, &new)]).await {
            Ok(_) => taken.extend(new),
            Err(error) => break error,
        }
        assert!(taken.len() < 100_000);
    };
    assert!(matches!(refused, Error::StorageFull(_)), "{refused}");
    assert_eq!(now(&database, &table, None).await, taken, "reads go on, without the refused rows");
    disk.set_capacity(None);
    database.commit(vec![insert(&table, None, &rows(-5..0, "after"))]).await.unwrap();
    taken.extend(rows(-5..0, "after"));
    assert_eq!(now(&database, &table, None).await, taken);
    let database = open(&disk.crash(Crash::LoseUnsynced)).await;
    assert_eq!(now(&database, &find(&database, "t"), None).await, taken);
}

type Damage = fn(&SimDisk, &Path);

const DAMAGES: [(&str, Damage); 3] = [
    ("missing", |disk, path| {
        kalamdb_wal::Disk::remove_file(disk, path).unwrap();
        kalamdb_wal::Disk::sync_dir(disk, path.parent().unwrap()).unwrap();
    }),
    ("cut", |disk, path| disk.truncate(path, disk.contents(path).unwrap().len() as u64 / 2).unwrap()),
    ("flipped", |disk, path| disk.flip_bit(path, disk.contents(path).unwrap().len() as u64 * 4).unwrap()),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_file_closes_its_partition_and_no_other_and_its_log_is_kept() {
    for end in ["manifest.json", ".parquet", ".deletes"] {
        for (how, damage) in DAMAGES {
            let what = format!("{end} {how}");
            let disk = SimDisk::new();
            let database = open(&disk).await;
            let (bad, _) = filled(&database, "bad").await;
            let (_, model) = filled(&database, "good").await;
            // In memory and in the log only.
            database.commit(vec![insert(&bad, None, &rows(100..110, "hot"))]).await.unwrap();
            let hot = database.visible();
            drop(database);
            let disk = disk.crash(Crash::LoseUnsynced);
            damage(&disk, &file(&disk, "bad", end));
            let database = open(&disk).await;
            let (bad, good) = (find(&database, "bad"), find(&database, "good"));
            assert_eq!(now(&database, &good, None).await, model, "{what}");
            let reason = match read_all(&database, &bad).await {
                Err(Error::PartitionDamaged { reason, .. }) => reason,
                other => panic!("{what}: {other:?}"),
            };
            assert!(reason.contains(end), "{what}: {reason}");
            // Closed for everything, not for the rows that happen to be damaged alone.
            let refused = database.commit(vec![insert(&bad, None, &rows(500..501, "x"))]).await;
            assert!(matches!(refused, Err(Error::PartitionDamaged { .. })), "{what}: {refused:?}");
            assert!(database.view(&database.snapshot(), &bad, None).await.is_err(), "{what}");
            let flushed = database.flush(&bad, None).await;
            assert!(matches!(flushed, Err(Error::PartitionDamaged { .. })), "{what}: {flushed:?}");
            // Others go on, and their flushes do not let go of its commits.
            database.commit(vec![insert(&good, None, &rows(100..101, "x"))]).await.unwrap();
            for (id, _) in database.loaded_partitions() {
                let table = database.catalog().table_by_id(id.table).unwrap().clone();
                if table.id != bad.id {
                    database.flush(&table, None).await.unwrap();
                }
            }
            let mut feed = database.feed(hot - 1);
            assert_eq!(feed.next().await.unwrap().seq, hot, "{what}");
            drop(database);
            let disk = disk.crash(Crash::LoseUnsynced);
            let report = kalamdb_wal::check(&disk, Path::new("/db/wal")).unwrap();
            assert!(report.low_water <= hot, "{what}: the log from {} on, not from {hot}", report.low_water);
        }
    }
}

/// Reads every row, so that every segment is opened.
async fn read_all(database: &Database, table: &Arc<Table>) -> Result<(), Error> {
    let view = database.view(&database.snapshot(), table, None).await?;
    kalamdb_engine::read::live_rows(&view)?;
    kalamdb_engine::read::tombstone_rows(&view)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_manifest_is_refused_in_so_many_words() {
    let disk = SimDisk::new();
    let database = open(&disk).await;
    filled(&database, "t").await;
    drop(database);
    let disk = disk.crash(Crash::LoseUnsynced);
    let path = file(&disk, "t", "manifest.json");
    let mut manifest = Manifest::decode(&disk.contents(&path).unwrap()).unwrap();
    manifest.format_version += 1;
    disk.overwrite(&path, manifest.encode().unwrap()).unwrap();
    let database = open(&disk).await;
    match read_all(&database, &find(&database, "t")).await {
        Err(Error::PartitionDamaged { reason, .. }) => assert!(reason.contains("newer"), "{reason}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_log_is_refused_with_file_and_offset_and_nothing_is_changed() {
    let disk = SimDisk::new();
    let database = open(&disk).await;
    let table = create(&database, "t", TableKind::Shared).await.unwrap();
    for n in 0..20 {
        database
            .commit(vec![insert(&table, None, &rows(n * 50..n * 50 + 50, "fills the log with text"))])
            .await
            .unwrap();
    }
    database.close().await.unwrap();
    drop(database);
    let disk = disk.crash(Crash::LoseUnsynced);
    let path = disk.files().into_iter().find(|f| f.extension().is_some_and(|e| e == "wal")).unwrap();
    let text = b"fills the log with text";
    let at = disk.contents(&path).unwrap().windows(text.len()).position(|bytes| bytes == text).unwrap();
    disk.flip_bit(&path, 8 * at as u64).unwrap();
    let before: Vec<_> = disk.files().iter().map(|f| (f.clone(), disk.contents(f).unwrap())).collect();
    match Database::open(config(Arc::new(disk.clone()))).await {
        Err(Error::Corrupt(reason)) => {
            assert!(reason.contains(".wal") && reason.contains("byte"), "{reason}")
        }
        other => panic!("{:?}", other.map(|_| "it was opened")),
    }
    let after: Vec<_> = disk.files().iter().map(|f| (f.clone(), disk.contents(f).unwrap())).collect();
    assert_eq!(before, after);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_is_opened_once_at_a_time() {
    let disk = SimDisk::new();
    let database = open(&disk).await;
    assert!(matches!(Database::open(config(Arc::new(disk.clone()))).await, Err(Error::Locked(_))));
    database.close().await.unwrap();
    let again = open(&disk).await;
    assert!(matches!(database.commit(Vec::new()).await, Err(Error::Closed)));
    assert!(again.visible() > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closing_waits_for_a_flush_under_way_and_lets_no_other_begin() {
    let disk = SimDisk::new();
    let database = open(&disk).await;
    let table = create(&database, "t", TableKind::Shared).await.unwrap();
    database.commit(vec![insert(&table, None, &rows(0..20, "a"))]).await.unwrap();
    let gate = common::gate::Gate::before(&disk, Operation::Sync, "default/t/batch-");
    let flush = common::flush_beside(&database, &table);
    gate.reached();
    let closing = tokio::spawn({
        let database = database.clone();
        async move { database.close().await }
    });
    assert!(matches!(Database::open(config(Arc::new(disk.clone()))).await, Err(Error::Locked(_))));
    gate.open();
    flush.await.unwrap().unwrap();
    closing.await.unwrap().unwrap();
    assert!(matches!(database.flush(&table, None).await, Err(Error::Closed)));
    let again = open(&disk).await;
    assert_eq!(now(&again, &find(&again, "t"), None).await.len(), 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_catalog_change_whose_caller_went_away_is_made_or_not_but_never_half() {
    let disk = SimDisk::new();
    let database = open(&disk).await;
    let gate = common::gate::Gate::before(&disk, Operation::Sync, ".wal");
    let creating = tokio::spawn({
        let database = database.clone();
        async move { create(&database, "t", TableKind::Shared).await }
    });
    gate.reached();
    creating.abort();
    assert!(creating.await.unwrap_err().is_cancelled());
    gate.open();
    let other = create(&database, "other", TableKind::Shared).await.unwrap();
    let table = find(&database, "t");
    assert_ne!(table.id, other.id);
    database.commit(vec![insert(&table, None, &rows(0..2, "a"))]).await.unwrap();
}
