//! The durable point: how far the log is durable, who waits for it, and how the log ended.
//!
//! One number that only grows, and who waits for it. Reading the number costs one atomic load.
//!
//! Waiting tasks are ordered by the number they wait for, and a group wakes exactly those it made durable. Waiting
//! threads share one condition: waking all of them is one system call, however many they are, and that call is what
//! stands between one group and the next. A thread whose record came too late for the group is woken for nothing, but
//! only once, since the next group takes everything that is queued.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use super::Lsn;
use super::error::Error;
use super::sync::{AtomicU64, Condvar, Mutex, Ordering};

#[derive(Debug)]
pub(crate) struct Progress {
    durable: AtomicU64,
    state: Mutex<State>,
    /// Where threads wait.
    moved: Condvar,
}

#[derive(Debug, Default)]
struct State {
    tasks: BTreeMap<(Lsn, u64), Waker>,
    tickets: u64,
    threads: usize,
    ended: Option<Error>,
}

impl Progress {
    pub(crate) fn new(durable: Lsn) -> Self {
        Self { durable: AtomicU64::new(durable), state: Mutex::new(State::default()), moved: Condvar::new() }
    }

    /// The newest durable record. What was written before it was published is visible to whoever reads it here.
    pub(crate) fn durable(&self) -> Lsn {
        self.durable.load(Ordering::Acquire)
    }

    /// Publishes a new durable point and wakes everybody up to it.
    pub(crate) fn advance(&self, upto: Lsn) {
        let (due, threads) = {
            // Stored under the lock: a waiter that saw the old value has registered before we look.
            let mut state = self.state.lock();
            self.durable.store(upto, Ordering::Release);
            let later = state.tasks.split_off(&(upto + 1, 0));
            (std::mem::replace(&mut state.tasks, later), state.threads)
        };
        if threads > 0 {
            self.moved.notify_all();
        }
        due.into_values().for_each(Waker::wake);
    }

    /// Nothing more will become durable: every waiter, now and later, gets this error. The first one stays.
    pub(crate) fn end(&self, error: Error) {
        let due = {
            let mut state = self.state.lock();
            state.ended.get_or_insert(error);
            std::mem::take(&mut state.tasks)
        };
        self.moved.notify_all();
        due.into_values().for_each(Waker::wake);
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
        let mut state = self.state.lock();
        // Again under the lock, which is where it is stored.
        while self.durable() < lsn {
            if let Some(error) = &state.ended {
                return Err(error.clone());
            }
            state.threads += 1;
            state = self.moved.wait(state);
            state.threads -= 1;
        }
        Ok(())
    }
}

/// See [`Progress::wait`].
#[derive(Debug)]
pub(crate) struct Wait<'a> {
    progress: &'a Progress,
    lsn: Lsn,
    ticket: Option<u64>,
}

impl Future for Wait<'_> {
    type Output = Result<(), Error>;

    /// Ready, or registered to be woken.
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
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
        state.tasks.insert((self.lsn, ticket), cx.waker().clone());
        drop(state);
        self.ticket = Some(ticket);
        Poll::Pending
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket
            && self.progress.durable() < self.lsn
        {
            self.progress.state.lock().tasks.remove(&(self.lsn, ticket));
        }
    }
}
