//! Opening a log with everything to replay, beside reading the same files and computing their CRC.

use std::fs;
use std::hint::black_box;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use kalamdb_wal::{Disk, Log, Options, Record};

use crate::place::Place;
use crate::report::{Budget, Comparison, Outcome, Sample};

/// See the module.
#[derive(Debug)]
pub struct Recovery {
    /// Payload bytes to replay.
    bytes: u64,
}

impl Default for Recovery {
    fn default() -> Self {
        Self { bytes: 1 << 30 }
    }
}

impl Comparison for Recovery {
    fn name(&self) -> &'static str {
        "wal-recovery"
    }

    fn run(&self, place: &Place) -> Outcome<Vec<Sample>> {
        [200, 4096].into_iter().map(|record| self.compare(record, place)).collect()
    }
}

impl Recovery {
    fn compare(&self, record: usize, place: &Place) -> Outcome<Sample> {
        let dir = place.dir()?;
        fill(place.disk(), dir.path(), record, self.bytes)?;
        let (bytes, theirs) = read_and_hash(dir.path())?;
        let ours = recover(place.disk(), dir.path())?;
        let megabytes = bytes as f64 / 1e6;
        Ok(Sample {
            work: format!("recovery of {:.0} MB in {record}-byte records", megabytes),
            beside: "read + CRC of the files",
            ours: megabytes / ours,
            theirs: megabytes / theirs,
            unit: "MB/s",
            budget: Budget::AtLeast(0.5),
        })
    }
}

fn fill(disk: Arc<dyn Disk>, dir: &Path, record: usize, bytes: u64) -> Outcome<()> {
    let options = Options { sync: kalamdb_wal::SyncPolicy::Never, ..Options::default() };
    let (log, _) = Log::open(disk, dir, options, &mut |_, _| Ok(()))?;
    for n in 0..bytes / record as u64 {
        log.append(Record::new(vec![n as u8; record]))?;
    }
    Ok(log.close()?)
}

fn recover(disk: Arc<dyn Disk>, dir: &Path) -> Outcome<f64> {
    let begun = Instant::now();
    let mut bytes = 0;
    let (log, _) = Log::open(disk, dir, Options { spares: 0, ..Options::default() }, &mut |_, payload| {
        bytes += payload.len();
        Ok(())
    })?;
    let seconds = begun.elapsed().as_secs_f64();
    black_box(bytes);
    log.close()?;
    Ok(seconds)
}

fn read_and_hash(dir: &Path) -> Outcome<(u64, f64)> {
    let begun = Instant::now();
    let mut buffer = vec![0; 1 << 20];
    let mut total = 0;
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "wal") {
            let mut file = fs::File::open(path)?;
            let mut hasher = crc32fast::Hasher::new();
            loop {
                let n = file.read(&mut buffer)?;
                if n == 0 {
                    break;
                }
                hasher.update(&buffer[..n]);
                total += n as u64;
            }
            black_box(hasher.finalize());
        }
    }
    Ok((total, begun.elapsed().as_secs_f64()))
}
