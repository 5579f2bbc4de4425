//! When partitions are flushed without being told to: too many rows in one, rows hot for too long, too many bytes in
//! memory, too much log to replay. The same task evicts partitions that nobody uses, see [`crate::evict`].
//!
//! Requests come from commits over a channel and are answered at once, by a few flushes at a time. A flush that failed is
//! tried again after a pause, for as long as it takes, and however many commits ask for it meanwhile: see
//! [`crate::failures`].

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};

use crate::database::Database;
use crate::error::{Error, Result};
use crate::failures::{BackgroundWork, Retries};
use crate::flush::{self, FlushOutcome};
use crate::ids::{PartitionId, TableId};
use crate::pack;
use crate::pack::flush::is_packable;

/// How often rows hot for too long are looked for.
const TICK: Duration = Duration::from_secs(1);
/// Flushes at a time; each takes memory for its sorting and a core for its compression.
const WORKERS: usize = 2;

/// Why something should be flushed.
#[derive(Debug)]
pub(crate) enum Request {
    /// This partition has enough rows.
    Partition(PartitionId),
    /// Rows take too much memory.
    Memory,
    /// Recovery would have to replay too much.
    Log,
    /// Many partitions were loaded since unused ones were last evicted.
    Loaded,
}

/// Where commits ask for flushes.
#[derive(Debug)]
pub(crate) struct Requests {
    sender: mpsc::UnboundedSender<Request>,
    memory: AtomicBool,
    log: AtomicBool,
    loaded: AtomicBool,
}

impl Requests {
    pub(crate) fn new() -> (Self, mpsc::UnboundedReceiver<Request>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let [memory, log, loaded] = [(); 3].map(|()| AtomicBool::new(false));
        (Self { sender, memory, log, loaded }, receiver)
    }

    pub(crate) fn partition(&self, id: PartitionId) {
        self.send(Request::Partition(id));
    }

    pub(crate) fn memory(&self) {
        if !self.memory.swap(true, Ordering::AcqRel) {
            self.send(Request::Memory);
        }
    }

    pub(crate) fn log(&self) {
        if !self.log.swap(true, Ordering::AcqRel) {
            self.send(Request::Log);
        }
    }

    pub(crate) fn loaded(&self) {
        if !self.loaded.swap(true, Ordering::AcqRel) {
            self.send(Request::Loaded);
        }
    }

    fn send(&self, request: Request) {
        // The flusher ends only with the database.
        let _ = self.sender.send(request);
    }

    fn rearm(&self) {
        self.memory.store(false, Ordering::Release);
        self.log.store(false, Ordering::Release);
    }
}

/// Flushes what is asked for until the database is gone.
pub(crate) async fn run(database: Weak<Database>, mut requests: mpsc::UnboundedReceiver<Request>) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut work = Work::default();
    loop {
        work.start(&database);
        tokio::select! {
            request = requests.recv() => match (request, database.upgrade()) {
                (Some(request), Some(database)) => work.add(&database, due(&database, request)),
                _ => return,
            },
            Some(done) = work.running.join_next() => {
                if let (Ok(again), Some(database)) = (done, database.upgrade()) {
                    work.done(again, &database);
                }
            }
            () = work.failed.next_is_due() => match database.upgrade() {
                Some(database) => {
                    let again = work.failed.take_due();
                    work.add(&database, again);
                }
                None => return,
            },
            _ = ticks.tick() => match database.upgrade() {
                Some(database) => {
                    work.add(&database, overdue(&database));
                    database.evict_if_due();
                    database.requests().rearm();
                }
                None => return,
            },
        }
    }
}

/// What is flushed by one worker at a time.
#[derive(Debug)]
enum Task {
    /// One partition, to files of its own.
    Partition(PartitionId),
    /// Small partitions of one table, to packs.
    Pack(TableId, Vec<PartitionId>),
}

impl Task {
    fn ids(&self) -> &[PartitionId] {
        match self {
            Self::Partition(id) => std::slice::from_ref(id),
            Self::Pack(_, ids) => ids,
        }
    }

    /// Whom a failure is noted for.
    fn concerns(&self) -> PartitionId {
        match self {
            Self::Partition(id) => id.clone(),
            Self::Pack(table, _) => PartitionId { table: *table, user: None },
        }
    }

    /// What to try again and when, if it failed in a way that another attempt may mend.
    async fn run(self, database: &Arc<Database>) -> Again {
        let flushed = match &self {
            Self::Partition(id) => flush_one(database, id).await,
            Self::Pack(table, ids) => pack_all(database, *table, ids).await,
        };
        let of = self.concerns();
        match flushed {
            Ok(outcome) => {
                tracing::debug!(partition = %of, rows = outcome.rows, bytes = outcome.bytes, "flushed");
                database.failures().clear(BackgroundWork::Flush, &of);
            }
            Err(Error::Closed) => {}
            Err(error) => {
                tracing::error!(partition = %of, %error, "a flush failed; the rows stay in memory and in the log");
                if matches!(error, Error::PartitionDamaged { .. } | Error::Corrupt(_) | Error::ReadOnly(_)) {
                    // Until a restart there is nothing to hope for.
                    database.failures().clear(BackgroundWork::Flush, &of);
                } else {
                    let now = database.clock().now_micros();
                    let at = database.failures().note(BackgroundWork::Flush, &of, error, now);
                    return Some((at, self.ids().to_vec()));
                }
            }
        }
        None
    }
}

/// What to try again, and when.
type Again = Option<(Instant, Vec<PartitionId>)>;

/// What is being flushed, and what waits for it.
#[derive(Debug, Default)]
struct Work {
    waiting: VecDeque<Task>,
    known: BTreeSet<PartitionId>,
    running: JoinSet<Again>,
    failed: Retries,
}

impl Work {
    fn add(&mut self, database: &Database, ids: impl IntoIterator<Item = PartitionId>) {
        let catalog = database.catalog();
        let mut small: BTreeMap<TableId, Vec<PartitionId>> = BTreeMap::new();
        for id in ids {
            let table = catalog.table_by_id(id.table);
            let partition = database.loaded(&id);
            let packable = table.zip(partition).is_some_and(|(table, p)| is_packable(database, table, &p));
            let of = if packable { PartitionId { user: None, ..id.clone() } } else { id.clone() };
            if let Some(at) = database.failures().waits(BackgroundWork::Flush, &of) {
                self.failed.add(at, [id]);
                continue;
            }
            if !self.known.insert(id.clone()) {
                continue;
            }
            match packable {
                true => small.entry(id.table).or_default().push(id),
                false => self.waiting.push_back(Task::Partition(id)),
            }
        }
        self.waiting.extend(small.into_iter().map(|(table, ids)| Task::Pack(table, ids)));
    }

    fn start(&mut self, database: &Weak<Database>) {
        while self.running.len() < WORKERS
            && let Some(task) = self.waiting.pop_front()
            && let Some(database) = database.upgrade()
        {
            // From here on a new request means rows that this flush may no longer take.
            for id in task.ids() {
                self.known.remove(id);
            }
            self.running.spawn(async move { task.run(&database).await });
        }
    }

    fn done(&mut self, again: Again, database: &Database) {
        if let Some((at, ids)) = again {
            self.failed.add(at, ids);
        }
        // While flushes fail, nobody is asked for more before the next tick.
        if self.failed.is_empty() && self.waiting.is_empty() && self.running.is_empty() {
            database.requests().rearm();
        }
    }
}

async fn pack_all(database: &Arc<Database>, table: TableId, ids: &[PartitionId]) -> Result<FlushOutcome> {
    let partitions = ids.iter().filter_map(|id| database.loaded(id)).collect();
    let outcome = pack::flush::pack(database, table, partitions).await?;
    // What was hot may now be more than loaded partitions should take.
    database.evict();
    Ok(outcome)
}

async fn flush_one(database: &Arc<Database>, id: &PartitionId) -> Result<FlushOutcome> {
    let catalog = database.catalog();
    let Some(table) = catalog.table_by_id(id.table) else { return Ok(FlushOutcome::default()) };
    flush::flush(database, &database.partition(table, id)?).await
}

fn due(database: &Database, request: Request) -> Vec<PartitionId> {
    match request {
        Request::Partition(id) => vec![id],
        Request::Memory => largest(database),
        Request::Log => {
            let from = database.hot().newest(database.config().log_bytes / 2);
            let hot = database.hot().partitions();
            hot.into_iter().take_while(|(first, _)| *first < from).map(|(_, id)| id).collect()
        }
        Request::Loaded => {
            // First, so that what is loaded from here on asks anew.
            database.requests().loaded.store(false, Ordering::Release);
            database.evict();
            Vec::new()
        }
    }
}

/// The largest partitions, so many that the others take no more than half the budget.
fn largest(database: &Database) -> Vec<PartitionId> {
    let mut sizes = Vec::new();
    for id in database.hot().partitions().into_iter().map(|(_, id)| id).collect::<BTreeSet<_>>() {
        if let Some(partition) = database.loaded(&id) {
            let bytes: usize = partition.version().memtables().map(|m| m.bytes()).sum();
            sizes.push((bytes, id));
        }
    }
    sizes.sort_unstable_by(|a, b| b.cmp(a));
    let mut excess = database.hot().bytes().saturating_sub(database.config().memtable_bytes / 2);
    let wanted = sizes.into_iter().take_while(|(bytes, _)| {
        let more = excess > 0;
        excess = excess.saturating_sub(*bytes);
        more
    });
    wanted.map(|(_, id)| id).collect()
}

/// Partitions whose oldest hot row is older than their table's flush interval.
fn overdue(database: &Database) -> Vec<PartitionId> {
    let catalog = database.catalog();
    if !catalog.tables().any(|table| table.options.flush_interval_secs.is_some()) {
        return Vec::new();
    }
    let now = database.clock().now_micros();
    let too_old = |id: &PartitionId| {
        let seconds = catalog.table_by_id(id.table)?.options.flush_interval_secs?;
        let since = database.loaded(id)?.hot_since.load(Ordering::Relaxed);
        Some(since > 0 && now - since >= i64::try_from(seconds).ok()?.saturating_mul(1_000_000))
    };
    let hot = database.hot().partitions().into_iter().map(|(_, id)| id);
    hot.filter(|id| too_old(id).unwrap_or(false)).collect()
}
