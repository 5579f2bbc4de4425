//! One durable commit of a 200-byte record by one thread, beside `pwrite` + `fdatasync` of the same bytes.

use kalamdb_wal::{Log, Options, Record};

use crate::bare::BareFile;
use crate::measure::{median, percentile, time_each};
use crate::place::Place;
use crate::report::{Budget, Comparison, Outcome, Sample};

const COMMITS: usize = 3000;
const RECORD: usize = 200;
/// Header and padding of such a record in the log.
const FRAME: usize = RECORD + 28;

/// See the module.
#[derive(Debug)]
pub struct Commit;

impl Comparison for Commit {
    fn name(&self) -> &'static str {
        "wal-commit"
    }

    fn run(&self, place: &Place) -> Outcome<Vec<Sample>> {
        let dir = place.dir()?;
        let mut bare = BareFile::preallocated(&*place.disk(), &dir.path().join("bare"), 4 << 20)?;
        let theirs = time_each(COMMITS, || bare.commit(&[7; FRAME]))?;
        let options = Options { spares: 0, ..Options::default() };
        let (log, _) = Log::open(place.disk(), &dir.path().join("log"), options, &mut |_, _| Ok(()))?;
        let ours = time_each(COMMITS, || {
            let lsn = log.append(Record::new(vec![7; RECORD]))?;
            log.wait_durable(lsn)
        })?;
        let line = |name, share, budget| Sample {
            work: format!("one durable commit, 1 thread, {RECORD} bytes, {name}"),
            beside: "pwrite + fdatasync",
            ours: percentile(ours.clone(), share),
            theirs: percentile(theirs.clone(), share),
            unit: "us",
            budget,
        };
        debug_assert!(median(ours.clone()) > 0.0);
        Ok(vec![line("p50", 0.5, Budget::AtMost(1.3)), line("p99", 0.99, Budget::None)])
    }
}
