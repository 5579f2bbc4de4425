//! Opening a database: the log is replayed over what the manifests say.
//!
//! Replay groups the log's records by partition without decoding their rows. The `system` tables come first, and make
//! the catalog; then every other partition with records gets its manifest loaded and the commits after its `flushed_seq`
//! applied. Partitions without records in the log are not touched, however many there are. A partition that cannot be
//! loaded is closed with its reason, keeps its log records, and does not stop the others.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::row::Rows as KeyRows;
use kalamdb_wal::{Log, Options, durable};

use crate::catalog::{Catalog, DEFAULT_NAMESPACE, Ddl, Namespace, SYSTEM_NAMESPACE, Table};
use crate::codec::record::{self, PartBody, RawPart, Target};
use crate::commit::{holder, key_columns, keys, mark};
use crate::compaction::Compactions;
use crate::compactor;
use crate::config::Config;
use crate::database::{Database, Parts};
use crate::dropped::remove_dropped_tables;
use crate::error::{Error, Result};
use crate::feed::Hub;
use crate::flusher::{self, Requests};
use crate::hot::Hot;
use crate::ids::{NamespaceId, PartitionId, Seq, TableId};
use crate::partition::{Partition, Version};
use crate::read::live_rows;
use crate::segment::Segment;
use crate::sequencer::Sequencer;
use crate::store::Volumes;
use crate::stream::evictor;
use crate::system::{self, FIRST_USER_TABLE, Row};
use crate::view::Place;
use crate::views::{VIEW, View};

/// A commit's part for one partition, as the log has it.
struct Logged {
    seq: Seq,
    time_us: i64,
    part: RawPart,
}

type ByPartition = BTreeMap<PartitionId, Vec<Logged>>;

impl Database {
    /// Opens the database in a directory, creating it if there is none, and recovers every acknowledged commit.
    ///
    /// # Errors
    /// [`Error::Locked`] if another process has it; [`Error::Corrupt`] if the log is damaged before its end, or a
    /// `system` table is; [`Error::NewerFormat`]; I/O errors. Nothing is changed on disk then.
    pub async fn open(config: Config) -> Result<Arc<Self>> {
        let (requests, requested) = Requests::new();
        let (compactions, to_compact) = Compactions::new(&config.compaction);
        let database = tokio::task::spawn_blocking(move || recover(config, requests, compactions));
        let database = Arc::new(database.await.unwrap_or_else(|e| Err(Error::internal("recover", e)))?);
        database.finish_purge().await?;
        tokio::spawn(flusher::run(Arc::downgrade(&database), requested));
        let (workers, now) = (database.config().compaction.workers, database.clock().now_micros());
        if workers > 0 {
            tokio::spawn(compactor::run(Arc::downgrade(&database), to_compact, workers, now));
        }
        let streams = database.streams();
        tokio::spawn(evictor::run(Arc::downgrade(streams), streams.work(), database.config.clock.clone()));
        for name in [SYSTEM_NAMESPACE, DEFAULT_NAMESPACE] {
            if database.catalog().namespace(name).is_none() {
                let name = NamespaceId::new(name)?;
                database.ddl(Ddl::CreateNamespace { name, options: "{}".into() }).await?;
            }
        }
        Ok(database)
    }
}

fn recover(mut config: Config, requests: Requests, compactions: Compactions) -> Result<Database> {
    config.disk = Arc::new(Volumes::new(config.disk.clone(), &config.dir, config.stores.clone()));
    let disk = config.disk.clone();
    durable::create_dir(disk.as_ref(), &config.dir)?;
    let lock_path = config.dir.join("kalamdb.lock");
    let lock = disk.lock(&lock_path).map_err(|e| match e.kind() {
        std::io::ErrorKind::WouldBlock => Error::Locked(config.dir.clone()),
        _ => Error::io(format!("lock {}", lock_path.display()), e),
    })?;
    let hub = Arc::new(Hub::default());
    let sequencer = Arc::new(Sequencer::new(hub.clone()));
    let mut logged = ByPartition::new();
    let mut last_time = 0;
    let hot = Hot::new(config.log_bytes);
    let mut options = Options {
        segment_bytes: config.log_segment_bytes,
        sync: config.sync,
        retain: config.retain,
        clock: config.clock.clone(),
        observer: Some(sequencer.clone()),
        ..Options::default()
    };
    if let Some(seed) = config.random_seed {
        options.entropy = seed;
    }
    let (log, recovered) = Log::open(disk, &config.dir.join("wal"), options, &mut |seq, payload| {
        let commit = record::decode(&payload.to_bytes()).map_err(|e| kalamdb_wal::Error::replay(seq, e))?;
        last_time = last_time.max(commit.time_us);
        hot.replayed(seq, payload.len() as u64);
        for part in commit.parts {
            let logged = logged.entry(part.partition.clone()).or_default();
            logged.push(Logged { seq, time_us: commit.time_us, part });
        }
        Ok(())
    })?;
    sequencer.start(recovered.next - 1);
    let catalog = system::bootstrap()?;
    let parts = Parts { log, sequencer, hub, lock, catalog, requests, compactions, hot };
    let database = Database::assemble(config, parts);
    let users = logged.split_off(&PartitionId { table: TableId(FIRST_USER_TABLE), user: None });
    load_catalog(&database, logged)?;
    replay_users(&database, users);
    remove_dropped_tables(&database)?;
    database.note_time(last_time);
    Ok(database)
}

fn load_catalog(database: &Database, mut logged: ByPartition) -> Result<()> {
    let mut catalog = Catalog::clone(&database.catalog());
    for table in database.catalog().tables() {
        let id = PartitionId { table: table.id, user: None };
        let commits = logged.remove(&id).unwrap_or_default();
        let partition = replay(database, table, &id, commits)
            .map_err(|e| Error::Corrupt(format!("{} cannot be read: {e}", table.qualified_name())))?;
        database.note_time(partition.version().manifest.updated_at);
    }
    let rows = |id| -> Result<Vec<_>> {
        let catalog = database.catalog();
        let table = catalog.table_by_id(id).ok_or_else(|| Error::internal("recover", "no system table"))?;
        live_rows(&database.view_now(&database.snapshot(), table, None)?)
    };
    let each = |id, then: &mut dyn FnMut(Row<'_>) -> Result<()>| -> Result<()> {
        for located in rows(id)? {
            for row in 0..located.addresses.len() {
                then(Row::new(&located.rows.rows, row))?;
            }
        }
        Ok(())
    };
    each(system::NAMESPACES, &mut |row| {
        let namespace: Namespace = system::namespace_from(row)?;
        catalog.add_namespace(namespace);
        Ok(())
    })?;
    each(system::TABLE_SCHEMAS, &mut |row| {
        let (table, schema) = system::schema_from(row)?;
        catalog.add_schema(table, schema);
        Ok(())
    })?;
    each(system::TABLES, &mut |row| {
        if row.text("table_type")? == Some(VIEW) {
            catalog.add_view(View::from_row(row)?);
            return Ok(());
        }
        let id = TableId(row.int("table_id")? as u64);
        let version = row.int("schema_version")? as u32;
        let schema = catalog.schema_at(id, version).cloned();
        let schema =
            schema.ok_or_else(|| Error::Corrupt(format!("table {id} has no schema of version {version}")))?;
        catalog.add_table(system::table_from(row, schema)?);
        Ok(())
    })?;
    database.catalog.store(Arc::new(catalog));
    Ok(())
}

fn replay_users(database: &Database, logged: ByPartition) {
    let catalog = database.catalog();
    for (id, commits) in logged {
        // Rows of a table that was dropped later.
        let Some(table) = catalog.table_by_id(id.table) else { continue };
        let first = commits.first().map(|c| c.seq);
        if let Err(error) = replay(database, table, &id, commits) {
            tracing::error!(partition = %id, %error, "a partition could not be recovered and stays closed");
            close_partition(database, &id, error);
            // Its commits stay in the log.
            first.into_iter().for_each(|seq| database.hot().add(seq, id.clone()));
        }
    }
}

/// Makes every later use of the partition fail with its reason.
fn close_partition(database: &Database, id: &PartitionId, error: Error) {
    let reason = match error {
        Error::PartitionDamaged { reason, .. } => reason,
        other => other.to_string(),
    };
    let error = Error::PartitionDamaged { partition: id.clone(), reason };
    let closed = std::sync::OnceLock::from(Err(Box::new(error)));
    database.partitions.write().insert(id.clone(), Arc::new(closed));
}

fn replay(
    database: &Database,
    table: &Arc<Table>,
    id: &PartitionId,
    commits: Vec<Logged>,
) -> Result<Arc<Partition>> {
    let partition = database.partition(table, id)?;
    let version = partition.version();
    let catalog = database.catalog();
    for commit in commits.into_iter().filter(|c| c.seq > version.active.durable()) {
        let schema = catalog.schema_at(id.table, commit.part.schema_version).cloned();
        let schema = schema
            .ok_or_else(|| Error::Corrupt(format!("no schema version {}", commit.part.schema_version)))?;
        let body = commit.part.decode(&schema)?.project(&schema, &table.schema)?;
        apply(table, &version, &body, commit.seq, commit.time_us)?;
        partition.commit.lock().last_seq = commit.seq;
        partition.note_hot(commit.time_us);
    }
    if let Some(first) = version.active.first_unflushed() {
        database.hot().add(first, id.clone());
        database.hot().count(&version.active);
    }
    Ok(partition)
}

/// Does what the commit did, with the rows found where they are now.
fn apply(table: &Table, version: &Version, body: &PartBody, seq: Seq, time_us: i64) -> Result<()> {
    for target in &body.replaced.targets {
        if let Target::Segment { id, row } = *target
            && let Some(segment) = version.segment(id)
        {
            segment.marks.add(row, seq, seq);
        }
    }
    let superseded = body.updated.iter().map(|(targets, old, _)| (targets, old));
    for (targets, old) in superseded.chain(body.deleted.iter().map(|(targets, old)| (targets, old))) {
        let keys = keys(table, &old.rows)?;
        let columns = key_columns(table, &old.rows);
        for (at, target) in targets.iter().enumerate() {
            if let Some(place) = resolve(version, target, keys.row(at).data(), &columns, at)? {
                mark(version, &place, seq, seq);
            }
        }
    }
    let active = &version.active;
    if let Some((_, old)) = &body.deleted {
        active.append_tombstones(old.rows.clone(), &table.schema, &keys(table, &old.rows)?, seq, time_us)?;
    }
    for rows in body.inserted.iter().chain(body.updated.iter().map(|(.., new)| new)) {
        let keys = keys(table, rows)?;
        replace_tombstones(table, version, rows, &keys, seq)?;
        active.append_live(rows.clone(), &table.schema, &keys, seq, time_us)?;
    }
    Ok(())
}

/// Marks the tombstones whose keys some rows take and that the record does not name where they are now: they were in
/// memory then, or in a segment that a compaction replaced since. One that was dropped meanwhile is not missed.
fn replace_tombstones(
    table: &Table,
    version: &Version,
    rows: &RecordBatch,
    keys: &KeyRows,
    seq: Seq,
) -> Result<()> {
    let columns = key_columns(table, rows);
    let moved_to: Vec<_> = version.segments.iter().filter(|s| may_have_moved(version, s)).collect();
    for at in 0..keys.num_rows() {
        let key = keys.row(at).data();
        let mut found = None;
        if version.active.find(key).is_none() {
            for segment in moved_to.iter().rev() {
                found = segment.find(key, &columns, at)?.map(|found| (segment.meta().id, found));
                if found.is_some() {
                    break;
                }
            }
        }
        match holder(version, key, found.filter(|(_, found)| found.tombstone)) {
            Some(Place::Live { .. }) | None => {}
            Some(tombstone) => mark(version, &tombstone, seq, seq),
        }
    }
    Ok(())
}

/// True if tombstones may have moved to a segment after a commit that the manifest does not cover: it is the result of
/// the flush that the manifest is as of, for no later one ended, or of a compaction after it. Such ids are not lower than
/// the flush's commit.
fn may_have_moved(version: &Version, segment: &Segment) -> bool {
    segment.meta().tombstones > 0 && segment.meta().id >= version.manifest.flushed_seq
}

/// Where a superseded row is now: where the record says, or where its key is if a flush or compaction moved it since.
/// `None` if a compaction dropped it: a tombstone past its time.
fn resolve(
    version: &Version,
    target: &Target,
    key: &[u8],
    columns: &[ArrayRef],
    at: usize,
) -> Result<Option<Place>> {
    let (generation, durable) = (version.active.generation, version.active.durable());
    let there = match *target {
        // Rows that a pack had are in another order than when they were written.
        Target::Live { seq, .. } | Target::Tombstone { seq, .. } if seq <= durable => None,
        Target::Live { seq, index } => {
            version.active.live.ordinal(seq, index).map(|ordinal| Place::Live { generation, ordinal })
        }
        Target::Tombstone { seq, index } => version
            .active
            .tombstones
            .ordinal(seq, index)
            .map(|ordinal| Place::Tombstone { generation, ordinal }),
        Target::Segment { id, row } => version.segment(id).map(|_| Place::Segment { id, row }),
    };
    if there.is_some() {
        return Ok(there);
    }
    let mut found = None;
    for segment in version.segments.iter().rev() {
        if let Some(hit) = segment.find(key, columns, at)? {
            found = Some((segment.meta().id, hit));
            break;
        }
    }
    match (holder(version, key, found), target) {
        (None, Target::Live { .. }) => Err(Error::Corrupt("the log changes a row that is not there".into())),
        (place, _) => Ok(place),
    }
}
