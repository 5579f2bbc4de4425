//! How the engine's costs grow with the partitions in memory: what one person's commit and view cost beside ten and a
//! hundred times as many other people's rows.

use std::time::Instant;

use kalamdb_engine::UserId;

use crate::measure::{median, micros, time_each};
use crate::place::Place;
use crate::report::{Budget, Comparison, Outcome, Sample};
use crate::table::{Fixture, insertion};

const FEWEST: usize = 1_000;
/// Users that get a row in one commit.
const PER_COMMIT: usize = 1_000;
const MEASURED: usize = 300;

/// See the module.
#[derive(Debug)]
pub struct Partitions;

struct Costs {
    commit_us: f64,
    view_us: f64,
    fill_us: f64,
}

impl Comparison for Partitions {
    fn name(&self) -> &'static str {
        "engine-growth-partitions"
    }

    fn run(&self, place: &Place) -> Outcome<Vec<Sample>> {
        let base = costs(place, FEWEST)?;
        let mut lines = Vec::new();
        for users in [FEWEST * 10, FEWEST * 100] {
            let grown = costs(place, users)?;
            let line = |what: &str, ours, theirs| Sample {
                work: format!("engine: {what}, {users} partitions in memory"),
                beside: "the same, 1000 partitions",
                ours,
                theirs,
                unit: "us",
                budget: Budget::None,
            };
            lines.push(line("commit of one row, p50", grown.commit_us, base.commit_us));
            lines.push(line("snapshot and view of one partition, p50", grown.view_us, base.view_us));
            lines.push(line(
                "a partition's first row, a thousand of them to a commit",
                grown.fill_us,
                base.fill_us,
            ));
        }
        Ok(lines)
    }
}

fn costs(place: &Place, users: usize) -> Outcome<Costs> {
    let dir = place.dir()?;
    let fixture = Fixture::open(place, &dir.path().join("db"))?;
    let table = fixture.user_table()?;
    let ids = (0..users).map(|n| UserId::new(&format!("user-{n}")));
    let ids = ids.collect::<Result<Vec<_>, _>>()?;
    let to = |user: &UserId, id: i64| {
        let write = insertion(&table, id..id + 1)?;
        Outcome::Ok(kalamdb_engine::PartitionWrite { user: Some(user.clone()), ..write })
    };
    let mut filling = 0.0;
    for some in ids.chunks(PER_COMMIT) {
        let writes = some.iter().map(|user| to(user, 1)).collect::<Outcome<Vec<_>>>()?;
        let begun = Instant::now();
        fixture.runtime.block_on(fixture.database.commit(writes))?;
        filling += micros(begun.elapsed());
    }
    let fill_us = filling / users as f64;
    let mut turns = (0..MEASURED).map(|n| &ids[n * 7_919 % users]);
    let commits = time_each(MEASURED, || -> Outcome<()> {
        let write = to(turns.next().ok_or("as many users as commits")?, 2)?;
        fixture.runtime.block_on(fixture.database.commit(vec![write]))?;
        Ok(())
    })?;
    let mut turns = (0..MEASURED).map(|n| &ids[n * 7_919 % users]);
    let views = time_each(MEASURED, || -> Outcome<()> {
        let (user, snapshot) = (turns.next().ok_or("as many users as views")?, fixture.database.snapshot());
        let view = fixture.runtime.block_on(fixture.database.view(&snapshot, &table, Some(user)))?;
        if view.chunks.is_empty() { Err("no rows".into()) } else { Ok(()) }
    })?;
    fixture.close()?;
    Ok(Costs { commit_us: median(commits), view_us: median(views), fill_us })
}
