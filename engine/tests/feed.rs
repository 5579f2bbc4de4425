//! The change feed.

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use common::gate::PATIENCE;
use common::{
    Model, batch, commit, config, create, delete, find, insert, move_keys, now, open, rows, tombstones,
    update,
};
use kalamdb_engine::{Commit, Config, Database, Error, Feed, Retain, Table, TableKind};
use kalamdb_wal::sim::{Crash, SimDisk};

/// The next commit, or a failed test.
async fn next(feed: &mut Feed) -> Arc<Commit> {
    tokio::time::timeout(PATIENCE, feed.next()).await.expect("a commit comes").unwrap()
}

/// The commits up to and including `last`, which must follow each other without gap.
async fn read_to(feed: &mut Feed, last: u64) -> Vec<Arc<Commit>> {
    let mut commits = Vec::new();
    while feed.position() < last {
        let before = feed.position();
        let commit = next(feed).await;
        assert_eq!(commit.seq, before + 1, "once, and in order");
        assert_eq!(feed.position(), commit.seq);
        commits.push(commit);
    }
    commits
}

fn pairs(rows: &RecordBatch) -> Vec<(i64, Option<String>)> {
    let (ids, values) = (rows.column(0).as_primitive::<Int64Type>(), rows.column(1).as_string_view());
    (0..rows.num_rows()).map(|r| (ids.value(r), values.is_valid(r).then(|| values.value(r).into()))).collect()
}

/// Applies a commit to a map of the rows with the commits that wrote them; the before images must be what is there.
fn follow(state: &mut BTreeMap<i64, (Option<String>, i64)>, commit: &Commit, table: &Table) {
    for change in commit.changes.iter().filter(|c| c.partition.table == table.id) {
        let mut gone = |old: &kalamdb_engine::OldRows| {
            for (at, (id, value)) in pairs(&old.rows).into_iter().enumerate() {
                assert_eq!(state.remove(&id), Some((value, old.seqs.value(at))), "the before image of {id}");
            }
        };
        change.updated.iter().for_each(|(old, _)| gone(old));
        change.deleted.iter().for_each(gone);
        for rows in change.inserted.iter().chain(change.updated.iter().map(|(_, new)| new)) {
            for (id, value) in pairs(rows) {
                assert!(state.insert(id, (value, commit.seq as i64)).is_none(), "{id} was there");
            }
        }
    }
}

fn values(state: &BTreeMap<i64, (Option<String>, i64)>) -> Model {
    state.iter().map(|(id, (value, _))| (*id, value.clone())).collect()
}

/// Inserts, updates, deletes, and two flushes between them.
async fn work(database: &Arc<Database>, table: &Arc<Table>, rounds: i64) {
    for round in 0..rounds {
        let first = round * 10;
        database.commit(vec![insert(table, None, &rows(first..first + 10, "new"))]).await.unwrap();
        let write = update(database, table, None, |id| id % 10 == round % 10, &format!("r{round}")).await;
        commit(database, write).await.unwrap();
        commit(database, delete(database, table, None, |id| id == first + 3).await).await.unwrap();
        if round % 3 == 1 {
            database.flush(table, None).await.unwrap();
        }
    }
}

/// Small log segments, which go as soon as recovery does not need them.
fn without_history(disk: &SimDisk) -> Config {
    Config {
        log_segment_bytes: 16 << 10,
        retain: Retain { bytes: 0, age: Duration::ZERO },
        ..config(Arc::new(disk.clone()))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_in_time_a_late_one_and_one_after_a_restart_get_the_same_commits() {
    let disk = SimDisk::new();
    let database = open(&disk).await;
    let table = create(&database, "t", TableKind::Shared).await.unwrap();
    let start = database.visible();
    let mut early = database.feed(start);
    work(&database, &table, 8).await;
    let last = database.visible();
    let from_memory = read_to(&mut early, last).await;
    // Nobody reads: memory forgets, and who comes later reads the log.
    drop(early);
    database.commit(vec![insert(&table, None, &rows(900..901, "x"))]).await.unwrap();
    let from_log = read_to(&mut database.feed(start), last).await;
    let after = open(&disk.crash(Crash::LoseUnsynced)).await;
    let after_restart = read_to(&mut after.feed(start), last).await;
    for commits in [&from_memory, &from_log, &after_restart] {
        let mut state = BTreeMap::new();
        commits.iter().for_each(|commit| follow(&mut state, commit, &table));
        let mut expected = now(&after, &find(&after, "t"), None).await;
        expected.remove(&900);
        assert_eq!(values(&state), expected);
    }
    for (a, b) in from_memory.iter().zip(&from_log) {
        assert_eq!((a.seq, a.time_us, a.changes.len()), (b.seq, b.time_us, b.changes.len()));
        let images = |c: &Commit| format!("{:?}", c.changes);
        assert_eq!(images(a), images(b), "commit {}", a.seq);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_takes_the_key_of_a_deleted_one_brings_the_tombstone_that_goes() {
    for flushed in [false, true] {
        let disk = SimDisk::new();
        let database = open(&disk).await;
        let table = create(&database, "t", TableKind::Shared).await.unwrap();
        database.commit(vec![insert(&table, None, &rows(1..6, "a"))]).await.unwrap();
        let deleted = delete(&database, &table, None, |id| id % 2 == 1).await.unwrap().unwrap();
        let deleted = database.commit(vec![deleted]).await.unwrap();
        if flushed {
            database.flush(&table, None).await.unwrap();
        }
        // One tombstone is in memory in any case.
        commit(&database, delete(&database, &table, None, |id| id == 4).await).await.unwrap();
        let mut early = database.feed(database.visible());
        let again = [rows(3..5, "b"), rows(90..91, "b"), rows(1..2, "b")].concat();
        let again = database.commit(vec![insert(&table, None, &again)]).await.unwrap().seq;
        commit(&database, move_keys(&database, &table, None, |id| id == 90, -85).await).await.unwrap();
        let last = database.visible();
        let from_memory = read_to(&mut early, last).await;
        drop(early);
        database.commit(vec![insert(&table, None, &rows(900..901, "x"))]).await.unwrap();
        let from_log = read_to(&mut database.feed(again - 1), last).await;
        let after = open(&disk.crash(Crash::LoseUnsynced)).await;
        let after_restart = read_to(&mut after.feed(again - 1), last).await;
        for commits in [from_memory, from_log, after_restart] {
            let replaced: Vec<_> =
                commits.iter().filter_map(|commit| commit.changes[0].replaced.as_ref()).collect();
            let found: Vec<_> = replaced.iter().flat_map(|old| pairs(&old.rows)).collect();
            let expected = [rows(3..5, "a"), rows(1..2, "a"), rows(5..6, "a")].concat();
            assert_eq!(found, expected, "flushed: {flushed}");
            assert_eq!(
                replaced[0].seqs.values(),
                &[deleted.seq as i64, again as i64 - 1, deleted.seq as i64]
            );
            assert_eq!(replaced[0].updated.value(0), deleted.time_us);
        }
        assert!(tombstones(&after, &after.snapshot(), &find(&after, "t"), None).await.unwrap().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_slow_reader_beside_heavy_writers_misses_nothing() {
    let disk = SimDisk::new();
    let database = open(&disk).await;
    let table = create(&database, "t", TableKind::Shared).await.unwrap();
    let mut feed = database.feed(database.visible());
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let (database, table) = (database.clone(), table.clone());
            tokio::spawn(async move {
                for n in 0..60 {
                    // Large rows, so that memory cannot hold what the reader has not read.
                    let text = "x".repeat(200_000);
                    let row = vec![(writer * 1_000 + n, Some(text))];
                    database.commit(vec![insert(&table, None, &row)]).await.unwrap();
                }
            })
        })
        .collect();
    let mut state = BTreeMap::new();
    while state.len() < 240 {
        let commit = next(&mut feed).await;
        follow(&mut state, &commit, &table);
        if commit.seq.is_multiple_of(16) {
            // Slow: let the writers go on for a while.
            tokio::task::yield_now().await;
        }
        if state.len() == 20 {
            while database.visible() < 160 {
                tokio::task::yield_now().await;
            }
        }
    }
    for writer in writers {
        writer.await.unwrap();
    }
    assert_eq!(feed.position(), database.visible());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_position_that_the_log_no_longer_holds_is_refused_with_the_first_it_holds() {
    let disk = SimDisk::new();
    let database = Database::open(without_history(&disk)).await.unwrap();
    let table = create(&database, "t", TableKind::Shared).await.unwrap();
    for n in 0..40 {
        database
            .commit(vec![insert(&table, None, &rows(n * 100..n * 100 + 100, "some longer text"))])
            .await
            .unwrap();
    }
    for (id, _) in database.loaded_partitions() {
        let table = database.catalog().table_by_id(id.table).unwrap().clone();
        database.flush(&table, None).await.unwrap();
    }
    let begin = database.feed_begin();
    assert!(begin > 10, "the log was truncated");
    match database.feed(3).next().await {
        Err(Error::Expired { asked: 4, first }) => assert_eq!(first, begin + 1),
        other => panic!("{other:?}"),
    }
    let last = database.visible();
    let commits = read_to(&mut database.feed(begin), last).await;
    assert_eq!(commits.last().map(|c| c.seq), Some(last));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_sees_no_commit_that_is_not_durable() {
    use kalamdb_wal::sim::Operation;
    let disk = SimDisk::new();
    let database = open(&disk).await;
    let table = create(&database, "t", TableKind::Shared).await.unwrap();
    let mut feed = database.feed(database.visible());
    let gate = common::gate::Gate::before(&disk, Operation::Sync, ".wal");
    let writer = tokio::spawn({
        let (database, write) = (database.clone(), insert(&table, None, &rows(0..1, "a")));
        async move { database.commit(vec![write]).await }
    });
    gate.reached();
    assert!(feed.try_next().unwrap().is_none());
    assert!(now(&database, &table, None).await.is_empty());
    gate.open();
    let committed = writer.await.unwrap().unwrap();
    assert_eq!(next(&mut feed).await.seq, committed.seq);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_waits_hears_that_the_database_closed() {
    let database = open(&SimDisk::new()).await;
    let table = create(&database, "t", TableKind::Shared).await.unwrap();
    let mut feed = database.feed(database.visible());
    let mut idle = database.feed(database.visible() + 1);
    let reader = tokio::spawn(async move { idle.next().await });
    let mut write = kalamdb_engine::PartitionWrite::new(table.clone(), None);
    write.insert = Some(batch(&table, &rows(0..1, "a")));
    database.commit(vec![write]).await.unwrap();
    database.close().await.unwrap();
    let answer = tokio::time::timeout(PATIENCE, reader).await.expect("the reader is told").unwrap();
    assert!(matches!(answer, Err(Error::Closed)));
    assert_eq!(next(&mut feed).await.seq, database.visible(), "what was there before the end is still read");
    assert!(matches!(feed.next().await, Err(Error::Closed)));
}

#[tokio::test]
async fn a_read_of_the_log_does_not_hold_up_the_thread_that_runs_feeds() {
    use kalamdb_wal::sim::Operation;
    let disk = SimDisk::new();
    let database = open(&disk).await;
    let table = create(&database, "t", TableKind::Shared).await.unwrap();
    let start = database.visible();
    let committed = database.commit(vec![insert(&table, None, &rows(0..1, "a"))]).await.unwrap();
    // Nobody read: it is in the log only. This test has one thread; were the log read there, the gate would stay shut.
    let mut behind = database.feed(start);
    let gate = common::gate::Gate::before(&disk, Operation::Read, ".wal");
    let read = async { (next(&mut behind).await.seq, std::time::Instant::now()) };
    let open = async {
        while !gate.is_reached() {
            tokio::task::yield_now().await;
        }
        let opened = std::time::Instant::now();
        gate.open();
        opened
    };
    let ((seq, read), opened) = tokio::join!(read, open);
    assert_eq!(seq, committed.seq);
    assert!(opened < read, "the gate was opened while the read waited at it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_readers_that_are_behind_share_what_is_read() {
    const READERS: usize = 40;
    let disk = SimDisk::new();
    let database = open(&disk).await;
    let table = create(&database, "t", TableKind::Shared).await.unwrap();
    let start = database.visible();
    work(&database, &table, 40).await;
    let last = database.visible();
    let alone = read_to(&mut database.feed(start), last).await;
    let pieces = database.feed_pieces_read();
    assert!(pieces > 1, "more than one piece: {pieces}");
    // Another commit lets memory and, by its size, what is kept for readers go.
    let after = open(&disk.crash(Crash::KillProcess)).await;
    let readers: Vec<_> = (0..READERS)
        .map(|reader| {
            let mut feed = after.feed(start + reader as u64);
            tokio::spawn(async move { read_to(&mut feed, last).await })
        })
        .collect();
    for (reader, commits) in readers.into_iter().enumerate() {
        let seqs: Vec<u64> = commits.await.unwrap().iter().map(|commit| commit.seq).collect();
        assert_eq!(seqs, alone[reader..].iter().map(|commit| commit.seq).collect::<Vec<_>>());
    }
    // They begin in different places: each may read a first piece of its own, after that they meet.
    let read = after.feed_pieces_read();
    assert!(read < pieces * 3, "{read} pieces for {READERS} readers, {pieces} for one");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_stalls_does_not_keep_the_log() {
    let disk = SimDisk::new();
    let database = Database::open(without_history(&disk)).await.unwrap();
    let table = create(&database, "t", TableKind::Shared).await.unwrap();
    let start = database.visible();
    for n in 0..10 {
        database.commit(vec![insert(&table, None, &rows(n..n + 1, "a"))]).await.unwrap();
    }
    let mut stalled = database.feed(start);
    assert_eq!(next(&mut stalled).await.seq, start + 1, "out of the log: nobody read before");
    for n in 1..40 {
        let rows = rows(n * 100..n * 100 + 100, "some longer text");
        database.commit(vec![insert(&table, None, &rows)]).await.unwrap();
    }
    for (id, _) in database.loaded_partitions() {
        let table = database.catalog().table_by_id(id.table).unwrap().clone();
        database.flush(&table, None).await.unwrap();
    }
    assert!(database.feed_begin() > start + 2, "retention is not held up");
    match stalled.next().await {
        Err(Error::Expired { asked, first }) => {
            assert_eq!((asked, first), (start + 2, database.feed_begin() + 1))
        }
        other => panic!("{other:?}"),
    }
}
