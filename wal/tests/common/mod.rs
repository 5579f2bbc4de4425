//! What the tests on the simulated disk share.
#![allow(dead_code, unreachable_pub, reason = "every test file uses its own part of this")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use kalamdb_wal::sim::{SimClock, SimDisk, SimRandom};
use kalamdb_wal::{Error, Log, Lsn, Mode, Options, Record, Recovered, Retain, Verdict};

/// Where the log is on a simulated disk.
pub fn dir() -> &'static Path {
    Path::new("/data/log")
}

/// Deterministic options with small segments.
pub fn inline() -> Options {
    Options {
        segment_bytes: 12 << 10,
        mode: Mode::Inline,
        entropy: 42,
        clock: Arc::new(SimClock::default()),
        retain: Retain::NOTHING,
        ..Options::default()
    }
}

/// The same with the log's own threads.
pub fn threaded() -> Options {
    Options { mode: Mode::Threads, ..inline() }
}

/// What replay delivered.
pub type Replayed = Vec<(Lsn, Bytes)>;

pub fn try_open(disk: &SimDisk, options: Options) -> Result<(Log, Recovered, Replayed), Error> {
    let mut replayed = Vec::new();
    let (log, recovered) = Log::open(Arc::new(disk.clone()), dir(), options, &mut |lsn, payload| {
        replayed.push((lsn, payload.to_bytes()));
        Ok(())
    })?;
    Ok((log, recovered, replayed))
}

pub fn open(disk: &SimDisk, options: Options) -> (Log, Recovered, Replayed) {
    try_open(disk, options).expect("opens")
}

/// A payload that can be recognised: no two (epoch, number) pairs have the same.
pub fn payload(epoch: u64, lsn: Lsn, len: usize) -> Vec<u8> {
    let mut random = SimRandom::new(epoch << 40 | lsn);
    let mut bytes: Vec<u8> = [epoch.to_le_bytes(), lsn.to_le_bytes()].concat();
    bytes.extend((0..len).map(|_| random.next_u64() as u8));
    bytes
}

/// What a run did, as far as its caller was told.
#[derive(Debug, Default, Clone)]
pub struct Story {
    /// Every record that got a number.
    pub appended: BTreeMap<Lsn, Vec<u8>>,
    /// The newest record that was answered for.
    pub acked: Lsn,
    /// The low-water marks that may be on disk: the last one answered for and the one that was being set.
    pub low_water: (Lsn, Lsn),
}

impl Story {
    pub fn new() -> Self {
        Self { low_water: (1, 1), ..Self::default() }
    }

    pub fn append(&mut self, log: &Log, epoch: u64, len: usize) -> Result<Lsn, Error> {
        let bytes = payload(epoch, log.last() + 1, len);
        let lsn = log.append(Record::new(bytes.clone()))?;
        self.appended.insert(lsn, bytes);
        Ok(lsn)
    }

    pub fn wait(&mut self, log: &Log, lsn: Lsn) -> Result<(), Error> {
        log.wait_durable(lsn)?;
        self.acked = self.acked.max(lsn);
        Ok(())
    }

    pub fn truncate(&mut self, log: &Log, lsn: Lsn) -> Result<(), Error> {
        self.low_water.1 = self.low_water.1.max(lsn);
        log.truncate_before(lsn)?;
        self.low_water.0 = self.low_water.1;
        Ok(())
    }

    /// A mixture of everything, until the disk stops or `steps` are done. Reopens the log now and then.
    pub fn run(&mut self, disk: &SimDisk, options: &Options, seed: u64, steps: usize) -> Result<(), Error> {
        let mut random = SimRandom::new(seed);
        let mut log = try_open(disk, options.clone())?.0;
        for _ in 0..steps {
            match random.below(12) {
                0 => self.truncate(&log, (log.durable() + 1).saturating_sub(random.below(12)).max(1))?,
                1 if random.coin() => {
                    log.close()?;
                    self.acked = log.last();
                    log = try_open(disk, options.clone())?.0;
                }
                2 => {
                    self.append(&log, seed, 14_000)?;
                }
                _ => {
                    for _ in 0..=random.below(4) {
                        self.append(&log, seed, random.below(1500) as usize)?;
                    }
                    let lsn = log.last();
                    self.wait(&log, lsn)?;
                }
            }
        }
        let lsn = log.last();
        self.wait(&log, lsn)
    }

    /// Asserts that what was recovered is what this story allows, and takes it as the new truth.
    pub fn check(&mut self, recovered: &Recovered, replayed: &Replayed) {
        assert!(!matches!(recovered.verdict, Verdict::Corrupt { .. }));
        let low = recovered.low_water;
        assert!(low == self.low_water.0 || low == self.low_water.1, "low water {low}, {:?}", self.low_water);
        assert!(
            recovered.next > self.acked,
            "{} was answered for, the log ends before {}",
            self.acked,
            recovered.next
        );
        assert!(replayed.iter().map(|(lsn, _)| *lsn).eq(low..recovered.next), "replay has gaps");
        for (lsn, bytes) in replayed {
            assert_eq!(self.appended.get(lsn).map(Vec::as_slice), Some(&bytes[..]), "record {lsn} is wrong");
        }
        self.appended.split_off(&recovered.next);
        self.acked = recovered.next - 1;
        self.low_water = (low, low);
    }
}
