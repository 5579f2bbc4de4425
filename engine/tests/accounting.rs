//! What is reported of a partition's memory, held against what the allocator gives out. A process of its own, since it
//! counts all.
#![allow(unsafe_code, reason = "an allocator that counts")]

mod common;
#[path = "common/counting.rs"]
mod counting;

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use arrow::array::{
    ArrayRef, BooleanArray, Float64Array, Int32Array, Int64Array, RecordBatch, StringViewArray,
};
use common::gate::PATIENCE;
use common::{create_with, delete};
use counting::allocated;
use kalamdb_engine::{
    Column, ColumnId, Config, DataType, Database, PartitionWrite, SchemaDef, SyncPolicy, Table, TableKind,
};

/// A table and the commits that fill it.
struct Shape {
    name: &'static str,
    columns: Vec<DataType>,
    /// Bytes of a text.
    text: usize,
    /// How many commits of how many rows.
    commits: [(i64, i64); 2],
    /// Of ten rows, how many are deleted in the end.
    deleted: i64,
}

fn shapes() -> Vec<Shape> {
    use DataType::*;
    let narrow = vec![BigInt, Int];
    let mixed = [BigInt, Text, Double, Boolean, Int];
    let wide = std::iter::once(BigInt).chain((0..60).map(|at| mixed[at % mixed.len()].clone())).collect();
    vec![
        Shape {
            name: "narrow",
            columns: narrow.clone(),
            text: 0,
            commits: [(60, 1_000), (1_500, 1)],
            deleted: 0,
        },
        // So many that the buffers the log keeps for records of this size, which are not rows, do not matter.
        Shape { name: "wide", columns: wide, text: 9, commits: [(30, 300), (160, 3)], deleted: 0 },
        Shape {
            name: "text",
            columns: vec![BigInt, Text],
            text: 3_000,
            commits: [(20, 100), (1_000, 1)],
            deleted: 0,
        },
        Shape { name: "deleted", columns: narrow, text: 0, commits: [(60, 1_000), (1, 1)], deleted: 8 },
    ]
}

fn schema(shape: &Shape) -> SchemaDef {
    let columns = shape.columns.iter().enumerate().map(|(at, data_type)| Column {
        nullable: at % 3 == 2,
        ..Column::new(ColumnId(at as u32 + 1), format!("c{at}"), data_type.clone())
    });
    SchemaDef {
        version: 1,
        columns: columns.collect(),
        primary_key: vec![ColumnId(1)],
        checks: Vec::new(),
        next_column_id: shape.columns.len() as u32 + 1,
    }
}

fn values(data_type: &DataType, ids: Range<i64>, nullable: bool, text: usize) -> ArrayRef {
    let ids = ids.map(|id| (!nullable || id % 5 != 0).then_some(id));
    match data_type {
        DataType::BigInt => Arc::new(ids.collect::<Int64Array>()),
        DataType::Int => Arc::new(ids.map(|id| id.map(|id| id as i32)).collect::<Int32Array>()),
        DataType::Double => Arc::new(ids.map(|id| id.map(|id| id as f64)).collect::<Float64Array>()),
        DataType::Boolean => Arc::new(ids.map(|id| id.map(|id| id % 2 == 0)).collect::<BooleanArray>()),
        _ => Arc::new(ids.map(|id| id.map(|id| format!("{id:>text$}"))).collect::<StringViewArray>()),
    }
}

fn insertion(table: &Arc<Table>, shape: &Shape, ids: Range<i64>) -> PartitionWrite {
    let columns = table.schema.columns().iter().enumerate();
    let column = |at: usize, column: &Column| {
        let ids = if at == 0 { ids.clone() } else { ids.start * 7..ids.start * 7 + ids.end - ids.start };
        values(&column.data_type, ids, column.nullable, shape.text)
    };
    let columns = columns.map(|(at, of)| column(at, of)).collect();
    let mut write = PartitionWrite::new(table.clone(), None);
    write.insert = Some(RecordBatch::try_new(table.schema.rows().clone(), columns).unwrap());
    write
}

async fn fill(database: &Arc<Database>, table: &Arc<Table>, shape: &Shape) {
    let mut next = 0;
    for (commits, rows) in shape.commits {
        for _ in 0..commits {
            database.commit(vec![insertion(table, shape, next..next + rows)]).await.unwrap();
            next += rows;
        }
    }
    if shape.deleted > 0 {
        for part in 0..shape.deleted {
            let write = delete(database, table, None, |id| id % 10 == part).await.unwrap().expect("rows");
            database.commit(vec![write]).await.unwrap();
        }
    }
}

const LOG_SEGMENT: u64 = 64 << 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_reported_of_a_partition_is_within_a_tenth_of_what_was_allocated() {
    // A real disk: a simulated one is itself in memory.
    let dir = tempfile::tempdir().unwrap();
    let config = Config {
        sync: SyncPolicy::Never,
        // Its threads have buffers too, of a size with the segments.
        log_segment_bytes: LOG_SEGMENT,
        flush_rows: u64::MAX,
        memtable_bytes: usize::MAX,
        ..Config::new(dir.path())
    };
    let database = Database::open(config).await.unwrap();
    let total = || database.memory().row_bytes + database.memory().overhead_bytes;
    for shape in shapes() {
        let table = create_with(&database, shape.name, TableKind::Shared, schema(&shape)).await.unwrap();
        let (before, reported_before) = (allocated(), total());
        fill(&database, &table, &shape).await;
        // Reading merges short chunks, as it would for any reader.
        drop(database.view(&database.snapshot(), &table, None).await.unwrap());
        let deadline = Instant::now() + PATIENCE;
        loop {
            // The log's threads have buffers too, now and then, and what they drop is still being freed.
            let (grown, reported) = (allocated() - before, total() - reported_before);
            if reported * 10 > grown * 9 && reported * 9 < grown * 10 {
                break;
            }
            let name = shape.name;
            assert!(Instant::now() < deadline, "{name}: {grown} bytes allocated, {reported} reported");
            tokio::task::yield_now().await;
        }
    }
}
