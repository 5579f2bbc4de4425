//! When partitions are compacted without being told to: after flushes, and when deleted rows are past their retention.
//!
//! Flushes ask over a channel. Besides, once an hour all partitions of tables that do not keep deleted rows for ever are
//! looked at, those that are not loaded by their manifests alone. A compaction that failed is tried again a while later,
//! for as long as it takes: see [`crate::failures`].

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, MissedTickBehavior};

use crate::catalog::{Table, TableKind};
use crate::compaction::{self, Goal};
use crate::database::Database;
use crate::error::{Error, Result};
use crate::failures::{BackgroundWork, Retries};
use crate::flush;
use crate::ids::{PartitionId, TableId, UserId};
use crate::manifest::{Manifest, SegmentMeta};
use crate::pack::flush::is_packable;
use crate::pack::merge::{self, By};
use crate::partition::Version;
use crate::retention;

/// How often the clock is looked at.
const TICK: Duration = Duration::from_secs(1);
/// How often deleted rows past their retention are looked for, microseconds by the database's clock.
const RETENTION_EVERY: i64 = 3_600_000_000;

/// Compacts what is asked for until the database is gone, by so many workers. `now`: when it was opened.
pub(crate) async fn run(
    database: Weak<Database>,
    mut requests: mpsc::UnboundedReceiver<PartitionId>,
    workers: usize,
    now: i64,
) {
    let mut retention = Retention { next: now + RETENTION_EVERY, cold: BTreeMap::new() };
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut work = Work::default();
    loop {
        work.start(&database, workers);
        tokio::select! {
            // Requests first: one made before a compaction was cancelled goes with it, see `ended`.
            biased;
            request = requests.recv() => match request {
                Some(id) => work.add([id]),
                None => return,
            },
            Some(done) = work.running.join_next() => work.ended(done),
            () = work.failed.next_is_due() => {
                let again = work.failed.take_due();
                work.add(again);
            }
            _ = ticks.tick() => match database.upgrade() {
                Some(database) => {
                    work.add(retention.due(&database).await);
                }
                None => return,
            },
        }
    }
}

/// What is being compacted, and what waits for it.
#[derive(Debug, Default)]
struct Work {
    waiting: VecDeque<PartitionId>,
    known: BTreeSet<PartitionId>,
    /// Those that are running. Another one of the same partition would only wait for the first, in a worker's place.
    busy: BTreeSet<PartitionId>,
    running: JoinSet<(PartitionId, After)>,
    failed: Retries,
}

impl Work {
    fn add(&mut self, ids: impl IntoIterator<Item = PartitionId>) {
        for id in ids {
            if self.known.insert(id.clone()) {
                self.waiting.push_back(id);
            }
        }
    }

    fn start(&mut self, database: &Weak<Database>, workers: usize) {
        while self.running.len() < workers
            && let Some(at) = self.waiting.iter().position(|id| !self.busy.contains(id))
            && let Some(id) = self.waiting.remove(at)
            && let Some(database) = database.upgrade()
        {
            // From here on a new request means segments that this compaction may no longer take.
            self.known.remove(&id);
            if let Some(at) = database.failures().waits(BackgroundWork::Compaction, &id) {
                self.failed.add(at, [id]);
                continue;
            }
            self.busy.insert(id.clone());
            self.running.spawn(async move {
                let after = compact_one(&database, &id).await;
                (id, after)
            });
        }
    }

    fn ended(&mut self, done: std::result::Result<(PartitionId, After), JoinError>) {
        match done {
            Ok((id, after)) => {
                self.busy.remove(&id);
                match after {
                    After::Nothing => {}
                    After::TryAgain(at) => self.failed.add(at, [id]),
                    // Whoever cancelled it would see it begin anew for a flush of before.
                    After::Cancelled => {
                        if self.known.remove(&id) {
                            self.waiting.retain(|waiting| *waiting != id);
                        }
                    }
                }
            }
            // It does not say whose it was. To take none for busy costs a place at most.
            Err(_) => self.busy.clear(),
        }
    }
}

/// What follows a compaction.
#[derive(Debug)]
enum After {
    /// It was done, or there is no hope for it.
    Nothing,
    /// It failed in a way that another attempt, then, may mend.
    TryAgain(Instant),
    /// Somebody did not want it. The next flush asks anew.
    Cancelled,
}

async fn compact_one(database: &Arc<Database>, id: &PartitionId) -> After {
    match try_compact(database, id).await {
        Ok(()) => database.failures().clear(BackgroundWork::Compaction, id),
        Err(Error::Closed) => {}
        Err(Error::Cancelled(_)) => {
            tracing::info!(partition = %id, "a compaction was cancelled");
            return After::Cancelled;
        }
        Err(error @ (Error::PartitionDamaged { .. } | Error::Corrupt(_) | Error::ReadOnly(_))) => {
            tracing::error!(partition = %id, %error, "a compaction failed; no row is lost");
            // Until a restart there is nothing to hope for.
            database.failures().clear(BackgroundWork::Compaction, id);
        }
        Err(error) => {
            tracing::error!(partition = %id, %error, "a compaction failed; no row is lost, it is tried again");
            let now = database.clock().now_micros();
            return After::TryAgain(database.failures().note(BackgroundWork::Compaction, id, error, now));
        }
    }
    After::Nothing
}

async fn try_compact(database: &Arc<Database>, id: &PartitionId) -> Result<()> {
    let catalog = database.catalog();
    let Some(table) = catalog.table_by_id(id.table) else { return Ok(()) };
    if is_packs(id, table) {
        return merge::compact_packs(database, table, By::Background).await.map(drop);
    }
    let partition = database.partition(table, id)?;
    let hot_since = partition.hot_since.load(Ordering::Relaxed);
    let overdue = |retention: i64| hot_since > 0 && hot_since + retention <= database.clock().now_micros();
    if retention::of(&table.options)?.is_some_and(overdue) {
        match is_packable(database, table, &partition) {
            // Together with all the others, or each of a hundred thousand would get files of its own.
            true => database.flush_table(table).await?,
            false => flush::flush(database, &partition).await?,
        };
    }
    compaction::compact(database, &partition, Goal::Due).await.map(drop)
}

/// True for the name that all packs of a USER table have among partitions: the one that belongs to nobody.
fn is_packs(id: &PartitionId, table: &Table) -> bool {
    table.kind == TableKind::User && id.user.is_none()
}

/// Looks for deleted rows that are past their retention.
#[derive(Debug)]
struct Retention {
    /// When to look next.
    next: i64,
    /// Per table, when to look at the manifests of partitions that are not loaded.
    cold: BTreeMap<TableId, i64>,
}

impl Retention {
    async fn due(&mut self, database: &Arc<Database>) -> Vec<PartitionId> {
        let now = database.clock().now_micros();
        if now < self.next {
            return Vec::new();
        }
        self.next = now + RETENTION_EVERY;
        let catalog = database.catalog();
        self.cold.retain(|id, _| catalog.table_by_id(*id).is_some());
        let mut due = loaded(database, now);
        for table in catalog.tables().filter(|table| table.kind != TableKind::Stream) {
            let Ok(Some(retention)) = retention::of(&table.options) else { continue };
            if self.cold.get(&table.id).is_some_and(|at| *at > now) {
                continue;
            }
            let (database, table_id, table) = (database.clone(), table.id, table.clone());
            let looked = tokio::task::spawn_blocking(move || cold(&database, &table, retention, now)).await;
            if let Ok((cold, next)) = looked {
                due.extend(cold);
                // One that is loaded now, and is not later, is not forgotten.
                self.cold.insert(table_id, next.min(now + retention / 4));
            }
        }
        due
    }
}

/// The loaded partitions that are due: by their segments, or by rows that nobody flushes.
fn loaded(database: &Database, now: i64) -> Vec<PartitionId> {
    let catalog = database.catalog();
    let is_due = |(id, version): &(PartitionId, Arc<Version>)| {
        let retention = match retention::of(&catalog.table_by_id(id.table)?.options) {
            Ok(retention) => retention?,
            Err(error) => {
                tracing::error!(partition = %id, %error, "its deleted rows are kept");
                return None;
            }
        };
        let since = database.loaded(id).map_or(0, |partition| partition.hot_since.load(Ordering::Relaxed));
        let hot = (since > 0).then_some(since + retention);
        hot.into_iter().chain(next_due(&version.manifest.segments, retention)).min()
    };
    let due =
        database.loaded_partitions().into_iter().filter(|part| is_due(part).is_some_and(|at| at <= now));
    due.map(|(id, _)| id).collect()
}

/// The partitions of a table that are due but not loaded, and when the next of them is.
fn cold(database: &Database, table: &Table, retention: i64, now: i64) -> (Vec<PartitionId>, i64) {
    let (mut due, mut next) = (Vec::new(), i64::MAX);
    let mut note = |id, at: Option<i64>| match at {
        Some(at) if at <= now => due.push(id),
        Some(at) => next = next.min(at),
        None => {}
    };
    let owners = match table.kind {
        TableKind::User => match of_users(database, table, retention) {
            Ok((owners, packs)) => {
                note(PartitionId { table: table.id, user: None }, packs);
                owners.into_iter().map(Some).collect()
            }
            Err(error) => {
                tracing::error!(table = table.qualified_name(), %error, "cannot look for its deleted rows");
                return (Vec::new(), now);
            }
        },
        _ => vec![None],
    };
    for user in owners {
        let id = PartitionId { table: table.id, user };
        if database.loaded(&id).is_some() {
            continue;
        }
        // One without a manifest has no rows; one whose manifest is damaged says so when it is used.
        let manifest = Manifest::load(database.disk().as_ref(), &database.partition_dir(table, &id));
        note(id, manifest.ok().flatten().and_then(|manifest| next_due(&manifest.segments, retention)));
    }
    (due, next)
}

/// The users of a table that have files of their own, and when its packs are due.
fn of_users(database: &Database, table: &Table, retention: i64) -> Result<(Vec<UserId>, Option<i64>)> {
    let packs = merge::retention_due(database, table, retention)?;
    Ok((database.owners_on_disk(table)?, packs))
}

/// When something of these segments is due, microseconds since the epoch.
fn next_due(segments: &[SegmentMeta], retention: i64) -> Option<i64> {
    segments.iter().filter_map(|meta| retention::due_at(meta, meta.deleted_rows, retention)).min()
}
