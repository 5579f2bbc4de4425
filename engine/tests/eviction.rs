//! Partitions that leave memory and come back.

mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use common::gate::PATIENCE;
use common::{commit, config, contents, create, delete, insert, now, rows, update};
use kalamdb_engine::{Config, Database, Error, PartitionId, Table, TableKind, UserId};
use kalamdb_wal::sim::{Crash, SimClock, SimDisk};

fn user(n: usize) -> UserId {
    UserId::new(&format!("user-{n}")).unwrap()
}

/// A database that evicts whatever it may as soon as it is told to.
async fn forgetful(disk: &SimDisk) -> Arc<Database> {
    let config = Config { evict_after: Duration::ZERO, ..config(Arc::new(disk.clone())) };
    Database::open(config).await.unwrap()
}

fn is_loaded(database: &Database, table: &Table, user: &UserId) -> bool {
    let id = PartitionId { table: table.id, user: Some(user.clone()) };
    database.loaded_partitions().iter().any(|(loaded, _)| *loaded == id)
}

/// Whether a partition is loaded still when everything is evicted that can be.
fn stays(database: &Database, table: &Table, user: &UserId) -> bool {
    database.evict();
    is_loaded(database, table, user)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_nobody_used_for_a_while_is_evicted_and_comes_back_as_it_was() {
    let clock = Arc::new(SimClock::new(1_800_000_000_000_000));
    let disk = SimDisk::new();
    let config = Config { clock: clock.clone(), ..config(Arc::new(disk.clone())) };
    let database = Database::open(config).await.unwrap();
    let table = create(&database, "u", TableKind::User).await.unwrap();
    let ann = user(1);
    database.commit(vec![insert(&table, Some(&ann), &rows(0..5, "a"))]).await.unwrap();
    database.flush(&table, Some(&ann)).await.unwrap();
    commit(&database, delete(&database, &table, Some(&ann), |id| id == 2).await).await.unwrap();
    database.flush(&table, Some(&ann)).await.unwrap();
    let before = now(&database, &table, Some(&ann)).await;
    clock.advance(Duration::from_secs(59));
    database.evict();
    assert!(is_loaded(&database, &table, &ann), "it was used a moment ago");
    clock.advance(Duration::from_secs(1));
    assert!(!stays(&database, &table, &ann));
    assert_eq!(now(&database, &table, Some(&ann)).await, before);
    let catalog = database.catalog().table("system", "tables").unwrap().clone();
    assert!(database.loaded_partitions().iter().any(|(id, _)| id.table == catalog.id), "system tables stay");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_stays_while_memory_alone_has_some_of_it_or_somebody_looks_at_it() {
    let database = forgetful(&SimDisk::new()).await;
    let table = create(&database, "u", TableKind::User).await.unwrap();
    let ann = user(1);
    database.commit(vec![insert(&table, Some(&ann), &rows(0..5, "a"))]).await.unwrap();
    assert!(stays(&database, &table, &ann), "its rows are not in Parquet");
    let old = database.snapshot();
    commit(&database, update(&database, &table, Some(&ann), |id| id < 2, "b").await).await.unwrap();
    database.flush(&table, Some(&ann)).await.unwrap();
    assert!(stays(&database, &table, &ann), "a snapshot is open that does not see the update");
    let seen = contents(&database, &old, &table, Some(&ann)).await.unwrap();
    assert_eq!(seen, rows(0..5, "a").into_iter().collect());
    drop(old);
    let view = database.view(&database.snapshot(), &table, Some(&ann)).await.unwrap();
    assert!(stays(&database, &table, &ann), "somebody reads its segment");
    drop(view);
    assert!(!stays(&database, &table, &ann));
    assert_eq!(now(&database, &table, Some(&ann)).await.len(), 5);
}

/// Addresses name the memtable they were read in; a partition that is loaded again must not have one of that name.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_read_before_a_flush_and_an_eviction_are_still_found_after_it() {
    let database = forgetful(&SimDisk::new()).await;
    let table = create(&database, "u", TableKind::User).await.unwrap();
    let ann = user(1);
    database.commit(vec![insert(&table, Some(&ann), &rows(0..5, "a"))]).await.unwrap();
    let write = update(&database, &table, Some(&ann), |id| id == 3, "changed").await.unwrap().unwrap();
    database.flush(&table, Some(&ann)).await.unwrap();
    // What was read are rows of a memtable that is no longer its own.
    database.evict();
    database.commit(vec![insert(&table, Some(&ann), &rows(10..15, "b"))]).await.unwrap();
    database.commit(vec![write]).await.unwrap();
    let mut expected: common::Model = rows(0..5, "a").into_iter().chain(rows(10..15, "b")).collect();
    expected.insert(3, Some("changed-3".into()));
    assert_eq!(now(&database, &table, Some(&ann)).await, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reading_very_many_cold_users_does_not_leave_them_in_memory() {
    const USERS: usize = 100;
    let disk = SimDisk::new();
    let database = common::open(&disk).await;
    let table = create(&database, "u", TableKind::User).await.unwrap();
    for first in (0..USERS).step_by(20) {
        let writes = (first..first + 20).map(|n| insert(&table, Some(&user(n)), &rows(0..1, "a")));
        database.commit(writes.collect()).await.unwrap();
    }
    for n in 0..USERS {
        database.flush(&table, Some(&user(n))).await.unwrap();
    }
    database.close().await.unwrap();
    let disk = disk.crash(Crash::KillProcess);
    let config = Config { loaded_bytes: 64 << 10, ..config(Arc::new(disk.clone())) };
    let database = Database::open(config).await.unwrap();
    let table = common::find(&database, "u");
    let snapshot = database.snapshot();
    for user in database.users_of(&table).await.unwrap() {
        assert_eq!(contents(&database, &snapshot, &table, Some(&user)).await.unwrap().len(), 1);
    }
    let deadline = Instant::now() + PATIENCE;
    while database.memory().overhead_bytes > 128 << 10 {
        assert!(Instant::now() < deadline, "{:?} after {USERS} users were read", database.memory());
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commits_and_flushes_meet_no_partition_that_was_evicted_under_them() {
    const TASKS: usize = 4;
    const ROUNDS: i64 = 20;
    let disk = SimDisk::new();
    let database = forgetful(&disk).await;
    let table = create(&database, "u", TableKind::User).await.unwrap();
    let work: Vec<_> = (0..TASKS)
        .map(|task| {
            let (database, table) = (database.clone(), table.clone());
            tokio::spawn(async move {
                for round in 0..ROUNDS {
                    let owner = user(round as usize % 3);
                    let id = round * TASKS as i64 + task as i64;
                    let new = rows(id..id + 1, "a");
                    database.commit(vec![insert(&table, Some(&owner), &new)]).await.unwrap();
                    loop {
                        let write = update(&database, &table, Some(&owner), |at| at == id, "b")
                            .await
                            .unwrap()
                            .unwrap();
                        match database.commit(vec![write]).await {
                            Err(Error::Conflict) => {}
                            other => break other.map(|_| ()).unwrap(),
                        }
                    }
                    database.flush(&table, Some(&owner)).await.unwrap();
                    database.evict();
                }
            })
        })
        .collect();
    for task in work {
        task.await.unwrap();
    }
    let database = common::open(&disk.crash(Crash::LoseUnsynced)).await;
    let table = common::find(&database, "u");
    let mut total = 0;
    for n in 0..3 {
        let found = now(&database, &table, Some(&user(n))).await;
        assert!(found.iter().all(|(id, value)| value.as_ref() == Some(&format!("b-{id}"))), "{found:?}");
        total += found.len();
    }
    assert_eq!(total, TASKS * ROUNDS as usize);
}
