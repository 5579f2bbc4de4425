//! The log on the machine's own disk: what goes in comes out, live and after reopening.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use kalamdb_wal::{
    Error, Log, Lsn, MAX_RECORD, Metrics, Observer, Options, RealDisk, Record, Recovered, Retain, SyncPolicy,
    Verdict,
};

fn open(dir: &Path, options: Options) -> (Log, Recovered, Vec<(Lsn, Bytes)>) {
    let mut replayed = Vec::new();
    let (log, recovered) = Log::open(Arc::new(RealDisk), dir, options, &mut |lsn, payload| {
        replayed.push((lsn, payload.to_bytes()));
        Ok(())
    })
    .expect("opens");
    (log, recovered, replayed)
}

fn small() -> Options {
    Options { segment_bytes: 64 << 10, retain: Retain::NOTHING, ..Options::default() }
}

fn payload(n: u64) -> Vec<u8> {
    (0..(n * 37) % 900).map(|i| (i + n) as u8).collect()
}

fn fill(log: &Log, numbers: std::ops::RangeInclusive<u64>) {
    for n in numbers {
        assert_eq!(log.append(Record::new(payload(n))).expect("appends"), n);
    }
    log.wait_durable(log.last()).expect("durable");
}

#[test]
fn records_come_back_in_order_after_reopening() {
    let dir = tempfile::tempdir().expect("dir");
    let (log, recovered, _) = open(dir.path(), small());
    assert_eq!((recovered.next, recovered.first), (1, 1));
    fill(&log, 1..=1000);
    assert!(log.metrics().rolls >= 3, "{:?}", log.metrics());
    drop(log);
    let (log, recovered, replayed) = open(dir.path(), small());
    assert_eq!(recovered.verdict, Verdict::Clean);
    assert_eq!(recovered.next, 1001);
    assert_eq!(replayed.len(), 1000);
    assert!(replayed.iter().all(|(lsn, bytes)| *bytes == payload(*lsn)));
    fill(&log, 1001..=1010);
}

#[test]
fn truncation_moves_replay_and_lets_segments_go() {
    let dir = tempfile::tempdir().expect("dir");
    let (log, ..) = open(dir.path(), small());
    fill(&log, 1..=1000);
    log.truncate_before(900).expect("truncates");
    let first = log.first();
    assert!(first > 1 && first <= 900);
    assert!(matches!(log.reader(1), Err(Error::Expired { first: f }) if f == first));
    drop(log);
    let (log, recovered, replayed) = open(dir.path(), small());
    assert_eq!((recovered.low_water, recovered.first), (900, first));
    assert_eq!(replayed.first().map(|(lsn, _)| *lsn), Some(900));
    assert_eq!(replayed.len(), 101);
    fill(&log, 1001..=2000);
}

#[test]
fn history_is_kept_for_readers_as_long_as_retention_says() {
    let dir = tempfile::tempdir().expect("dir");
    let retain = Retain { bytes: 1 << 30, age: Duration::from_secs(3600) };
    let (log, ..) = open(dir.path(), Options { retain, ..small() });
    fill(&log, 1..=1000);
    log.truncate_before(900).expect("truncates");
    assert_eq!(log.first(), 1);
    let mut reader = log.reader(5).expect("retained");
    assert_eq!(reader.try_next().expect("reads").map(|(lsn, _)| lsn), Some(5));
}

#[test]
fn a_slice_of_a_segment_outlives_its_truncation() {
    let dir = tempfile::tempdir().expect("dir");
    let (log, ..) = open(dir.path(), small());
    fill(&log, 1..=1000);
    drop(log);
    let (log, _, replayed) = open(dir.path(), small());
    log.truncate_before(1001).expect("truncates");
    fill(&log, 1001..=3000);
    assert!(replayed.iter().all(|(lsn, bytes)| *bytes == payload(*lsn)), "a kept payload was overwritten");
}

#[test]
fn a_record_larger_than_a_segment_gets_its_own() {
    let dir = tempfile::tempdir().expect("dir");
    let (log, ..) = open(dir.path(), small());
    let large = vec![7; 3 << 20];
    log.append(Record::new(vec![1])).expect("appends");
    let lsn = log.append(Record::new(large.clone())).expect("appends");
    log.append(Record::new(vec![2])).expect("appends");
    log.wait_durable(3).expect("durable");
    let mut reader = log.reader(lsn).expect("retained");
    assert_eq!(reader.try_next().expect("reads"), Some((2, large.into())));
    assert_eq!(reader.try_next().expect("reads"), Some((3, vec![2].into())));
    let refused = log.append(Record::new(vec![0; MAX_RECORD + 1]));
    assert!(matches!(refused, Err(Error::TooLarge { .. })));
}

#[test]
fn a_first_record_too_large_for_the_empty_segment_replaces_it() {
    let dir = tempfile::tempdir().expect("dir");
    let (log, ..) = open(dir.path(), small());
    let mut waiting = log.reader(1).expect("the first to come");
    log.append(Record::new(vec![1; 100_000])).expect("appends");
    log.append(Record::new(vec![2; 100_000])).expect("appends");
    log.wait_durable(2).expect("durable");
    assert_eq!(waiting.try_next().expect("reads").map(|(_, b)| b[0]), Some(1));
    drop(waiting);
    log.truncate_before(3).expect("truncates");
    drop(log);
    assert_eq!(open(dir.path(), small()).1.next, 3);
}

#[test]
fn the_largest_record_makes_the_round_trip() {
    let dir = tempfile::tempdir().expect("dir");
    let (log, ..) = open(dir.path(), small());
    let lsn = log.append(Record::new(vec![9; MAX_RECORD])).expect("appends");
    log.wait_durable(lsn).expect("durable");
    drop(log);
    let (_, _, replayed) = open(dir.path(), small());
    assert!(replayed[0].1.len() == MAX_RECORD && replayed[0].1.iter().all(|b| *b == 9));
}

#[test]
fn a_second_handle_is_refused() {
    let dir = tempfile::tempdir().expect("dir");
    let (log, ..) = open(dir.path(), small());
    let second = Log::open(Arc::new(RealDisk), dir.path(), small(), &mut |_, _| Ok(()));
    assert!(matches!(second, Err(Error::Locked { .. })));
    log.close().expect("closes");
    let (..) = open(dir.path(), small());
}

#[test]
fn a_closed_log_takes_nothing_and_its_readers_end() {
    let dir = tempfile::tempdir().expect("dir");
    let (log, ..) = open(dir.path(), small());
    fill(&log, 1..=3);
    let mut reader = log.reader(3).expect("retained");
    log.close().expect("closes");
    log.close().expect("closes twice");
    assert!(matches!(log.append(Record::new(vec![])), Err(Error::Closed)));
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("runtime");
    assert_eq!(runtime.block_on(reader.next()).expect("still there").0, 3);
    assert!(matches!(runtime.block_on(reader.next()), Err(Error::Closed)));
}

#[derive(Debug, Default)]
struct Heard(Mutex<Vec<Lsn>>);

impl Observer for Heard {
    fn durable(&self, upto: Lsn) {
        self.0.lock().expect("unpoisoned").push(upto);
    }
    fn failed(&self, error: &Error) {
        panic!("unexpected: {error}");
    }
}

#[test]
fn the_observer_hears_of_every_group_in_order() {
    let dir = tempfile::tempdir().expect("dir");
    let heard = Arc::new(Heard::default());
    let (log, ..) = open(dir.path(), Options { observer: Some(heard.clone()), ..small() });
    fill(&log, 1..=500);
    let heard = heard.0.lock().expect("unpoisoned");
    assert!(heard.is_sorted() && heard.last() == Some(&500));
}

#[test]
fn every_policy_keeps_what_it_answered_over_a_close() {
    for sync in [SyncPolicy::Always, SyncPolicy::Interval(Duration::from_millis(1)), SyncPolicy::Never] {
        let dir = tempfile::tempdir().expect("dir");
        let (log, ..) = open(dir.path(), Options { sync, ..small() });
        fill(&log, 1..=300);
        assert_eq!(log.sync().expect("syncs"), 300);
        drop(log);
        assert_eq!(open(dir.path(), small()).1.next, 301);
    }
}

#[test]
fn many_writers_and_readers_agree_on_the_order() {
    let dir = tempfile::tempdir().expect("dir");
    let (log, ..) = open(dir.path(), small());
    let seen = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..8u64)
            .map(|w| {
                let log = &log;
                scope.spawn(move || {
                    let mut mine = Vec::new();
                    for i in 0..200u64 {
                        let lsn =
                            log.append(Record::new((w << 32 | i).to_le_bytes().to_vec())).expect("appends");
                        log.wait_durable(lsn).expect("durable");
                        mine.push((lsn, w << 32 | i));
                    }
                    mine
                })
            })
            .collect();
        let readers: Vec<_> = (0..4).map(|_| scope.spawn(|| follow(&log, 1600))).collect();
        let mut expected: Vec<_> = writers.into_iter().flat_map(|w| w.join().expect("writer")).collect();
        expected.sort_unstable();
        for reader in readers {
            assert_eq!(reader.join().expect("reader"), expected);
        }
        expected
    });
    assert!(seen.iter().map(|(lsn, _)| *lsn).eq(1..=1600));
    let Metrics { appends, groups, .. } = log.metrics();
    assert!(appends == 1600 && groups <= 1600);
}

fn follow(log: &Log, count: usize) -> Vec<(Lsn, u64)> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("runtime");
    let mut reader = log.reader(1).expect("retained");
    (0..count)
        .map(|_| {
            let (lsn, bytes) = runtime.block_on(reader.next()).expect("reads");
            (lsn, u64::from_le_bytes(bytes[..].try_into().expect("eight bytes")))
        })
        .collect()
}
