//! Partitions of a USER table.

mod common;

use common::{create, find, insert, now, open, rows, update};
use kalamdb_engine::{Error, TableKind, UserId};
use kalamdb_wal::sim::{Crash, SimDisk};

fn user(n: usize) -> UserId {
    UserId::new(&format!("user {n}/..")).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_user_has_rows_of_its_own_hot_and_flushed_and_after_a_restart() {
    let disk = SimDisk::new();
    let database = open(&disk).await;
    let table = create(&database, "u", TableKind::User).await.unwrap();
    for first in (0..200).step_by(20) {
        let writes =
            (first..first + 20).map(|n| insert(&table, Some(&user(n)), &rows(0..3, &format!("u{n}"))));
        database.commit(writes.collect()).await.unwrap();
    }
    for n in (0..200).step_by(50) {
        database.flush(&table, Some(&user(n))).await.unwrap();
        let write =
            update(&database, &table, Some(&user(n)), |id| id == 1, &format!("again {n}")).await.unwrap();
        database.commit(vec![write.unwrap()]).await.unwrap();
    }
    let database = open(&disk.crash(Crash::LoseUnsynced)).await;
    let table = find(&database, "u");
    assert_eq!(database.users_of(&table).await.unwrap().len(), 200);
    for n in 0..200 {
        let mut expected: common::Model = rows(0..3, &format!("u{n}")).into_iter().collect();
        if n % 50 == 0 {
            expected.insert(1, Some(format!("again {n}-1")));
        }
        assert_eq!(now(&database, &table, Some(&user(n))).await, expected, "user {n}");
    }
    assert!(disk.files().iter().all(|f| !f.to_string_lossy().contains("/../")), "no name climbs out");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn looking_for_a_user_who_is_not_there_leaves_nothing_in_memory_or_on_disk() {
    let disk = SimDisk::new();
    let database = open(&disk).await;
    let table = create(&database, "u", TableKind::User).await.unwrap();
    let (before, files) = (database.loaded_partitions().len(), disk.files());
    for n in 0..100 {
        let view = database.view(&database.snapshot(), &table, Some(&user(n))).await.unwrap();
        assert!(view.chunks.is_empty());
        assert_eq!(database.flush(&table, Some(&user(n))).await.unwrap().rows, 0);
    }
    assert_eq!(database.loaded_partitions().len(), before);
    assert_eq!(disk.files(), files);
    assert!(database.users_of(&table).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_insert_does_not_make_a_user() {
    let database = open(&SimDisk::new()).await;
    let table = create(&database, "u", TableKind::User).await.unwrap();
    let mut twice = rows(0..2, "a");
    twice.extend(rows(0..1, "b"));
    let refused = database.commit(vec![insert(&table, Some(&user(1)), &twice)]).await;
    assert!(matches!(refused, Err(Error::UniqueViolation { .. })));
    assert!(database.users_of(&table).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_without_its_owner_is_refused() {
    let database = open(&SimDisk::new()).await;
    let users = create(&database, "u", TableKind::User).await.unwrap();
    let shared = create(&database, "t", TableKind::Shared).await.unwrap();
    assert!(matches!(
        database.commit(vec![insert(&users, None, &rows(0..1, "a"))]).await,
        Err(Error::Internal { .. })
    ));
    let owned = insert(&shared, Some(&user(1)), &rows(0..1, "a"));
    assert!(matches!(database.commit(vec![owned]).await, Err(Error::Internal { .. })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_without_records_in_the_log_are_not_loaded_at_open() {
    let disk = SimDisk::new();
    let database = open(&disk).await;
    let table = create(&database, "u", TableKind::User).await.unwrap();
    for n in 0..20 {
        database.commit(vec![insert(&table, Some(&user(n)), &rows(0..3, "a"))]).await.unwrap();
        database.flush(&table, Some(&user(n))).await.unwrap();
    }
    // The catalog's own rows too, or the log would be kept for them.
    for (id, _) in database.loaded_partitions().into_iter().filter(|(id, _)| id.user.is_none()) {
        let table = database.catalog().table_by_id(id.table).unwrap().clone();
        database.flush(&table, None).await.unwrap();
    }
    database.close().await.unwrap();
    let disk = disk.crash(Crash::KillProcess);
    let database = open(&disk).await;
    let loaded = database.loaded_partitions();
    assert!(loaded.iter().all(|(id, _)| id.user.is_none()), "nobody has asked for one yet");
    assert_eq!(now(&database, &find(&database, "u"), Some(&user(7))).await.len(), 3);
}
