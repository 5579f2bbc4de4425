//! `check` and `repair` on a closed database.

mod common;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::{Model, commit, create, delete, find, insert, now, open, rows, update};
use kalamdb_engine::offline::{Condition, check_on, repair_on};
use kalamdb_engine::{Disk, Error, Manifest, TableKind, UserId};
use kalamdb_wal::sim::{Crash, SimClock, SimDisk};

/// A closed database with a SHARED table of three segments, two delete vectors and hot rows, and two users' partitions.
async fn closed() -> (SimDisk, Model) {
    let disk = SimDisk::new();
    let database = open(&disk).await;
    let table = create(&database, "t", TableKind::Shared).await.unwrap();
    for round in 0..3 {
        database.commit(vec![insert(&table, None, &rows(round * 20..round * 20 + 20, "a"))]).await.unwrap();
        commit(&database, update(&database, &table, None, |id| id % 20 == round, "b").await).await.unwrap();
        commit(&database, delete(&database, &table, None, |id| id == 19 - round).await).await.unwrap();
        database.flush(&table, None).await.unwrap();
    }
    commit(&database, update(&database, &table, None, |id| id == 5, "hot").await).await.unwrap();
    let users = create(&database, "u", TableKind::User).await.unwrap();
    for name in ["ann", "bob"] {
        let user = UserId::new(name).unwrap();
        database.commit(vec![insert(&users, Some(&user), &rows(0..5, name))]).await.unwrap();
        database.flush(&users, Some(&user)).await.unwrap();
    }
    let model = now(&database, &table, None).await;
    database.close().await.unwrap();
    drop(database);
    (disk.crash(Crash::KeepUnsynced), model)
}

fn repair(disk: &SimDisk) -> kalamdb_engine::offline::RepairReport {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    repair_on(&disk, &SimClock::default(), Path::new("/db")).unwrap()
}

fn check(disk: &SimDisk) -> kalamdb_engine::offline::CheckReport {
    check_on(disk, Path::new("/db")).unwrap()
}

fn files(disk: &SimDisk, end: &str) -> Vec<PathBuf> {
    let dir = Path::new("/db/tables/default/t");
    disk.files().into_iter().filter(|f| f.starts_with(dir) && f.to_string_lossy().ends_with(end)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clean_database_is_found_clean_and_left_as_it_is() {
    let (disk, _) = closed().await;
    let before: Vec<_> = disk.files().iter().map(|f| (f.clone(), disk.contents(f).unwrap())).collect();
    let report = check(&disk);
    assert_eq!(report.condition(), Condition::Clean, "{report:?}");
    assert_eq!((report.partitions, report.segments, report.condition().exit_code()), (3, 5, 0));
    assert!(report.orphans.is_empty());
    assert_eq!(repair(&disk), kalamdb_engine::offline::RepairReport::default());
    let after: Vec<_> = disk.files().iter().map(|f| (f.clone(), disk.contents(f).unwrap())).collect();
    assert_eq!(before, after);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_or_damaged_manifest_is_rebuilt_from_the_files_as_it_was() {
    for lost in [true, false] {
        let (disk, model) = closed().await;
        let path = PathBuf::from("/db/tables/default/t/manifest.json");
        let was = Manifest::decode(&disk.contents(&path).unwrap()).unwrap();
        if lost {
            disk.remove_file(&path).unwrap();
        } else {
            disk.flip_bit(&path, 8 * 100).unwrap();
        }
        // A later attempt's leftovers must not be taken for the state.
        let vector = disk.contents(&files(&disk, ".deletes")[0]).unwrap();
        let first = was.segments[0].id;
        disk.overwrite(&path.with_file_name(format!("batch-{first}-999999.deletes")), vector).unwrap();
        let report = check(&disk);
        assert_eq!(report.condition(), Condition::Damaged);
        assert_eq!(report.damage.iter().map(|f| &f.file).collect::<Vec<_>>(), [&path]);
        let report = repair(&disk);
        assert_eq!((report.rebuilt, report.left), (vec![path.clone()], vec![]));
        assert!(report.notes.is_empty(), "the log goes on where the segments end: {:?}", report.notes);
        let is = Manifest::decode(&disk.contents(&path).unwrap()).unwrap();
        assert_eq!(is.segments, was.segments);
        let facts = |m: &Manifest| {
            (m.table_id, m.flushed_seq, m.next_segment_id, m.schema_version, m.user_id.clone())
        };
        assert_eq!(facts(&is), facts(&was));
        assert_eq!(check(&disk).condition(), Condition::Clean);
        let database = open(&disk).await;
        assert_eq!(now(&database, &find(&database, "t"), None).await, model);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manifest_is_not_rebuilt_without_a_segment_that_belongs_to_it() {
    let (disk, _) = closed().await;
    let path = PathBuf::from("/db/tables/default/t/manifest.json");
    let was = Manifest::decode(&disk.contents(&path).unwrap()).unwrap();
    disk.remove_file(&path).unwrap();
    disk.remove_file(&path.with_file_name(&was.segments[1].path)).unwrap();
    let report = repair(&disk);
    assert!(report.rebuilt.is_empty());
    assert!(report.left.iter().any(|f| f.file == path && f.what.contains("missing")), "{:?}", report.left);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_flipped_bit_in_a_data_file_is_found_with_its_file() {
    let (clean, _) = closed().await;
    for path in [".parquet", ".deletes", "manifest.json"].iter().flat_map(|end| files(&clean, end)) {
        let len = clean.contents(&path).unwrap().len() as u64;
        for part in 0..8 {
            let disk = clean.fork();
            disk.flip_bit(&path, len * part + 3).unwrap();
            let report = check(&disk);
            assert_eq!(report.condition(), Condition::Damaged, "{} part {part}", path.display());
            assert_eq!(report.damage[0].file, path);
        }
        let disk = clean.fork();
        disk.truncate(&path, len / 2).unwrap();
        assert_eq!(check(&disk).damage[0].file, path);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_torn_log_is_told_from_a_damaged_one_and_an_orphan_from_damage() {
    let (disk, _) = closed().await;
    disk.overwrite(Path::new("/db/tables/default/t/batch-77777.parquet"), b"half a segm".to_vec()).unwrap();
    let report = check(&disk);
    assert_eq!(report.condition(), Condition::Clean);
    assert_eq!(report.orphans, [Path::new("/db/tables/default/t/batch-77777.parquet")]);
    let log = disk.files().into_iter().find(|f| f.extension().is_some_and(|e| e == "wal")).unwrap();
    let at = disk.contents(&log).unwrap().windows(5).position(|bytes| bytes == b"-1 is").unwrap();
    disk.flip_bit(&log, 8 * at as u64).unwrap();
    let report = check(&disk);
    assert_eq!(report.condition().exit_code(), 2);
    assert!(
        matches!(&report.log.verdict, kalamdb_wal::Verdict::Corrupt { segment, .. } if **segment == *log)
    );
    assert!(repair(&disk).left.iter().any(|f| f.file == log && f.offset.is_some()), "the log is not mended");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_database_is_neither_checked_nor_repaired() {
    let disk = SimDisk::new();
    let database = open(&disk).await;
    assert!(matches!(check_on(&disk, Path::new("/db")), Err(Error::Locked(_))));
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    assert!(matches!(repair_on(&shared, &SimClock::default(), Path::new("/db")), Err(Error::Locked(_))));
    database.close().await.unwrap();
    assert_eq!(check(&disk).condition(), Condition::Clean);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rebuilt_manifest_that_ends_long_before_the_log_begins_is_noted() {
    let disk = SimDisk::new();
    let database = open(&disk).await;
    let table = create(&database, "t", TableKind::Shared).await.unwrap();
    for round in 0..2 {
        database.commit(vec![insert(&table, None, &rows(round * 20..round * 20 + 20, "a"))]).await.unwrap();
        database.flush(&table, None).await.unwrap();
    }
    for (id, _) in database.loaded_partitions() {
        let table = database.catalog().table_by_id(id.table).unwrap().clone();
        database.flush(&table, None).await.unwrap();
    }
    database.close().await.unwrap();
    drop(database);
    let disk = disk.crash(Crash::KeepUnsynced);
    let path = PathBuf::from("/db/tables/default/t/manifest.json");
    let was = Manifest::decode(&disk.contents(&path).unwrap()).unwrap();
    disk.remove_file(&path).unwrap();
    // The newest segment is gone as well, and nothing but the log's beginning tells.
    disk.remove_file(&path.with_file_name(&was.segments[1].path)).unwrap();
    let report = repair(&disk);
    assert_eq!(report.rebuilt, std::slice::from_ref(&path));
    assert!(report.notes.iter().any(|note| note.file == path), "{report:?}");
}

/// The same after a compaction, with a delete vector for what was superseded while it ran and a segment that came later.
async fn compacted() -> (SimDisk, Model) {
    let (disk, mut model) = closed().await;
    let database = open(&disk).await;
    let table = find(&database, "t");
    let old = database.snapshot();
    commit(&database, update(&database, &table, None, |id| id == 7, "late").await).await.unwrap();
    model.insert(7, Some("late-7".into()));
    assert_eq!(database.compact(&table, None).await.unwrap().segments_in, 4);
    drop(old);
    for id in 100..102 {
        database.commit(vec![insert(&table, None, &rows(id..id + 1, "c"))]).await.unwrap();
        model.extend(rows(id..id + 1, "c"));
        database.flush(&table, None).await.unwrap();
    }
    commit(&database, delete(&database, &table, None, |id| id == 8).await).await.unwrap();
    model.remove(&8);
    database.close().await.unwrap();
    drop(database);
    (disk.crash(Crash::KeepUnsynced), model)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manifest_lost_after_a_compaction_is_rebuilt_as_it_was() {
    let (disk, model) = compacted().await;
    let path = PathBuf::from("/db/tables/default/t/manifest.json");
    let was = Manifest::decode(&disk.contents(&path).unwrap()).unwrap();
    assert_eq!(was.segments.len(), 3);
    assert!(was.segments[0].level == 1 && was.segments[0].deletes_path.is_some(), "{was:?}");
    disk.remove_file(&path).unwrap();
    let report = repair(&disk);
    assert_eq!((report.rebuilt, report.left), (vec![path.clone()], vec![]));
    let is = Manifest::decode(&disk.contents(&path).unwrap()).unwrap();
    assert_eq!((&is.segments, is.flushed_seq), (&was.segments, was.flushed_seq));
    let database = open(&disk).await;
    let table = find(&database, "t");
    assert_eq!(now(&database, &table, None).await, model);
    database.compact(&table, None).await.unwrap();
    assert_eq!(now(&database, &table, None).await, model);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manifest_is_not_rebuilt_if_a_newer_segment_or_a_delete_vector_is_damaged() {
    let (clean, _) = compacted().await;
    let path = PathBuf::from("/db/tables/default/t/manifest.json");
    let was = Manifest::decode(&clean.contents(&path).unwrap()).unwrap();
    let deletes = was.segments[0].deletes_path.clone().unwrap();
    for damaged in [&was.segments[2].path, &was.segments[0].path, &deletes] {
        let disk = clean.fork();
        disk.remove_file(&path).unwrap();
        let file = path.with_file_name(damaged);
        disk.truncate(&file, disk.contents(&file).unwrap().len() as u64 / 2).unwrap();
        let report = repair(&disk);
        assert!(report.rebuilt.is_empty(), "{damaged}");
        assert!(report.left.iter().any(|f| f.file == path && f.what.contains(damaged)), "{:?}", report.left);
    }
}

/// Whatever a crash leaves of a compaction, the files tell of one state of the partition, or of none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manifest_lost_in_a_crashed_compaction_is_rebuilt_from_what_is_there() {
    use kalamdb_wal::sim::Freeze;
    let (clean, model) = closed().await;
    let path = PathBuf::from("/db/tables/default/t/manifest.json");
    for n in 1.. {
        let disk = clean.fork();
        let database = open(&disk).await;
        let table = find(&database, "t");
        database.flush(&table, None).await.unwrap();
        disk.freeze_at(Freeze::Change(disk.counts().changes + n));
        let compacted = database.compact(&table, None).await;
        let frozen = disk.is_frozen();
        assert!(frozen || compacted.is_ok());
        drop(database);
        for crash in [Crash::LoseUnsynced, Crash::KeepUnsynced, Crash::Torn(n)] {
            let disk = disk.fork().crash(crash);
            disk.remove_file(&path).unwrap();
            let report = repair(&disk);
            assert_eq!(report.rebuilt, std::slice::from_ref(&path), "{crash:?} at change {n}: {report:?}");
            let database = open(&disk).await;
            assert_eq!(now(&database, &find(&database, "t"), None).await, model, "{crash:?} at change {n}");
        }
        if !frozen {
            assert!(n > 5, "{n}");
            break;
        }
    }
}
