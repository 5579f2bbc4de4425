//! The database: one value that owns the log, the catalog, the partitions and the order of commits.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use kalamdb_wal::{Clock, Disk, Log, Record, SyncPolicy};
use parking_lot::{Mutex, RwLock};
use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};

use crate::catalog::{Catalog, Guard, Table};
use crate::codec::record;
use crate::commit::{self, Committed, Prepared};
use crate::compaction::Compactions;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::evict::Evictions;
use crate::failures::{BackgroundFailure, Failures};
use crate::feed::{Feed, Hub};
use crate::flush::{self, FlushOutcome};
use crate::flusher::Requests;
use crate::hot::Hot;
use crate::ids::{PartitionId, Seq, TableId, UserId};
use crate::pack::{self, PackSlot};
use crate::partition::Partition;
use crate::purge::Purge;
use crate::segment::PageCache;
use crate::sequencer::Sequencer;
use crate::snapshot::{Registry, Snapshot};
use crate::snowflake::Snowflakes;
use crate::stream::Streams;
use crate::write::PartitionWrite;

/// How often a commit is prepared anew because a flush came between.
const STALE_RETRIES: usize = 100;

/// A partition that is being or was loaded; a damaged one stays so until a restart.
type Slot = Arc<OnceLock<std::result::Result<Arc<Partition>, Box<Error>>>>;

/// An open database. One per process and directory, shared behind an `Arc`.
#[derive(Debug)]
pub struct Database {
    pub(crate) config: Config,
    pub(crate) catalog: ArcSwap<Catalog>,
    /// Held while the catalog changes.
    pub(crate) ddl: tokio::sync::Mutex<()>,
    pub(crate) partitions: RwLock<HashMap<PartitionId, Slot>>,
    /// Of USER tables, as far as they were asked for.
    pub(crate) packs: RwLock<HashMap<TableId, PackSlot>>,
    pub(crate) pages: Arc<PageCache>,
    hot: Hot,
    /// Read while files are being changed; true once the database closes.
    closing: tokio::sync::RwLock<bool>,
    sequencer: Arc<Sequencer>,
    hub: Arc<Hub>,
    snapshots: Arc<Registry>,
    pub(crate) streams: Arc<Streams>,
    snowflakes: Snowflakes,
    pub(crate) evictions: Evictions,
    pub(crate) purge: Purge,
    random: Mutex<StdRng>,
    last_time: AtomicI64,
    requests: Requests,
    compactions: Arc<Compactions>,
    failures: Failures,
    log: Log,
    lock: Mutex<Option<Lock>>,
}

/// The directory's lock, held until it is dropped.
struct Lock(#[expect(dead_code, reason = "held, not read")] Box<dyn Send + Sync>);

impl std::fmt::Debug for Lock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Lock")
    }
}

/// The parts recovery hands over.
pub(crate) struct Parts {
    pub(crate) log: Log,
    pub(crate) sequencer: Arc<Sequencer>,
    pub(crate) hub: Arc<Hub>,
    pub(crate) lock: Box<dyn Send + Sync>,
    pub(crate) catalog: Catalog,
    pub(crate) requests: Requests,
    pub(crate) compactions: Compactions,
    pub(crate) hot: Hot,
}

impl Database {
    pub(crate) fn assemble(config: Config, parts: Parts) -> Self {
        let random = match config.random_seed {
            Some(seed) => StdRng::seed_from_u64(seed),
            None => StdRng::from_os_rng(),
        };
        let failures = Failures::new(config.retry_after);
        Self {
            snowflakes: Snowflakes::new(config.node_id),
            streams: Arc::new(Streams::new(config.stream_bytes)),
            pages: Arc::new(PageCache::new(config.page_bytes)),
            config,
            catalog: ArcSwap::from_pointee(parts.catalog),
            ddl: tokio::sync::Mutex::default(),
            partitions: RwLock::default(),
            packs: RwLock::default(),
            hot: parts.hot,
            closing: tokio::sync::RwLock::new(false),
            sequencer: parts.sequencer,
            hub: parts.hub,
            snapshots: Arc::default(),
            evictions: Evictions::default(),
            purge: Purge::default(),
            random: Mutex::new(random),
            last_time: AtomicI64::new(0),
            requests: parts.requests,
            compactions: Arc::new(parts.compactions),
            failures,
            log: parts.log,
            lock: Mutex::new(Some(Lock(parts.lock))),
        }
    }

    /// The current catalog.
    pub fn catalog(&self) -> Arc<Catalog> {
        self.catalog.load_full()
    }

    /// A table with the schema version it has by now, if that is a later one.
    pub(crate) fn newer(&self, than: &Table) -> Option<Arc<Table>> {
        let catalog = self.catalog();
        catalog.table_by_id(than.id).filter(|table| table.schema.version() > than.schema.version()).cloned()
    }

    /// The time.
    pub fn clock(&self) -> &dyn Clock {
        self.config.clock.as_ref()
    }

    /// What the database was opened with.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// A new unique id, greater than all before.
    pub fn snowflake(&self) -> i64 {
        self.snowflakes.next(self.clock().now_micros())
    }

    /// `count` new unique ids, rising.
    pub fn snowflakes(&self, count: usize) -> Vec<i64> {
        let first = self.snowflakes.take(self.clock().now_micros(), count);
        (0..count).map(|n| self.snowflakes.nth(first, n)).collect()
    }

    /// Fills a buffer with random bytes fit for secrets.
    pub fn random_bytes(&self, bytes: &mut [u8]) {
        self.random.lock().fill_bytes(bytes);
    }

    /// The state that is durable now. Versions it sees are kept while it lives.
    pub fn snapshot(&self) -> Snapshot {
        self.snapshots.open(|| self.sequencer.visible())
    }

    /// The newest state applied, durable or not, for statements that write: their own commit cannot be durable before
    /// what they read. A client must not be told what such a snapshot shows before [`Database::until_visible`].
    pub fn write_snapshot(&self) -> Snapshot {
        self.snapshots.open(|| self.sequencer.applied())
    }

    /// The newest commit that is durable and visible.
    pub fn visible(&self) -> Seq {
        self.sequencer.visible()
    }

    /// Waits until a commit is durable and visible.
    ///
    /// # Errors
    /// [`Error::ReadOnly`] if the log failed before.
    pub async fn until_visible(&self, seq: Seq) -> Result<()> {
        self.sequencer.until_visible(seq).await
    }

    /// Commits a write set. When this returns the commit is durable and visible to every later snapshot.
    ///
    /// Dropping the future leaves the commit to happen or not, as a lost connection would.
    ///
    /// # Errors
    /// [`Error::Conflict`] if a touched row or a table was changed since the caller read it: read and try again, with the
    /// catalog as it is then. [`Error::UniqueViolation`], [`Error::NotNullViolation`], [`Error::TableNotFound`], [`Error::StorageFull`]: nothing
    /// was changed. [`Error::ReadOnly`]: the log failed, and the commit may or may not be there after a restart.
    /// [`Error::Overloaded`]: rows come faster than they can be flushed; nothing was changed.
    pub async fn commit(&self, writes: Vec<PartitionWrite>) -> Result<Committed> {
        let limit = self.config.memtable_bytes.saturating_mul(2);
        if self.hot.bytes() > limit {
            self.requests.memory();
            self.hot.wait_below(limit, self.config.overload_wait).await?;
        }
        self.wait_until_open(&writes).await;
        self.wait_for_purge(writes.iter().filter_map(|write| write.user.as_ref())).await;
        let (seq, time_us, answer) = match self.apply(writes) {
            Ok(applied) => applied,
            Err(error) => {
                // The refusal may rest on a commit that is not durable yet; the client must not hear of it before.
                if matches!(error, Error::UniqueViolation { .. }) {
                    self.until_visible(self.sequencer.applied()).await?;
                }
                return Err(error);
            }
        };
        answer.await.unwrap_or(Err(Error::Closed))?;
        Ok(Committed { seq, time_us })
    }

    /// Waits while a table is closed to writers for a change that is about to take effect.
    async fn wait_until_open(&self, writes: &[PartitionWrite]) {
        let catalog = self.catalog.load();
        let closed = |write: &PartitionWrite| catalog.guard_of(write.table.id) == Some(&Guard::Closed);
        if writes.iter().any(closed) {
            drop(catalog);
            drop(self.ddl.lock().await);
        }
    }

    fn apply(&self, writes: Vec<PartitionWrite>) -> Result<(Seq, i64, crate::sequencer::Answer)> {
        let mut prepared = Vec::with_capacity(writes.len());
        for write in writes {
            let id = PartitionId { table: write.table.id, user: write.user.clone() };
            let partition = self.partition(&write.table, &id)?;
            prepared.push(Prepared::new(partition, write)?);
        }
        prepared.sort_by(|a, b| a.partition().id.cmp(&b.partition().id));
        if prepared.windows(2).any(|pair| pair[0].partition().id == pair[1].partition().id) {
            return Err(Error::internal("commit", "two writes to one partition"));
        }
        for _ in 0..STALE_RETRIES {
            prepared.iter_mut().try_for_each(Prepared::look_up)?;
            let time_us = self.commit_time();
            let bodies: Vec<_> =
                prepared.iter().map(|p| (p.partition().id.clone(), p.schema_version(), p.body())).collect();
            let record = Record::new(record::encode(time_us, &bodies)?);
            let bytes = record.payload().len() as u64;
            if let Some((seq, answer)) = commit::apply(self, &prepared, record, time_us)? {
                prepared.iter().for_each(|p| self.maybe_flush(p.partition()));
                self.ask_for_relief(seq, bytes);
                return Ok((seq, time_us, answer));
            }
        }
        Err(Error::Conflict)
    }

    /// The time of a new commit: never lower than that of one before, even if the clock jumped, nor than that of the ids
    /// in its rows: it is what a restart knows of them (see [`Database::note_time`]).
    fn commit_time(&self) -> i64 {
        let now = self.clock().now_micros().max(self.snowflakes.reached());
        now.max(self.last_time.fetch_max(now, Ordering::Relaxed))
    }

    /// Notes a time found on disk, so that new times and ids are greater.
    pub(crate) fn note_time(&self, time_us: i64) {
        self.last_time.fetch_max(time_us, Ordering::Relaxed);
        self.snowflakes.advance_past(Snowflakes::new(0).next(time_us + 1_000));
    }

    /// Writes a partition's hot rows to Parquet, everything applied so far included.
    ///
    /// # Errors
    /// [`Error::StorageFull`] and other I/O errors: nothing is lost, a later flush tries again.
    pub async fn flush(self: &Arc<Self>, table: &Arc<Table>, user: Option<&UserId>) -> Result<FlushOutcome> {
        let id = PartitionId { table: table.id, user: user.cloned() };
        match self.existing_partition(table, &id)? {
            Some(partition) => flush::flush(self, &partition).await,
            None => Ok(FlushOutcome::default()),
        }
    }

    /// Writes all hot rows of a table to Parquet, everything applied so far included: those of small partitions of a USER
    /// table to packs, those of others to files of their own.
    ///
    /// # Errors
    /// See [`Database::flush`]; what was written until then stays written.
    pub async fn flush_table(self: &Arc<Self>, table: &Arc<Table>) -> Result<FlushOutcome> {
        let upto = self.sequencer.applied();
        let hot = || {
            let hot =
                self.hot.partitions().into_iter().filter(|(seq, id)| id.table == table.id && *seq <= upto);
            hot.map(|(_, id)| id).collect::<BTreeSet<_>>()
        };
        let loaded = hot().into_iter().filter_map(|id| self.loaded(&id));
        let small: Vec<_> = loaded.filter(|p| pack::flush::is_packable(self, table, p)).collect();
        let mut outcome = FlushOutcome::default();
        if !small.is_empty() {
            outcome.add(pack::flush::pack(self, table.id, small).await?);
        }
        // Large ones, and those that were busy.
        for id in hot() {
            outcome.add(flush::flush(self, &self.partition(table, &id)?).await?);
        }
        Ok(outcome)
    }

    fn maybe_flush(&self, partition: &Arc<Partition>) {
        let catalog = self.catalog.load();
        let Some(table) = catalog.table_by_id(partition.id.table) else { return };
        let limit = table.options.flush_rows.unwrap_or(self.config.flush_rows);
        if partition.version().active.rows() >= limit
            && !partition.flush_requested.swap(true, Ordering::AcqRel)
        {
            self.requests.partition(partition.id.clone());
        }
    }

    /// Asks for flushes if memory or log have grown too large.
    fn ask_for_relief(&self, seq: Seq, bytes: u64) {
        if self.hot.bytes() > self.config.memtable_bytes {
            self.requests.memory();
        }
        if self.hot.appended(seq, bytes) {
            self.requests.log();
        }
    }

    /// The change feed after a commit.
    pub fn feed(self: &Arc<Self>, after: Seq) -> Feed {
        Feed::new(self, self.hub.clone(), after)
    }

    /// The oldest commit the feed can still begin after.
    pub fn feed_begin(&self) -> Seq {
        self.log.first().saturating_sub(1)
    }

    /// What recovery would begin after now. What the log holds from [`Database::feed_begin`] to here is kept for feeds.
    pub fn replay_begin(&self) -> Seq {
        self.log.low_water().saturating_sub(1)
    }

    /// How many pieces of the log were read for feeds that were behind what memory holds. Feeds near each other share
    /// one.
    pub fn feed_pieces_read(&self) -> u64 {
        self.hub.pieces_read()
    }

    /// Counters of the log.
    pub fn log_metrics(&self) -> kalamdb_wal::Metrics {
        self.log.metrics()
    }

    /// Cancels compactions, waits for flushes and catalog changes under way, syncs and closes the log and gives up the directory. Commits
    /// after it fail with [`Error::Closed`]; feeds end after the last commit.
    ///
    /// # Errors
    /// What the log says, if it failed.
    pub async fn close(&self) -> Result<()> {
        self.compactions.stop();
        // Whoever opens the directory next must not find us writing to it.
        *self.closing.write().await = true;
        let closed = self.log.close();
        self.hub.close();
        *self.lock.lock() = None;
        Ok(closed?)
    }

    /// Keeps the database from being closed while files are changed.
    pub(crate) async fn stay_open(&self) -> Result<tokio::sync::RwLockReadGuard<'_, bool>> {
        let closing = self.closing.read().await;
        if *closing { Err(Error::Closed) } else { Ok(closing) }
    }

    /// Makes everything enqueued survive a power cut, whatever the policy for commits is.
    pub(crate) fn sync_log(&self) -> Result<()> {
        if self.config.sync != SyncPolicy::Always {
            self.log.sync()?;
        }
        Ok(())
    }

    pub(crate) fn hot(&self) -> &Hot {
        &self.hot
    }

    pub(crate) fn hub(&self) -> &Hub {
        &self.hub
    }

    pub(crate) fn requests(&self) -> &Requests {
        &self.requests
    }

    /// Flushes and compactions of the background that failed and are to be tried again. They lose nothing, but as long as
    /// they fail memory and log grow.
    pub fn background_failures(&self) -> Vec<BackgroundFailure> {
        self.failures.list()
    }

    pub(crate) fn failures(&self) -> &Failures {
        &self.failures
    }

    pub(crate) fn compacting(&self) -> &Arc<Compactions> {
        &self.compactions
    }

    /// Holds the horizon where it is, at `limit` at the latest.
    pub(crate) fn pin(&self, limit: Seq) -> Snapshot {
        self.snapshots.pin(limit, || self.sequencer.visible())
    }

    /// The disk that everything is on.
    pub fn disk(&self) -> &Arc<dyn Disk> {
        &self.config.disk
    }

    pub(crate) fn log(&self) -> &Log {
        &self.log
    }

    pub(crate) fn sequencer(&self) -> &Sequencer {
        &self.sequencer
    }

    /// The newest commit that every snapshot, open or to come, sees.
    pub fn horizon(&self) -> Seq {
        self.snapshots.horizon(|| self.sequencer.visible())
    }

    /// Moves the log's low-water mark to the oldest commit that is in memory only.
    pub(crate) fn truncate_log(&self) -> Result<()> {
        // First, so that a commit applied while we look has noted its partition or is after this.
        let next = self.sequencer.applied().min(self.sequencer.visible()) + 1;
        let keep = self.hot.first().map_or(next, |first| first.min(next));
        // The log tells us what is durable a moment before it counts it as durable itself, and takes no mark beyond that.
        self.log.wait_durable(keep - 1)?;
        Ok(self.log.truncate_before(keep)?)
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        self.hub.close();
    }
}
