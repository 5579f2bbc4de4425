//! The order of commits: gives each its sequence, and makes it visible once it is both applied and durable.
//!
//! A commit is enqueued in the log, then applied to memory, while the log may write and sync it on another thread; the two
//! end in either order. Commits become visible strictly in sequence: `visible` moves over the longest prefix of commits
//! that are applied and durable, and with each step the commit goes to the feed and its committer is answered.

use std::collections::VecDeque;
use std::sync::Arc;

use kalamdb_wal::{Lsn, Observer};

use crate::error::{Error, Result};
use crate::feed::{Commit, Hub};
use crate::ids::Seq;
use crate::sync::{AtomicU64, Mutex, MutexGuard, Ordering, oneshot};

/// Answers a committer: the commit is durable and visible, or the log failed.
pub type Answer = oneshot::Receiver<Result<()>>;

/// See the module.
#[derive(Debug)]
pub struct Sequencer {
    /// Held while a record is enqueued, so that `pending` has the log's order. Never taken by whoever writes the log: an
    /// append may wait for it.
    order: Mutex<()>,
    state: Mutex<State>,
    /// Every commit up to this one is applied to memory.
    applied: AtomicU64,
    /// Every commit up to this one is applied and durable.
    visible: AtomicU64,
    hub: Arc<Hub>,
}

#[derive(Debug, Default)]
struct State {
    pending: VecDeque<Pending>,
    /// How many at the front of `pending` are applied.
    applied: usize,
    durable: Seq,
    failed: Option<Error>,
    waiters: Vec<(Seq, oneshot::Sender<Result<()>>)>,
}

#[derive(Debug)]
struct Pending {
    seq: Seq,
    /// Set once applied.
    commit: Option<Arc<Commit>>,
    waiter: Option<oneshot::Sender<Result<()>>>,
}

impl Sequencer {
    /// A sequencer that publishes to a feed.
    pub fn new(hub: Arc<Hub>) -> Self {
        Self {
            order: Mutex::default(),
            state: Mutex::default(),
            applied: AtomicU64::new(0),
            visible: AtomicU64::new(0),
            hub,
        }
    }

    /// Says which commit was the last recovered one. Before the first commit.
    pub fn start(&self, last: Seq) {
        self.state.lock().durable = last;
        self.applied.store(last, Ordering::Release);
        self.visible.store(last, Ordering::Release);
        self.hub.start(last);
    }

    /// The newest commit that readers see.
    pub fn visible(&self) -> Seq {
        self.visible.load(Ordering::Acquire)
    }

    /// The newest commit up to which all are applied to memory.
    pub fn applied(&self) -> Seq {
        self.applied.load(Ordering::Acquire)
    }

    /// Enqueues a commit's record: `append` hands it to the log and returns its number. The caller must then apply the commit and call [`Sequencer::applied_commit`] without
    /// fail, since no later commit becomes visible before.
    ///
    /// # Errors
    /// What the log says; nothing was enqueued then.
    pub fn begin(&self, append: impl FnOnce() -> Result<Seq>) -> Result<(Seq, Answer)> {
        let (waiter, answer) = oneshot::channel();
        let _order = self.order.lock();
        let seq = append()?;
        let mut state = self.state.lock();
        let lost = state.failed.clone().filter(|_| seq > state.durable);
        let waiter = match lost {
            None => Some(waiter),
            // The log failed before we were on its list: nobody else will tell this committer.
            Some(error) => waiter.send(Err(error)).err().and(None),
        };
        state.pending.push_back(Pending { seq, commit: None, waiter });
        Ok((seq, answer))
    }

    /// Says that a commit's changes are in memory.
    pub fn applied_commit(&self, commit: Arc<Commit>) {
        let mut state = self.state.lock();
        let at = state.pending.binary_search_by_key(&commit.seq, |p| p.seq);
        if let Ok(at) = at {
            state.pending[at].commit = Some(commit);
        }
        while let Some(next) = state.pending.get(state.applied).filter(|p| p.commit.is_some()) {
            self.applied.store(next.seq, Ordering::Release);
            state.applied += 1;
        }
        self.publish(state);
    }

    /// Waits until a commit is visible, and so durable.
    ///
    /// # Errors
    /// [`Error::ReadOnly`] if the log failed before.
    pub async fn until_visible(&self, seq: Seq) -> Result<()> {
        let answer = {
            let mut state = self.state.lock();
            if self.visible() >= seq {
                return Ok(());
            }
            if let Some(error) = state.failed.as_ref().filter(|_| seq > state.durable) {
                return Err(error.clone());
            }
            let (waiter, answer) = oneshot::channel();
            state.waiters.push((seq, waiter));
            answer
        };
        answer.await.unwrap_or(Err(Error::Closed))
    }

    /// Makes visible what can be, in order, and answers those who waited for it.
    fn publish(&self, mut state: MutexGuard<'_, State>) {
        let (mut commits, mut answered) = (Vec::new(), Vec::new());
        let durable = state.durable;
        let mut visible = None;
        while let Some(next) = state.pending.pop_front_if(|p| p.seq <= durable && p.commit.is_some()) {
            state.applied -= 1;
            visible = Some(next.seq);
            commits.extend(next.commit);
            answered.extend(next.waiter);
        }
        if let Some(visible) = visible {
            // The feed first: whoever sees a sequence as visible must find the commit there.
            self.hub.publish(&commits);
            self.visible.store(visible, Ordering::Release);
        }
        if !state.waiters.is_empty() {
            let visible = self.visible();
            answered
                .extend(state.waiters.extract_if(.., |(seq, _)| *seq <= visible).map(|(_, waiter)| waiter));
        }
        drop(state);
        // Their rows are many allocations to free: not while others wait for the lock.
        drop(commits);
        for waiter in answered {
            // A committer that went away does not want to know.
            let _ = waiter.send(Ok(()));
        }
    }
}

impl Observer for Sequencer {
    fn durable(&self, upto: Lsn) {
        let mut state = self.state.lock();
        state.durable = state.durable.max(upto);
        self.publish(state);
    }

    fn failed(&self, error: &kalamdb_wal::Error) {
        let error = Error::ReadOnly(error.to_string());
        let mut state = self.state.lock();
        state.failed = Some(error.clone());
        // Those whose commit is durable and only not applied yet are answered when it is.
        let durable = state.durable;
        let lost = state.pending.iter_mut().filter(|p| p.seq > durable);
        let waiters: Vec<_> = lost.filter_map(|p| p.waiter.take()).collect();
        let others: Vec<_> =
            state.waiters.extract_if(.., |(seq, _)| *seq > durable).map(|(_, waiter)| waiter).collect();
        drop(state);
        for waiter in waiters.into_iter().chain(others) {
            let _ = waiter.send(Err(error.clone()));
        }
    }
}
