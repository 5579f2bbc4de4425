//! How the engine's costs grow with the columns of a table: a commit's with the values it has; a scan of one column's not
//! at all.

use std::hint::black_box;

use kalamdb_engine::ChunkView;
use kalamdb_engine::arrow::array::AsArray;
use kalamdb_engine::arrow::compute::sum;
use kalamdb_engine::arrow::datatypes::Int32Type;

use crate::measure::{median, time_each};
use crate::place::Place;
use crate::report::{Budget, Comparison, Outcome, Sample};
use crate::table::{Fixture, insertion};

/// Columns of the narrowest table.
const FEWEST: u32 = 4;
const ROWS: i64 = 10_000;
const MEASURED: usize = 300;
const SCORE: usize = 3;

/// See the module.
#[derive(Debug)]
pub struct Columns;

struct Costs {
    commit_us: f64,
    scan_us: f64,
}

impl Comparison for Columns {
    fn name(&self) -> &'static str {
        "engine-growth-columns"
    }

    fn run(&self, place: &Place) -> Outcome<Vec<Sample>> {
        let base = costs(place, FEWEST)?;
        let mut lines = Vec::new();
        for columns in [FEWEST * 10, FEWEST * 100] {
            let grown = costs(place, columns)?;
            let line = |what: &str, ours, theirs| Sample {
                work: format!("engine: {what}, {columns} columns"),
                beside: "the same, 4 columns",
                ours,
                theirs,
                unit: "us",
                budget: Budget::None,
            };
            lines.push(line("commit of one row, p50", grown.commit_us, base.commit_us));
            lines.push(line("view and sum of one column of 10000 hot rows", grown.scan_us, base.scan_us));
        }
        Ok(lines)
    }
}

fn costs(place: &Place, columns: u32) -> Outcome<Costs> {
    let dir = place.dir()?;
    let fixture = Fixture::open(place, &dir.path().join("db"))?;
    let table = fixture.wide_table(columns - FEWEST)?;
    for from in (0..ROWS).step_by(1_000) {
        let write = insertion(&table, from..from + 1_000)?;
        fixture.runtime.block_on(fixture.database.commit(vec![write]))?;
    }
    let writes = (0..MEASURED as i64).map(|n| insertion(&table, ROWS + n..ROWS + n + 1));
    let mut writes = writes.collect::<Outcome<Vec<_>>>()?.into_iter();
    let commits = time_each(MEASURED, || -> Outcome<()> {
        let write = writes.next().ok_or("as many writes as commits")?;
        fixture.runtime.block_on(fixture.database.commit(vec![write]))?;
        Ok(())
    })?;
    let scans = time_each(MEASURED, || -> Outcome<()> {
        let snapshot = fixture.database.snapshot();
        let view = fixture.runtime.block_on(fixture.database.view(&snapshot, &table, None))?;
        for chunk in &view.chunks {
            if let ChunkView::Rows(chunk) = chunk {
                black_box(sum(chunk.column(SCORE).as_primitive::<Int32Type>()));
            }
        }
        Ok(())
    })?;
    fixture.close()?;
    Ok(Costs { commit_us: median(commits), scan_us: median(scans) })
}
