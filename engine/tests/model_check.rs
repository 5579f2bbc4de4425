//! The order of commits, snapshots and marks under every interleaving (within a bound), by `loom`.
//!
//! The modules are the very sources of the crate, compiled here against loom's primitives: they take everything
//! concurrent from `crate::sync`. Around them stand a log that numbers records and reports them durable on a thread of
//! its own, and a feed that checks what it is given.
#![allow(dead_code, unreachable_pub, reason = "the modules are used in part")]

#[path = "../src/marks.rs"]
mod marks;
#[path = "../src/sequencer.rs"]
mod sequencer;
#[path = "../src/snapshot.rs"]
mod snapshot;

mod error {
    pub type Result<T, E = Error> = std::result::Result<T, E>;

    #[derive(Debug, Clone, PartialEq)]
    pub enum Error {
        ReadOnly(String),
        Closed,
    }
}

mod ids {
    pub type Seq = u64;
}

mod feed {
    use std::sync::Arc;

    use super::sync::Mutex;

    #[derive(Debug)]
    pub struct Commit {
        pub seq: u64,
    }

    /// Notes what is published, and that it comes in order.
    #[derive(Debug, Default)]
    pub struct Hub(pub Mutex<Vec<u64>>);

    impl Hub {
        pub fn start(&self, _: u64) {}

        pub fn publish(&self, commits: &[Arc<Commit>]) {
            let mut published = self.0.lock();
            for commit in commits {
                assert_eq!(commit.seq, published.len() as u64 + 1, "published out of order: {published:?}");
                published.push(commit.seq);
            }
        }
    }
}

/// What `src/sync.rs` offers, on loom.
mod sync {
    pub(crate) use loom::sync::MutexGuard;
    pub(crate) use loom::sync::atomic::{AtomicU64, Ordering};

    #[derive(Debug, Default)]
    pub struct Mutex<T>(loom::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub fn new(value: T) -> Self {
            Self(loom::sync::Mutex::new(value))
        }
        pub fn lock(&self) -> MutexGuard<'_, T> {
            self.0.lock().expect("unpoisoned")
        }
    }

    #[derive(Debug, Default)]
    pub struct RwLock<T>(loom::sync::RwLock<T>);

    impl<T> RwLock<T> {
        pub fn new(value: T) -> Self {
            Self(loom::sync::RwLock::new(value))
        }
        pub fn read(&self) -> loom::sync::RwLockReadGuard<'_, T> {
            self.0.read().expect("unpoisoned")
        }
        pub fn write(&self) -> loom::sync::RwLockWriteGuard<'_, T> {
            self.0.write().expect("unpoisoned")
        }
    }

    /// One value from one thread to a future of another.
    pub mod oneshot {
        use std::future::Future;
        use std::pin::Pin;
        use std::sync::Arc;
        use std::task::{Context, Poll, Waker};

        use super::Mutex;

        #[derive(Debug)]
        enum Slot<T> {
            Empty(Option<Waker>),
            Full(T),
            Gone,
        }

        #[derive(Debug)]
        pub struct Sender<T>(Arc<Mutex<Slot<T>>>);
        #[derive(Debug)]
        pub struct Receiver<T>(Arc<Mutex<Slot<T>>>);
        /// The sender went away without an answer.
        #[derive(Debug)]
        pub struct Unanswered;

        pub fn channel<T>() -> (Sender<T>, Receiver<T>) {
            let slot = Arc::new(Mutex::new(Slot::Empty(None)));
            (Sender(slot.clone()), Receiver(slot))
        }

        impl<T> Sender<T> {
            fn put(&self, slot: Slot<T>) {
                let mut now = self.0.lock();
                if let Slot::Empty(waker) = &mut *now {
                    let waker = waker.take();
                    *now = slot;
                    drop(now);
                    waker.into_iter().for_each(Waker::wake);
                }
            }

            pub fn send(self, value: T) -> Result<(), T> {
                self.put(Slot::Full(value));
                Ok(())
            }
        }

        impl<T> Drop for Sender<T> {
            fn drop(&mut self) {
                self.put(Slot::Gone);
            }
        }

        impl<T> Future for Receiver<T> {
            type Output = Result<T, Unanswered>;

            fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
                let mut slot = self.0.lock();
                match std::mem::replace(&mut *slot, Slot::Gone) {
                    Slot::Full(value) => Poll::Ready(Ok(value)),
                    Slot::Gone => Poll::Ready(Err(Unanswered)),
                    Slot::Empty(_) => {
                        *slot = Slot::Empty(Some(context.waker().clone()));
                        Poll::Pending
                    }
                }
            }
        }
    }
}

use std::future::Future;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use error::{Error, Result};
use feed::{Commit, Hub};
use kalamdb_wal::Observer;
use loom::sync::Condvar;
use loom::thread;
use marks::Marks;
use sequencer::{Answer, Sequencer};
use snapshot::{Registry, Snapshot};

/// Numbers records and reports them durable, all that are there at once.
#[derive(Default)]
struct Log {
    state: loom::sync::Mutex<Tail>,
    changed: Condvar,
}

#[derive(Default)]
struct Tail {
    appended: u64,
    closed: bool,
}

struct World {
    log: Log,
    hub: Arc<Hub>,
    sequencer: Sequencer,
    registry: Arc<Registry>,
    /// Per commit, what it marks: it touches two partitions.
    partitions: [[Marks; 2]; 2],
    /// What was forgotten: versions that only snapshots before this commit see.
    forgotten: sync::AtomicU64,
}

impl World {
    fn new() -> Arc<Self> {
        let hub = Arc::new(Hub::default());
        let (sequencer, registry) = (Sequencer::new(hub.clone()), Arc::default());
        sequencer.start(0);
        let (log, partitions, forgotten) = (Log::default(), Default::default(), sync::AtomicU64::new(0));
        Arc::new(Self { log, hub, sequencer, registry, partitions, forgotten })
    }

    /// What the log's thread does until it is closed, or until it fails at a record.
    fn write(&self, fail_at: Option<u64>) {
        let mut written = 0;
        loop {
            let mut tail = self.log.state.lock().expect("unpoisoned");
            while tail.appended == written && !tail.closed {
                tail = self.log.changed.wait(tail).expect("unpoisoned");
            }
            if tail.appended == written {
                return;
            }
            written = tail.appended;
            drop(tail);
            if let Some(at) = fail_at.filter(|at| *at <= written) {
                if at > 1 {
                    self.sequencer.durable(at - 1);
                }
                return self.sequencer.failed(&kalamdb_wal::Error::Closed);
            }
            self.sequencer.durable(written);
        }
    }

    fn append(&self) -> u64 {
        let mut tail = self.log.state.lock().expect("unpoisoned");
        tail.appended += 1;
        self.log.changed.notify_one();
        tail.appended
    }

    fn close(&self) {
        self.log.state.lock().expect("unpoisoned").closed = true;
        self.log.changed.notify_one();
    }

    /// As `commit::apply` does it: enqueue, apply to every partition, say so.
    fn apply(&self) -> (u64, Answer) {
        let (seq, answer) = self.sequencer.begin(|| Ok(self.append())).expect("enqueued");
        let horizon = self.registry.horizon(|| self.sequencer.visible());
        for marks in &self.partitions[seq as usize - 1] {
            assert!(marks.add(7, seq, horizon));
        }
        self.sequencer.applied_commit(Arc::new(Commit { seq }));
        (seq, answer)
    }

    fn commit(&self) -> (u64, Result<()>) {
        let (seq, answer) = self.apply();
        let answer = block_on(answer).expect("every committer is answered");
        if answer.is_ok() {
            assert!(self.sequencer.visible() >= seq, "answered before it was visible");
        }
        (seq, answer)
    }

    fn snapshot(&self) -> Snapshot {
        self.registry.open(|| self.sequencer.visible())
    }

    /// Forgets what no snapshot sees, as folding marks and compaction do.
    fn forget(&self) {
        let horizon = self.registry.horizon(|| self.sequencer.visible());
        self.forgotten.store(horizon, sync::Ordering::Release);
    }

    /// Looks at everything through a snapshot.
    fn read(&self, snapshot: &Snapshot) {
        let seq = snapshot.seq();
        let forgotten = self.forgotten.load(sync::Ordering::Acquire);
        assert!(forgotten <= seq, "{forgotten} was forgotten while snapshot {seq} was open");
        assert!(self.hub.0.lock().len() as u64 >= seq, "visible before it was in the feed");
        for (commit, partitions) in (1..).zip(&self.partitions) {
            for marks in partitions {
                let seen = marks.at(seq).is_some_and(|rows| rows.contains(7));
                assert_eq!(seen, commit <= seq, "commit {commit} at snapshot {seq}");
            }
        }
    }
}

struct Unpark(thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = std::pin::pin!(future);
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return value;
        }
        thread::park();
    }
}

fn explore(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    // Bugs of this kind need few preemptions; without a bound the search takes hours.
    builder.preemption_bound = Some(2);
    builder.check(model);
}

fn spawn<T: 'static>(world: &Arc<World>, run: impl FnOnce(&World) -> T + 'static) -> thread::JoinHandle<T> {
    let world = world.clone();
    thread::spawn(move || run(&world))
}

#[test]
fn commits_become_visible_in_order_once_they_are_durable_and_applied_and_each_is_answered() {
    explore(|| {
        let world = World::new();
        let log = spawn(&world, |world| world.write(None));
        let other = spawn(&world, World::commit);
        let (mine, answer) = world.commit();
        answer.expect("committed");
        let (theirs, answer) = other.join().expect("ends");
        answer.expect("committed");
        assert_eq!(mine + theirs, 3, "{mine} and {theirs}");
        assert_eq!((world.sequencer.visible(), world.sequencer.applied()), (2, 2));
        world.read(&world.snapshot());
        world.close();
        log.join().expect("ends");
    });
}

#[test]
fn a_snapshot_sees_whole_commits_and_holds_the_horizon() {
    explore(|| {
        let world = World::new();
        let log = spawn(&world, |world| world.write(None));
        let reader = spawn(&world, |world| {
            let snapshot = world.snapshot();
            world.read(&snapshot);
            assert!(world.registry.horizon(|| world.sequencer.visible()) <= snapshot.seq());
            let pin = world.registry.pin(u64::MAX, || world.sequencer.visible());
            assert!(pin.seq() <= snapshot.seq(), "pinned past an open snapshot");
            world.read(&snapshot);
        });
        world.commit().1.expect("committed");
        world.forget();
        reader.join().expect("ends");
        world.close();
        log.join().expect("ends");
    });
}

#[test]
fn the_horizon_is_the_oldest_open_snapshot() {
    explore(|| {
        let registry = Arc::new(Registry::default());
        assert_eq!(registry.horizon(|| 9), 9);
        let old = registry.open(|| 3);
        let copy = old.clone();
        let new = registry.open(|| 7);
        drop(old);
        assert_eq!(registry.horizon(|| 9), 3);
        drop(copy);
        assert_eq!(registry.horizon(|| 9), 7);
        drop(new);
        assert_eq!(registry.horizon(|| 9), 9);
    });
}

#[test]
fn whoever_waits_for_what_is_applied_is_woken_when_it_is_durable() {
    explore(|| {
        let world = World::new();
        let log = spawn(&world, |world| world.write(None));
        let reader = spawn(&world, |world| {
            let applied = world.sequencer.applied();
            block_on(world.sequencer.until_visible(applied)).expect("nothing fails");
            assert!(world.sequencer.visible() >= applied);
        });
        world.commit().1.expect("committed");
        reader.join().expect("ends");
        world.close();
        log.join().expect("ends");
    });
}

#[test]
fn a_failed_log_is_told_to_everybody_whose_commit_it_lost_and_to_nobody_else() {
    for fail_at in [1, 2] {
        explore(move || {
            let world = World::new();
            let log = spawn(&world, move |world| world.write(Some(fail_at)));
            let other = spawn(&world, World::commit);
            let mut answers = [world.commit(), (0, Ok(()))];
            // The log's thread ends with its first failure, or waits for more if there was too little to fail at.
            answers[1] = other.join().expect("ends");
            for (seq, answer) in answers {
                let lost = matches!(answer, Err(Error::ReadOnly(_)));
                assert_eq!(lost, seq >= fail_at, "commit {seq}: {answer:?}");
            }
            assert_eq!(world.sequencer.visible(), fail_at - 1);
            let waited = block_on(world.sequencer.until_visible(fail_at));
            assert!(matches!(waited, Err(Error::ReadOnly(_))), "{waited:?}");
            log.join().expect("ends");
        });
    }
}
