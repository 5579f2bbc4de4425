//! The durable point: how far the log is durable, who waits for it, and how the log ended.
//!
//! One number that only grows, and the waiters ordered by the number they wait for. Reading the number costs one
//! atomic load; a group wakes exactly those it made durable.
//!
//! Waking a task is a push onto a queue, and the writer does it itself. Waking a thread is a system call, and a group of
//! many would keep the writer from its next write: it wakes the first two, and each thread that was woken wakes two
//! more on its way out. [`Progress::finish`] picks up what such a chain may have left, so nobody depends on it.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use super::Lsn;
use super::error::Error;
use super::sync::{AtomicU64, Mutex, Ordering, Thread, current, park};

#[derive(Debug)]
pub(crate) struct Progress {
    durable: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    waiting: BTreeMap<(Lsn, u64), Waiter>,
    /// Threads whose record is durable and who have not been woken yet.
    due: Vec<Thread>,
    tickets: u64,
    ended: Option<Error>,
}

#[derive(Debug)]
enum Waiter {
    Task(Waker),
    Thread(Thread),
}

/// How many threads one thread wakes.
const FAN_OUT: usize = 2;

impl Progress {
    pub(crate) fn new(durable: Lsn) -> Self {
        Self { durable: AtomicU64::new(durable), state: Mutex::new(State::default()) }
    }

    /// The newest durable record. What was written before it was published is visible to whoever reads it here.
    pub(crate) fn durable(&self) -> Lsn {
        self.durable.load(Ordering::Acquire)
    }

    /// Publishes a new durable point and wakes everybody up to it.
    pub(crate) fn advance(&self, upto: Lsn) {
        let tasks = {
            // Stored under the lock: a waiter that saw the old value has registered before we look.
            let mut state = self.state.lock();
            self.durable.store(upto, Ordering::Release);
            let later = state.waiting.split_off(&(upto + 1, 0));
            let due = std::mem::replace(&mut state.waiting, later);
            state.sort_out(due)
        };
        tasks.into_iter().for_each(Waker::wake);
        self.wake_threads(FAN_OUT);
    }

    /// Wakes every thread that is still due. The writer calls it before it waits or works for long.
    pub(crate) fn finish(&self) {
        self.wake_threads(usize::MAX);
    }

    fn wake_threads(&self, most: usize) {
        let due = {
            let mut state = self.state.lock();
            let keep = state.due.len().saturating_sub(most);
            state.due.split_off(keep)
        };
        due.iter().for_each(Thread::unpark);
    }

    /// Nothing more will become durable: every waiter, now and later, gets this error. The first one stays.
    pub(crate) fn end(&self, error: Error) {
        let tasks = {
            let mut state = self.state.lock();
            state.ended.get_or_insert(error);
            let due = std::mem::take(&mut state.waiting);
            state.sort_out(due)
        };
        tasks.into_iter().for_each(Waker::wake);
        self.finish();
    }

    /// A future that ends when the record is durable or never will be. Dropping it is free of consequences.
    pub(crate) fn wait(&self, lsn: Lsn) -> Wait<'_> {
        Wait { progress: self, lsn, ticket: None }
    }

    /// The same for a thread that has nothing better to do.
    pub(crate) fn wait_blocking(&self, lsn: Lsn) -> Result<(), Error> {
        if self.durable() >= lsn {
            return Ok(());
        }
        let mut wait = self.wait(lsn);
        loop {
            match wait.check(|| Waiter::Thread(current())) {
                Poll::Ready(result) => {
                    self.wake_threads(FAN_OUT);
                    return result;
                }
                Poll::Pending => park(),
            }
        }
    }
}

impl State {
    /// Returns the tasks among the waiters and puts the threads in line.
    fn sort_out(&mut self, due: BTreeMap<(Lsn, u64), Waiter>) -> Vec<Waker> {
        let mut tasks = Vec::new();
        for waiter in due.into_values() {
            match waiter {
                Waiter::Task(waker) => tasks.push(waker),
                Waiter::Thread(thread) => self.due.push(thread),
            }
        }
        tasks
    }
}

/// See [`Progress::wait`].
#[derive(Debug)]
pub(crate) struct Wait<'a> {
    progress: &'a Progress,
    lsn: Lsn,
    ticket: Option<u64>,
}

impl Wait<'_> {
    /// Ready, or registered to be woken.
    fn check(&mut self, waiter: impl FnOnce() -> Waiter) -> Poll<Result<(), Error>> {
        if self.progress.durable() >= self.lsn {
            return Poll::Ready(Ok(()));
        }
        let mut state = self.progress.state.lock();
        // Again under the lock, which is where it is stored.
        if self.progress.durable() >= self.lsn {
            return Poll::Ready(Ok(()));
        }
        if let Some(error) = &state.ended {
            return Poll::Ready(Err(error.clone()));
        }
        let ticket = self.ticket.unwrap_or(state.tickets);
        if self.ticket.is_none() {
            state.tickets += 1;
        }
        state.waiting.insert((self.lsn, ticket), waiter());
        drop(state);
        self.ticket = Some(ticket);
        Poll::Pending
    }
}

impl Future for Wait<'_> {
    type Output = Result<(), Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.check(|| Waiter::Task(cx.waker().clone()))
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket
            && self.progress.durable() < self.lsn
        {
            self.progress.state.lock().waiting.remove(&(self.lsn, ticket));
        }
    }
}
