//! What partitions cost in memory, held against what the allocator gives out. A process of its own, since it counts all.
#![allow(unsafe_code, reason = "an allocator that counts")]

mod common;
#[path = "common/counting.rs"]
mod counting;

use std::time::Instant;

use common::gate::PATIENCE;
use common::{create, insert, rows};
use counting::allocated;
use kalamdb_engine::{Config, Database, SyncPolicy, TableKind, UserId};

const LOG_SEGMENT: u64 = 64 << 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hot_partition_costs_little_beside_its_rows_and_the_report_says_how_much() {
    const USERS: usize = 10_000;
    const ROWS: i64 = 16;
    // A real disk: a simulated one is itself in memory.
    let dir = tempfile::tempdir().unwrap();
    // Small segments of the log: its threads have buffers too, of a size with them.
    let config =
        Config { sync: SyncPolicy::Never, log_segment_bytes: LOG_SEGMENT, ..Config::new(dir.path()) };
    let database = Database::open(config).await.unwrap();
    let table = create(&database, "u", TableKind::User).await.unwrap();
    let users: Vec<UserId> = (0..USERS).map(|n| UserId::new(&format!("user-{n}")).unwrap()).collect();
    let (before, reported) = (allocated(), database.memory());
    for users in users.chunks(100) {
        let writes = users.iter().map(|user| insert(&table, Some(user), &rows(0..ROWS, "a")));
        database.commit(writes.collect()).await.unwrap();
    }
    let after = database.memory();
    let (row_bytes, overhead) =
        (after.row_bytes - reported.row_bytes, after.overhead_bytes - reported.overhead_bytes);
    assert_eq!(after.hot_partitions - reported.hot_partitions, USERS);
    let reported = row_bytes + overhead;
    let deadline = Instant::now() + PATIENCE;
    loop {
        // The log's threads have buffers too, now and then.
        let grown = allocated() - before;
        let small = grown <= row_bytes + USERS * 1_024;
        if small && reported * 10 > grown * 9 && reported * 9 < grown * 10 {
            break;
        }
        let rows = row_bytes / USERS;
        assert!(
            Instant::now() < deadline,
            "{} bytes each, {rows} of them rows; {} reported",
            grown / USERS,
            reported / USERS
        );
        tokio::task::yield_now().await;
    }
}
