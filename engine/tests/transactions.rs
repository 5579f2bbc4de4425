//! Transactions of several statements against a plain map.

mod common;

use std::sync::Arc;

use common::{
    Model, batch, commit, contents_of, create, delete, delete_in, insert, move_keys, move_keys_in, now, open,
    rows, tombstones, tombstones_of, update, update_in,
};
use kalamdb_engine::{
    Commit, Database, Error, PartitionWrite, Result, Table, TableKind, Transaction, UserId,
};
use kalamdb_wal::sim::{Crash, SimDisk};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

async fn shared(database: &Arc<Database>) -> Arc<Table> {
    create(database, "t", TableKind::Shared).await.unwrap()
}

async fn write(transaction: &mut Transaction, write: Result<Option<PartitionWrite>>) -> Result<()> {
    match write? {
        Some(write) => transaction.write(vec![write]).await,
        None => Ok(()),
    }
}

fn model(transaction: &mut Transaction, table: &Arc<Table>) -> Model {
    let view = transaction.view(table, None).unwrap();
    let (live, dead) = (contents_of(&view).unwrap(), tombstones_of(&view).unwrap());
    assert!(dead.iter().all(|key| !live.contains_key(key)), "{dead:?} beside {live:?}");
    live
}

/// What the last commit said it did to the one partition it changed.
async fn last_change(database: &Arc<Database>, seq: u64) -> Arc<Commit> {
    let commit = database.feed(seq - 1).next().await.unwrap();
    assert_eq!((commit.seq, commit.changes.len()), (seq, 1));
    commit
}

fn counts(commit: &Arc<Commit>) -> [usize; 3] {
    let change = &commit.changes[0];
    [
        change.inserted.as_ref().map_or(0, |rows| rows.num_rows()),
        change.updated.as_ref().map_or(0, |(_, new)| new.num_rows()),
        change.deleted.as_ref().map_or(0, |old| old.rows.num_rows()),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_reads_its_own_writes_and_nobody_else_does_before_the_commit() {
    for flushed in [false, true] {
        let disk = SimDisk::new();
        let database = open(&disk).await;
        let table = shared(&database).await;
        database.commit(vec![insert(&table, None, &rows(1..9, "a"))]).await.unwrap();
        if flushed {
            database.flush(&table, None).await.unwrap();
        }
        let before = now(&database, &table, None).await;
        let mut transaction = database.begin();
        let mut expected = before.clone();
        write(&mut transaction, Ok(Some(insert(&table, None, &rows(20..22, "new"))))).await.unwrap();
        expected.extend(rows(20..22, "new"));
        let view = transaction.view(&table, None).unwrap();
        write(&mut transaction, update_in(view.clone(), |id| id == 2 || id == 20, "b")).await.unwrap();
        expected.insert(2, Some("b-2".into()));
        expected.insert(20, Some("b-20".into()));
        assert_eq!(contents_of(&view).unwrap()[&2].as_deref(), before[&2].as_deref(), "an older view stays");
        let view = transaction.view(&table, None).unwrap();
        write(&mut transaction, delete_in(view, |id| id == 3 || id == 21)).await.unwrap();
        expected.remove(&3);
        expected.remove(&21);
        assert_eq!(model(&mut transaction, &table), expected, "flushed: {flushed}");
        assert_eq!(tombstones_of(&transaction.view(&table, None).unwrap()).unwrap(), [3].into());
        assert_eq!(now(&database, &table, None).await, before);
        let seq = transaction.commit().await.unwrap().unwrap().seq;
        assert_eq!(now(&database, &table, None).await, expected);
        assert_eq!(counts(&last_change(&database, seq).await), [1, 1, 1]);
        let after = open(&disk.crash(Crash::LoseUnsynced)).await;
        assert_eq!(now(&after, &common::find(&after, "t"), None).await, expected);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_committed_is_the_net_change_of_each_row() {
    let database = open(&SimDisk::new()).await;
    let table = shared(&database).await;
    database.commit(vec![insert(&table, None, &rows(1..9, "a"))]).await.unwrap();
    let old = now(&database, &table, None).await;
    let mut transaction = database.begin();
    for value in ["b", "c"] {
        let view = transaction.view(&table, None).unwrap();
        write(&mut transaction, update_in(view, |id| id == 1, value)).await.unwrap();
    }
    // Deleted and inserted again, and moved away and back.
    let view = transaction.view(&table, None).unwrap();
    write(&mut transaction, delete_in(view, |id| id == 2)).await.unwrap();
    transaction.write(vec![insert(&table, None, &[(2, Some("again".into()))])]).await.unwrap();
    for shift in [100, -100] {
        let view = transaction.view(&table, None).unwrap();
        write(&mut transaction, move_keys_in(view, |id| id == 3 || id == 103, shift)).await.unwrap();
    }
    // Inserted and deleted.
    transaction.write(vec![insert(&table, None, &rows(50..52, "x"))]).await.unwrap();
    let view = transaction.view(&table, None).unwrap();
    write(&mut transaction, delete_in(view, |id| id >= 50)).await.unwrap();
    let seq = transaction.commit().await.unwrap().unwrap().seq;
    let committed = last_change(&database, seq).await;
    assert_eq!(counts(&committed), [0, 3, 0]);
    let (before, after) = committed.changes[0].updated.as_ref().unwrap();
    assert_eq!(before.rows, batch(&table, &(1..4).map(|id| (id, old[&id].clone())).collect::<Vec<_>>()));
    assert_eq!(after.num_rows(), 3);
    let found = now(&database, &table, None).await;
    assert_eq!([&found[&1], &found[&2]], [&Some("c-1".into()), &Some("again".into())]);
    assert_eq!(found.keys().copied().collect::<Vec<_>>(), (1..9).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_changes_nothing_in_the_end_commits_nothing() {
    let database = open(&SimDisk::new()).await;
    let table = shared(&database).await;
    database.commit(vec![insert(&table, None, &rows(1..3, "a"))]).await.unwrap();
    let seq = database.visible();
    assert!(database.begin().commit().await.unwrap().is_none());
    let mut transaction = database.begin();
    transaction.write(vec![insert(&table, None, &rows(50..52, "x"))]).await.unwrap();
    let view = transaction.view(&table, None).unwrap();
    write(&mut transaction, delete_in(view, |id| id >= 50)).await.unwrap();
    assert!(transaction.commit().await.unwrap().is_none());
    let mut transaction = database.begin();
    transaction.write(vec![insert(&table, None, &rows(50..52, "x"))]).await.unwrap();
    transaction.rollback();
    assert_eq!(database.visible(), seq);
    assert_eq!(now(&database, &table, None).await.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_that_fails_leaves_the_transaction_as_it_was() {
    for flushed in [false, true] {
        let database = open(&SimDisk::new()).await;
        let table = shared(&database).await;
        database.commit(vec![insert(&table, None, &rows(1..5, "a"))]).await.unwrap();
        commit(&database, delete(&database, &table, None, |id| id == 4).await).await.unwrap();
        if flushed {
            database.flush(&table, None).await.unwrap();
        }
        let mut transaction = database.begin();
        transaction.write(vec![insert(&table, None, &rows(10..12, "b"))]).await.unwrap();
        let before = model(&mut transaction, &table);
        for (first, count) in [(1, 1), (0, 2), (10, 1), (9, 2)] {
            let refused =
                transaction.write(vec![insert(&table, None, &rows(first..first + count, "c"))]).await;
            assert!(matches!(refused, Err(Error::UniqueViolation { .. })), "{first}: {refused:?}");
        }
        let twice = [rows(30..31, "c"), rows(30..31, "d")].concat();
        let refused = transaction.write(vec![insert(&table, None, &twice)]).await;
        assert!(matches!(refused, Err(Error::UniqueViolation { .. })), "{refused:?}");
        for (from, shift) in [(1, 1), (1, 9), (10, -8)] {
            let view = transaction.view(&table, None).unwrap();
            let refused = write(&mut transaction, move_keys_in(view, |id| id == from, shift)).await;
            assert!(matches!(refused, Err(Error::UniqueViolation { .. })), "{from}+{shift}: {refused:?}");
        }
        assert_eq!(model(&mut transaction, &table), before, "flushed: {flushed}");
        // A deleted key is free, in the snapshot and in the transaction, and so is one that a row gave up.
        transaction.write(vec![insert(&table, None, &rows(4..5, "d"))]).await.unwrap();
        let view = transaction.view(&table, None).unwrap();
        write(&mut transaction, move_keys_in(view, |id| id == 1, 40)).await.unwrap();
        transaction.write(vec![insert(&table, None, &rows(1..2, "d"))]).await.unwrap();
        let expected = model(&mut transaction, &table);
        assert_eq!(expected.keys().copied().collect::<Vec<_>>(), [1, 2, 3, 4, 10, 11, 41]);
        transaction.commit().await.unwrap();
        assert_eq!(now(&database, &table, None).await, expected);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_committer_wins() {
    for flushed in [false, true] {
        let database = open(&SimDisk::new()).await;
        let table = shared(&database).await;
        database.commit(vec![insert(&table, None, &rows(1..9, "a"))]).await.unwrap();
        let (mut first, mut second) = (database.begin(), database.begin());
        let (mut other_row, mut other_key) = (database.begin(), database.begin());
        for (transaction, id) in [(&mut first, 1), (&mut second, 1), (&mut other_row, 2)] {
            let view = transaction.view(&table, None).unwrap();
            write(transaction, update_in(view, |at| at == id, "mine")).await.unwrap();
        }
        first.write(vec![insert(&table, None, &rows(30..31, "b"))]).await.unwrap();
        other_key.write(vec![insert(&table, None, &rows(30..31, "c"))]).await.unwrap();
        first.commit().await.unwrap();
        if flushed {
            database.flush(&table, None).await.unwrap();
        }
        assert!(matches!(second.commit().await, Err(Error::Conflict)));
        other_row.commit().await.unwrap();
        assert!(matches!(other_key.commit().await, Err(Error::UniqueViolation { .. })));
        let found = now(&database, &table, None).await;
        assert_eq!([&found[&1], &found[&2]], [&Some("mine-1".into()), &Some("mine-2".into())]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_others_took_or_gave_up_after_the_snapshot_is_refused_at_once_or_at_the_commit() {
    for flushed in [false, true] {
        let database = open(&SimDisk::new()).await;
        let table = shared(&database).await;
        database.commit(vec![insert(&table, None, &rows(1..9, "a"))]).await.unwrap();
        let mut transaction = database.begin();
        database.commit(vec![insert(&table, None, &rows(20..21, "taken"))]).await.unwrap();
        commit(&database, delete(&database, &table, None, |id| id == 1).await).await.unwrap();
        commit(&database, move_keys(&database, &table, None, |id| id == 2, 100).await).await.unwrap();
        commit(&database, update(&database, &table, None, |id| id == 3, "b").await).await.unwrap();
        if flushed {
            database.flush(&table, None).await.unwrap();
        }
        for id in [20, 1, 2, 3, 102] {
            let refused = transaction.write(vec![insert(&table, None, &rows(id..id + 1, "mine"))]).await;
            let refused = matches!(refused, Err(Error::UniqueViolation { .. } | Error::Conflict));
            assert!(refused, "{id}, flushed: {flushed}");
        }
        let expected: Model = rows(1..9, "a").into_iter().collect();
        assert_eq!(model(&mut transaction, &table), expected, "flushed: {flushed}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_over_several_partitions_is_one_record() {
    let disk = SimDisk::new();
    let database = open(&disk).await;
    let table = create(&database, "u", TableKind::User).await.unwrap();
    let users: Vec<UserId> = (0..3).map(|n| UserId::new(&format!("u{n}")).unwrap()).collect();
    let before = database.visible();
    let mut transaction = database.begin();
    for user in &users {
        transaction.write(vec![insert(&table, Some(user), &rows(1..4, "a"))]).await.unwrap();
    }
    let view = transaction.view(&table, Some(&users[1])).unwrap();
    write(&mut transaction, delete_in(view, |id| id == 2)).await.unwrap();
    let seq = transaction.commit().await.unwrap().unwrap().seq;
    assert_eq!(seq, before + 1);
    let database = open(&disk.crash(Crash::LoseUnsynced)).await;
    let table = common::find(&database, "u");
    for (user, rows) in users.iter().zip([3, 2, 3]) {
        assert_eq!(now(&database, &table, Some(user)).await.len(), rows);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_larger_than_a_log_record_is_refused_before_it_is_committed() {
    let database = open(&SimDisk::new()).await;
    let table = shared(&database).await;
    let mut transaction = database.begin();
    let mut row = 0;
    let refused = loop {
        let wide = vec![(row, Some("x".repeat(4 << 20)))];
        match transaction.write(vec![insert(&table, None, &wide)]).await {
            Ok(()) => row += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(&refused, Error::TooLarge(text) if text.contains("64 MiB")), "{refused}");
    assert_eq!(row, 15);
    transaction.commit().await.unwrap();
    assert_eq!(now(&database, &table, None).await.len(), 15);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_of_a_transaction_show_the_sequence_after_its_snapshot_and_its_begin_until_it_commits() {
    let database = open(&SimDisk::new()).await;
    let table = shared(&database).await;
    let mut transaction = database.begin();
    transaction.write(vec![insert(&table, None, &rows(1..2, "a"))]).await.unwrap();
    transaction.write(vec![insert(&table, None, &rows(2..3, "a"))]).await.unwrap();
    let view = transaction.view(&table, None).unwrap();
    let located = kalamdb_engine::read::live_rows(&view).unwrap();
    let seqs: Vec<i64> = located.iter().flat_map(|l| l.rows.seqs.values().iter().copied()).collect();
    assert_eq!(seqs, [transaction.seq() as i64 + 1; 2]);
}

/// Keys that the random transactions use.
const KEYS: i64 = 24;

struct Random {
    random: StdRng,
    database: Arc<Database>,
    table: Arc<Table>,
    model: Model,
}

impl Random {
    /// One random statement, and what it makes of the model; `None` if it must be refused.
    fn statement(&mut self, transaction: &mut Transaction, model: &Model) -> (PartitionWrite, Option<Model>) {
        let low = self.random.random_range(0..KEYS);
        let width = self.random.random_range(1..5);
        let shift = self.random.random_range(-6..7i64);
        let near = move |id: i64| (low..low + width).contains(&id);
        let value = format!("v{}", self.random.random_range(0..1_000));
        let view = transaction.view(&self.table, None).unwrap();
        let mut next = model.clone();
        let nothing = PartitionWrite::new(self.table.clone(), None);
        match self.random.random_range(0..8) {
            0..3 => {
                let new = rows(low..low + width, &value);
                let taken = new.iter().any(|(id, _)| model.contains_key(id));
                next.extend(new.iter().cloned());
                (insert(&self.table, None, &new), (!taken).then_some(next))
            }
            3 | 4 => {
                let all = next.iter_mut().filter(|(id, _)| near(**id));
                all.for_each(|(id, now)| *now = Some(format!("{value}-{id}")));
                (update_in(view, near, &value).unwrap().unwrap_or(nothing), Some(next))
            }
            5 => {
                let moved: Vec<i64> = model.keys().copied().filter(|id| near(*id)).collect();
                moved.iter().for_each(|id| drop(next.remove(id)));
                let free =
                    moved.iter().all(|id| next.insert(id + shift, Some(format!("moved-{id}"))).is_none());
                (move_keys_in(view, near, shift).unwrap().unwrap_or(nothing), free.then_some(next))
            }
            _ => {
                next.retain(|id, _| !near(*id));
                (delete_in(view, near).unwrap().unwrap_or(nothing), Some(next))
            }
        }
    }

    async fn transaction(&mut self) {
        let mut transaction = self.database.begin();
        let mut model = self.model.clone();
        for _ in 0..self.random.random_range(0..10) {
            let (write, next) = self.statement(&mut transaction, &model);
            let result = transaction.write(vec![write]).await;
            match next {
                Some(next) => {
                    result.unwrap();
                    model = next;
                }
                None => assert!(matches!(result, Err(Error::UniqueViolation { .. })), "{result:?}"),
            }
            assert_eq!(self::model(&mut transaction, &self.table), model);
            if self.random.random_range(0..20) == 0 {
                self.database.flush(&self.table, None).await.unwrap();
            }
        }
        if self.random.random_range(0..4) > 0 {
            let dead = tombstones_of(&transaction.view(&self.table, None).unwrap()).unwrap();
            transaction.commit().await.unwrap();
            let found = tombstones(&self.database, &self.database.snapshot(), &self.table, None).await;
            assert_eq!(found.unwrap(), dead, "the tombstones that the transaction saw");
            self.model = model;
        }
        assert_eq!(now(&self.database, &self.table, None).await, self.model);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_transactions_agree_with_a_map() {
    let seeds = std::env::var("KALAMDB_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(4);
    for seed in 0..seeds {
        let disk = SimDisk::new();
        let database = open(&disk).await;
        let table = shared(&database).await;
        let mut world = Random { random: StdRng::seed_from_u64(seed), database, table, model: Model::new() };
        for _ in 0..25 {
            world.transaction().await;
        }
        let after = open(&disk.crash(Crash::LoseUnsynced)).await;
        let table = common::find(&after, "t");
        assert_eq!(now(&after, &table, None).await, world.model, "after a crash, seed {seed}");
    }
}
