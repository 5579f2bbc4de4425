//! Queue, writer, allocator and waiters under every interleaving (within a bound), by `loom`.
//!
//! The modules are the very sources of the crate, compiled here against loom's primitives instead of the standard
//! library's: they take everything concurrent from `super::sync`. So nothing in the crate knows of the model checker,
//! and this runs in an ordinary `cargo test`.
//!
//! A model that finds nothing proves nothing, so it was held against code that is wrong. Each of these ends in a deadlock
//! that loom reports: a waiting thread, or a waiting task, that does not look again under the lock before it goes to
//! sleep (`Progress::wait_blocking`, `Wait::poll`); a writer that takes a group and does not tell those whom a full queue
//! holds up (`Queue::take`); an appender that does not wake an idle writer (`Queue::after`).
#![allow(dead_code, unused_imports, unreachable_pub, reason = "the modules are used in part")]

#[path = "../src/crc.rs"]
mod crc;
#[path = "../src/disk.rs"]
mod disk;
#[path = "../src/error.rs"]
mod error;
#[path = "../src/frame.rs"]
mod frame;
#[path = "../src/progress.rs"]
mod progress;
#[path = "../src/queue.rs"]
mod queue;
#[path = "../src/record.rs"]
mod record;
#[path = "../src/spare.rs"]
mod spare;

mod header {
    pub(crate) const SEGMENT_HEADER: usize = 4096;
}

/// What `src/sync.rs` offers, on loom.
mod sync {
    use std::time::Duration;

    pub(crate) use loom::sync::MutexGuard;
    pub(crate) use loom::sync::atomic::{AtomicU64, Ordering};

    #[derive(Debug)]
    pub(crate) struct Mutex<T>(loom::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(loom::sync::Mutex::new(value))
        }
        pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
            self.0.lock().expect("unpoisoned")
        }
        pub(crate) fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
            self.0.try_lock().ok()
        }
    }

    #[derive(Debug)]
    pub(crate) struct Condvar(loom::sync::Condvar);

    impl Condvar {
        pub(crate) fn new() -> Self {
            Self(loom::sync::Condvar::new())
        }
        pub(crate) fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
            self.0.wait(guard).expect("unpoisoned")
        }
        pub(crate) fn wait_for<'a, T>(&self, guard: MutexGuard<'a, T>, _: Duration) -> MutexGuard<'a, T> {
            self.wait(guard)
        }
        pub(crate) fn notify_one(&self) {
            self.0.notify_one();
        }
        pub(crate) fn notify_all(&self) {
            self.0.notify_all();
        }
    }
}

type Lsn = u64;
const MAX_RECORD: usize = 64 << 20;

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc as StdArc;
use std::task::{Context, Poll};

use disk::{Disk, DiskFile};
use error::Error;
use loom::sync::Arc;
use loom::thread;
use progress::Progress;
use queue::{Entry, Queue, Work};
use record::Record;
use spare::Spare;

#[derive(Debug)]
struct NoFile;

impl DiskFile for NoFile {
    fn read_at(&self, _: &mut [u8], _: u64) -> std::io::Result<usize> {
        Ok(0)
    }
    fn write_all_at(&self, _: &[u8], _: u64) -> std::io::Result<()> {
        Ok(())
    }
    fn sync_data(&self) -> std::io::Result<()> {
        Ok(())
    }
    fn sync_all(&self) -> std::io::Result<()> {
        Ok(())
    }
    fn set_len(&self, _: u64) -> std::io::Result<()> {
        Ok(())
    }
    fn len(&self) -> std::io::Result<u64> {
        Ok(0)
    }
    fn map(&self, _: crate::disk::Access) -> std::io::Result<bytes::Bytes> {
        Ok(bytes::Bytes::new())
    }
}

fn spare() -> Spare {
    Spare { path: PathBuf::new(), file: StdArc::new(NoFile), capacity: 1 << 16 }
}

fn full() -> Error {
    Error::StorageFull { path: PathBuf::new() }
}

struct Model {
    queue: Queue,
    progress: Progress,
    /// How far the log is written. Who holds it writes.
    tail: sync::Mutex<Lsn>,
}

impl Model {
    fn new(limit: usize, room: u64, ready: Vec<Spare>) -> Arc<Self> {
        let queue = Queue::new(limit, 0, 0, room, ready);
        Arc::new(Self { queue, progress: Progress::new(0), tail: sync::Mutex::new(0) })
    }

    /// What the writer thread does, less the disk: takes groups, checks their order, publishes.
    fn write(&self, fail_at: Option<Lsn>) {
        while self.queue.wait(None) == Work::Queued {
            let mut tail = self.tail.lock();
            let written = *tail + self.take();
            if fail_at.is_some_and(|at| written >= at) {
                self.queue.end(Error::Closed, true);
                self.progress.end(Error::Closed);
                return;
            }
            self.publish(&mut tail, written);
        }
        self.progress.end(Error::Closed);
    }

    fn take(&self) -> u64 {
        let mut group = Vec::new();
        self.queue.take(&mut group);
        group.iter().filter(|e| matches!(e, Entry::Record(_))).count() as u64
    }

    fn publish(&self, tail: &mut Lsn, written: Lsn) {
        assert!(*tail <= written, "groups are written out of order");
        if *tail < written {
            *tail = written;
            self.progress.advance(written);
        }
    }

    /// What a caller does that may write its own record, less the disk.
    fn write_or_announce(&self) {
        if self.queue.is_alone()
            && let Some(mut tail) = self.tail.try_lock()
        {
            let written = *tail + self.take();
            self.publish(&mut tail, written);
            return;
        }
        self.queue.announce();
    }

    fn commit_quietly(&self) -> Lsn {
        let lsn = self.queue.push_quietly(Record::new(Vec::new())).expect("taken");
        self.write_or_announce();
        self.progress.wait_blocking(lsn).expect("durable");
        lsn
    }

    fn commit(&self) -> Result<Lsn, Error> {
        let lsn = self.queue.push(Record::new(Vec::new()))?;
        self.progress.wait_blocking(lsn)?;
        assert!(self.progress.durable() >= lsn, "answered before it was durable");
        Ok(lsn)
    }
}

/// Runs a future on a thread that does nothing else.
fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: StdArc<Self>) {
            self.0.unpark();
        }
    }
    let waker = StdArc::new(Unpark(thread::current())).into();
    let mut future = std::pin::pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}

fn explore(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    // Bugs of this kind need few preemptions; without a bound the search takes hours.
    builder.preemption_bound = Some(3);
    builder.check(model);
}

#[test]
fn two_writers_are_both_answered_with_numbers_of_their_own() {
    explore(|| {
        let model = Model::new(1 << 20, 1 << 20, Vec::new());
        let writer = thread::spawn({
            let m = Arc::clone(&model);
            move || m.write(None)
        });
        let other = thread::spawn({
            let m = Arc::clone(&model);
            move || m.commit().expect("committed")
        });
        let mine = model.commit().expect("committed");
        let theirs = other.join().expect("ends");
        assert_eq!(mine + theirs, 3, "{mine} and {theirs}");
        model.queue.end(Error::Closed, false);
        writer.join().expect("ends");
    });
}

#[test]
fn what_a_caller_does_not_write_itself_the_writer_does() {
    for quiet in [true, false] {
        explore(move || {
            let model = Model::new(1 << 20, 1 << 20, Vec::new());
            let writer = thread::spawn({
                let m = Arc::clone(&model);
                move || m.write(None)
            });
            let other = thread::spawn({
                let m = Arc::clone(&model);
                move || if quiet { m.commit_quietly() } else { m.commit().expect("committed") }
            });
            let mine = model.commit_quietly();
            let theirs = other.join().expect("ends");
            assert_eq!(mine + theirs, 3, "{mine} and {theirs}");
            model.queue.end(Error::Closed, false);
            writer.join().expect("ends");
        });
    }
}

#[test]
fn a_full_queue_lets_everybody_through_in_the_end() {
    explore(|| {
        let model = Model::new(1, 1 << 20, Vec::new());
        let writer = thread::spawn({
            let m = Arc::clone(&model);
            move || m.write(None)
        });
        let other = thread::spawn({
            let m = Arc::clone(&model);
            move || m.commit().expect("committed")
        });
        model.commit().expect("committed");
        other.join().expect("ends");
        model.queue.end(Error::Closed, false);
        writer.join().expect("ends");
    });
}

#[test]
fn a_failure_reaches_every_waiter_and_nobody_waits_for_ever() {
    explore(|| {
        let model = Model::new(1 << 20, 1 << 20, Vec::new());
        let writer = thread::spawn({
            let m = Arc::clone(&model);
            move || m.write(Some(2))
        });
        let other = thread::spawn({
            let m = Arc::clone(&model);
            move || m.commit().is_ok()
        });
        let mine = model.commit().is_ok();
        let theirs = other.join().expect("ends");
        assert!(!(mine && theirs), "both were answered for, one of them failed");
        writer.join().expect("ends");
    });
}

#[test]
fn a_close_answers_what_was_taken_in_and_refuses_the_rest() {
    explore(|| {
        let model = Model::new(1 << 20, 1 << 20, Vec::new());
        let writer = thread::spawn({
            let m = Arc::clone(&model);
            move || m.write(None)
        });
        let committer = thread::spawn({
            let m = Arc::clone(&model);
            move || match m.queue.push(Record::new(Vec::new())) {
                Ok(lsn) => m.progress.wait_blocking(lsn).expect("what was taken in is written"),
                Err(error) => assert!(matches!(error, Error::Closed)),
            }
        });
        model.queue.end(Error::Closed, false);
        committer.join().expect("ends");
        writer.join().expect("ends");
    });
}

#[test]
fn an_appender_without_room_gets_the_segment_that_the_allocator_makes() {
    explore(|| {
        let model = Model::new(1 << 20, 0, Vec::new());
        let allocator = thread::spawn({
            let m = Arc::clone(&model);
            move || {
                while let Some(wish) = m.queue.next_wish() {
                    m.queue.answer(wish, Some(Ok(spare())));
                }
            }
        });
        let other = thread::spawn({
            let m = Arc::clone(&model);
            move || m.queue.push(Record::new(Vec::new()))
        });
        let mine = model.queue.push(Record::new(Vec::new())).expect("taken");
        let theirs = other.join().expect("ends").expect("taken");
        assert_eq!(mine + theirs, 3);
        model.queue.end(Error::Closed, false);
        allocator.join().expect("ends");
    });
}

#[test]
fn a_full_disk_is_an_answer_to_every_appender() {
    explore(|| {
        let model = Model::new(1 << 20, 0, Vec::new());
        let allocator = thread::spawn({
            let m = Arc::clone(&model);
            move || {
                while let Some(wish) = m.queue.next_wish() {
                    m.queue.answer(wish, Some(Err(full())));
                }
            }
        });
        let other = thread::spawn({
            let m = Arc::clone(&model);
            move || m.queue.push(Record::new(Vec::new()))
        });
        assert!(matches!(model.queue.push(Record::new(Vec::new())), Err(Error::StorageFull { .. })));
        assert!(matches!(other.join().expect("ends"), Err(Error::StorageFull { .. })));
        assert_eq!(model.queue.last(), 0, "a refused record has no number");
        model.queue.end(Error::Closed, false);
        allocator.join().expect("ends");
    });
}

#[test]
fn a_task_and_a_thread_that_wait_are_both_woken() {
    explore(|| {
        let model = Model::new(1 << 20, 1 << 20, Vec::new());
        let writer = thread::spawn({
            let m = Arc::clone(&model);
            move || m.progress.advance(1)
        });
        let task = thread::spawn({
            let m = Arc::clone(&model);
            move || block_on(m.progress.wait(1)).expect("durable")
        });
        model.progress.wait_blocking(1).expect("durable");
        task.join().expect("ends");
        writer.join().expect("ends");
    });
}

#[test]
fn a_task_that_waits_hears_of_the_end() {
    explore(|| {
        let model = Model::new(1 << 20, 1 << 20, Vec::new());
        let writer = thread::spawn({
            let m = Arc::clone(&model);
            move || m.progress.end(Error::Closed)
        });
        assert!(matches!(block_on(model.progress.wait(1)), Err(Error::Closed)));
        writer.join().expect("ends");
    });
}

#[test]
fn a_dropped_wait_leaves_nothing_behind_and_takes_nobody_elses_wake() {
    use std::pin::Pin;
    explore(|| {
        let model = Model::new(1 << 20, 1 << 20, Vec::new());
        let writer = thread::spawn({
            let m = Arc::clone(&model);
            move || m.progress.advance(1)
        });
        let mut dropped = model.progress.wait(1);
        let mut context = Context::from_waker(std::task::Waker::noop());
        let _ = Pin::new(&mut dropped).poll(&mut context);
        drop(dropped);
        model.progress.wait_blocking(1).expect("durable");
        writer.join().expect("ends");
    });
}
