//! Many writers of 200-byte records, beside a bare loop that writes and syncs the same bytes in as many groups.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use kalamdb_wal::{Disk, Log, Options, Record};

use crate::bare::BareFile;
use crate::place::Place;
use crate::report::{Budget, Comparison, Outcome, Sample};

const RECORD: usize = 200;
const FRAME: usize = RECORD + 28;

/// See the module.
#[derive(Debug)]
pub struct Writers;

impl Comparison for Writers {
    fn name(&self) -> &'static str {
        "wal-writers"
    }

    fn run(&self, place: &Place) -> Outcome<Vec<Sample>> {
        [1, 4, 16, 64].into_iter().map(|writers| compare(writers, place)).collect()
    }
}

fn compare(writers: usize, place: &Place) -> Outcome<Sample> {
    let dir = place.dir()?;
    let records = 2500 * writers.min(16);
    let (ours, groups) = through_the_log(writers, records, place.disk(), dir.path())?;
    let theirs = bare_loop(groups, records, &*place.disk(), dir.path())?;
    let size = records as f64 / groups as f64;
    Ok(Sample {
        work: format!("{writers} writers, {RECORD}-byte records, groups of {size:.0}"),
        beside: "bare loop, same groups",
        ours,
        theirs,
        unit: "records/s",
        budget: if writers == 16 { Budget::AtLeast(0.7) } else { Budget::None },
    })
}

/// Records per second, and the groups they went out in.
fn through_the_log(writers: usize, records: usize, disk: Arc<dyn Disk>, dir: &Path) -> Outcome<(f64, usize)> {
    let options = Options { spares: 0, ..Options::default() };
    let (log, _) = Log::open(disk, &dir.join("log"), options, &mut |_, _| Ok(()))?;
    preallocate(&log)?;
    let before = log.metrics().groups;
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..writers).map(|_| scope.spawn(|| commit(&log, records / writers))).collect();
        threads.into_iter().try_for_each(|t| t.join().map_err(|_| "a writer panicked")?)
    })?;
    let seconds = begun.elapsed().as_secs_f64();
    Ok((records as f64 / seconds, (log.metrics().groups - before) as usize))
}

/// Goes on to a segment that is large enough for the whole run, so that allocation is not part of it: a large record
/// fills a segment of its own, and the next one begins a segment four times as large.
fn preallocate(log: &Log) -> Outcome<()> {
    for bytes in [12 << 20, 1] {
        let lsn = log.append(Record::new(vec![0; bytes]))?;
        log.wait_durable(lsn)?;
    }
    Ok(())
}

fn commit(log: &Log, count: usize) -> Outcome<()> {
    for _ in 0..count {
        let lsn = log.append(Record::new(vec![7; RECORD]))?;
        log.wait_durable(lsn)?;
    }
    Ok(())
}

fn bare_loop(groups: usize, records: usize, disk: &dyn Disk, dir: &Path) -> Outcome<f64> {
    let mut file = BareFile::preallocated(disk, &dir.join("bare"), 16 << 20)?;
    let group = vec![7; FRAME * records / groups];
    let begun = Instant::now();
    for _ in 0..groups {
        file.commit(&group)?;
    }
    Ok(records as f64 / begun.elapsed().as_secs_f64())
}
