//! Commits of one row of about 200 bytes through the engine, beside writing and syncing the bytes its log writes.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use kalamdb_engine::{PartitionWrite, Table};

use crate::bare::BareFile;
use crate::measure::{percentile, time_each};
use crate::place::Place;
use crate::report::{Budget, Comparison, Outcome, Sample};
use crate::table::{FRAME_HEADER, Fixture, insertion};

const COMMITS: i64 = 2_000;

/// One thread: the time of a commit.
#[derive(Debug)]
pub struct Commit;

impl Comparison for Commit {
    fn name(&self) -> &'static str {
        "engine-commit"
    }

    fn run(&self, place: &Place) -> Outcome<Vec<Sample>> {
        let dir = place.dir()?;
        let fixture = Fixture::open(place, &dir.path().join("db"))?;
        let (database, table) = (&fixture.database, &fixture.table);
        let before = database.log_metrics();
        // Making the rows is not part of committing them.
        let mut writes = single_rows(table, 0..COMMITS)?.into_iter();
        // On this thread: a hop to another one would be the runtime's cost, not the engine's.
        let ours = time_each(COMMITS as usize, || -> Outcome<()> {
            let write = writes.next().ok_or("as many writes as commits")?;
            fixture.runtime.block_on(database.commit(vec![write]))?;
            Ok(())
        })?;
        let after = database.log_metrics();
        let frame = (after.bytes - before.bytes) / (after.appends - before.appends) + FRAME_HEADER;
        fixture.close()?;
        let mut bare = BareFile::preallocated(&*place.disk(), &dir.path().join("bare"), 4 << 20)?;
        let theirs = time_each(COMMITS as usize, || bare.commit(&vec![7; frame as usize]))?;
        let line = |name, share, budget| Sample {
            work: format!("engine: one durable commit, 1 thread, a row of {frame} bytes in the log, {name}"),
            beside: "pwrite + fdatasync",
            ours: percentile(ours.clone(), share),
            theirs: percentile(theirs.clone(), share),
            unit: "us",
            budget,
        };
        Ok(vec![line("p50", 0.5, Budget::AtMost(1.3)), line("p99", 0.99, Budget::None)])
    }
}

/// Many tasks: commits per second.
#[derive(Debug)]
pub struct Writers;

impl Comparison for Writers {
    fn name(&self) -> &'static str {
        "engine-writers"
    }

    fn run(&self, place: &Place) -> Outcome<Vec<Sample>> {
        [16, 64].into_iter().map(|writers| compare(writers, place)).collect()
    }
}

fn compare(writers: i64, place: &Place) -> Outcome<Sample> {
    let dir = place.dir()?;
    let fixture = Fixture::open(place, &dir.path().join("db"))?;
    // The log goes on to a segment that holds the whole run, so that allocation is not part of it.
    fixture.insert(1 << 40..(1 << 40) + 60_000, 60_000)?;
    fixture.insert(1 << 41..(1 << 41) + 1, 1)?;
    let each = 1_000;
    let firsts = (0..writers).map(|writer| writer << 32);
    let writes = firsts.map(|first| single_rows(&fixture.table, first..first + each));
    let writes = writes.collect::<Outcome<Vec<_>>>()?;
    let before = fixture.database.log_metrics();
    let begun = Instant::now();
    fixture.runtime.block_on(async {
        let tasks: Vec<_> = writes.into_iter().map(|writes| tokio::spawn(commit(&fixture, writes))).collect();
        for task in tasks {
            task.await??;
        }
        Outcome::Ok(())
    })?;
    let seconds = begun.elapsed().as_secs_f64();
    let after = fixture.database.log_metrics();
    let (groups, records) = (after.groups - before.groups, after.appends - before.appends);
    let bytes = after.bytes - before.bytes + records * FRAME_HEADER;
    fixture.close()?;
    let mut bare = BareFile::preallocated(&*place.disk(), &dir.path().join("bare"), 32 << 20)?;
    let group = vec![7; (bytes / groups) as usize];
    let begun = Instant::now();
    (0..groups).try_for_each(|_| bare.commit(&group))?;
    let theirs = begun.elapsed().as_secs_f64();
    Ok(Sample {
        work: format!("engine: {writers} writers, one row each, groups of {}", records / groups),
        beside: "bare loop, same groups",
        ours: records as f64 / seconds,
        theirs: records as f64 / theirs,
        unit: "commits/s",
        budget: Budget::None,
    })
}

/// Writes of one row each.
fn single_rows(table: &Arc<Table>, ids: Range<i64>) -> Outcome<Vec<PartitionWrite>> {
    ids.map(|id| insertion(table, id..id + 1)).collect()
}

/// Commits one row after the other; the future owns what it needs.
fn commit(
    fixture: &Fixture,
    writes: Vec<PartitionWrite>,
) -> impl Future<Output = Outcome<()>> + Send + 'static {
    let database = fixture.database.clone();
    async move {
        for write in writes {
            database.commit(vec![write]).await?;
        }
        Ok(())
    }
}
