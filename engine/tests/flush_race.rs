//! Commits that touch the rows of a flush while it is under way.

mod common;

use std::sync::Arc;

use common::gate::Gate;
use common::writer::{CRASHES, Writer, recovers};
use common::{Model, commit, contents, create, delete, flush_beside, insert, now, open, rows, update};
use kalamdb_engine::{Database, Error, Snapshot, Table, TableKind};
use kalamdb_wal::sim::{Crash, Fault, Freeze, Operation, SimDisk};

/// Where a flush is held: before the segment's file, before it is durable, before the manifest names it, and before
/// that is durable.
const POINTS: [(Operation, &str); 4] = [
    (Operation::Create, "default/t/batch-"),
    (Operation::Sync, "default/t/batch-"),
    (Operation::Sync, "default/t/manifest.json"),
    (Operation::Rename, "default/t/manifest.json"),
];

/// A flush that is held, over rows that are being changed.
struct Race {
    database: Arc<Database>,
    table: Arc<Table>,
    model: Model,
    old: (Snapshot, Model),
    gate: Gate,
    flush: tokio::task::JoinHandle<Result<kalamdb_engine::FlushOutcome, Error>>,
}

impl Race {
    async fn begin(disk: &SimDisk, point: (Operation, &'static str)) -> Self {
        let database = open(disk).await;
        let table = create(&database, "t", TableKind::Shared).await.unwrap();
        let mut race = Writer { database: &database, table: &table, model: Model::new() };
        race.insert(0..30).await;
        database.flush(&table, None).await.unwrap();
        race.delete(20..25).await;
        database.flush(&table, None).await.unwrap();
        race.insert(40..70).await;
        race.update(0..5, "before").await;
        race.delete(5..8).await;
        race.delete(40..43).await;
        let model = race.model;
        let old = (database.snapshot(), model.clone());
        let gate = Gate::before(disk, point.0, point.1);
        let flush = flush_beside(&database, &table);
        gate.reached();
        Self { database, table, model, old, gate, flush }
    }

    async fn run(&mut self) {
        let mut writer = Writer { database: &self.database, table: &self.table, model: self.model.clone() };
        writer.update(8..12, "in a segment").await;
        writer.update(43..50, "being flushed").await;
        writer.delete(12..14).await;
        writer.delete(50..53).await;
        writer.insert(5..6).await;
        writer.insert(40..41).await;
        writer.insert(20..21).await;
        writer.insert(100..105).await;
        writer.shift(54..55, 100).await;
        writer.shift(55..56, -14).await;
        writer.shift(14..15, -8).await;
        writer.delete(43..44).await;
        writer.insert(43..44).await;
        writer.delete(100..101).await;
        self.model = writer.model;
    }

    async fn check(&self, when: &str) {
        assert_eq!(now(&self.database, &self.table, None).await, self.model, "{when}");
        let old = contents(&self.database, &self.old.0, &self.table, None).await.unwrap();
        assert_eq!(old, self.old.1, "{when}, at the snapshot from before");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_changed_while_it_is_flushed_is_right_before_and_after_and_after_a_crash() {
    for point in POINTS {
        let disk = SimDisk::new();
        let mut race = Race::begin(&disk, point).await;
        race.run().await;
        race.check(&format!("held before {point:?}")).await;
        for crash in CRASHES {
            recovers(
                disk.fork().crash(crash),
                &race.model,
                &format!("{crash:?} while held before {point:?}"),
            )
            .await;
        }
        race.gate.open();
        (&mut race.flush).await.unwrap().unwrap();
        race.check(&format!("after it was held before {point:?}")).await;
        for crash in CRASHES {
            recovers(disk.fork().crash(crash), &race.model, &format!("{crash:?} after {point:?}")).await;
        }
        race.database.flush(&race.table, None).await.unwrap();
        race.check("after one more flush").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_at_any_sync_after_the_changes_loses_none_of_them() {
    for point in [POINTS[1], POINTS[3]] {
        for n in 1.. {
            let disk = SimDisk::new();
            let mut race = Race::begin(&disk, point).await;
            race.run().await;
            disk.freeze_at(Freeze::Sync(disk.counts().all_syncs() + n));
            race.gate.open();
            let flushed = (&mut race.flush).await.unwrap();
            if !disk.is_frozen() {
                flushed.unwrap();
                break;
            }
            for crash in [Crash::LoseUnsynced, Crash::KeepUnsynced, Crash::Torn(n), Crash::Torn(n + 100)] {
                let what = format!("{crash:?} at sync {n} after {point:?}");
                recovers(disk.fork().crash(crash), &race.model, &what).await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_updates_during_one_flush_leave_every_row_once() {
    let disk = SimDisk::new();
    let database = open(&disk).await;
    let table = create(&database, "t", TableKind::Shared).await.unwrap();
    let mut model: Model = rows(0..700, "first").into_iter().collect();
    database.commit(vec![insert(&table, None, &rows(0..700, "first"))]).await.unwrap();
    let gate = Gate::before(&disk, Operation::Sync, "default/t/batch-");
    let flush = flush_beside(&database, &table);
    gate.reached();
    for id in 0..600 {
        commit(&database, update(&database, &table, None, |at| at == id, "second").await).await.unwrap();
        model.insert(id, Some(format!("second-{id}")));
    }
    assert_eq!(now(&database, &table, None).await, model);
    gate.open();
    flush.await.unwrap().unwrap();
    assert_eq!(now(&database, &table, None).await, model);
    recovers(disk.crash(Crash::LoseUnsynced), &model, "after a crash").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flush_whose_caller_went_away_is_not_run_twice() {
    let disk = SimDisk::new();
    let database = open(&disk).await;
    let table = create(&database, "t", TableKind::Shared).await.unwrap();
    let model: Model = rows(0..50, "first").into_iter().collect();
    database.commit(vec![insert(&table, None, &rows(0..50, "first"))]).await.unwrap();
    let gate = Gate::before(&disk, Operation::Sync, "default/t/batch-");
    let flush = flush_beside(&database, &table);
    gate.reached();
    flush.abort();
    assert!(flush.await.unwrap_err().is_cancelled());
    let again = flush_beside(&database, &table);
    gate.open();
    again.await.unwrap().unwrap();
    let third = database.flush(&table, None).await.unwrap();
    assert_eq!(third.segments, 0);
    assert_eq!(now(&database, &table, None).await, model);
    let version = database.partition_version(&table, None).unwrap().unwrap();
    assert_eq!(version.segments.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_read_before_a_flush_can_be_changed_after_it() {
    let disk = SimDisk::new();
    let database = open(&disk).await;
    let table = create(&database, "t", TableKind::Shared).await.unwrap();
    let mut writer = Writer { database: &database, table: &table, model: Model::new() };
    writer.insert(0..20).await;
    let updated = update(&database, &table, None, |id| id < 5, "late").await.unwrap().unwrap();
    let deleted = delete(&database, &table, None, |id| (5..8).contains(&id)).await.unwrap().unwrap();
    let stale = update(&database, &table, None, |id| id == 9, "too late").await.unwrap().unwrap();
    writer.update(9..10, "meanwhile").await;
    let mut model = writer.model;
    database.flush(&table, None).await.unwrap();
    database.commit(vec![updated]).await.unwrap();
    database.commit(vec![deleted]).await.unwrap();
    assert!(matches!(database.commit(vec![stale]).await, Err(Error::Conflict)), "that row did change");
    (0..5).for_each(|id| drop(model.insert(id, Some(format!("late-{id}")))));
    model.retain(|id, _| !(5..8).contains(id));
    assert_eq!(now(&database, &table, None).await, model);
    recovers(disk.crash(Crash::LoseUnsynced), &model, "after a crash").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manifest_that_may_or_may_not_be_in_place_never_names_a_file_that_was_changed() {
    for n in 1.. {
        let disk = SimDisk::new();
        let database = open(&disk).await;
        let table = create(&database, "t", TableKind::Shared).await.unwrap();
        let mut writer = Writer { database: &database, table: &table, model: Model::new() };
        writer.insert(0..20).await;
        database.flush(&table, None).await.unwrap();
        writer.insert(20..40).await;
        writer.update(0..3, "a").await;
        // The rename happens, the directory's sync fails: two syncs of it come before, for vector and segment.
        disk.inject(Fault { after: 2, ..Fault::next_on(Operation::SyncDir, "default/t") });
        database.flush(&table, None).await.unwrap_err();
        let manifest = disk.contents(std::path::Path::new("/db/tables/default/t/manifest.json")).unwrap();
        let manifest = kalamdb_engine::Manifest::decode(&manifest).unwrap();
        assert_eq!(manifest.segments.len(), 2, "the file is in place, whatever the answer was");
        writer.update(20..24, "b").await;
        disk.freeze_at(Freeze::Sync(disk.counts().all_syncs() + n));
        let flushed = database.flush(&table, None).await;
        for crash in [Crash::LoseUnsynced, Crash::KeepUnsynced, Crash::Torn(n), Crash::Torn(n + 100)] {
            recovers(disk.fork().crash(crash), &writer.model, &format!("{crash:?} at sync {n}")).await;
        }
        if !disk.is_frozen() {
            flushed.unwrap();
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_dropped_while_it_is_flushed_is_gone_and_its_name_free() {
    let disk = SimDisk::new();
    let database = open(&disk).await;
    let table = create(&database, "t", TableKind::Shared).await.unwrap();
    database.commit(vec![insert(&table, None, &rows(0..50, "first"))]).await.unwrap();
    let gate = Gate::before(&disk, Operation::Sync, "default/t/batch-");
    let flush = flush_beside(&database, &table);
    gate.reached();
    let dropped = tokio::spawn({
        let (database, id) = (database.clone(), table.id);
        async move { database.ddl(kalamdb_engine::Ddl::DropTable { id }).await }
    });
    gate.open();
    dropped.await.unwrap().unwrap();
    flush.await.unwrap().unwrap();
    let files =
        disk.files().into_iter().filter(|f| f.to_string_lossy().contains("default/t")).collect::<Vec<_>>();
    assert!(files.is_empty(), "{files:?}");
    let refused = database.commit(vec![insert(&table, None, &rows(60..61, "x"))]).await;
    assert!(matches!(refused, Err(Error::TableNotFound(_))), "{refused:?}");
    let again = create(&database, "t", TableKind::Shared).await.unwrap();
    database.commit(vec![insert(&again, None, &rows(0..2, "again"))]).await.unwrap();
    database.flush(&again, None).await.unwrap();
    recovers(disk.crash(Crash::LoseUnsynced), &rows(0..2, "again").into_iter().collect(), "the new table")
        .await;
}
