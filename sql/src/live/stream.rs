//! Subscriptions to STREAM tables.
//!
//! A stream's rows are in no log: a connection reads them from the table's buffer, each insert once and in order, at its own
//! pace. Nothing is queued for it but what the buffer holds anyway. One that is too slow for the buffer, or was away,
//! cannot be given what it missed; it is told so with `reset` and begins again with what the buffer holds.
//!
//! An insert marks the table; a task of its own wakes the connections that listen, once for all inserts since. The first
//! of them to get to an insert evaluates and encodes it for all that ask the same (see [`crate::live::queries`]).

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use kalamdb_engine::{PartitionChange, Seq, Stream, StreamInsert, TableId};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::live::entry::Entry;
use crate::live::evaluator::run_program;
use crate::live::event::Ready;
use crate::live::program::At;
use crate::live::queries::Query;

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
}

/// The stream of a subscription, and how far it got.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) stream: Arc<Stream>,
    /// Inserts delivered, and the sequence of the last.
    number: AtomicU64,
    seq: AtomicU64,
}

impl Topics {
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
    /// The place of a new subscription.
    pub(crate) fn new(stream: Arc<Stream>) -> Self {
        let number = AtomicU64::new(stream.inserts());
        Self { stream, number, seq: AtomicU64::new(0) }
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

/// The events that an insert has for the subscriptions that ask this.
pub(crate) fn events(query: &Arc<Query>, insert: &StreamInsert) -> Arc<[Ready]> {
    query.events(insert.number, |program| {
        let change = PartitionChange {
            partition: query.partition.clone(),
            schema_version: program.schema.version(),
            inserted: Some(insert.rows.clone()),
            updated: None,
            deleted: None,
            replaced: None,
        };
        run_program(
            program,
            At { seq: insert.seq, time_us: insert.time_us, schema: &program.schema },
            &change,
        )
    })
}
