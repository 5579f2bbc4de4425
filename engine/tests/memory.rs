//! What partitions cost in memory, held against what the allocator gives out. A process of its own, since it counts all.
#![allow(unsafe_code, reason = "an allocator that counts")]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use common::gate::PATIENCE;
use common::{create, insert, rows};
use kalamdb_engine::{Config, Database, SyncPolicy, TableKind, UserId};

struct Counting;

static ALLOCATED: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is passed on as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.fetch_add(layout.size(), Ordering::Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        ALLOCATED.fetch_sub(layout.size(), Ordering::Relaxed);
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hot_partition_costs_little_beside_its_rows_and_the_report_says_how_much() {
    const USERS: usize = 10_000;
    const ROWS: i64 = 16;
    // A real disk: a simulated one is itself in memory.
    let dir = tempfile::tempdir().unwrap();
    let config = Config { sync: SyncPolicy::Never, ..Config::new(dir.path()) };
    let database = Database::open(config).await.unwrap();
    let table = create(&database, "u", TableKind::User).await.unwrap();
    let users: Vec<UserId> = (0..USERS).map(|n| UserId::new(&format!("user-{n}")).unwrap()).collect();
    let (before, reported) = (ALLOCATED.load(Ordering::Relaxed), database.memory());
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
        let grown = ALLOCATED.load(Ordering::Relaxed) - before;
        let small = grown <= row_bytes + USERS * 1_536;
        if small && reported * 5 > grown * 4 && reported * 4 < grown * 5 {
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
