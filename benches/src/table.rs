//! A database with one table of rows of about 200 bytes, for the engine's comparisons.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use kalamdb_engine::arrow::array::{ArrayRef, Int32Array, Int64Array, RecordBatch, StringViewArray};
use kalamdb_engine::{
    Column, ColumnId, CompactionConfig, Config, DataType, Database, Ddl, NamespaceId, NewTable,
    PartitionWrite, SchemaDef, Table, TableKind, TableName, TableOptions,
};
use tokio::runtime::Runtime;

use crate::place::Place;
use crate::report::Outcome;

/// The log's bytes of a frame that are not payload.
pub const FRAME_HEADER: u64 = 28;

/// A database and its table, on threads of its own.
#[derive(Debug)]
pub struct Fixture {
    /// Where the database runs.
    pub runtime: Runtime,
    /// The database; nothing is flushed or compacted but by command.
    pub database: Arc<Database>,
    /// The table.
    pub table: Arc<Table>,
}

impl Fixture {
    /// Opens the database in `dir` and creates the table if it is not there.
    ///
    /// # Errors
    /// From the database.
    pub fn open(place: &Place, dir: &Path) -> Outcome<Self> {
        Self::limited(place, dir, u64::MAX)
    }

    /// The same; a partition with so many hot rows is flushed.
    ///
    /// # Errors
    /// From the database.
    pub fn limited(place: &Place, dir: &Path, flush_rows: u64) -> Outcome<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build()?;
        let compaction = CompactionConfig { workers: 0, bytes_per_second: 0, ..CompactionConfig::default() };
        let config = Config { disk: place.disk(), flush_rows, compaction, ..Config::new(dir) };
        let database = runtime.block_on(Database::open(config))?;
        let known = database.catalog().table("default", "rows").cloned();
        let table = match known {
            Some(table) => table,
            None => create(&runtime, &database, new_table(TableKind::Shared)?)?,
        };
        Ok(Self { runtime, database, table })
    }

    /// Creates a USER table with the same columns.
    ///
    /// # Errors
    /// From the database.
    pub fn user_table(&self) -> Outcome<Arc<Table>> {
        create(&self.runtime, &self.database, definition("people", TableKind::User, 0)?)
    }

    /// Creates a table with so many more columns, of numbers.
    ///
    /// # Errors
    /// From the database.
    pub fn wide_table(&self, more: u32) -> Outcome<Arc<Table>> {
        create(&self.runtime, &self.database, definition("wide", TableKind::Shared, more)?)
    }

    /// Inserts rows, `batch` to a commit.
    ///
    /// # Errors
    /// From the database.
    pub fn insert(&self, ids: Range<i64>, batch: usize) -> Outcome<()> {
        let mut from = ids.start;
        while from < ids.end {
            let to = ids.end.min(from + batch as i64);
            self.runtime.block_on(self.database.commit(vec![insertion(&self.table, from..to)?]))?;
            from = to;
        }
        Ok(())
    }

    /// Closes the database.
    ///
    /// # Errors
    /// From the database.
    pub fn close(self) -> Outcome<()> {
        Ok(self.runtime.block_on(self.database.close())?)
    }
}

/// A write of new rows.
///
/// # Errors
/// If the table has other columns.
pub fn insertion(table: &Arc<Table>, ids: Range<i64>) -> Outcome<PartitionWrite> {
    let mut write = PartitionWrite::new(table.clone(), None);
    write.insert = Some(rows(table, ids)?);
    Ok(write)
}

/// Rows of about 200 bytes with these keys.
///
/// # Errors
/// If the table has other columns.
pub fn rows(table: &Table, ids: Range<i64>) -> Outcome<RecordBatch> {
    let text = |id: i64| format!("{:0>160x}", (id as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    let mut columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values(ids.clone())),
        // In no more memory than they need: a builder begins with 8 KiB, and comparisons keep thousands of single rows ready.
        Arc::new(
            StringViewArray::from_iter_values(ids.clone().map(|id| format!("name {}", id % 1_000))).gc(),
        ),
        Arc::new(StringViewArray::from_iter_values(ids.clone().map(text)).gc()),
        Arc::new(Int32Array::from_iter_values(ids.clone().map(|id| (id % 977) as i32))),
    ];
    let number =
        |at: i64| -> ArrayRef { Arc::new(Int64Array::from_iter_values(ids.clone().map(|id| id * at))) };
    columns.extend((COLUMNS..table.schema.columns().len()).map(|at| number(at as i64)));
    Ok(RecordBatch::try_new(table.schema.rows().clone(), columns)?)
}

/// The table, of any kind with partitions.
///
/// # Errors
/// None; its names are valid.
pub fn new_table(kind: TableKind) -> Outcome<NewTable> {
    definition("rows", kind, 0)
}

fn create(runtime: &Runtime, database: &Arc<Database>, new: NewTable) -> Outcome<Arc<Table>> {
    let made = runtime.block_on(database.ddl(Ddl::CreateTable(Box::new(new))))?;
    Ok(made.table.ok_or("no table was made")?)
}

/// Columns that every table has.
const COLUMNS: usize = 4;

fn definition(name: &str, kind: TableKind, more: u32) -> Outcome<NewTable> {
    let column =
        |id, name, data_type, nullable| Column { nullable, ..Column::new(ColumnId(id), name, data_type) };
    let mut columns = vec![
        column(1, "id", DataType::BigInt, false),
        column(2, "name", DataType::Text, true),
        column(3, "body", DataType::Text, true),
        column(4, "score", DataType::Int, true),
    ];
    let number = |id: u32| Column::new(ColumnId(id), format!("n{id}"), DataType::BigInt);
    columns.extend((5..5 + more).map(number));
    Ok(NewTable {
        namespace: NamespaceId::new("default")?,
        name: TableName::new(name)?,
        kind,
        schema: SchemaDef {
            version: 1,
            columns,
            primary_key: vec![ColumnId(1)],
            checks: Vec::new(),
            next_column_id: 5 + more,
        },
        options: TableOptions::default(),
    })
}
