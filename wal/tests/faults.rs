//! Disks that fail, fill up or are slow, and what the log tells whom.

mod common;

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use common::{Story, inline, open, payload, threaded, try_open};
use kalamdb_wal::sim::{Crash, Fault, Operation, SimDisk};
use kalamdb_wal::{Error, Log, Lsn, Observer, Options, Record};

/// Holds every sync of a log file back until it is told to let it go.
#[derive(Debug, Default)]
struct Gate {
    closed: Mutex<bool>,
    waiting: AtomicU64,
    arrived: AtomicU64,
    opened: Condvar,
}

impl Gate {
    fn on(disk: &SimDisk) -> Arc<Self> {
        let gate = Arc::new(Self::default());
        let hooked = Arc::clone(&gate);
        disk.set_hook(move |operation, path: &Path| {
            if operation == Operation::Sync && path.extension().is_some_and(|e| e == "wal") {
                hooked.pass();
            }
        });
        gate
    }

    fn pass(&self) {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        self.arrived.fetch_add(1, Ordering::SeqCst);
        let mut closed = self.closed.lock().expect("unpoisoned");
        while *closed {
            closed = self.opened.wait(closed).expect("unpoisoned");
        }
        self.waiting.fetch_sub(1, Ordering::SeqCst);
    }

    fn close(&self) {
        *self.closed.lock().expect("unpoisoned") = true;
    }

    fn open(&self) {
        *self.closed.lock().expect("unpoisoned") = false;
        self.opened.notify_all();
    }

    /// Waits until the writer stands before the gate.
    fn await_writer(&self) {
        while self.waiting.load(Ordering::SeqCst) == 0 {
            std::thread::yield_now();
        }
    }
}

#[derive(Debug, Default)]
struct Witness {
    durable: AtomicU64,
    failed: AtomicBool,
}

impl Observer for Witness {
    fn durable(&self, upto: Lsn) {
        assert!(!self.failed.load(Ordering::SeqCst), "durable after failed");
        self.durable.store(upto, Ordering::SeqCst);
    }
    fn failed(&self, error: &Error) {
        assert!(matches!(error, Error::Poisoned { .. }));
        assert!(!self.failed.swap(true, Ordering::SeqCst), "failed twice");
    }
}

fn record(n: u64) -> Record {
    Record::new(payload(1, n, 100))
}

fn commit(log: &Log, n: u64) {
    let lsn = log.append(record(n)).expect("appends");
    log.wait_durable(lsn).expect("durable");
}

fn enqueue(log: &Log, n: u64) -> Lsn {
    let queued = log.enqueue(record(n)).expect("enqueues");
    let lsn = queued.lsn();
    queued.write();
    lsn
}

/// Commits up to `commits` records one after the other; true as soon as this thread has synced one of them. A sync takes
/// at least `latency`.
fn writes_itself(log: &Log, disk: &SimDisk, commits: u64, latency: Duration) -> bool {
    let me = thread::current().id();
    let mine = Arc::new(AtomicBool::new(false));
    let noted = Arc::clone(&mine);
    disk.set_hook(move |operation, _: &Path| {
        if operation == Operation::Sync {
            thread::sleep(latency);
            noted.fetch_or(thread::current().id() == me, Ordering::SeqCst);
        }
    });
    (0..commits).any(|n| {
        log.wait_durable(enqueue(log, n)).expect("durable");
        mine.load(Ordering::SeqCst)
    })
}

fn may_write_itself() -> bool {
    thread::available_parallelism().is_ok_and(|processors| processors.get() > 1)
}

#[test]
fn a_caller_alone_writes_its_record_itself() {
    let disk = SimDisk::new();
    let (log, ..) = open(&disk, threaded());
    assert_eq!(writes_itself(&log, &disk, 10_000, Duration::ZERO), may_write_itself());
}

#[test]
fn where_syncs_are_slow_the_writer_makes_all_of_them() {
    let disk = SimDisk::new();
    let (log, ..) = open(&disk, threaded());
    assert!(!writes_itself(&log, &disk, 50, Duration::from_millis(1)));
}

#[test]
fn a_record_that_is_enqueued_and_forgotten_is_written_all_the_same() {
    let disk = SimDisk::new();
    let (log, ..) = open(&disk, threaded());
    for n in 1..=100 {
        let lsn = log.enqueue(record(n)).expect("enqueues").lsn();
        log.wait_durable(lsn).expect("durable");
    }
}

#[test]
fn a_failure_that_a_caller_meets_is_everybodys() {
    let disk = SimDisk::new();
    let witness = Arc::new(Witness::default());
    let (log, ..) = open(&disk, Options { observer: Some(witness.clone()), ..threaded() });
    if !writes_itself(&log, &disk, 10_000, Duration::ZERO) {
        return;
    }
    disk.inject(Fault::next_on(Operation::Sync, ".wal"));
    let lsn = enqueue(&log, 1);
    assert!(matches!(log.wait_durable(lsn), Err(Error::Poisoned { .. })));
    assert!(matches!(log.enqueue(record(2)), Err(Error::Poisoned { .. })));
    assert!(witness.failed.load(Ordering::SeqCst));
    assert!(log.durable() < lsn && matches!(log.close(), Err(Error::Poisoned { .. })));
}

#[test]
fn a_failed_sync_fails_its_group_the_queue_behind_it_and_every_later_append() {
    for operation in [Operation::Sync, Operation::Write] {
        let disk = SimDisk::new();
        let witness = Arc::new(Witness::default());
        let (log, ..) = open(&disk, Options { observer: Some(witness.clone()), ..threaded() });
        commit(&log, 1);
        let gate = Gate::on(&disk);
        gate.close();
        log.append(record(2)).expect("appends");
        gate.await_writer();
        // Two more gather behind the stuck sync; one of them is waited for.
        log.append(record(3)).expect("appends");
        log.append(record(4)).expect("appends");
        disk.inject(Fault::next_on(operation, ".wal"));
        std::thread::scope(|scope| {
            let waiters: Vec<_> = [3, 4]
                .map(|lsn| {
                    scope.spawn({
                        let log = &log;
                        move || log.wait_durable(lsn)
                    })
                })
                .into();
            gate.open();
            for waiter in waiters {
                assert!(matches!(waiter.join().expect("ends"), Err(Error::Poisoned { .. })));
            }
        });
        assert!(matches!(log.append(record(5)), Err(Error::Poisoned { .. })));
        assert!(matches!(log.sync(), Err(Error::Poisoned { .. })));
        // What is durable can still be read, and a follower is told why there is no more.
        let durable = log.durable();
        assert_eq!(durable, witness.durable.load(Ordering::SeqCst));
        let mut reader = log.reader(1).expect("retained");
        for lsn in 1..=durable {
            assert_eq!(reader.try_next().expect("reads").map(|(l, _)| l), Some(lsn));
        }
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("runtime");
        assert!(matches!(runtime.block_on(reader.next()), Err(Error::Poisoned { .. })));
        assert!(witness.failed.load(Ordering::SeqCst));
        assert!(matches!(log.close(), Err(Error::Poisoned { .. })));
        // A sync is never tried again: there was the one that was under way, and none since.
        assert_eq!(gate.arrived.load(Ordering::SeqCst), 1, "{operation:?}");
        drop(log);
        disk.clear_faults();
        let (log, recovered, _) = open(&disk.crash(Crash::Torn(5)), threaded());
        assert!(recovered.next > durable);
        commit(&log, recovered.next);
    }
}

#[test]
fn a_sync_that_failed_once_is_not_believed_when_it_would_succeed() {
    let disk = SimDisk::new();
    let mut story = Story::new();
    let (log, ..) = open(&disk, inline());
    story.append(&log, 1, 50).expect("appends");
    story.wait(&log, 1).expect("durable");
    disk.inject(Fault::next_on(Operation::Sync, ".wal"));
    story.append(&log, 1, 50).expect("appends");
    let syncs = disk.counts().syncs;
    story.wait(&log, 2).expect_err("the sync failed");
    story.wait(&log, 2).expect_err("and still");
    log.close().expect_err("poisoned");
    assert_eq!(disk.counts().syncs, syncs + 1);
    let (_, recovered, replayed) = open(&disk.crash(Crash::LoseUnsynced), inline());
    story.check(&recovered, &replayed);
}

#[test]
fn every_failing_write_rename_or_sync_is_reported_and_loses_nothing_answered_for() {
    let operations = [
        Operation::Write,
        Operation::Sync,
        Operation::SyncDir,
        Operation::Rename,
        Operation::Create,
        Operation::Remove,
    ];
    for operation in operations {
        let mut failures = 0;
        for after in 0..60 {
            let disk = SimDisk::new();
            disk.inject(Fault { after, ..Fault::next(operation) });
            let mut story = Story::new();
            failures += u64::from(story.run(&disk, &inline(), 2, 40).is_err());
            disk.clear_faults();
            for crash in [Crash::LoseUnsynced, Crash::KillProcess, Crash::Torn(after)] {
                let mut story = story.clone();
                let (_, recovered, replayed) = open(&disk.fork().crash(crash), inline());
                story.check(&recovered, &replayed);
            }
        }
        assert!(failures > 2, "{operation:?} failed {failures} times");
    }
}

fn fill_disk(disk: &SimDisk, log: &Log, story: &mut Story) -> Error {
    disk.set_capacity(Some(disk.used() + 20_000));
    for _ in 0..1000 {
        if let Err(error) = story.append(log, 1, 600) {
            return error;
        }
    }
    panic!("the disk does not fill up");
}

#[test]
fn a_full_disk_refuses_before_a_number_is_given_and_the_log_goes_on_when_there_is_space() {
    for options in [inline(), threaded()] {
        let disk = SimDisk::new();
        let mut story = Story::new();
        let (log, ..) = open(&disk, options.clone());
        let refused = fill_disk(&disk, &log, &mut story);
        assert!(matches!(refused, Error::StorageFull { .. }), "{refused}");
        let last = log.last();
        // What was accepted before becomes durable, in spite of the full disk.
        story.wait(&log, last).expect("durable");
        assert!(matches!(log.append(Record::new(vec![0; 9000])), Err(Error::StorageFull { .. })));
        assert_eq!(log.last(), last);
        disk.set_capacity(None);
        assert_eq!(story.append(&log, 1, 600).expect("there is space again"), last + 1);
        story.wait(&log, last + 1).expect("durable");
        drop(log);
        let (_, recovered, replayed) = open(&disk.crash(Crash::LoseUnsynced), options);
        story.check(&recovered, &replayed);
    }
}

#[test]
fn truncation_gives_a_full_log_its_space_back() {
    let disk = SimDisk::new();
    let mut story = Story::new();
    let (log, ..) = open(&disk, inline());
    fill_disk(&disk, &log, &mut story);
    story.wait(&log, log.last()).expect("durable");
    // The mark itself needs 64 bytes.
    disk.set_capacity(Some(disk.used() + 64));
    story.truncate(&log, log.last()).expect("truncates");
    for _ in 0..100 {
        let lsn = story.append(&log, 1, 600).expect("recycles");
        story.wait(&log, lsn).expect("durable");
        story.truncate(&log, lsn).expect("truncates");
    }
    drop(log);
    let (_, recovered, replayed) = open(&disk.crash(Crash::LoseUnsynced), inline());
    story.check(&recovered, &replayed);
}

#[test]
fn a_mark_that_cannot_be_written_leaves_the_old_one() {
    let disk = SimDisk::new();
    let mut story = Story::new();
    let (log, ..) = open(&disk, inline());
    for _ in 0..40 {
        story.append(&log, 1, 600).expect("appends");
    }
    story.wait(&log, 40).expect("durable");
    disk.set_capacity(Some(disk.used()));
    let refused = log.truncate_before(40);
    assert!(matches!(refused, Err(Error::StorageFull { .. })));
    assert_eq!((log.first(), log.low_water()), (1, 1));
    let (_, recovered, replayed) = open(&disk.crash(Crash::Torn(3)), inline());
    story.check(&recovered, &replayed);
}

#[test]
fn a_full_disk_at_the_start_is_said_so_and_leaves_nothing_in_the_way() {
    let disk = SimDisk::new();
    disk.set_capacity(Some(6000));
    assert!(matches!(try_open(&disk, inline()), Err(Error::StorageFull { .. })));
    disk.set_capacity(None);
    commit(&open(&disk, inline()).0, 1);
}

#[test]
fn sequential_commits_make_one_sync_each() {
    let disk = SimDisk::new();
    let (log, ..) = open(&disk, Options { segment_bytes: 1 << 20, spares: 0, ..threaded() });
    let before = disk.counts().syncs;
    for n in 1..=50 {
        commit(&log, n);
    }
    assert_eq!(disk.counts().syncs - before, 50);
    assert_eq!(log.metrics().groups, 50);
}

#[test]
fn commits_that_come_during_a_sync_share_the_next_one() {
    let disk = SimDisk::new();
    let (log, ..) = open(&disk, Options { segment_bytes: 1 << 20, spares: 0, ..threaded() });
    let gate = Gate::on(&disk);
    gate.close();
    let before = disk.counts().syncs;
    log.append(record(1)).expect("appends");
    gate.await_writer();
    let last = (2..=64).map(|n| log.append(record(n)).expect("appends")).last().expect("some");
    assert_eq!(log.durable(), 0, "an answer came before its sync");
    gate.open();
    log.wait_durable(last).expect("durable");
    assert_eq!(disk.counts().syncs - before, 2, "64 commits, two groups");
    assert_eq!(log.metrics().group_size.sum, 64);
}

#[test]
fn no_answer_precedes_its_sync() {
    let disk = SimDisk::new();
    let (log, ..) = open(&disk, threaded());
    std::thread::scope(|scope| {
        for w in 0..8u64 {
            let (log, disk) = (&log, &disk);
            scope.spawn(move || {
                for n in 0..25 {
                    let lsn = match (w + n) % 2 {
                        0 => log.append(record(w * 1000 + n)).expect("appends"),
                        _ => enqueue(log, w * 1000 + n),
                    };
                    log.wait_durable(lsn).expect("durable");
                    // A power cut right after the answer.
                    let found = open(&disk.fork().crash(Crash::LoseUnsynced), inline()).1;
                    assert!(found.next > lsn, "{lsn} was answered for");
                }
            });
        }
    });
}

#[test]
fn a_full_queue_holds_appenders_back_until_the_writer_has_taken_it() {
    let disk = SimDisk::new();
    let (log, ..) = open(&disk, Options { queue_bytes: 500, segment_bytes: 1 << 20, ..threaded() });
    let gate = Gate::on(&disk);
    gate.close();
    log.append(record(1)).expect("appends");
    gate.await_writer();
    for n in 2..=4 {
        log.append(record(n)).expect("there is room");
    }
    let through = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            log.append(record(5)).expect("in the end");
            through.store(true, Ordering::SeqCst);
        });
        assert_eq!(log.metrics().queued_records, 3);
        assert!(!through.load(Ordering::SeqCst), "the queue has no bound");
        gate.open();
    });
    log.wait_durable(5).expect("durable");
}

#[test]
fn a_failing_allocator_does_not_poison_the_log() {
    let disk = SimDisk::new();
    let (log, ..) = open(&disk, inline());
    disk.inject(Fault { times: u64::MAX, ..Fault::next_on(Operation::Create, ".spare") });
    let mut refused = None;
    for n in 1..=100 {
        if let Err(error) = log.append(Record::new(payload(1, n, 600))) {
            refused = Some(error);
            break;
        }
    }
    assert!(matches!(refused, Some(Error::Io { .. })), "{refused:?}");
    log.wait_durable(log.last()).expect("durable");
    disk.clear_faults();
    commit(&log, 1);
}
