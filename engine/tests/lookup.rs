//! Finding rows by key, beside reading all of them.

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array};
use arrow::datatypes::Int64Type;
use common::{commit, create, delete, insert, move_keys, open, rows, update};
use kalamdb_engine::read::live_rows;
use kalamdb_engine::{PartitionView, Snapshot, TableKind, arrow};
use kalamdb_wal::sim::SimDisk;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const KEYS: i64 = 40;
/// Where `_seq` is stored: behind the two declared columns.
const SEQ_AT: usize = 2;

fn keys(keys: impl IntoIterator<Item = i64>) -> [ArrayRef; 1] {
    [Arc::new(Int64Array::from_iter_values(keys))]
}

/// The address of every live key, by reading all rows.
fn scanned(view: &PartitionView) -> BTreeMap<i64, u64> {
    let mut found = BTreeMap::new();
    for part in live_rows(view).unwrap() {
        let ids = part.rows.rows.column(0).as_primitive::<Int64Type>();
        for (id, address) in ids.values().iter().zip(&part.addresses) {
            assert!(found.insert(*id, *address).is_none(), "key {id} is there twice");
        }
    }
    found
}

/// Ids, texts and `_seq` of all live rows by address, by reading all rows.
fn read(view: &PartitionView) -> BTreeMap<u64, (i64, Option<String>, i64)> {
    let mut rows = BTreeMap::new();
    for part in live_rows(view).unwrap() {
        let (batch, seqs) = (&part.rows.rows, &part.rows.seqs);
        for (at, address) in part.addresses.iter().enumerate() {
            rows.insert(*address, row(batch.column(0), batch.column(1), seqs, at));
        }
    }
    rows
}

fn row(ids: &ArrayRef, texts: &ArrayRef, seqs: &Int64Array, at: usize) -> (i64, Option<String>, i64) {
    let id = ids.as_primitive::<Int64Type>().value(at);
    let text = texts.is_valid(at).then(|| texts.as_string_view().value(at).to_owned());
    (id, text, seqs.value(at))
}

fn check(view: &PartitionView, must_know: bool, seed: u64) {
    let expected = scanned(view);
    let all: Vec<i64> = (-1..=KEYS).collect();
    match view.find(&keys(all.iter().copied())).unwrap() {
        Some(found) => {
            let found: BTreeMap<i64, u64> =
                all.into_iter().zip(found).filter_map(|(key, address)| Some((key, address?))).collect();
            assert_eq!(found, expected, "seed {seed}");
        }
        None => assert!(!must_know, "seed {seed}: nothing has changed since, yet a scan is needed"),
    }
    for key in 0..KEYS {
        if let Some(found) = view.find(&keys([key])).unwrap() {
            assert_eq!(found, [expected.get(&key).copied()], "seed {seed}, key {key}");
        }
    }
    let all = read(view);
    for step in [1, usize::MAX] {
        let some: BTreeMap<u64, _> = all.clone().into_iter().step_by(step).collect();
        let addresses: Vec<u64> = some.keys().copied().collect();
        let mut picked = BTreeMap::new();
        for part in view.pick(&addresses, &[1, SEQ_AT, 0]).unwrap() {
            for (at, address) in part.addresses.iter().enumerate() {
                let seqs = part.columns[1].as_primitive::<Int64Type>();
                picked.insert(*address, row(&part.columns[2], &part.columns[0], seqs, at));
            }
        }
        assert_eq!(picked, some, "seed {seed}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_is_found_where_a_scan_finds_it_at_every_snapshot() {
    for seed in 0..4 {
        let mut random = StdRng::seed_from_u64(seed);
        let database = open(&SimDisk::new()).await;
        let table = create(&database, "t", TableKind::Shared).await.unwrap();
        let mut open_views: Vec<(Snapshot, Arc<PartitionView>)> = Vec::new();
        for _ in 0..60 {
            let (low, width) = (random.random_range(0..KEYS), random.random_range(1..6));
            let range = low..(low + width).min(KEYS);
            match random.random_range(0..10) {
                0..=4 => {
                    // Taken keys are refused; some of them are free again.
                    for id in range {
                        let _ = database.commit(vec![insert(&table, None, &rows([id], "new"))]).await;
                    }
                }
                5 | 6 => {
                    commit(&database, update(&database, &table, None, |id| range.contains(&id), "up").await)
                        .await
                        .unwrap()
                }
                7 => commit(&database, delete(&database, &table, None, |id| range.contains(&id)).await)
                    .await
                    .unwrap(),
                8 => {
                    // A key that another row has is refused.
                    let moved = move_keys(&database, &table, None, |id| range.contains(&id), 1).await;
                    let _ = commit(&database, moved).await;
                }
                _ => drop(database.flush(&table, None).await.unwrap()),
            }
            let snapshot = database.write_snapshot();
            let view = Arc::new(database.view(&snapshot, &table, None).await.unwrap());
            check(&view, true, seed);
            if random.random_bool(0.2) {
                open_views.push((snapshot, view));
            }
            if let Some((snapshot, view)) = open_views.get(random.random_range(0..open_views.len().max(1))) {
                check(view, false, seed);
                // A view that is taken late, of an old snapshot, sees files with newer rows.
                let late = database.view(snapshot, &table, None).await.unwrap();
                check(&late, false, seed);
            }
        }
    }
}

/// A text whose length depends on the key, so that pages of different columns do not begin at the same rows.
fn text_of(key: i64) -> Option<String> {
    (key % 7 != 0).then(|| "text ".repeat((key % 40) as usize) + &key.to_string())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_are_read_one_by_one_as_a_scan_reads_them_whatever_room_there_is_for_their_pages() {
    const ROWS: i64 = 20_000;
    for page_bytes in [0, 200 << 10, 64 << 20] {
        let disk: Arc<dyn kalamdb_wal::Disk> = Arc::new(SimDisk::new());
        let config = kalamdb_engine::Config { page_bytes, ..common::config(disk) };
        let database = kalamdb_engine::Database::open(config).await.unwrap();
        let table = create(&database, "t", TableKind::Shared).await.unwrap();
        let values: Vec<_> = (0..ROWS).map(|key| (key, text_of(key))).collect();
        for part in values.chunks(5_000) {
            database.commit(vec![insert(&table, None, part)]).await.unwrap();
        }
        database.flush(&table, None).await.unwrap();
        let mut random = StdRng::seed_from_u64(page_bytes as u64);
        for round in 0..4 {
            let view = database.view(&database.snapshot(), &table, None).await.unwrap();
            let mut first = true;
            for count in (0..60).map(|n| n % 19 + 1) {
                let mut wanted: Vec<i64> = (0..count).map(|_| random.random_range(0..ROWS)).collect();
                wanted.sort_unstable();
                wanted.dedup();
                let before = view.finds_in_memory(&keys(wanted.iter().copied())).unwrap();
                assert!(!before || !first, "nothing of the file was read");
                first = false;
                let found = view.find(&keys(wanted.iter().copied())).unwrap().expect("a key index");
                let mut addresses: Vec<u64> = found.into_iter().flatten().collect();
                addresses.sort_unstable();
                let mut picked = BTreeMap::new();
                for part in view.pick(&addresses, &[SEQ_AT, 1, 0]).unwrap() {
                    for at in 0..part.addresses.len() {
                        let seqs = part.columns[0].as_primitive::<Int64Type>();
                        let (id, text, _) = row(&part.columns[2], &part.columns[1], seqs, at);
                        picked.insert(id, text);
                    }
                }
                let expected: BTreeMap<_, _> = wanted.into_iter().map(|key| (key, text_of(key))).collect();
                assert!(
                    view.finds_in_memory(&keys(picked.keys().copied())).unwrap(),
                    "what was read is kept"
                );
                assert_eq!(picked, expected, "room for {page_bytes} bytes, round {round}");
            }
            // The same rows in other files: what is kept of the old ones must not be taken for theirs.
            let moved = insert(&table, None, &rows([ROWS + round], "more"));
            database.commit(vec![moved]).await.unwrap();
            database.flush(&table, None).await.unwrap();
            database.compact(&table, None).await.unwrap();
        }
    }
}
