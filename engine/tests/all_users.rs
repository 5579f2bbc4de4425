//! Reading a table across many users.

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use common::{
    Model, check_added, commit, config, contents, create, delete, find, insert, move_keys, next_change, rows,
    update,
};
use kalamdb_engine::{AlterTable, Config, Database, Ddl, Snapshot, Table, TableKind, UserId};
use kalamdb_wal::sim::{Crash, SimDisk, SimRandom};

fn user(n: usize) -> UserId {
    UserId::new(&format!("user-{n:04}")).unwrap()
}

/// Lets unused partitions go whenever it is told to, and gives partitions of ten rows files of their own.
async fn forgetful(disk: &SimDisk) -> Arc<Database> {
    let config = Config {
        evict_after: Duration::ZERO,
        flush_rows: 10,
        compaction: kalamdb_engine::CompactionConfig { workers: 0, ..Default::default() },
        ..config(Arc::new(disk.clone()))
    };
    Database::open(config).await.unwrap()
}

type Everybody = BTreeMap<UserId, Model>;

/// What a view of each user shows.
async fn one_by_one(database: &Database, snapshot: &Snapshot, table: &Arc<Table>) -> Everybody {
    let mut all = Everybody::new();
    for user in database.users_of(table).await.unwrap() {
        all.insert(user.clone(), contents(database, snapshot, table, Some(&user)).await.unwrap());
    }
    all.retain(|_, rows| !rows.is_empty());
    all
}

/// What reading all users at once shows.
async fn at_once(database: &Arc<Database>, snapshot: &Snapshot, table: &Arc<Table>) -> Everybody {
    let users = database.all_users(snapshot, table).await.unwrap();
    let mut all = Everybody::new();
    for part in 0..users.small.parts() {
        let declared: Vec<usize> = (0..table.schema.columns().len()).collect();
        // Not in the order of the table, nor each column once.
        let wanted: Vec<usize> = [1, 0].into_iter().chain(declared).collect();
        for batch in users.small.read(part, &wanted, false) {
            let batch = batch.unwrap();
            let rows =
                RecordBatch::try_new(table.schema.rows().clone(), batch.columns[2..].to_vec()).unwrap();
            check_added(table, &rows);
            let (owners, ids) = (batch.users.as_string_view(), batch.columns[1].as_primitive::<Int64Type>());
            let values = batch.columns[0].as_string_view();
            assert_eq!(rows.column(0).as_primitive::<Int64Type>(), ids);
            for row in 0..ids.len() {
                let value = (!values.is_null(row)).then(|| values.value(row).to_owned());
                let rows = all.entry(UserId::new(owners.value(row)).unwrap()).or_default();
                assert!(rows.insert(ids.value(row), value).is_none(), "a row is read once");
            }
        }
    }
    for user in users.large {
        let rows = contents(database, snapshot, table, Some(&user)).await.unwrap();
        assert!(rows.is_empty() || all.insert(user, rows).is_none(), "a user is read in one way");
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_in_packs_are_read_without_being_loaded() {
    const USERS: usize = 2_000;
    let disk = SimDisk::new();
    let database = forgetful(&disk).await;
    let table = create(&database, "u", TableKind::User).await.unwrap();
    for first in (0..USERS).step_by(500) {
        let writes = (first..first + 500).map(|n| insert(&table, Some(&user(n)), &rows(0..3, "a")));
        database.commit(writes.collect()).await.unwrap();
    }
    commit(&database, delete(&database, &table, Some(&user(7)), |id| id == 1).await).await.unwrap();
    database.flush_table(&table).await.unwrap();
    database.evict();
    let loaded = || database.loaded_partitions().iter().filter(|(id, _)| id.table == table.id).count();
    assert_eq!(loaded(), 0);
    let snapshot = database.snapshot();
    let all = at_once(&database, &snapshot, &table).await;
    assert_eq!(loaded(), 0, "nobody was loaded for it");
    assert_eq!((all.len(), all.values().map(Model::len).sum::<usize>()), (USERS, USERS * 3 - 1));
    assert_eq!(all, one_by_one(&database, &snapshot, &table).await);
    // The deleted row is there for whoever asks for it, with what the system columns hold.
    database.evict();
    let users = database.all_users(&snapshot, &table).await.unwrap();
    let batches = (0..users.small.parts()).flat_map(|part| users.small.read(part, &[0, 2, 4], true));
    let deleted: usize = batches.map(|batch| batch.unwrap().columns[2].as_boolean().true_count()).sum();
    assert_eq!(deleted, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reading_all_users_at_once_agrees_with_reading_each_by_itself() {
    for seed in 1..=25 {
        let disk = SimDisk::new();
        let mut random = SimRandom::new(seed);
        let mut database = forgetful(&disk).await;
        create(&database, "u", TableKind::User).await.unwrap();
        let mut held: Vec<(Snapshot, Everybody)> = Vec::new();
        for step in 0..60 {
            let table = find(&database, "u");
            let who = user(random.below(8) as usize);
            let id = random.below(30) as i64;
            match random.below(13) {
                0..4 => {
                    let rows = rows(id..id + 3, "a");
                    // A key may be taken.
                    let _ = database.commit(vec![insert(&table, Some(&who), &rows)]).await;
                }
                4 => {
                    let write = update(&database, &table, Some(&who), |key| key % 3 == id % 3, "b").await;
                    commit(&database, write).await.unwrap();
                }
                5 => {
                    let write = delete(&database, &table, Some(&who), |key| key % 4 == id % 4).await;
                    commit(&database, write).await.unwrap();
                }
                6 => {
                    let write = move_keys(&database, &table, Some(&who), |key| key == id, 1_000 + step).await;
                    commit(&database, write).await.unwrap();
                }
                7 => drop(database.flush_table(&table).await.unwrap()),
                8 => drop(database.compact_packs(&table).await.unwrap()),
                9 => drop(database.evict()),
                10 => {
                    let changes = vec![next_change(&table, &mut random)];
                    let alter = AlterTable { id: table.id, base_version: table.schema.version(), changes };
                    database.ddl(Ddl::AlterTable(Box::new(alter))).await.unwrap();
                }
                11 => {
                    let snapshot = database.snapshot();
                    let all = one_by_one(&database, &snapshot, &table).await;
                    held.push((snapshot, all));
                }
                _ => {
                    held.clear();
                    database.close().await.unwrap();
                    database = forgetful(&disk.crash(Crash::LoseUnsynced)).await;
                }
            }
            let table = find(&database, "u");
            let snapshot = database.snapshot();
            let found = at_once(&database, &snapshot, &table).await;
            assert_eq!(found, one_by_one(&database, &snapshot, &table).await, "seed {seed}, step {step}");
            for (snapshot, expected) in &held {
                let found = at_once(&database, snapshot, &table).await;
                assert_eq!(&found, expected, "seed {seed}, step {step}, at {}", snapshot.seq());
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_read_stays_what_it_was_while_users_are_changed_packed_and_merged() {
    let disk = SimDisk::new();
    let database = forgetful(&disk).await;
    let table = create(&database, "u", TableKind::User).await.unwrap();
    for n in 0..20 {
        database.commit(vec![insert(&table, Some(&user(n)), &rows(0..3, "a"))]).await.unwrap();
    }
    database.flush_table(&table).await.unwrap();
    database.evict();
    // One that is loaded, one that is loaded and changed.
    drop(database.view(&database.snapshot(), &table, Some(&user(3))).await.unwrap());
    commit(&database, update(&database, &table, Some(&user(4)), |_| true, "b").await).await.unwrap();
    let snapshot = database.snapshot();
    let before = at_once(&database, &snapshot, &table).await;
    let users = database.all_users(&snapshot, &table).await.unwrap();
    for n in 0..20 {
        commit(&database, delete(&database, &table, Some(&user(n)), |id| id > 0).await).await.unwrap();
        database.commit(vec![insert(&table, Some(&user(n)), &rows(50..55, "c"))]).await.unwrap();
    }
    database.flush_table(&table).await.unwrap();
    database.compact_packs(&table).await.unwrap();
    database.evict();
    let rows: usize = (0..users.small.parts())
        .flat_map(|part| users.small.read(part, &[0], false))
        .map(|b| b.unwrap().users.len())
        .sum();
    assert_eq!(rows, 60, "what was found before the changes");
    assert_eq!(at_once(&database, &snapshot, &table).await, before, "found after them, at the same snapshot");
}
