//! The one task that reads the feed for all live connections.
//!
//! It evaluates each commit once per group, encodes each event once, and hands shared bytes to the queues. It never waits
//! for a connection. While nobody is live it rests and does not read.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use kalamdb_engine::{Commit, Database, Error as EngineError, PartitionChange};

use crate::error::Error;
use crate::live::cursor::Cursor;
use crate::live::entry::Entry;
use crate::live::event::{Encoded, Outgoing, Ready, ready};
use crate::live::hub::{Group, Hub};
use crate::live::program::{At, Program};

/// How long the evaluator rests after the feed failed.
const PAUSE: Duration = Duration::from_millis(200);

/// Runs until the database closes.
pub(crate) async fn run(database: Arc<Database>, hub: Arc<Hub>) {
    loop {
        let start = hub.wait_for_work().await;
        match follow(&database, &hub, start).await {
            Ok(()) => {}
            Err(EngineError::Closed) => return hub.scatter(),
            Err(error) => {
                // Each connection now reads for itself, and is told if its own place is gone.
                tracing::warn!(%error, "the shared reader of live queries lost its place");
                hub.scatter();
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn follow(database: &Arc<Database>, hub: &Hub, start: u64) -> Result<(), EngineError> {
    let mut feed = database.feed(start);
    loop {
        let commit = feed.next().await?;
        let Some(concerned) = hub.claim(&commit) else { return Ok(()) };
        if !concerned.is_empty() {
            hand_over(database, hub, &commit, &concerned);
        }
        hub.set_delivered(commit.seq);
        tokio::task::coop::consume_budget().await;
    }
}

/// What a subscription gets of a commit.
struct Delivery {
    entry: Arc<Entry>,
    index: u32,
    events: Arc<[Ready]>,
}

fn hand_over(database: &Database, hub: &Hub, commit: &Commit, concerned: &[(Arc<Group>, &PartitionChange)]) {
    let mut deliveries = Vec::new();
    for (group, change) in concerned {
        let encoded = evaluate(database, &group.program, commit, change);
        if !encoded.is_empty() {
            address(group, &encoded, &mut deliveries);
        }
    }
    let previous = hub.delivered();
    // Within a commit, a connection's subscriptions come in the order of its request.
    deliveries.sort_by_key(|d| (d.entry.number, d.index));
    for of_connection in deliveries.chunk_by(|a, b| a.entry.number == b.entry.number) {
        let count = of_connection.iter().map(|d| d.events.len()).sum();
        let events = of_connection.iter().flat_map(|d| d.events.iter().map(|event| (d.index, event)));
        let outgoing = events.enumerate().map(|(n, (index, event))| {
            Outgoing::of_ready(event, index).with_cursor(Some(Cursor::after_event(commit.seq, n, count)))
        });
        let entry = &of_connection[0].entry;
        if !entry.outbox.push(commit.seq, previous, outgoing) {
            hub.let_go(entry);
        }
    }
}

fn address(group: &Group, encoded: &[Encoded], deliveries: &mut Vec<Delivery>) {
    let mut by_name: HashMap<Arc<str>, Arc<[Ready]>> = HashMap::new();
    for ((_, index), entry) in group.members.lock().iter() {
        let subscription = &entry.subscriptions[*index as usize];
        let query = &subscription.query;
        let events = by_name.entry(query.name.clone()).or_insert_with(|| ready(encoded, &query.prefix));
        deliveries.push(Delivery { entry: entry.clone(), index: *index, events: events.clone() });
    }
}

/// What a commit changes in a result; a failure becomes the event that ends the subscription.
pub(crate) fn evaluate(
    database: &Database,
    program: &Program,
    commit: &Commit,
    change: &PartitionChange,
) -> Vec<Encoded> {
    let current = program.schema.version() == change.schema_version;
    let schema = if current {
        Some(program.schema.clone())
    } else {
        database.catalog().schema_at(change.partition.table, change.schema_version).cloned()
    };
    let Some(schema) = schema else {
        // Rows of a table that is gone interest nobody.
        return Vec::new();
    };
    run_program(program, At { seq: commit.seq, time_us: commit.time_us, schema: &schema }, change)
}

/// What a change does to a result; a failure becomes the event that ends the subscription.
pub(crate) fn run_program(program: &Program, at: At<'_>, change: &PartitionChange) -> Vec<Encoded> {
    // An expression that panics must end its own query, not the feed of everybody else.
    let result = catch_unwind(AssertUnwindSafe(|| program.evaluate(at, change)))
        .unwrap_or_else(|_| Err(Error::internal("a live query's expression panicked")));
    result.unwrap_or_else(|error| vec![Encoded::failure(&error)])
}
