//! How the engine's costs grow with the rows a table has in memory: ten and a hundred times as many, beside the fewest.

use std::time::Instant;

use crate::measure::{median, time_each};
use crate::place::Place;
use crate::report::{Budget, Comparison, Outcome, Sample};
use crate::table::{Fixture, insertion};

const FEWEST: i64 = 2_000;
const COMMITS: usize = 300;

/// See the module.
#[derive(Debug)]
pub struct Growth;

struct Costs {
    commit_us: f64,
    open_us_per_row: f64,
}

impl Comparison for Growth {
    fn name(&self) -> &'static str {
        "engine-growth"
    }

    fn run(&self, place: &Place) -> Outcome<Vec<Sample>> {
        let base = costs(place, FEWEST)?;
        let mut lines = Vec::new();
        for rows in [FEWEST * 10, FEWEST * 100] {
            let grown = costs(place, rows)?;
            let line = |what: &str, ours, theirs| Sample {
                work: format!("engine: {what}, {rows} rows"),
                beside: "the same, 2000 rows",
                ours,
                theirs,
                unit: "us",
                budget: Budget::None,
            };
            lines.push(line("commit of one row, p50", grown.commit_us, base.commit_us));
            lines.push(line("open, per row in the log", grown.open_us_per_row, base.open_us_per_row));
        }
        Ok(lines)
    }
}

fn costs(place: &Place, rows: i64) -> Outcome<Costs> {
    let dir = place.dir()?;
    let db = dir.path().join("db");
    let fixture = Fixture::open(place, &db)?;
    fixture.insert(0..rows, 1_000)?;
    let mut ids = rows..;
    let commits = time_each(COMMITS, || -> Outcome<()> {
        let id = ids.next().ok_or("ids without end")?;
        let write = insertion(&fixture.table, id..id + 1)?;
        fixture.runtime.block_on(fixture.database.commit(vec![write]))?;
        Ok(())
    })?;
    fixture.close()?;
    let begun = Instant::now();
    let fixture = Fixture::open(place, &db)?;
    let open = begun.elapsed().as_secs_f64() * 1e6;
    fixture.close()?;
    Ok(Costs { commit_us: median(commits), open_us_per_row: open / (rows + COMMITS as i64) as f64 })
}
