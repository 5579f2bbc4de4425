//! A small table, a database on a simulated disk, and a plain map to hold it against.
#![allow(dead_code, reason = "each test file uses a part of this")]

pub mod gate;
pub mod writer;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int16Array, Int64Array, RecordBatch, StringViewArray};
use arrow::datatypes::Int64Type;
use kalamdb_engine::read::{Located, live_rows, tombstone_rows};
use kalamdb_engine::{
    Changed, Column, ColumnId, CompactionConfig, CompactionOutcome, Config, DataType, Database, Ddl,
    FlushOutcome, NamespaceId, NewColumn, NewTable, OldRows, PartitionView, PartitionWrite, Removed, Result,
    SchemaDef, Snapshot, Table, TableChange, TableKind, TableName, TableOptions, UserId,
};
use kalamdb_wal::Disk;
use kalamdb_wal::sim::{SimClock, SimDisk, SimRandom};
use tokio::task::JoinHandle;

/// Key to value: what the table should hold.
pub type Model = BTreeMap<i64, Option<String>>;

pub fn config(disk: Arc<dyn Disk>) -> Config {
    Config {
        disk,
        clock: Arc::new(SimClock::new(1_800_000_000_000_000)),
        random_seed: Some(7),
        log_segment_bytes: 64 << 10,
        retain: kalamdb_engine::Retain { bytes: 256 << 10, age: std::time::Duration::from_secs(3_600) },
        // Compactions come when a test says so.
        compaction: CompactionConfig { workers: 0, ..CompactionConfig::default() },
        ..Config::new("/db")
    }
}

pub fn schema() -> SchemaDef {
    let column = |id, name: &str, data_type, nullable| Column {
        nullable,
        ..Column::new(ColumnId(id), name, data_type)
    };
    SchemaDef {
        version: 1,
        columns: vec![column(1, "id", DataType::BigInt, false), column(2, "value", DataType::Text, true)],
        primary_key: vec![ColumnId(1)],
        checks: Vec::new(),
        next_column_id: 3,
    }
}

/// The same with a key of two columns, the second of them the first in the table.
pub fn composite_schema() -> SchemaDef {
    let mut def = schema();
    let part = Column { id: ColumnId(3), name: "part".into(), ..def.columns[1].clone() };
    def.columns.push(Column { nullable: false, ..part });
    SchemaDef { primary_key: vec![ColumnId(3), ColumnId(1)], next_column_id: 4, ..def }
}

pub async fn create(database: &Arc<Database>, name: &str, kind: TableKind) -> Result<Arc<Table>> {
    create_with(database, name, kind, schema()).await
}

pub async fn create_with(
    database: &Arc<Database>,
    name: &str,
    kind: TableKind,
    schema: SchemaDef,
) -> Result<Arc<Table>> {
    create_as(database, name, kind, schema, TableOptions::default()).await
}

pub async fn create_as(
    database: &Arc<Database>,
    name: &str,
    kind: TableKind,
    schema: SchemaDef,
    options: TableOptions,
) -> Result<Arc<Table>> {
    let new = NewTable {
        namespace: NamespaceId::new("default")?,
        name: TableName::new(name)?,
        kind,
        schema,
        options,
    };
    Ok(database.ddl(Ddl::CreateTable(Box::new(new))).await?.table.expect("a table was created"))
}

pub fn batch(table: &Table, rows: &[(i64, Option<String>)]) -> RecordBatch {
    let ids: Int64Array = rows.iter().map(|(id, _)| *id).collect::<Vec<_>>().into();
    let values: StringViewArray = rows.iter().map(|(_, value)| value.as_deref()).collect();
    let mut columns: Vec<ArrayRef> = vec![Arc::new(ids), Arc::new(values)];
    for column in &table.schema.columns()[2..] {
        columns.push(match added_at(&column.name) {
            Some(_) => {
                let versions = Int64Array::from(vec![i64::from(table.schema.version()); rows.len()]);
                arrow::compute::cast(&versions, &column.data_type.arrow()).unwrap()
            }
            None => {
                let parts = rows.iter().map(|(id, _)| Some(format!("a part whose name is long {}", id % 3)));
                Arc::new(parts.collect::<StringViewArray>())
            }
        });
    }
    RecordBatch::try_new(table.schema.rows().clone(), columns).unwrap()
}

/// The schema version that added a column called `x<version>_...`, as [`next_change`] calls them. Each row holds there the
/// version that it was written with, and 0 if that is an older one than the column's.
fn added_at(name: &str) -> Option<u32> {
    name.strip_prefix('x')?.split('_').next()?.parse().ok()
}

/// A change of a table's columns, one of those that a test can tell from each other in what rows show.
pub fn next_change(table: &Table, random: &mut SimRandom) -> TableChange {
    let version = table.schema.version() + 1;
    let columns = table.schema.columns();
    let added: Vec<&Column> = columns.iter().filter(|column| added_at(&column.name).is_some()).collect();
    let which = random.below(added.len().max(1) as u64) as usize;
    let wider = |data_type: &DataType| match data_type {
        DataType::SmallInt => Some(DataType::BigInt),
        DataType::BigInt => Some(DataType::Decimal { precision: 19, scale: 0 }),
        DataType::Decimal { .. } => Some(DataType::Text),
        _ => None,
    };
    match (random.below(4), added.get(which)) {
        (0, Some(column)) => TableChange::DropColumn(column.id),
        (1, Some(column)) if wider(&column.data_type).is_some() => {
            let data_type = wider(&column.data_type).expect("a wider type");
            TableChange::RetypeColumn { id: column.id, data_type }
        }
        (2, _) => {
            let column = &columns[random.below(columns.len() as u64) as usize];
            let base = column.name.split('_').next().expect("a name");
            TableChange::RenameColumn { id: column.id, name: format!("{base}_{version}") }
        }
        _ => TableChange::AddColumn(NewColumn {
            name: format!("x{version}"),
            data_type: DataType::SmallInt,
            nullable: random.coin(),
            default: None,
            generated: false,
            initial: Some(Arc::new(Int16Array::from(vec![0]))),
        }),
    }
}

/// Fails unless the added columns of some rows show with which version each was written.
pub fn check_added(table: &Table, rows: &RecordBatch) {
    let added = table.schema.columns().iter().zip(rows.columns());
    let added = added.filter_map(|(column, values)| Some((added_at(&column.name)?, values)));
    let added: Vec<(u32, ArrayRef)> = added
        .map(|(at, values)| (at, arrow::compute::cast(values, &arrow::datatypes::DataType::Int64).unwrap()))
        .collect();
    assert!(added.iter().all(|(_, values)| values.null_count() == 0), "an added column is never NULL");
    for row in 0..rows.num_rows() {
        let shown = |values: &ArrayRef| values.as_primitive::<Int64Type>().value(row) as u32;
        let written = added.iter().map(|(_, values)| shown(values)).max().unwrap_or(0);
        for (at, values) in &added {
            let expected = if written >= *at { written } else { 0 };
            assert_eq!(shown(values), expected, "a row of version {written} in the column of version {at}");
        }
    }
}

pub fn insert(table: &Arc<Table>, user: Option<&UserId>, rows: &[(i64, Option<String>)]) -> PartitionWrite {
    let mut write = PartitionWrite::new(table.clone(), user.cloned());
    write.insert = Some(batch(table, rows));
    write
}

/// The rows a test picks by key, as one located batch.
fn pick(located: Vec<Located>, wanted: impl Fn(i64) -> bool) -> Option<(Vec<u64>, OldRows)> {
    let mut addresses = Vec::new();
    let mut parts: Vec<OldRows> = Vec::new();
    for part in located {
        let ids = part.rows.rows.column(0).as_primitive::<Int64Type>().clone();
        for row in (0..ids.len()).filter(|row| wanted(ids.value(*row))) {
            addresses.push(part.addresses[row]);
            parts.push(OldRows {
                rows: part.rows.rows.slice(row, 1),
                seqs: part.rows.seqs.slice(row, 1),
                updated: part.rows.updated.slice(row, 1),
            });
        }
    }
    let first = parts.first()?;
    let schema = first.rows.schema();
    let rows = arrow::compute::concat_batches(&schema, parts.iter().map(|p| &p.rows)).unwrap();
    let seqs = parts.iter().map(|p| p.seqs.value(0)).collect::<Vec<_>>().into();
    let updated = parts.iter().map(|p| p.updated.value(0)).collect::<Vec<_>>();
    let updated = arrow::array::TimestampMicrosecondArray::from(updated).with_timezone("UTC");
    Some((addresses, OldRows { rows, seqs, updated }))
}

/// An update of the rows with the wanted keys, as a statement would make it: read, then write by address.
pub async fn update(
    database: &Database,
    table: &Arc<Table>,
    user: Option<&UserId>,
    wanted: impl Fn(i64) -> bool,
    value: &str,
) -> Result<Option<PartitionWrite>> {
    update_in(database.view(&database.write_snapshot(), table, user).await?.into(), wanted, value)
}

/// An update of the rows of a view with the wanted keys.
pub fn update_in(
    view: Arc<PartitionView>,
    wanted: impl Fn(i64) -> bool,
    value: &str,
) -> Result<Option<PartitionWrite>> {
    let Some((addresses, old)) = pick(live_rows(&view)?, wanted) else { return Ok(None) };
    let ids = old.rows.column(0).as_primitive::<Int64Type>();
    let rows: Vec<_> = ids.values().iter().map(|id| (*id, Some(format!("{value}-{id}")))).collect();
    let mut write = PartitionWrite::new(view.table.clone(), view.partition.user.clone());
    write.update = Some(Changed { addresses, new: batch(&view.table, &rows), old });
    write.view = Some(view);
    Ok(Some(write))
}

/// A delete of the rows with the wanted keys.
pub async fn delete(
    database: &Database,
    table: &Arc<Table>,
    user: Option<&UserId>,
    wanted: impl Fn(i64) -> bool,
) -> Result<Option<PartitionWrite>> {
    delete_in(database.view(&database.write_snapshot(), table, user).await?.into(), wanted)
}

/// A delete of the rows of a view with the wanted keys.
pub fn delete_in(view: Arc<PartitionView>, wanted: impl Fn(i64) -> bool) -> Result<Option<PartitionWrite>> {
    let Some((addresses, old)) = pick(live_rows(&view)?, wanted) else { return Ok(None) };
    let mut write = PartitionWrite::new(view.table.clone(), view.partition.user.clone());
    write.delete = Some(Removed { addresses, old });
    write.view = Some(view);
    Ok(Some(write))
}

/// Everything a snapshot sees; panics if a key is seen twice.
pub async fn contents(
    database: &Database,
    snapshot: &Snapshot,
    table: &Arc<Table>,
    user: Option<&UserId>,
) -> Result<Model> {
    contents_of(&database.view(snapshot, table, user).await?)
}

/// The live rows of a view; panics if a key is there twice.
pub fn contents_of(view: &PartitionView) -> Result<Model> {
    let mut model = Model::new();
    for located in live_rows(view)? {
        check_added(&view.table, &located.rows.rows);
        let ids = located.rows.rows.column(0).as_primitive::<Int64Type>();
        let values = located.rows.rows.column(1).as_string_view();
        for row in 0..ids.len() {
            let value = values.is_valid(row).then(|| values.value(row).to_owned());
            let twice = model.insert(ids.value(row), value);
            assert!(twice.is_none(), "key {} is seen twice at {}", ids.value(row), view.seq);
        }
    }
    Ok(model)
}

pub fn rows(ids: impl IntoIterator<Item = i64>, value: &str) -> Vec<(i64, Option<String>)> {
    ids.into_iter()
        .map(|id| (id, (id % 7 != 0).then(|| format!("{value}-{id} is text that does not fit a view"))))
        .collect()
}

/// Moves rows to other keys.
pub async fn move_keys(
    database: &Database,
    table: &Arc<Table>,
    user: Option<&UserId>,
    wanted: impl Fn(i64) -> bool,
    shift: i64,
) -> Result<Option<PartitionWrite>> {
    move_keys_in(database.view(&database.write_snapshot(), table, user).await?.into(), wanted, shift)
}

/// Moves rows of a view to other keys.
pub fn move_keys_in(
    view: Arc<PartitionView>,
    wanted: impl Fn(i64) -> bool,
    shift: i64,
) -> Result<Option<PartitionWrite>> {
    let table = view.table.clone();
    let Some(mut write) = update_in(view, wanted, "moved")? else { return Ok(None) };
    let changed = write.update.as_mut().expect("an update");
    let ids = changed.old.rows.column(0).as_primitive::<Int64Type>();
    let rows: Vec<_> = ids.values().iter().map(|id| (id + shift, Some(format!("moved-{id}")))).collect();
    changed.new = batch(&table, &rows);
    Ok(Some(write))
}

/// The keys of the deleted rows a snapshot sees; panics if one is seen twice.
pub async fn tombstones(
    database: &Database,
    snapshot: &Snapshot,
    table: &Arc<Table>,
    user: Option<&UserId>,
) -> Result<BTreeSet<i64>> {
    tombstones_of(&database.view(snapshot, table, user).await?)
}

/// The keys of the deleted rows of a view; panics if one is there twice.
pub fn tombstones_of(view: &PartitionView) -> Result<BTreeSet<i64>> {
    let mut keys = BTreeSet::new();
    for located in tombstone_rows(view)? {
        for id in located.rows.rows.column(0).as_primitive::<Int64Type>().values() {
            assert!(keys.insert(*id), "the tombstone of {id} is seen twice at {}", view.seq);
        }
    }
    Ok(keys)
}

/// Opens a database on a simulated disk with small log segments.
pub async fn open(disk: &SimDisk) -> Arc<Database> {
    Database::open(config(Arc::new(disk.clone()))).await.unwrap()
}

/// A table of the running catalog by name.
pub fn find(database: &Database, name: &str) -> Arc<Table> {
    database.catalog().table("default", name).expect("the table is there").clone()
}

/// What is visible now; panics if a key is live twice, deleted twice, or both.
pub async fn now(database: &Database, table: &Arc<Table>, user: Option<&UserId>) -> Model {
    let snapshot = database.snapshot();
    let live = contents(database, &snapshot, table, user).await.unwrap();
    let dead = tombstones(database, &snapshot, table, user).await.unwrap();
    let both: Vec<_> = dead.iter().filter(|key| live.contains_key(key)).collect();
    assert!(both.is_empty(), "{both:?} are there and deleted at {}", snapshot.seq());
    live
}

/// Commits what a statement made of what it read, or nothing.
pub async fn commit(database: &Database, write: Result<Option<PartitionWrite>>) -> Result<()> {
    match write? {
        Some(write) => database.commit(vec![write]).await.map(drop),
        None => Ok(()),
    }
}

/// Starts a flush beside the test.
pub fn flush_beside(database: &Arc<Database>, table: &Arc<Table>) -> JoinHandle<Result<FlushOutcome>> {
    let (database, table) = (database.clone(), table.clone());
    tokio::spawn(async move { database.flush(&table, None).await })
}

/// Starts a full compaction beside the test.
pub fn compact_beside(database: &Arc<Database>, table: &Arc<Table>) -> JoinHandle<Result<CompactionOutcome>> {
    let (database, table) = (database.clone(), table.clone());
    tokio::spawn(async move { database.compact(&table, None).await })
}
