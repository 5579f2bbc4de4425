//! Target `engine_ops`: a script of operations on one table, with flushes, compactions, power cuts and held snapshots, beside a map.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{AsArray, Int64Array, RecordBatch, StringViewArray};
use arrow::compute::{concat_batches, filter_record_batch};
use arrow::datatypes::Int64Type;
use kalamdb_wal::sim::{Crash, Freeze, SimClock, SimDisk};

use crate::catalog::{Ddl, NewTable, Table, TableKind, TableOptions};
use crate::config::Config;
use crate::database::Database;
use crate::error::{Error, Result};
use crate::ids::{ColumnId, NamespaceId, TableName};
use crate::read::{Located, live_rows, tombstone_rows};
use crate::schema::{Column, SchemaDef};
use crate::snapshot::Snapshot;
use crate::types::DataType;
use crate::write::{Changed, OldRows, PartitionWrite, Removed};

/// The most operations of one script.
const STEPS: usize = 32;

type Model = BTreeMap<i64, String>;

/// Runs a script: each operation is four bytes, what to do, the first key, how many keys, and a value.
///
/// # Panics
/// If the table differs from the map at the newest or at a held snapshot, or a disk without faults reports one.
pub fn engine_ops(script: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    runtime.block_on(async {
        let mut world = World::new().await;
        for step in script.chunks_exact(4).take(STEPS) {
            world.step(step).await;
        }
        world.crash(Crash::LoseUnsynced).await;
        world.held.clear();
        world.database.close().await.expect("a sound disk");
    });
}

struct World {
    disk: SimDisk,
    database: Arc<Database>,
    table: Arc<Table>,
    model: Model,
    held: Vec<(Snapshot, Model)>,
}

async fn open(disk: &SimDisk) -> Arc<Database> {
    let config = Config {
        disk: Arc::new(disk.clone()),
        clock: Arc::new(SimClock::new(1_800_000_000_000_000)),
        random_seed: Some(7),
        log_segment_bytes: 64 << 10,
        ..Config::new("/db")
    };
    Database::open(config).await.expect("what was durable opens")
}

fn table_of(database: &Database) -> Arc<Table> {
    database.catalog().table("default", "t").expect("the table is durable").clone()
}

impl World {
    async fn new() -> Self {
        let disk = SimDisk::new();
        let database = open(&disk).await;
        let key = Column { nullable: false, ..Column::new(ColumnId(1), "id", DataType::BigInt) };
        let schema = SchemaDef {
            version: 1,
            columns: vec![key, Column::new(ColumnId(2), "value", DataType::Text)],
            primary_key: vec![ColumnId(1)],
            checks: Vec::new(),
            next_column_id: 3,
        };
        let new = NewTable {
            namespace: NamespaceId::new("default").expect("a name"),
            name: TableName::new("t").expect("a name"),
            kind: TableKind::Shared,
            schema,
            options: TableOptions::default(),
        };
        database.ddl(Ddl::CreateTable(Box::new(new))).await.expect("a sound disk");
        let table = table_of(&database);
        Self { disk, database, table, model: Model::new(), held: Vec::new() }
    }

    async fn step(&mut self, step: &[u8]) {
        let [what, low, width, value] = *step else { return };
        let (low, width) = (i64::from(low % 64), i64::from(width % 16));
        let near = move |id: i64| id >= low && id <= low + width;
        match what % 13 {
            0..3 => self.insert(low, width, value).await,
            3..5 => self.update(near, value).await,
            5 => self.delete(near).await,
            6 => {
                let result = self.database.flush(&self.table, None).await.map(drop);
                self.settle(result, self.model.clone()).await;
            }
            12 => {
                let result = self.database.compact(&self.table, None).await.map(drop);
                self.settle(result, self.model.clone()).await;
            }
            7 => self.held.push((self.database.snapshot(), self.model.clone())),
            8 => drop(self.held.pop()),
            9 => {
                let changes = self.disk.counts().changes;
                self.disk.freeze_at(Freeze::Change(changes + 1 + u64::from(value % 32)));
            }
            10 => self.crash(Crash::KillProcess).await,
            _ => {
                let crash = match value % 3 {
                    0 => Crash::LoseUnsynced,
                    1 => Crash::KeepUnsynced,
                    _ => Crash::Torn(u64::from(value)),
                };
                self.crash(crash).await;
            }
        }
        self.check().await;
    }

    async fn insert(&mut self, low: i64, width: i64, value: u8) {
        let new: Model = (low..=low + width).map(|id| (id, text(id, value))).collect();
        let taken = new.keys().any(|id| self.model.contains_key(id));
        let mut write = PartitionWrite::new(self.table.clone(), None);
        write.insert = Some(self.batch(new.iter()));
        match self.database.commit(vec![write]).await {
            Err(Error::UniqueViolation { .. }) => assert!(taken, "refused a free key"),
            result => {
                assert!(!taken || result.is_err(), "took a key twice");
                let mut next = self.model.clone();
                next.extend(new);
                self.settle(result.map(drop), next).await;
            }
        }
    }

    async fn update(&mut self, near: impl Fn(i64) -> bool, value: u8) {
        let mut next = self.model.clone();
        next.iter_mut().filter(|(id, _)| near(**id)).for_each(|(id, v)| *v = text(*id, value));
        let result = self.change(near, |world, addresses, old| {
            let ids = old.rows.column(0).as_primitive::<Int64Type>();
            let new: Vec<(i64, String)> = ids.values().iter().map(|id| (*id, text(*id, value))).collect();
            let new = world.batch(new.iter().map(|(id, v)| (id, v)));
            (Some(Changed { addresses, old, new }), None)
        });
        let result = result.await;
        self.settle(result, next).await;
    }

    async fn delete(&mut self, near: impl Fn(i64) -> bool) {
        let mut next = self.model.clone();
        next.retain(|id, _| !near(*id));
        let result = self.change(near, |_, addresses, old| (None, Some(Removed { addresses, old }))).await;
        self.settle(result, next).await;
    }

    /// Commits what `make` makes of the rows with wanted keys.
    async fn change(
        &self,
        wanted: impl Fn(i64) -> bool,
        make: impl Fn(&Self, Vec<u64>, OldRows) -> (Option<Changed>, Option<Removed>),
    ) -> Result<()> {
        let view = self.database.view(&self.database.write_snapshot(), &self.table, None).await?;
        let Some((addresses, old)) = pick(&live_rows(&view)?, wanted) else { return Ok(()) };
        let mut write = PartitionWrite::new(self.table.clone(), None);
        (write.update, write.delete) = make(self, addresses, old);
        write.view = Some(Arc::new(view));
        self.database.commit(vec![write]).await.map(drop)
    }

    fn batch<'a>(&self, rows: impl Iterator<Item = (&'a i64, &'a String)>) -> RecordBatch {
        let (ids, values): (Vec<i64>, Vec<&str>) = rows.map(|(id, value)| (*id, value.as_str())).unzip();
        let columns: Vec<arrow::array::ArrayRef> =
            vec![Arc::new(Int64Array::from(ids)), Arc::new(StringViewArray::from(values))];
        RecordBatch::try_new(self.table.schema.rows().clone(), columns).expect("the table's columns")
    }

    /// Takes in the answer of an operation after which the table should hold `next`.
    async fn settle(&mut self, result: Result<()>, next: Model) {
        match result {
            Ok(()) => self.model = next,
            Err(error) => {
                assert!(self.disk.is_frozen(), "a sound disk: {error}");
                // Nobody was told: after the crash it is there as a whole or not at all.
                let before = std::mem::replace(&mut self.model, next);
                self.reopen(Crash::KeepUnsynced).await;
                if self.contents(&self.database.snapshot()).await != self.model {
                    self.model = before;
                }
                self.check().await;
            }
        }
    }

    async fn crash(&mut self, crash: Crash) {
        self.reopen(crash).await;
        self.check().await;
    }

    async fn reopen(&mut self, crash: Crash) {
        self.held.clear();
        self.disk = self.disk.crash(crash);
        self.database = open(&self.disk).await;
        self.table = table_of(&self.database);
    }

    async fn check(&self) {
        // A frozen disk answers no reads; what it holds is seen after the crash.
        if self.disk.is_frozen() {
            return;
        }
        assert_eq!(self.contents(&self.database.snapshot()).await, self.model, "at the newest snapshot");
        for (snapshot, model) in &self.held {
            assert_eq!(&self.contents(snapshot).await, model, "at {}", snapshot.seq());
        }
    }

    /// What a snapshot sees; no key is live twice, or live and deleted.
    async fn contents(&self, snapshot: &Snapshot) -> Model {
        let view = self.database.view(snapshot, &self.table, None).await.expect("readable");
        let mut model = Model::new();
        for located in live_rows(&view).expect("readable") {
            let ids = located.rows.rows.column(0).as_primitive::<Int64Type>();
            let values = located.rows.rows.column(1).as_string_view();
            for row in 0..ids.len() {
                let twice = model.insert(ids.value(row), values.value(row).to_owned());
                assert!(twice.is_none(), "key {} is seen twice", ids.value(row));
            }
        }
        for located in tombstone_rows(&view).expect("readable") {
            for id in located.rows.rows.column(0).as_primitive::<Int64Type>().values() {
                assert!(!model.contains_key(id), "key {id} is there and deleted");
            }
        }
        model
    }
}

fn text(id: i64, value: u8) -> String {
    // Some fit into a view, some do not.
    format!("{id}").repeat(1 + usize::from(value % 16))
}

/// The rows with wanted keys, as one batch.
fn pick(located: &[Located], wanted: impl Fn(i64) -> bool) -> Option<(Vec<u64>, OldRows)> {
    let mut addresses = Vec::new();
    let (mut batches, mut seqs, mut updated) = (Vec::new(), Vec::new(), Vec::new());
    for part in located {
        let ids = part.rows.rows.column(0).as_primitive::<Int64Type>();
        let mask: Vec<bool> = ids.values().iter().map(|id| wanted(*id)).collect();
        for row in (0..mask.len()).filter(|row| mask[*row]) {
            addresses.push(part.addresses[row]);
            seqs.push(part.rows.seqs.value(row));
            updated.push(part.rows.updated.value(row));
        }
        batches.push(filter_record_batch(&part.rows.rows, &mask.into()).expect("as long as the batch"));
    }
    if addresses.is_empty() {
        return None;
    }
    let rows = concat_batches(&batches[0].schema(), &batches).expect("of one schema");
    let updated =
        arrow::array::TimestampMicrosecondArray::from(updated).with_timezone(crate::types::TIMEZONE);
    Some((addresses, OldRows { rows, seqs: seqs.into(), updated }))
}
