//! Who gets which commit: live subscriptions by partition, and by query within a partition.
//!
//! Subscriptions that ask the same of the same partition form a group, which is evaluated and encoded once per commit. A
//! commit costs nothing for subscriptions to other partitions.
//!
//! The evaluator *claims* a commit before it evaluates it. A connection that joins does so against the claimed position:
//! it reads commits up to there itself, and gets those after it from the evaluator, so that none is lost or doubled while
//! both run.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use kalamdb_engine::{Commit, PartitionChange, PartitionId, Seq};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::live::entry::Entry;
use crate::live::program::{Program, ProgramKey};

/// How many commits a connection may be behind when it joins.
const NEAR: u64 = 256;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Hub {
    state: Mutex<State>,
    /// Every commit up to this one is handed over.
    delivered: AtomicU64,
    work: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// False while the evaluator rests because nobody is live.
    running: bool,
    claimed: Seq,
    partitions: HashMap<PartitionId, HashMap<Arc<ProgramKey>, Arc<Group>>>,
}

/// Subscriptions to one partition with the same query.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) program: Arc<Program>,
    /// By connection number and place of the subscription.
    pub(crate) members: Mutex<BTreeMap<(u64, u32), Arc<Entry>>>,
}

impl Hub {
    /// Joins a connection that has read everything before `own`, or refuses because it is too far behind. Returns the
    /// line up to which it goes on reading by itself. `visible` is the newest durable commit.
    pub(crate) fn join(&self, entry: &Arc<Entry>, own: Seq, visible: impl FnOnce() -> Seq) -> Option<Seq> {
        let mut state = self.state.lock();
        let claimed = if state.running { state.claimed } else { visible().max(state.claimed) };
        if claimed > own.saturating_add(NEAR) {
            return None;
        }
        if !state.running {
            state.running = true;
            state.claimed = claimed;
            self.delivered.store(claimed, Ordering::Release);
            self.work.notify_one();
        }
        let line = claimed.max(own);
        entry.outbox.join(line);
        for (index, subscription) in entry.open_in_log() {
            let query = &subscription.query;
            let groups = state.partitions.entry(query.partition.clone()).or_default();
            let group = groups.entry(query.program.key.clone()).or_insert_with(|| {
                Arc::new(Group { program: query.program.clone(), members: Mutex::default() })
            });
            group.members.lock().insert((entry.number, index as u32), entry.clone());
        }
        Some(line)
    }

    /// Takes a connection out of all groups.
    pub(crate) fn leave(&self, entry: &Entry) {
        let mut state = self.state.lock();
        for index in 0..entry.subscriptions.len() {
            state.remove(entry, index);
        }
    }

    /// Takes a connection out of all groups whose queue ran over. Until it reads for itself again, which may be long, it
    /// must not cost anything. Does nothing if it has joined anew meanwhile.
    pub(crate) fn let_go(&self, entry: &Entry) {
        let mut state = self.state.lock();
        if entry.outbox.is_catching_up() {
            for index in 0..entry.subscriptions.len() {
                state.remove(entry, index);
            }
        }
    }

    /// Takes one subscription out of its group.
    pub(crate) fn leave_one(&self, entry: &Entry, index: usize) {
        self.state.lock().remove(entry, index);
    }

    /// Waits until somebody is live. Returns the position after which the evaluator reads.
    pub(crate) async fn wait_for_work(&self) -> Seq {
        loop {
            {
                let state = self.state.lock();
                if state.running {
                    return state.claimed;
                }
            }
            self.work.notified().await;
        }
    }

    /// The evaluator is about to evaluate this commit: returns the groups it concerns, with the change each has to look
    /// at. `None` if nobody is live any more: the evaluator rests.
    pub(crate) fn claim<'a>(&self, commit: &'a Commit) -> Option<Vec<(Arc<Group>, &'a PartitionChange)>> {
        let mut state = self.state.lock();
        if state.partitions.is_empty() {
            state.running = false;
            return None;
        }
        state.claimed = commit.seq;
        let mut concerned = Vec::new();
        for change in &commit.changes {
            if let Some(groups) = state.partitions.get(&change.partition) {
                concerned.extend(groups.values().map(|group| (group.clone(), change)));
            }
        }
        Some(concerned)
    }

    /// Every commit up to this one is handed over.
    pub(crate) fn delivered(&self) -> Seq {
        self.delivered.load(Ordering::Acquire)
    }

    /// The evaluator has handed over this commit.
    pub(crate) fn set_delivered(&self, seq: Seq) {
        self.delivered.store(seq, Ordering::Release);
    }

    /// The evaluator lost its place in the feed: everybody goes on from where they are.
    pub(crate) fn scatter(&self) {
        let mut state = self.state.lock();
        state.running = false;
        for group in state.partitions.drain().flat_map(|(_, groups)| groups.into_values()) {
            group.members.lock().values().for_each(|entry| entry.outbox.fall_back());
        }
    }
}

impl State {
    fn remove(&mut self, entry: &Entry, index: usize) {
        let query = &entry.subscriptions[index].query;
        let Some(groups) = self.partitions.get_mut(&query.partition) else { return };
        let Some(group) = groups.get(&query.program.key) else { return };
        let mut members = group.members.lock();
        members.remove(&(entry.number, index as u32));
        let empty = members.is_empty();
        drop(members);
        if empty {
            groups.remove(&query.program.key);
        }
        if groups.is_empty() {
            self.partitions.remove(&query.partition);
        }
    }
}
