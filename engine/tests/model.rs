//! Random operations on the engine, held against maps, on a simulated disk that loses power: a SHARED table (whose key has
//! two columns in every other run) and three partitions of a USER table, with flushes (to packs and to files of their own)
//! and compactions of both beside the commits, deleted rows that go when their time is over, partitions that leave memory, and
//! columns that come, go, widen and change names.
//!
//! `KALAMDB_SEEDS=n` runs more seeds, `KALAMDB_SEED=s` one; a failing seed is printed.

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{Model, composite_schema, config, contents, create_as, delete, find, insert, move_keys};
use common::{next_change, now, rows, schema, update};
use kalamdb_engine::{
    AlterTable, CompactionOutcome, Config, Database, Ddl, Error, FlushOutcome, PartitionWrite, Result,
    Snapshot, Table, TableKind, TableOptions, UserId,
};
use kalamdb_wal::sim::{Crash, Freeze, SimClock, SimDisk, SimRandom};
use tokio::task::JoinHandle;

const KEYS: u64 = 60;
const USERS: [&str; 3] = ["ann", "bob", "cyd"];

/// Nothing stays loaded for having been used.
fn forgetful(disk: &SimDisk, clock: &SimClock) -> Config {
    Config {
        evict_after: Duration::ZERO,
        clock: Arc::new(clock.clone()),
        pack_rows: 150,
        ..config(Arc::new(disk.clone()))
    }
}

/// What each partition holds: the SHARED table's, then one per user.
type Models = Vec<Model>;

struct World {
    random: SimRandom,
    disk: SimDisk,
    clock: SimClock,
    database: Arc<Database>,
    tables: [Arc<Table>; 2],
    users: Vec<UserId>,
    models: Models,
    /// What they hold if the commit that nobody answered for made it.
    unanswered: Option<Models>,
    snapshots: Vec<(Snapshot, Models)>,
    flushes: Vec<JoinHandle<Result<FlushOutcome>>>,
    compactions: Vec<JoinHandle<Result<CompactionOutcome>>>,
}

impl World {
    async fn new(seed: u64) -> Self {
        let (disk, clock) = (SimDisk::new(), SimClock::new(1_800_000_000_000_000));
        let database = Database::open(forgetful(&disk, &clock)).await.unwrap();
        let options = TableOptions {
            deleted_retention: Some("1h".into()),
            // Compressing takes longer than all the rest, and hides nothing.
            compression: (!seed.is_multiple_of(8)).then(|| "none".into()),
            ..TableOptions::default()
        };
        let shared = if seed % 2 == 1 { composite_schema() } else { schema() };
        let tables = [
            create_as(&database, "t", TableKind::Shared, shared, options.clone()).await.unwrap(),
            create_as(&database, "u", TableKind::User, schema(), options).await.unwrap(),
        ];
        let users = USERS.iter().map(|name| UserId::new(name).unwrap()).collect();
        let models = vec![Model::new(); 1 + USERS.len()];
        let random = SimRandom::new(seed);
        Self {
            random,
            disk,
            clock,
            database,
            tables,
            users,
            models,
            unanswered: None,
            snapshots: Vec::new(),
            flushes: Vec::new(),
            compactions: Vec::new(),
        }
    }

    /// A partition's table and owner.
    fn part(&self, at: usize) -> (&Arc<Table>, Option<&UserId>) {
        match at {
            0 => (&self.tables[0], None),
            n => (&self.tables[1], Some(&self.users[n - 1])),
        }
    }

    async fn step(&mut self) {
        match self.random.below(100) {
            0..66 => self.write().await,
            66..70 => self.alter().await,
            70..76 => {
                let at = self.any_part();
                let (table, user) = self.part(at);
                let result = self.database.flush(table, user).await.map(drop);
                self.settle(result, self.models.clone()).await;
            }
            76..78 => {
                let result = self.database.flush_table(&self.tables[1]).await.map(drop);
                self.settle(result, self.models.clone()).await;
            }
            78..82 => {
                let at = self.any_part();
                let (table, user) = self.part(at);
                let (database, table, user) = (self.database.clone(), table.clone(), user.cloned());
                self.flushes.push(tokio::spawn(async move { database.flush(&table, user.as_ref()).await }));
            }
            82 => {
                let result = self.database.compact_packs(&self.tables[1]).await.map(drop);
                self.settle(result, self.models.clone()).await;
            }
            83 => {
                let at = self.any_part();
                let (table, user) = self.part(at);
                let result = self.database.compact(table, user).await.map(drop);
                self.settle(result, self.models.clone()).await;
            }
            84 => {
                let at = self.any_part();
                let (table, user) = self.part(at);
                let (database, table, user) = (self.database.clone(), table.clone(), user.cloned());
                self.compactions
                    .push(tokio::spawn(async move { database.compact(&table, user.as_ref()).await }));
            }
            85 => self.join_flushes().await,
            86 => self.clock.advance(Duration::from_secs(60 * self.random.below(90))),
            87..90 => self.snapshots.push((self.database.snapshot(), self.models.clone())),
            90 => drop(self.database.evict()),
            91..93 => {
                if !self.snapshots.is_empty() {
                    let which = self.random.below(self.snapshots.len() as u64) as usize;
                    self.snapshots.swap_remove(which);
                }
            }
            93..95 => {
                let changes = self.disk.counts().changes;
                self.disk.freeze_at(Freeze::Change(changes + 1 + self.random.below(20)));
            }
            95..97 => self.crash(Crash::KillProcess).await,
            _ => {
                let crash = match self.random.below(3) {
                    0 => Crash::LoseUnsynced,
                    1 => Crash::KeepUnsynced,
                    _ => Crash::Torn(self.random.next_u64()),
                };
                self.crash(crash).await;
            }
        }
    }

    /// Changes the columns of a table; what rows show of the others stays.
    async fn alter(&mut self) {
        let which = usize::from(self.random.coin());
        let table = self.tables[which].clone();
        let changes = vec![next_change(&table, &mut self.random)];
        let alter = AlterTable { id: table.id, base_version: table.schema.version(), changes };
        let result = self.database.ddl(Ddl::AlterTable(Box::new(alter))).await;
        if let Ok(outcome) = &result {
            self.tables[which] = outcome.table.clone().expect("the table");
        }
        self.settle(result.map(drop), self.models.clone()).await;
    }

    fn any_part(&mut self) -> usize {
        // Half the work is the SHARED table's.
        if self.random.coin() { 0 } else { 1 + self.random.below(USERS.len() as u64) as usize }
    }

    /// One commit, to one partition or to two.
    async fn write(&mut self) {
        let first = self.any_part();
        let mut parts = vec![first];
        if self.random.below(5) == 0 {
            parts.push((first + 1) % self.models.len());
        }
        let mut next = self.models.clone();
        let (mut writes, mut taken) = (Vec::new(), false);
        for at in parts {
            match self.prepare(at, &mut next[at]).await {
                Ok((write, violates)) => {
                    writes.extend(write);
                    taken |= violates;
                }
                Err(error) => return self.settle(Err(error), next).await,
            }
        }
        match self.database.commit(writes).await.map(drop) {
            Err(Error::UniqueViolation { .. }) => assert!(taken, "refused a free key"),
            result => {
                assert!(!taken || result.is_err(), "took a key twice");
                self.settle(result, next).await;
            }
        }
    }

    /// One random write to a partition, and what it makes of the partition; true if it must be refused.
    async fn prepare(&mut self, at: usize, model: &mut Model) -> Result<(Option<PartitionWrite>, bool)> {
        let low = self.random.below(KEYS) as i64;
        let width = 1 + self.random.below(6) as i64;
        let kind = self.random.below(10);
        let shift = self.random.below(KEYS) as i64 - KEYS as i64 / 2;
        let value = format!("v{}", self.random.below(1_000));
        let (table, user) = self.part(at);
        let near = move |id: i64| id >= low && id < low + width;
        Ok(match kind {
            0..5 => {
                let new = rows(low..low + width, &value);
                let taken = new.iter().any(|(id, _)| model.contains_key(id));
                model.extend(new.iter().cloned());
                (Some(insert(table, user, &new)), taken)
            }
            5..7 => {
                model
                    .iter_mut()
                    .filter(|(id, _)| near(**id))
                    .for_each(|(id, v)| *v = Some(format!("{value}-{id}")));
                (update(&self.database, table, user, near, &value).await?, false)
            }
            7 => {
                let moved: Vec<i64> = model.keys().copied().filter(|id| near(*id)).collect();
                moved.iter().for_each(|id| drop(model.remove(id)));
                let mut taken = false;
                for id in moved {
                    taken |= model.insert(id + shift, Some(format!("moved-{id}"))).is_some();
                }
                (move_keys(&self.database, table, user, near, shift).await?, taken)
            }
            _ => {
                model.retain(|id, _| !near(*id));
                (delete(&self.database, table, user, near).await?, false)
            }
        })
    }

    async fn join_flushes(&mut self) {
        let mut result = Ok(());
        for flush in std::mem::take(&mut self.flushes) {
            // All of them before anything is said of the disk they ran on.
            result = result.and(flush.await.unwrap().map(drop));
        }
        for compaction in std::mem::take(&mut self.compactions) {
            result = result.and(compaction.await.unwrap().map(drop));
        }
        self.settle(result, self.models.clone()).await;
    }

    /// Takes in the answer of an operation after which the partitions should hold `next`.
    async fn settle(&mut self, result: Result<()>, next: Models) {
        match result {
            Ok(()) => self.models = next,
            Err(error) if self.disk.is_frozen() => {
                // A pack that cannot be read at all is damaged as well.
                let dark = |reason: &String| reason.contains("the simulated power is off");
                assert!(!matches!(&error, Error::Corrupt(reason) if !dark(reason)), "{error}");
                self.unanswered = Some(next);
                let seed = self.random.next_u64();
                self.crash(Crash::Torn(seed)).await;
            }
            Err(error) => panic!("{error}"),
        }
    }

    async fn crash(&mut self, crash: Crash) {
        self.snapshots.clear();
        self.disk = self.disk.crash(crash);
        for flush in std::mem::take(&mut self.flushes) {
            // It may have ended before, or come to a dead disk.
            let _ = flush.await.unwrap();
        }
        for compaction in std::mem::take(&mut self.compactions) {
            let _ = compaction.await.unwrap();
        }
        self.database = Database::open(forgetful(&self.disk, &self.clock))
            .await
            .unwrap_or_else(|e| panic!("does not open after {crash:?}: {e}"));
        self.tables = [find(&self.database, "t"), find(&self.database, "u")];
        let mut found = Models::new();
        for at in 0..self.models.len() {
            let (table, user) = self.part(at);
            found.push(now(&self.database, table, user).await);
        }
        match self.unanswered.take() {
            Some(made) if found == made => self.models = made,
            _ => assert_eq!(found, self.models, "after {crash:?}"),
        }
    }

    /// Looks at one partition now and as one of the open snapshots sees it.
    async fn check(&mut self) {
        let at = self.any_part();
        let which = self.random.below(self.snapshots.len().max(1) as u64) as usize;
        let (table, user) = self.part(at);
        assert_eq!(now(&self.database, table, user).await, self.models[at], "partition {at}");
        if let Some((snapshot, models)) = self.snapshots.get(which) {
            let found = contents(&self.database, snapshot, table, user).await.unwrap();
            assert_eq!(found, models[at], "partition {at} at snapshot {}", snapshot.seq());
        }
    }
}

async fn run(seed: u64) {
    let mut world = World::new(seed).await;
    for step in 0..150 {
        world.step().await;
        if step % 4 == 3
            && !world.disk.is_frozen()
            && world.flushes.is_empty()
            && world.compactions.is_empty()
        {
            world.check().await;
        }
    }
    let seed = world.random.next_u64();
    world.crash(Crash::Torn(seed)).await;
}

struct PrintOnPanic(u64);

impl Drop for PrintOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("failed with KALAMDB_SEED={}", self.0);
        }
    }
}

#[test]
fn random_operations_with_crashes_agree_with_maps() {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let seeds = match number("KALAMDB_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("KALAMDB_SEEDS").unwrap_or(20),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    for seed in seeds {
        let print = PrintOnPanic(seed);
        runtime.block_on(run(seed));
        drop(print);
    }
}
