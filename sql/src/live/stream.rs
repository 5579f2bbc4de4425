//! Subscriptions to STREAM tables.
//!
//! A stream's rows are in no log: a connection reads them from the table's buffer, each insert once and in order, at its own
//! pace. Nothing is queued for it but what the buffer holds anyway. One that is too slow for the buffer, or was away,
//! cannot be given what it missed; it is told so with `reset` and begins again with what the buffer holds.
//!
//! An insert marks the table; a task of its own wakes the connections that listen, once for all inserts since. The first
//! of them to get to an insert evaluates and encodes it for all that ask the same.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use kalamdb_engine::{PartitionChange, PartitionId, Seq, Stream, StreamInsert, TableId};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::live::entry::Entry;
use crate::live::evaluator::{Ready, ready, run_program};
use crate::live::program::{At, Program, ProgramKey};

/// Inserts whose events are kept for others that ask the same.
const RECENT: usize = 256;
/// Bytes of their events.
const RECENT_BYTES: usize = 256 << 10;

/// Who listens to which stream.
#[derive(Debug, Default)]
pub(crate) struct Topics {
    state: Mutex<State>,
    work: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// By connection number and place of the subscription.
    members: HashMap<TableId, BTreeMap<(u64, u32), Arc<Entry>>>,
    /// Tables with inserts of which the members were not told.
    grown: HashSet<TableId>,
    groups: HashMap<GroupKey, Weak<Group>>,
}

type GroupKey = (TableId, Arc<str>, Arc<ProgramKey>);

/// Subscriptions to one stream with the same query and the same name.
#[derive(Debug)]
pub(crate) struct Group {
    program: Arc<Program>,
    prefix: Box<[u8]>,
    recent: Mutex<Recent>,
}

#[derive(Debug, Default)]
struct Recent {
    events: VecDeque<(u64, Arc<[Ready]>)>,
    bytes: usize,
}

/// The stream of a subscription, and how far it got.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) stream: Arc<Stream>,
    group: Arc<Group>,
    /// Inserts delivered, and the sequence of the last.
    number: AtomicU64,
    seq: AtomicU64,
}

impl Topics {
    /// The source of a new subscription.
    pub(crate) fn source(
        &self,
        table: TableId,
        stream: Arc<Stream>,
        name: Arc<str>,
        prefix: &[u8],
        program: &Arc<Program>,
    ) -> Source {
        let mut state = self.state.lock();
        let key = (table, name, program.key.clone());
        let known = state.groups.get(&key).and_then(Weak::upgrade);
        let group = known.unwrap_or_else(|| {
            let group =
                Arc::new(Group { program: program.clone(), prefix: prefix.into(), recent: Mutex::default() });
            state.groups.retain(|_, group| group.strong_count() > 0);
            state.groups.insert(key, Arc::downgrade(&group));
            group
        });
        let number = AtomicU64::new(stream.inserts());
        Source { stream, group, number, seq: AtomicU64::new(0) }
    }

    /// Wakes a subscription from now on.
    pub(crate) fn join(&self, entry: &Arc<Entry>, index: usize) {
        let table = entry.subscriptions[index].table.id;
        let mut state = self.state.lock();
        state.members.entry(table).or_default().insert((entry.number, index as u32), entry.clone());
    }

    /// Leaves a subscription alone from now on.
    pub(crate) fn leave(&self, entry: &Entry, index: usize) {
        let table = entry.subscriptions[index].table.id;
        let mut state = self.state.lock();
        let Some(members) = state.members.get_mut(&table) else { return };
        members.remove(&(entry.number, index as u32));
        if members.is_empty() {
            state.members.remove(&table);
        }
    }

    /// A stream has more rows.
    pub(crate) fn grew(&self, table: TableId) {
        let mut state = self.state.lock();
        if state.members.contains_key(&table) && state.grown.insert(table) {
            drop(state);
            self.work.notify_one();
        }
    }

    /// Wakes who listens, for as long as the instance lives.
    pub(crate) async fn run(&self) {
        loop {
            self.work.notified().await;
            let members: Vec<Arc<Entry>> = {
                let mut state = self.state.lock();
                let grown = std::mem::take(&mut state.grown);
                let members = grown.iter().filter_map(|table| state.members.get(table));
                members.flat_map(BTreeMap::values).cloned().collect()
            };
            members.iter().for_each(|entry| entry.outbox.streams_grew());
            tokio::task::coop::consume_budget().await;
        }
    }
}

impl Source {
    /// The events that an insert has for the subscription.
    pub(crate) fn events(&self, partition: &PartitionId, insert: &StreamInsert) -> Arc<[Ready]> {
        if Arc::strong_count(&self.group) == 1 {
            return self.group.evaluate(partition, insert);
        }
        let mut recent = self.group.recent.lock();
        if let Ok(at) = recent.events.binary_search_by_key(&insert.number, |(number, _)| *number) {
            return recent.events[at].1.clone();
        }
        // Under the lock: whoever comes meanwhile waits for the result rather than making it too.
        let events = self.group.evaluate(partition, insert);
        if recent.events.back().is_none_or(|(newest, _)| *newest < insert.number) {
            recent.keep(insert.number, events.clone());
        }
        events
    }

    /// Everything up to this insert is on its way.
    pub(crate) fn delivered(&self, number: u64, seq: Seq) {
        self.number.store(number, Ordering::Relaxed);
        self.seq.store(seq, Ordering::Relaxed);
    }

    /// The last insert delivered, and how many wait.
    pub(crate) fn place(&self) -> (Seq, u64) {
        let behind = self.stream.inserts().saturating_sub(self.number.load(Ordering::Relaxed));
        (self.seq.load(Ordering::Relaxed), behind)
    }
}

impl Group {
    fn evaluate(&self, partition: &PartitionId, insert: &StreamInsert) -> Arc<[Ready]> {
        let change = PartitionChange {
            partition: partition.clone(),
            schema_version: self.program.schema.version(),
            inserted: Some(insert.rows.clone()),
            updated: None,
            deleted: None,
            replaced: None,
        };
        let at = At { seq: insert.seq, time_us: insert.time_us, schema: &self.program.schema };
        ready(&run_program(&self.program, at, &change), &self.prefix)
    }
}

impl Recent {
    fn keep(&mut self, number: u64, events: Arc<[Ready]>) {
        self.bytes += bytes(&events);
        self.events.push_back((number, events));
        while self.events.len() > RECENT || self.bytes > RECENT_BYTES {
            let Some((_, events)) = self.events.pop_front() else { return };
            self.bytes -= bytes(&events);
        }
    }
}

fn bytes(events: &[Ready]) -> usize {
    events.iter().map(|event| event.data.len() + size_of::<Ready>()).sum()
}
