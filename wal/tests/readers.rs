//! Following the log: from any retained record, across segments, at the tail, many at once.

mod common;

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use common::{inline, open, payload};
use kalamdb_wal::sim::{SimClock, SimDisk};
use kalamdb_wal::{Error, Log, Lsn, Options, Reader, Record, Retain};
use std::time::Duration;

/// Counts how often it is woken.
#[derive(Default)]
struct Alarm(AtomicUsize);

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fn poll_once(reader: &mut Reader, alarm: &Arc<Alarm>) -> Option<Lsn> {
    let waker = Waker::from(Arc::clone(alarm));
    match pin!(reader.next()).poll(&mut Context::from_waker(&waker)) {
        Poll::Ready(record) => Some(record.expect("reads").0),
        Poll::Pending => None,
    }
}

fn append(log: &Log, count: u64) {
    for _ in 0..count {
        let lsn = log.last() + 1;
        log.append(Record::new(payload(1, lsn, 600))).expect("appends");
    }
    log.wait_durable(log.last()).expect("durable");
}

fn read_all(reader: &mut Reader) -> Vec<Lsn> {
    let mut seen = Vec::new();
    while let Some((lsn, bytes)) = reader.try_next().expect("reads") {
        assert_eq!(bytes, payload(1, lsn, 600), "record {lsn}");
        seen.push(lsn);
    }
    seen
}

#[test]
fn a_reader_may_begin_at_every_retained_record() {
    let disk = SimDisk::new();
    let (log, ..) = open(&disk, Options { retain: Retain::default(), ..inline() });
    append(&log, 60);
    drop(log);
    // Recovered and new segments alike, with and without a remembered position.
    let (log, ..) = open(&disk, Options { retain: Retain::default(), ..inline() });
    log.truncate_before(40).expect("truncates");
    drop(log);
    let (log, ..) = open(&disk, Options { retain: Retain::default(), ..inline() });
    append(&log, 40);
    for from in 1..=101 {
        let mut reader = log.reader(from).expect("retained");
        assert_eq!(reader.position(), from);
        assert!(read_all(&mut reader).into_iter().eq(from..=100), "from {from}");
    }
    assert!(matches!(log.reader(102), Err(Error::OutOfRange { limit: 101, .. })));
    assert_eq!(log.reader(0).expect("means the first").position(), 1);
}

#[test]
fn a_reader_never_sees_what_is_not_durable() {
    let disk = SimDisk::new();
    let (log, ..) = open(&disk, inline());
    append(&log, 3);
    let mut reader = log.reader(1).expect("retained");
    log.append(Record::new(payload(1, 4, 600))).expect("appends");
    assert_eq!(read_all(&mut reader), [1, 2, 3]);
    log.wait_durable(4).expect("durable");
    assert_eq!(read_all(&mut reader), [4]);
}

#[test]
fn an_idle_reader_is_woken_once_by_the_group_it_waits_for_and_by_no_other() {
    let disk = SimDisk::new();
    let (log, ..) = open(&disk, inline());
    append(&log, 1);
    let mut reader = log.reader(2).expect("next");
    let mut later = log.reader(2).expect("next");
    let alarm = Arc::new(Alarm::default());
    // A future that is dropped costs nothing and loses nothing.
    assert_eq!(poll_once(&mut reader, &alarm), None);
    let reads = disk.counts().reads;
    append(&log, 1);
    assert_eq!(alarm.0.load(Ordering::SeqCst), 0, "a dropped wait was woken");
    assert_eq!(disk.counts().reads, reads, "an idle reader read");
    assert_eq!(poll_once(&mut reader, &alarm), Some(2));
    let waker = Waker::from(Arc::clone(&alarm));
    let mut context = Context::from_waker(&waker);
    assert_eq!(read_all(&mut later), [2]);
    let mut waiting = pin!(reader.next());
    assert!(waiting.as_mut().poll(&mut context).is_pending());
    append(&log, 5);
    assert_eq!(alarm.0.load(Ordering::SeqCst), 1);
    assert!(waiting.as_mut().poll(&mut context).is_ready());
}

#[test]
fn readers_follow_over_rolls_and_recycling_without_gap_or_repeat() {
    let disk = SimDisk::new();
    let (log, ..) = open(&disk, inline());
    append(&log, 1);
    let mut readers: Vec<_> = (0..5).map(|_| log.reader(1).expect("retained")).collect();
    let mut next = 1;
    for round in 0..30 {
        append(&log, 1 + round % 7);
        for reader in &mut readers {
            assert!(read_all(reader).into_iter().eq(next..=log.durable()), "round {round}");
        }
        next = log.durable() + 1;
        log.truncate_before(next).expect("truncates");
    }
    assert!(log.metrics().recycled > 0, "{:?}", log.metrics());
}

#[test]
fn a_reader_holds_what_it_has_not_read_and_lets_go_when_dropped() {
    let disk = SimDisk::new();
    let (log, ..) = open(&disk, inline());
    append(&log, 60);
    let mut reader = log.reader(5).expect("retained");
    log.truncate_before(60).expect("truncates");
    assert!(log.first() <= 5);
    assert!(read_all(&mut reader).into_iter().eq(5..=60));
    drop(reader);
    log.truncate_before(60).expect("truncates");
    let first = log.first();
    assert!(first > 40);
    assert!(matches!(log.reader(5), Err(Error::Expired { first: f }) if f == first));
    assert!(log.reader(first).is_ok());
}

#[test]
fn retention_lets_go_by_bytes() {
    let disk = SimDisk::new();
    let retain = Retain { bytes: 3 * (12 << 10), age: Duration::MAX };
    let (log, ..) = open(&disk, Options { retain, ..inline() });
    append(&log, 200);
    log.truncate_before(200).expect("truncates");
    let history = log.metrics().segments - 1;
    assert_eq!(history, 3);
    assert!(read_all(&mut log.reader(log.first()).expect("retained")).into_iter().eq(log.first()..=200));
}

#[test]
fn retention_lets_go_by_age_also_after_reopening() {
    let disk = SimDisk::new();
    let clock = SimClock::default();
    let retain = Retain { bytes: u64::MAX, age: Duration::from_secs(60) };
    let options = Options { retain, clock: Arc::new(clock.clone()), ..inline() };
    let (log, ..) = open(&disk, options.clone());
    append(&log, 40);
    clock.advance(Duration::from_secs(50));
    append(&log, 40);
    log.truncate_before(80).expect("truncates");
    assert_eq!(log.first(), 1);
    drop(log);
    let (log, ..) = open(&disk, options);
    clock.advance(Duration::from_secs(20));
    log.truncate_before(80).expect("truncates");
    let first = log.first();
    assert!(first > 20 && first <= 41, "{first}");
}

#[tokio::test]
async fn an_async_reader_gets_what_an_async_writer_commits() {
    let disk = SimDisk::new();
    let (log, ..) = open(&disk, common::threaded());
    let mut reader = log.reader(1).expect("the first");
    let read = async {
        for lsn in 1..=100 {
            assert_eq!(reader.next().await.expect("reads").0, lsn);
        }
    };
    let write = async {
        for n in 1..=100 {
            let lsn = log.append(Record::new(payload(1, n, 600))).expect("appends");
            log.until_durable(lsn).await.expect("durable");
        }
    };
    tokio::join!(read, write);
}
