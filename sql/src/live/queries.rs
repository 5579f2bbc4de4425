//! What is asked: every distinct query once, however many subscriptions ask it.
//!
//! Subscriptions to one table with the same columns, filter and constants share a compiled [`Program`]. Those to the same
//! partition that also have the same name share a [`Query`], which keeps the events of a few recent commits: whoever gets
//! to a commit first evaluates and encodes it for all. That is how connections that read for themselves, behind the
//! shared reader or along a stream, do work once.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::Hash;
use std::sync::{Arc, Weak};

use kalamdb_engine::{PartitionId, TableId};
use parking_lot::Mutex;

use crate::live::event::{Encoded, Ready, ready, subscription_prefix};
use crate::live::program::{Program, ProgramKey};

/// Commits whose events are kept for others that ask the same.
const RECENT: usize = 256;
/// Bytes of their events.
const RECENT_BYTES: usize = 256 << 10;

/// See the module. Holds nothing that nobody asks any more.
#[derive(Debug, Default)]
pub(crate) struct Queries {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    programs: Interned<(TableId, Arc<ProgramKey>), Program>,
    queries: Interned<(PartitionId, Arc<ProgramKey>, Arc<str>), Query>,
}

/// Shared values by what they are made from, for as long as somebody else holds them.
#[derive(Debug)]
struct Interned<K, V> {
    known: HashMap<K, Weak<V>>,
    /// With so many, those that are gone are looked for.
    sweep_at: usize,
}

/// What subscriptions to one partition with the same query and the same name have in common.
#[derive(Debug)]
pub(crate) struct Query {
    /// What the connection calls the subscription.
    pub(crate) name: Arc<str>,
    /// How the data of its events begins.
    pub(crate) prefix: Box<[u8]>,
    pub(crate) partition: PartitionId,
    pub(crate) program: Arc<Program>,
    recent: Mutex<Recent>,
}

#[derive(Debug, Default)]
struct Recent {
    events: BTreeMap<u64, Arc<[Ready]>>,
    /// The order in which they were made.
    order: VecDeque<u64>,
    bytes: usize,
}

impl Queries {
    /// The query of a new subscription: one that is known, or a new one.
    pub(crate) fn query(&self, name: &str, partition: PartitionId, program: Program) -> Arc<Query> {
        let mut state = self.state.lock();
        let program = state.programs.get_or_make((partition.table, program.key.clone()), || program);
        // The key of the shared program: an equal one need not stay beside it.
        let key = program.key.clone();
        let name: Arc<str> = name.into();
        state.queries.get_or_make((partition.clone(), key, name.clone()), || Query {
            prefix: subscription_prefix(&name),
            name,
            partition,
            program,
            recent: Mutex::default(),
        })
    }
}

impl<K: Eq + Hash, V> Interned<K, V> {
    fn get_or_make(&mut self, key: K, make: impl FnOnce() -> V) -> Arc<V> {
        if let Some(known) = self.known.get(&key).and_then(Weak::upgrade) {
            return known;
        }
        if self.known.len() >= self.sweep_at {
            self.known.retain(|_, value| value.strong_count() > 0);
            self.sweep_at = (self.known.len() * 2).max(64);
        }
        let made = Arc::new(make());
        self.known.insert(key, Arc::downgrade(&made));
        made
    }
}

impl<K, V> Default for Interned<K, V> {
    fn default() -> Self {
        Self { known: HashMap::new(), sweep_at: 0 }
    }
}

impl Query {
    /// The events that a commit, or an insert of a stream, has for these subscriptions. Whoever is first evaluates it.
    pub(crate) fn events(
        self: &Arc<Self>,
        number: u64,
        evaluate: impl FnOnce(&Program) -> Vec<Encoded>,
    ) -> Arc<[Ready]> {
        if Arc::strong_count(self) == 1 {
            return ready(&evaluate(&self.program), &self.prefix);
        }
        let mut recent = self.recent.lock();
        if let Some(events) = recent.events.get(&number) {
            return events.clone();
        }
        // Under the lock: whoever comes meanwhile waits for the result rather than making it too.
        let events = ready(&evaluate(&self.program), &self.prefix);
        recent.keep(number, events.clone());
        events
    }

    /// Lets go of the events that are kept: to make them again costs work, nothing else.
    pub(crate) fn forget(&self) {
        *self.recent.lock() = Recent::default();
    }
}

impl Recent {
    fn keep(&mut self, number: u64, events: Arc<[Ready]>) {
        self.bytes += bytes(&events);
        self.events.insert(number, events);
        self.order.push_back(number);
        while self.order.len() > RECENT || self.bytes > RECENT_BYTES {
            let Some(oldest) = self.order.pop_front() else { return };
            if let Some(events) = self.events.remove(&oldest) {
                self.bytes -= bytes(&events);
            }
        }
    }
}

fn bytes(events: &[Ready]) -> usize {
    events.iter().map(|event| event.data.len() + size_of::<Ready>()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_holds_is_swept_and_what_is_held_is_shared() {
        let mut interned = Interned::<usize, usize>::default();
        let held = interned.get_or_make(7, || 70);
        for key in 0..10_000 {
            let value = interned.get_or_make(key, || key);
            assert_eq!(*value, if key == 7 { 70 } else { key });
        }
        assert!(interned.known.len() <= 65, "{}", interned.known.len());
        assert!(Arc::ptr_eq(&held, &interned.get_or_make(7, || 71)));
    }

    #[test]
    fn the_events_of_recent_commits_are_kept_within_bounds() {
        let mut recent = Recent::default();
        let event = |bytes: usize| -> Arc<[Ready]> {
            Arc::new([Ready { event: "insert", data: vec![0; bytes].into(), rows: 1 }])
        };
        for number in (0..1_000).rev() {
            recent.keep(number, event(10));
        }
        assert_eq!((recent.events.len(), recent.order.len()), (RECENT, RECENT));
        recent.keep(5_000, event(RECENT_BYTES));
        assert!(recent.events.is_empty() && recent.bytes == 0, "one that is too large is not kept");
    }
}
