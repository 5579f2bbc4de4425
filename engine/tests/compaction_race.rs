//! Commits and flushes that touch the rows of a compaction while it is under way.

mod common;

use std::sync::Arc;

use common::gate::Gate;
use common::writer::{CRASHES, Writer, recovers};
use common::{Model, compact_beside, contents, create, delete, insert, now, open, rows, tombstones, update};
use kalamdb_engine::{CompactionOutcome, Database, Error, PartitionWrite, Snapshot, Table, TableKind};
use kalamdb_wal::sim::{Crash, Freeze, Operation, SimDisk};
use tokio::task::JoinHandle;

/// Where a compaction is held, and whether flushes can run then: before its file, before that is settled, before it gets
/// its name, and before the manifest that names it is durable and in place.
const POINTS: [(Operation, &str, bool); 6] = [
    (Operation::Create, "batch-compaction", true),
    (Operation::Write, "batch-compaction", true),
    (Operation::Sync, "batch-compaction", true),
    (Operation::Rename, "batch-compaction", false),
    (Operation::Sync, "default/t/manifest.json", false),
    (Operation::Rename, "default/t/manifest.json", false),
];

/// A compaction that is held, over rows that are being changed.
struct Race {
    database: Arc<Database>,
    table: Arc<Table>,
    model: Model,
    old: (Snapshot, Model),
    /// Made of what was there before, to be committed after.
    late: Vec<PartitionWrite>,
    gate: Gate,
    compaction: JoinHandle<Result<CompactionOutcome, Error>>,
}

impl Race {
    async fn begin(disk: &SimDisk, point: (Operation, &'static str, bool)) -> Self {
        let database = open(disk).await;
        let table = create(&database, "t", TableKind::Shared).await.unwrap();
        let mut race = Writer { database: &database, table: &table, model: Model::new() };
        race.insert(0..40).await;
        database.flush(&table, None).await.unwrap();
        race.delete(20..25).await;
        race.update(0..3, "early").await;
        database.flush(&table, None).await.unwrap();
        let old = (database.snapshot(), race.model.clone());
        race.insert(40..70).await;
        race.update(0..5, "before").await;
        race.delete(5..8).await;
        race.delete(40..43).await;
        race.insert(22..23).await;
        database.flush(&table, None).await.unwrap();
        let model = race.model;
        let late = vec![
            update(&database, &table, None, |id| id == 30 || id == 62, "late").await.unwrap().unwrap(),
            delete(&database, &table, None, |id| id == 31 || id == 63).await.unwrap().unwrap(),
        ];
        let gate = Gate::before(disk, point.0, point.1);
        let compaction = compact_beside(&database, &table);
        gate.reached();
        Self { database, table, model, old, late, gate, compaction }
    }

    async fn run(&mut self, flushes: bool) {
        let mut writer = Writer { database: &self.database, table: &self.table, model: self.model.clone() };
        writer.update(8..12, "in a segment").await;
        writer.delete(12..14).await;
        // Over tombstones of different segments.
        writer.insert(5..6).await;
        writer.insert(20..21).await;
        writer.insert(40..41).await;
        if flushes {
            self.database.flush(&self.table, None).await.unwrap();
        }
        writer.update(8..10, "again").await;
        writer.update(43..50, "being merged").await;
        writer.delete(50..53).await;
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
        let dead = tombstones(&self.database, &self.old.0, &self.table, None).await.unwrap();
        assert_eq!(dead.into_iter().collect::<Vec<_>>(), [20, 21, 22, 23, 24], "{when}");
    }

    async fn commit_late(&mut self) {
        for write in std::mem::take(&mut self.late) {
            self.database.commit(vec![write]).await.unwrap();
        }
        for id in [30, 62] {
            self.model.insert(id, Some(format!("late-{id}")));
        }
        self.model.retain(|id, _| ![31, 63].contains(id));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_changed_while_it_is_compacted_is_right_before_and_after_and_after_a_crash() {
    for point in POINTS {
        let disk = SimDisk::new();
        let mut race = Race::begin(&disk, point).await;
        race.run(point.2).await;
        race.check(&format!("held before {point:?}")).await;
        for crash in CRASHES {
            let what = format!("{crash:?} while held before {point:?}");
            recovers(disk.fork().crash(crash), &race.model, &what).await;
        }
        race.gate.open();
        let outcome = (&mut race.compaction).await.unwrap().unwrap();
        assert_eq!((outcome.segments_in, outcome.segments_out), (3, 1));
        race.check(&format!("after it was held before {point:?}")).await;
        race.commit_late().await;
        race.check("with what was read before").await;
        for crash in CRASHES {
            recovers(disk.fork().crash(crash), &race.model, &format!("{crash:?} after {point:?}")).await;
        }
        race.database.compact(&race.table, None).await.unwrap();
        race.check("after one more").await;
        drop(race.old);
        race.database.compact(&race.table, None).await.unwrap();
        assert_eq!(now(&race.database, &race.table, None).await, race.model, "after a third");
        let version = race.database.partition_version(&race.table, None).unwrap().unwrap();
        assert_eq!(version.segments.len(), 1);
        assert_eq!(version.manifest.segments[0].deleted_rows, 0, "no superseded row is left");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_at_any_change_of_a_compaction_after_the_changes_loses_none_of_them() {
    for point in [POINTS[2], POINTS[5]] {
        for n in 1.. {
            let disk = SimDisk::new();
            let mut race = Race::begin(&disk, point).await;
            race.run(point.2).await;
            disk.freeze_at(Freeze::Change(disk.counts().changes + n));
            race.gate.open();
            let compacted = (&mut race.compaction).await.unwrap();
            let frozen = disk.is_frozen();
            for crash in [Crash::LoseUnsynced, Crash::Torn(n)] {
                let what = format!("{crash:?} at change {n} after {point:?}");
                recovers(disk.fork().crash(crash), &race.model, &what).await;
            }
            if !frozen {
                compacted.unwrap();
                break;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_is_followed_through_a_flush_and_two_compactions() {
    let database = open(&SimDisk::new()).await;
    let table = create(&database, "t", TableKind::Shared).await.unwrap();
    let mut writer = Writer { database: &database, table: &table, model: Model::new() };
    writer.insert(0..20).await;
    database.flush(&table, None).await.unwrap();
    writer.insert(20..40).await;
    let updated = update(&database, &table, None, |id| id % 10 == 1, "late").await.unwrap().unwrap();
    let deleted = delete(&database, &table, None, |id| id % 10 == 2).await.unwrap().unwrap();
    let stale = update(&database, &table, None, |id| id == 3, "too late").await.unwrap().unwrap();
    writer.update(3..4, "meanwhile").await;
    let mut model = writer.model;
    assert_eq!(database.compact(&table, None).await.unwrap().segments_in, 2);
    database.commit(vec![insert(&table, None, &rows(100..110, "more"))]).await.unwrap();
    model.extend(rows(100..110, "more"));
    assert_eq!(database.compact(&table, None).await.unwrap().segments_in, 2);
    database.commit(vec![updated]).await.unwrap();
    database.commit(vec![deleted]).await.unwrap();
    assert!(matches!(database.commit(vec![stale]).await, Err(Error::Conflict)), "that row did change");
    for id in [1, 11, 21, 31, 101] {
        if id < 100 {
            model.insert(id, Some(format!("late-{id}")));
        }
    }
    model.retain(|id, _| *id >= 100 || id % 10 != 2);
    assert_eq!(now(&database, &table, None).await, model);
}

/// Writers of keys of their own never conflict, whatever moves their rows meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn writers_flushes_and_compactions_at_full_speed_lose_nothing_and_make_no_conflict() {
    const WRITERS: i64 = 4;
    let disk = SimDisk::new();
    let database = open(&disk).await;
    let table = create(&database, "t", TableKind::Shared).await.unwrap();
    let writers: Vec<_> = (0..WRITERS)
        .map(|at| {
            let (database, table) = (database.clone(), table.clone());
            tokio::spawn(async move {
                let mut writer = Writer { database: &database, table: &table, model: Model::new() };
                let first = at * 100;
                writer.insert(first..first + 42).await;
                for round in 0..30 {
                    writer.update(first..first + 10, &format!("round {round}")).await;
                    writer.delete(first + 10..first + 12).await;
                    writer.insert(first + 10..first + 12).await;
                    writer.shift(first + 12 + round..first + 13 + round, 30).await;
                    writer.insert(first + 12 + round..first + 13 + round).await;
                    if round % 2 == 1 {
                        writer.delete(first + 42 + round..first + 43 + round).await;
                    }
                }
                writer.model
            })
        })
        .collect();
    let mover = |compacts: bool| {
        let (database, table) = (database.clone(), table.clone());
        tokio::spawn(async move {
            loop {
                match compacts {
                    true => drop(database.compact(&table, None).await.unwrap()),
                    false => drop(database.flush(&table, None).await.unwrap()),
                }
                tokio::task::yield_now().await;
            }
        })
    };
    let movers = [mover(true), mover(false)];
    let mut model = Model::new();
    for writer in writers {
        model.extend(writer.await.unwrap());
    }
    movers.iter().for_each(|mover| mover.abort());
    assert_eq!(now(&database, &table, None).await, model);
    assert!(database.compacted().segments_out > 2, "{:?}", database.compacted());
    database.compact(&table, None).await.unwrap();
    assert_eq!(now(&database, &table, None).await, model);
    recovers(disk.crash(Crash::LoseUnsynced), &model, "after a crash").await;
}
