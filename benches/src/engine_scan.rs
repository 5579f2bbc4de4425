//! Adding up a column of rows that are in memory, beside the same over the bare Arrow arrays.

use std::hint::black_box;
use std::time::Instant;

use kalamdb_engine::arrow::array::{Array, AsArray, RecordBatch};
use kalamdb_engine::arrow::compute::{filter, sum};
use kalamdb_engine::arrow::datatypes::Int32Type;
use kalamdb_engine::{ChunkView, PartitionView};

use crate::place::Place;
use crate::report::{Budget, Comparison, Outcome, Sample};
use crate::table::Fixture;

const SCORE: usize = 3;
const SCANS: u32 = 20;

/// See the module.
#[derive(Debug)]
pub struct Scan;

impl Comparison for Scan {
    fn name(&self) -> &'static str {
        "engine-scan"
    }

    fn run(&self, place: &Place) -> Outcome<Vec<Sample>> {
        [1, 100].into_iter().map(|batch| compare(place, batch)).collect()
    }
}

fn compare(place: &Place, batch: usize) -> Outcome<Sample> {
    let rows = 2_000 * batch as i64;
    let dir = place.dir()?;
    let fixture = Fixture::open(place, &dir.path().join("db"))?;
    fixture.insert(0..rows, batch)?;
    let snapshot = fixture.database.snapshot();
    let view = || fixture.runtime.block_on(fixture.database.view(&snapshot, &fixture.table, None));
    let bare: Vec<RecordBatch> = view()?.chunks.iter().filter_map(memory_rows).collect();
    let whole = kalamdb_engine::arrow::compute::concat_batches(fixture.table.schema.rows(), &bare)?;
    let begun = Instant::now();
    for _ in 0..SCANS {
        black_box(add_up(&view()?)?);
    }
    let ours = begun.elapsed();
    let begun = Instant::now();
    for _ in 0..SCANS {
        black_box(sum(black_box(&whole).column(SCORE).as_primitive::<Int32Type>()));
    }
    let theirs = begun.elapsed();
    fixture.close()?;
    let rate = |time: std::time::Duration| rows as f64 * f64::from(SCANS) / time.as_secs_f64() / 1e6;
    Ok(Sample {
        work: format!("engine: view and sum of {rows} hot rows, inserted {batch} at a time"),
        beside: "sum of one Arrow array",
        ours: rate(ours),
        theirs: rate(theirs),
        unit: "M rows/s",
        budget: Budget::None,
    })
}

fn memory_rows(chunk: &ChunkView) -> Option<RecordBatch> {
    match chunk {
        ChunkView::Rows(chunk) if !chunk.tombstones => Some(chunk.batch()),
        _ => None,
    }
}

fn add_up(view: &PartitionView) -> Outcome<i64> {
    let mut total = 0;
    for chunk in &view.chunks {
        let ChunkView::Rows(chunk) = chunk else { continue };
        let column = chunk.column(SCORE);
        let visible = chunk.visible().map(|mask| filter(&column, &mask)).transpose()?;
        let column = visible.unwrap_or(column);
        total += i64::from(sum(column.as_primitive::<Int32Type>()).unwrap_or_default());
        debug_assert!(column.len() <= chunk.num_rows());
    }
    Ok(total)
}
