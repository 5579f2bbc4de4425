//! STREAM tables: memory only, bounded, gone with the process.

mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use common::{batch, config, schema};
use kalamdb_engine::{
    Config, Database, Ddl, Error, NamespaceId, NewTable, StreamView, Table, TableKind, TableName,
    TableOptions,
};
use kalamdb_wal::sim::{SimClock, SimDisk};

struct World {
    clock: SimClock,
    disk: SimDisk,
    database: Arc<Database>,
}

impl World {
    async fn open(change: impl FnOnce(&mut Config)) -> Self {
        let (clock, disk) = (SimClock::new(1_800_000_000_000_000), SimDisk::new());
        let mut config = Config { clock: Arc::new(clock.clone()), ..config(Arc::new(disk.clone())) };
        change(&mut config);
        Self { clock, disk, database: Database::open(config).await.unwrap() }
    }

    async fn table(&self, name: &str, options: TableOptions) -> Arc<Table> {
        let new = NewTable {
            namespace: NamespaceId::new("default").unwrap(),
            name: TableName::new(name).unwrap(),
            kind: TableKind::Stream,
            schema: schema(),
            options,
        };
        self.database.ddl(Ddl::CreateTable(Box::new(new))).await.unwrap().table.unwrap()
    }

    fn insert(&self, table: &Table, ids: std::ops::Range<i64>) -> u64 {
        let rows: Vec<_> = ids.map(|id| (id, Some(format!("value {id}")))).collect();
        self.database.insert_into_stream(table, batch(table, &rows)).unwrap().seq
    }

    fn ids(&self, table: &Table) -> Vec<i64> {
        ids(&self.database.stream(table).unwrap().view(self.database.clock().now_micros()))
    }
}

fn ids(view: &StreamView) -> Vec<i64> {
    let column =
        |rows: &arrow::array::RecordBatch| rows.column(0).as_primitive::<Int64Type>().values().to_vec();
    view.chunks.iter().flat_map(|chunk| column(&chunk.rows)).collect()
}

fn options(retention_millis: u64, max_buffer: u64, ephemeral: bool) -> TableOptions {
    TableOptions {
        retention_millis: Some(retention_millis),
        max_buffer: Some(max_buffer),
        ephemeral: Some(ephemeral),
        ..TableOptions::default()
    }
}

async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn rows_leave_by_count_and_by_age_and_their_memory_is_given_back() {
    let world = World::open(|_| {}).await;
    let table = world.table("s", options(10_000, 3, false)).await;
    for id in 0..5 {
        world.insert(&table, id..id + 1);
    }
    assert_eq!(world.ids(&table), [2, 3, 4], "oldest first");
    world.clock.advance(Duration::from_secs(9));
    world.insert(&table, 5..6);
    world.clock.advance(Duration::from_secs(1));
    assert_eq!(world.ids(&table), [5]);
    world.clock.advance(Duration::from_secs(10));
    eventually("the last row is freed without anybody looking", || world.database.streams().bytes() == 0)
        .await;
    assert!(world.ids(&table).is_empty());
}

#[tokio::test]
async fn an_ephemeral_stream_keeps_rows_only_while_somebody_listens() {
    let world = World::open(|_| {}).await;
    let table = world.table("s", options(10_000, 100, true)).await;
    let stream = world.database.stream(&table).unwrap();
    world.insert(&table, 0..3);
    assert_eq!((world.ids(&table).len(), world.database.streams().bytes()), (0, 0));
    let (listener, before) = stream.listen();
    let seq = world.insert(&table, 3..5);
    let heard = stream.after(before, usize::MAX).unwrap();
    assert_eq!((heard.len(), heard[0].seq, heard[0].rows.num_rows()), (1, seq, 2));
    assert_eq!(world.ids(&table), [3, 4]);
    drop(listener);
    assert_eq!((world.ids(&table).len(), world.database.streams().bytes()), (0, 0));
}

#[tokio::test]
async fn a_listener_hears_every_insert_in_order_also_a_burst_larger_than_the_buffer() {
    let world = World::open(|_| {}).await;
    let table = world.table("s", options(10_000, 2, false)).await;
    let stream = world.database.stream(&table).unwrap();
    let (_listener, mut heard) = stream.listen();
    let sent: Vec<u64> = (0..500).map(|id| world.insert(&table, id..id + 1)).collect();
    let mut seqs = Vec::new();
    while heard < 500 {
        for insert in stream.after(heard, 7).unwrap() {
            assert_eq!(insert.number, heard + 1);
            heard = insert.number;
            seqs.push(insert.seq);
        }
    }
    assert_eq!(seqs, sent);
    assert!(sent.is_sorted_by(|a, b| a < b));
    assert_eq!(world.ids(&table), [498, 499]);
}

#[tokio::test]
async fn a_thousand_streams_stay_within_the_budget_and_keep_their_newest_rows() {
    let budget = 4 << 20;
    let world = World::open(|config| config.stream_bytes = budget).await;
    let mut tables = Vec::new();
    for n in 0..1_000 {
        tables.push(world.table(&format!("s{n}"), options(10_000_000, 1_000_000, false)).await);
    }
    for round in 0..60 {
        for table in &tables {
            world.insert(table, round..round + 1);
            assert!(world.database.streams().bytes() <= budget);
        }
    }
    for table in &tables {
        assert_eq!(world.ids(table).last(), Some(&59));
    }
    let rows: u64 = tables.iter().map(|table| world.database.stream(table).unwrap().stats().rows).sum();
    assert!(rows < 30_000, "{rows} rows: the budget was never reached");
    let held: usize = tables.iter().map(|table| world.database.stream(table).unwrap().stats().bytes).sum();
    assert_eq!(world.database.streams().bytes(), held, "the total is exact");
    let rows: Vec<_> = (0..100_000).map(|id| (id, None)).collect();
    let refused = world.database.insert_into_stream(&tables[0], batch(&tables[0], &rows)).unwrap_err();
    assert!(matches!(refused, Error::TooLarge(_)), "{refused}");
}

#[tokio::test]
async fn a_dropped_stream_takes_no_rows_and_leaves_no_memory() {
    let world = World::open(|_| {}).await;
    let table = world.table("s", options(10_000, 100, false)).await;
    world.insert(&table, 0..10);
    world.database.ddl(Ddl::DropTable { id: table.id }).await.unwrap();
    assert_eq!(world.database.streams().bytes(), 0);
    let refused = world.database.insert_into_stream(&table, batch(&table, &[(1, None)])).unwrap_err();
    assert!(matches!(refused, Error::TableNotFound(_)), "{refused}");
}

#[tokio::test]
async fn nothing_of_a_stream_is_logged_or_written_and_a_restart_finds_it_empty() {
    let world = World::open(|_| {}).await;
    let table = world.table("s", options(10_000_000, 1_000_000, false)).await;
    let (log, syncs) = (world.database.visible(), world.disk.counts().all_syncs());
    let before = world.insert(&table, 0..1_000);
    assert_eq!((world.database.visible(), world.disk.counts().all_syncs()), (log, syncs));
    world.database.close().await.unwrap();
    let World { clock, disk, database } = world;
    drop(database);
    clock.advance(Duration::from_millis(1));
    let database =
        Database::open(Config { clock: Arc::new(clock.clone()), ..config(Arc::new(disk.clone())) })
            .await
            .unwrap();
    let table = database.catalog().table("default", "s").unwrap().clone();
    assert_eq!(table.kind, TableKind::Stream);
    let named = |path: &std::path::PathBuf| path.starts_with("/db/tables/default/s");
    assert!(!disk.files().iter().any(named), "a stream has no directory");
    let world = World { clock, disk, database };
    assert!(world.ids(&table).is_empty());
    assert!(world.insert(&table, 0..1) > before, "numbers rise through restarts");
}

#[tokio::test]
async fn a_row_takes_about_the_memory_of_its_values_and_not_that_of_the_batch_it_came_in() {
    let world = World::open(|_| {}).await;
    let table = world.table("s", options(10_000_000, 1_000_000, false)).await;
    let rows: Vec<_> =
        (0..1_000).map(|id| (id, Some(format!("a text of more than twelve bytes {id}")))).collect();
    let large = batch(&table, &rows);
    for row in 0..200 {
        world.database.insert_into_stream(&table, large.slice(row, 1)).unwrap();
    }
    let bytes = world.database.streams().bytes();
    assert!(bytes < 200 * 1_024, "{bytes} bytes for 200 rows");
}
