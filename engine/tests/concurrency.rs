//! Commits side by side.

mod common;

use std::sync::Arc;

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use common::gate::Gate;
use common::{batch, commit, create, delete, insert, move_keys, now, open, rows, update};
use kalamdb_engine::read::live_rows;
use kalamdb_engine::{Changed, Database, Error, OldRows, PartitionWrite, Snapshot, Table, TableKind, UserId};
use kalamdb_wal::sim::{Crash, Operation, SimClock, SimDisk};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_insert_of_a_key_that_the_same_commit_updates_is_refused() {
    let database = open(&SimDisk::new()).await;
    let table = create(&database, "t", TableKind::Shared).await.unwrap();
    database.commit(vec![insert(&table, None, &rows(1..3, "a"))]).await.unwrap();
    let mut write = update(&database, &table, None, |id| id == 1, "b").await.unwrap().unwrap();
    write.insert = Some(batch(&table, &rows(1..2, "c")));
    let refused = database.commit(vec![write]).await;
    assert!(matches!(refused, Err(Error::UniqueViolation { .. })), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_one_commit_deletes_and_inserts_or_swaps_ends_as_one_live_row() {
    for flushed in [false, true] {
        let disk = SimDisk::new();
        let database = open(&disk).await;
        let table = create(&database, "t", TableKind::Shared).await.unwrap();
        database.commit(vec![insert(&table, None, &rows(1..9, "a"))]).await.unwrap();
        if flushed {
            database.flush(&table, None).await.unwrap();
        }
        let mut write = delete(&database, &table, None, |id| id < 3).await.unwrap().unwrap();
        write.insert = Some(batch(&table, &rows(1..2, "again")));
        database.commit(vec![write]).await.unwrap();
        // 5 and 6 change places.
        let mut swap =
            update(&database, &table, None, |id| id == 5 || id == 6, "swapped").await.unwrap().unwrap();
        let new = vec![(6, Some("was five".into())), (5, Some("was six".into()))];
        swap.update.as_mut().unwrap().new = batch(&table, &new);
        database.commit(vec![swap]).await.unwrap();
        // Onto a deleted key, and onto a taken one.
        commit(&database, move_keys(&database, &table, None, |id| id == 8, -6).await).await.unwrap();
        let refused = commit(&database, move_keys(&database, &table, None, |id| id == 7, -3).await).await;
        assert!(matches!(refused, Err(Error::UniqueViolation { .. })), "{refused:?}");
        let expected: Vec<i64> = vec![1, 2, 3, 4, 5, 6, 7];
        let found = now(&database, &table, None).await;
        assert_eq!(found.keys().copied().collect::<Vec<_>>(), expected, "flushed: {flushed}");
        assert_eq!(found[&6].as_deref(), Some("was five"));
        let after = open(&disk.crash(Crash::LoseUnsynced)).await;
        let table = common::find(&after, "t");
        assert_eq!(now(&after, &table, None).await, found, "after a crash, flushed: {flushed}");
        after.flush(&table, None).await.unwrap();
        assert_eq!(now(&after, &table, None).await, found, "flushed afterwards");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_that_do_not_fit_their_table_are_refused_before_anything_is_logged() {
    let database = open(&SimDisk::new()).await;
    let table = create(&database, "t", TableKind::Shared).await.unwrap();
    let other = create(&database, "other", TableKind::Shared).await.unwrap();
    database.commit(vec![insert(&table, None, &rows(1..9, "a"))]).await.unwrap();
    let before = database.visible();
    let good = || async { update(&database, &table, None, |id| id < 4, "b").await.unwrap().unwrap() };
    let mut short = good().await;
    short.update.as_mut().unwrap().new = batch(&table, &rows(1..3, "b"));
    let mut twice = good().await;
    twice.update.as_mut().unwrap().addresses[1] = twice.update.as_ref().unwrap().addresses[0];
    let mut elsewhere = good().await;
    elsewhere.table = other.clone();
    let mut columns = insert(&table, None, &rows(20..21, "b"));
    columns.insert = columns.insert.map(|rows| rows.project(&[0]).unwrap());
    for (what, write) in [("short", short), ("twice", twice), ("elsewhere", elsewhere), ("columns", columns)]
    {
        let refused = database.commit(vec![write]).await;
        assert!(matches!(refused, Err(Error::Internal { .. })), "{what}: {refused:?}");
    }
    assert_eq!(database.visible(), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_that_claim_a_key_exactly_one_wins() {
    let disk = SimDisk::new();
    let database = open(&disk).await;
    let table = create(&database, "t", TableKind::Shared).await.unwrap();
    // Every third key once was there and is deleted, in memory or in Parquet.
    database.commit(vec![insert(&table, None, &rows((0..30).step_by(3), "old"))]).await.unwrap();
    commit(&database, delete(&database, &table, None, |id| id < 15).await).await.unwrap();
    database.flush(&table, None).await.unwrap();
    commit(&database, delete(&database, &table, None, |_| true).await).await.unwrap();
    let tasks: Vec<_> = (0..8)
        .map(|task| {
            let (database, table) = (database.clone(), table.clone());
            tokio::spawn(async move {
                let mut won = 0;
                for id in 0..30 {
                    if task == 0 && id % 10 == 5 {
                        database.flush(&table, None).await.unwrap();
                    }
                    match database.commit(vec![insert(&table, None, &[(id, Some(format!("{task}")))])]).await
                    {
                        Ok(_) => won += 1,
                        Err(Error::UniqueViolation { .. }) => {}
                        Err(other) => panic!("{other}"),
                    }
                }
                won
            })
        })
        .collect();
    let mut won = 0;
    for task in tasks {
        won += task.await.unwrap();
    }
    assert_eq!(won, 30);
    assert_eq!(now(&database, &table, None).await.len(), 30);
    let after = open(&disk.crash(Crash::LoseUnsynced)).await;
    assert_eq!(now(&after, &common::find(&after, "t"), None).await.len(), 30);
}

/// The amounts on the accounts at a snapshot.
async fn balances(
    database: &Database,
    snapshot: &Snapshot,
    table: &Arc<Table>,
    user: Option<&UserId>,
) -> Vec<i64> {
    let view = database.view(snapshot, table, user).await.unwrap();
    let mut amounts = Vec::new();
    for part in live_rows(&view).unwrap() {
        let values = part.rows.rows.column(1).as_string_view();
        amounts.extend(values.iter().map(|v| v.unwrap().parse::<i64>().unwrap()));
    }
    amounts
}

/// One row's new value, as a write.
async fn set(
    database: &Database,
    table: &Arc<Table>,
    user: Option<&UserId>,
    id: i64,
    add: i64,
) -> Result<PartitionWrite, Error> {
    let view = Arc::new(database.view(&database.write_snapshot(), table, user).await?);
    for part in live_rows(&view)? {
        let ids = part.rows.rows.column(0).as_primitive::<Int64Type>();
        let Some(row) = (0..ids.len()).find(|row| ids.value(*row) == id) else { continue };
        let amount: i64 = part.rows.rows.column(1).as_string_view().value(row).parse().unwrap();
        let old = OldRows {
            rows: part.rows.rows.slice(row, 1),
            seqs: part.rows.seqs.slice(row, 1),
            updated: part.rows.updated.slice(row, 1),
        };
        let new = batch(table, &[(id, Some((amount + add).to_string()))]);
        let mut write = PartitionWrite::new(table.clone(), user.cloned());
        write.update = Some(Changed { addresses: vec![part.addresses[row]], old, new });
        write.view = Some(view);
        return Ok(write);
    }
    panic!("account {id} is gone");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn transfers_between_partitions_keep_the_sum_at_every_snapshot_and_after_a_crash() {
    let disk = SimDisk::new();
    let database = open(&disk).await;
    let shared = create(&database, "t", TableKind::Shared).await.unwrap();
    let users = create(&database, "u", TableKind::User).await.unwrap();
    let ann = UserId::new("ann").unwrap();
    let accounts: Vec<_> = (0..6).map(|id| (id, Some("100".to_owned()))).collect();
    database
        .commit(vec![insert(&shared, None, &accounts), insert(&users, Some(&ann), &accounts)])
        .await
        .unwrap();
    let total = |database: Arc<Database>, shared: Arc<Table>, users: Arc<Table>, ann: UserId| async move {
        let snapshot = database.snapshot();
        let mut all = balances(&database, &snapshot, &shared, None).await;
        all.extend(balances(&database, &snapshot, &users, Some(&ann)).await);
        (all.len(), all.iter().sum::<i64>())
    };
    let writers: Vec<_> = (0..4i64)
        .map(|task| {
            let (database, shared, users, ann) =
                (database.clone(), shared.clone(), users.clone(), ann.clone());
            tokio::spawn(async move {
                let mut conflicts = 0;
                for n in 0..25 {
                    let (from, to) = ((task + n) % 6, (task * 2 + n) % 6);
                    loop {
                        let take = set(&database, &shared, None, from, -1).await.unwrap();
                        let give = set(&database, &users, Some(&ann), to, 1).await.unwrap();
                        match database.commit(vec![take, give]).await {
                            Ok(_) => break,
                            Err(Error::Conflict) => conflicts += 1,
                            Err(other) => panic!("{other}"),
                        }
                    }
                }
                conflicts
            })
        })
        .collect();
    for round in 0..30 {
        assert_eq!(total(database.clone(), shared.clone(), users.clone(), ann.clone()).await, (12, 1_200));
        if round % 10 == 3 {
            database.flush(&shared, None).await.unwrap();
            database.flush(&users, Some(&ann)).await.unwrap();
        }
        tokio::task::yield_now().await;
    }
    for writer in writers {
        writer.await.unwrap();
    }
    assert_eq!(total(database.clone(), shared.clone(), users.clone(), ann.clone()).await, (12, 1_200));
    assert_eq!(balances(&database, &database.snapshot(), &shared, None).await.iter().sum::<i64>(), 500);
    let after = open(&disk.crash(Crash::LoseUnsynced)).await;
    let (shared, users) = (common::find(&after, "t"), common::find(&after, "u"));
    assert_eq!(total(after, shared, users, ann).await, (12, 1_200));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn commits_of_one_partition_that_wait_together_share_a_sync() {
    let disk = SimDisk::new();
    let database = open(&disk).await;
    let table = create(&database, "t", TableKind::Shared).await.unwrap();
    let gate = Gate::before(&disk, Operation::Sync, ".wal");
    let before = disk.counts().syncs;
    let tasks: Vec<_> = (0..64)
        .map(|id| {
            let (database, table) = (database.clone(), table.clone());
            tokio::spawn(
                async move { database.commit(vec![insert(&table, None, &rows(id..id + 1, "a"))]).await },
            )
        })
        .collect();
    gate.reached();
    // All are in memory before the first is durable.
    let deadline = std::time::Instant::now() + common::gate::PATIENCE;
    while database.write_snapshot().seq() < database.visible() + 64 {
        assert!(std::time::Instant::now() < deadline, "commits wait for each other's sync");
        tokio::task::yield_now().await;
    }
    gate.open();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    let syncs = disk.counts().syncs - before;
    assert!(syncs <= 4, "{syncs} syncs for 64 commits");
    assert_eq!(now(&database, &table, None).await.len(), 64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_that_flushes_cannot_relieve_refuses_commits_and_takes_them_again() {
    use kalamdb_wal::sim::Fault;
    let disk = SimDisk::new();
    let config = kalamdb_engine::Config {
        memtable_bytes: 64 << 10,
        overload_wait: std::time::Duration::from_millis(50),
        ..common::config(Arc::new(disk.clone()))
    };
    let database = Database::open(config).await.unwrap();
    let table = create(&database, "t", TableKind::Shared).await.unwrap();
    let fault = Fault {
        times: u64::MAX,
        error: std::io::ErrorKind::StorageFull,
        ..Fault::next_on(Operation::Create, "batch-")
    };
    disk.inject(fault);
    let mut taken = 0;
    let refused = loop {
        match database
            .commit(vec![insert(&table, None, &rows(taken..taken + 20, "some text that takes memory"))])
            .await
        {
            Ok(_) => taken += 20,
            Err(error) => break error,
        }
        assert!(taken < 100_000, "memory has a limit");
    };
    assert!(matches!(refused, Error::Overloaded(_)), "{refused}");
    assert_eq!(now(&database, &table, None).await.len() as i64, taken, "reads go on");
    disk.clear_faults();
    let deadline = std::time::Instant::now() + common::gate::PATIENCE;
    while let Err(error) = database.commit(vec![insert(&table, None, &rows(taken..taken + 1, "after"))]).await
    {
        assert!(matches!(error, Error::Overloaded(_)), "{error}");
        assert!(std::time::Instant::now() < deadline, "the flush is tried again by itself");
    }
    assert_eq!(now(&database, &table, None).await.len() as i64, taken + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_grows_too_long_has_the_partitions_flushed_that_hold_it_back() {
    let disk = SimDisk::new();
    let config = kalamdb_engine::Config { log_bytes: 256 << 10, ..common::config(Arc::new(disk.clone())) };
    let database = Database::open(config).await.unwrap();
    let idle = create(&database, "idle", TableKind::Shared).await.unwrap();
    let busy = create(&database, "busy", TableKind::Shared).await.unwrap();
    database.commit(vec![insert(&idle, None, &rows(0..3, "a"))]).await.unwrap();
    let flushed = |table: &Table| {
        let version = database.partition_version(table, None).unwrap();
        version.is_some_and(|version| version.manifest.flushed_seq > 0)
    };
    let deadline = std::time::Instant::now() + common::gate::PATIENCE;
    let mut id = 0;
    while !flushed(&idle) || !flushed(&busy) {
        database
            .commit(vec![insert(&busy, None, &rows(id..id + 20, "text that fills the log"))])
            .await
            .unwrap();
        id += 20;
        assert!(std::time::Instant::now() < deadline, "nothing is flushed");
    }
    assert_eq!(now(&database, &busy, None).await.len() as i64, id);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_jumps_back_takes_neither_sequences_nor_times_nor_ids_back() {
    const HOUR: i64 = 3_600_000_000;
    let clock = SimClock::new(1_800_000_000_000_000);
    let opened = async |disk: &SimDisk| {
        let clock = Arc::new(clock.clone());
        let config = kalamdb_engine::Config { clock, ..common::config(Arc::new(disk.clone())) };
        Database::open(config).await.unwrap()
    };
    let mut disk = SimDisk::new();
    let mut database = opened(&disk).await;
    let mut table = create(&database, "t", TableKind::Shared).await.unwrap();
    let mut last = (0, 0, 0);
    for round in 0..8 {
        clock.set(1_800_000_000_000_000 - round * HOUR);
        if round == 5 {
            // What the log no longer has to say must be known from the files.
            database.flush(&table, None).await.unwrap();
        }
        if round % 2 == 1 {
            disk = disk.crash(Crash::LoseUnsynced);
            database = opened(&disk).await;
            table = common::find(&database, "t");
        }
        // More than there are in a millisecond: they run ahead of the clock.
        let ids = database.snowflakes(20_000);
        let committed = database.commit(vec![insert(&table, None, &rows([round], "a"))]).await.unwrap();
        let now = (committed.seq, committed.time_us, ids[0]);
        assert!(now.0 > last.0 && now.1 >= last.1 && now.2 > last.2, "{round}: {now:?} after {last:?}");
        last = (committed.seq, committed.time_us, ids[ids.len() - 1]);
    }
    assert_eq!(now(&database, &table, None).await.len(), 8);
}
