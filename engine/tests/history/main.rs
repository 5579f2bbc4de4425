//! Concurrent random transactions, recorded, and held against what snapshot isolation allows.
//!
//! Sessions run on several threads against one database: transactions of several statements over several partitions,
//! and single statements that read the newest applied state. Now and then one of them flushes a partition while the others go on.

mod checker;
#[path = "../common/mod.rs"]
mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use checker::{Op, Rows, Tag};
use common::{Model, contents_of, create, delete_in, insert, open, update_in};
use kalamdb_engine::{Database, Error, PartitionView, PartitionWrite, Table, TableKind, UserId};
use kalamdb_wal::sim::{Crash, SimDisk};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const SESSIONS: usize = 8;
const KEYS: i64 = 10;

/// A table and, of a USER table, whose partition.
type Part = (Arc<Table>, Option<UserId>);

struct World {
    database: Arc<Database>,
    parts: Vec<Part>,
    /// The newest commit that a client was told of.
    told: AtomicU64,
    next_tag: AtomicU64,
}

/// What a session did, and what it is doing.
struct Session {
    world: Arc<World>,
    number: usize,
    random: StdRng,
    history: Vec<checker::Transaction>,
}

fn tag_of(value: &str) -> Tag {
    let digits = value.strip_prefix('v').and_then(|value| value.split('-').next());
    digits.and_then(|digits| digits.parse().ok()).unwrap_or_else(|| panic!("{value:?} was never written"))
}

fn rows_of(model: Model) -> Rows {
    model.into_iter().map(|(id, value)| (id, tag_of(&value.expect("a value")))).collect()
}

impl World {
    async fn new(disk: &SimDisk) -> Arc<Self> {
        let database = open(disk).await;
        create(&database, "t", TableKind::Shared).await.unwrap();
        create(&database, "u", TableKind::User).await.unwrap();
        let parts = parts(&database);
        let told = AtomicU64::new(database.visible());
        Arc::new(Self { database, parts, told, next_tag: AtomicU64::new(1) })
    }
}

fn parts(database: &Database) -> Vec<Part> {
    let (t, u) = (common::find(database, "t"), common::find(database, "u"));
    let user = |name| Some(UserId::new(name).unwrap());
    vec![(t, None), (u.clone(), user("ann")), (u, user("bob"))]
}

/// A statement's write to one partition, and what it means.
type Statement = (Option<PartitionWrite>, Vec<Op>);

impl Session {
    fn begin(&self, told: u64, snapshot: u64) -> checker::Transaction {
        checker::Transaction { session: self.number, told, snapshot, commit: None, ops: Vec::new() }
    }

    /// A random write based on what is there: of values that nobody wrote before.
    fn statement(&mut self, at: usize, view: Arc<PartitionView>, there: &Rows) -> Statement {
        let (table, user) = self.world.parts[at].clone();
        let tag = self.world.next_tag.fetch_add(1, Ordering::Relaxed);
        let id = self.random.random_range(0..KEYS);
        let other = self.random.random_range(0..KEYS);
        let value = format!("v{tag}");
        let taken = there.contains_key(&id);
        match self.random.random_range(0..5) {
            0 if taken => (delete_in(view, |at| at == id).unwrap(), vec![Op::Write((at, id), None)]),
            1 if taken && !there.contains_key(&other) => {
                let mut write = update_in(view, |at| at == id, &value).unwrap().expect("it is there");
                let moved = vec![(other, Some(value))];
                write.update.as_mut().expect("an update").new = common::batch(&table, &moved);
                let ops = vec![Op::Write((at, id), None), Op::Write((at, other), Some(tag))];
                (Some(write), ops)
            }
            _ if taken => {
                let write = update_in(view, |at| at == id, &value).unwrap();
                (write, vec![Op::Write((at, id), Some(tag))])
            }
            _ => {
                let write = insert(&table, user.as_ref(), &[(id, Some(value))]);
                (Some(write), vec![Op::Write((at, id), Some(tag))])
            }
        }
    }

    async fn transaction(&mut self) {
        let world = self.world.clone();
        let told = world.told.load(Ordering::Acquire);
        let mut transaction = world.database.begin();
        let mut record = self.begin(told, transaction.seq());
        for _ in 0..self.random.random_range(1..5) {
            let at = self.random.random_range(0..world.parts.len());
            let (table, user) = &world.parts[at];
            let view = transaction.view(table, user.as_ref()).unwrap();
            let there = rows_of(contents_of(&view).unwrap());
            record.ops.push(Op::Read(at, there.clone()));
            if self.random.random_range(0..4) == 0 {
                continue;
            }
            let (write, ops) = self.statement(at, view, &there);
            match transaction.write(write.into_iter().collect()).await {
                Ok(()) => record.ops.extend(ops),
                // Others are known to have changed the key.
                Err(Error::Conflict | Error::UniqueViolation { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
        if self.random.random_range(0..6) > 0 {
            match transaction.commit().await {
                Ok(committed) => record.commit = committed.map(|committed| committed.seq),
                Err(Error::Conflict | Error::UniqueViolation { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
        // Without a commit nothing of it may be seen, also not what it wrote and took back.
        self.finish(record);
    }

    /// One statement that commits by itself, at the newest applied state.
    async fn autocommit(&mut self) {
        let world = self.world.clone();
        let told = world.told.load(Ordering::Acquire);
        let snapshot = world.database.write_snapshot();
        let mut record = self.begin(told, snapshot.seq());
        let at = self.random.random_range(0..world.parts.len());
        let (table, user) = &world.parts[at];
        let view = Arc::new(world.database.view(&snapshot, table, user.as_ref()).await.unwrap());
        let there = rows_of(contents_of(&view).unwrap());
        record.ops.push(Op::Read(at, there.clone()));
        let (write, ops) = self.statement(at, view, &there);
        record.ops.extend(ops);
        match world.database.commit(write.into_iter().collect()).await {
            Ok(committed) => record.commit = Some(committed.seq),
            Err(Error::Conflict | Error::UniqueViolation { .. }) => {
                // A client hears of what was read only once that is durable.
                world.database.until_visible(snapshot.seq()).await.unwrap();
            }
            Err(error) => panic!("{error}"),
        }
        self.finish(record);
    }

    fn finish(&mut self, record: checker::Transaction) {
        self.world.told.fetch_max(record.commit.unwrap_or(0), Ordering::AcqRel);
        self.history.push(record);
    }

    async fn run(mut self, transactions: usize) -> Vec<checker::Transaction> {
        for _ in 0..transactions {
            if self.random.random_range(0..3) == 0 {
                self.autocommit().await;
            } else {
                self.transaction().await;
            }
            if self.random.random_range(0..30) == 0 {
                let (table, user) = &self.world.parts[self.random.random_range(0..self.world.parts.len())];
                self.world.database.flush(table, user.as_ref()).await.unwrap();
            }
        }
        self.history
    }
}

async fn contents(database: &Arc<Database>) -> Vec<Rows> {
    let snapshot = database.snapshot();
    let mut all = Vec::new();
    for (table, user) in parts(database) {
        all.push(rows_of(common::contents(database, &snapshot, &table, user.as_ref()).await.unwrap()));
    }
    all
}

async fn record_and_check(seed: u64, transactions: usize) {
    let disk = SimDisk::new();
    let world = World::new(&disk).await;
    let sessions = (0..SESSIONS).map(|number| {
        let random = StdRng::seed_from_u64(seed * 1_000 + number as u64);
        let session = Session { world: world.clone(), number, random, history: Vec::new() };
        tokio::spawn(session.run(transactions))
    });
    let mut history = Vec::new();
    for session in sessions.collect::<Vec<_>>() {
        history.extend(session.await.unwrap());
    }
    let committed = history.iter().filter(|t| t.commit.is_some()).count();
    let refused = history.iter().filter(|t| t.commit.is_none()).count();
    assert!(committed > history.len() / 4 && refused > 0, "{committed} committed, {refused} not");
    let check = |last: &[Rows], when: &str| {
        if let Err((anomaly, what)) = checker::check(&history, last) {
            panic!("{anomaly:?} {when}, seed {seed}: {what}");
        }
    };
    check(&contents(&world.database).await, "at the end");
    let after = open(&disk.crash(Crash::LoseUnsynced)).await;
    check(&contents(&after).await, "after a crash");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_transactions_show_no_anomaly_that_snapshot_isolation_forbids() {
    let seeds = std::env::var("KALAMDB_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(2);
    for seed in 0..seeds {
        record_and_check(seed, 50).await;
    }
}
