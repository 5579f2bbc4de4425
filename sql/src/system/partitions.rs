//! `system.partitions` and `system.segments`: where the rows of every table are.

use std::ops::Add;
use std::sync::Arc;

use kalamdb_engine::DataType::{BigInt, Int, Text, Timestamp};
use kalamdb_engine::partition::Version;
use kalamdb_engine::system::Cell;
use kalamdb_engine::{SYSTEM_NAMESPACE, Table, TableKind, UserId};

use super::define_table;
use crate::error::Result;
use crate::grid;
use crate::statement::StatementContext;

/// A partition's owner and state.
pub(crate) type PartitionState = (Option<UserId>, Arc<Version>);

/// The partitions of a table that exist; of a USER table, without the role `dba`, the session's own.
///
/// # Errors
/// The engine's, if one cannot be loaded.
pub(crate) async fn partitions_of(ctx: &StatementContext, table: &Arc<Table>) -> Result<Vec<PartitionState>> {
    let owners = match table.kind {
        TableKind::User if ctx.is_dba() => {
            ctx.instance.database().users_of(table).await?.into_iter().map(Some).collect()
        }
        TableKind::User => vec![Some(ctx.identity.user.clone())],
        TableKind::Shared | TableKind::System => vec![None],
        TableKind::Stream => Vec::new(),
    };
    let mut partitions = Vec::with_capacity(owners.len());
    for owner in owners {
        if let Some(version) = ctx.instance.database().partition_version(table, owner.as_ref())? {
            partitions.push((owner, version));
        }
    }
    Ok(partitions)
}

/// How much a partition holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct PartitionFacts {
    /// Row versions in memory, superseded ones included.
    pub(crate) hot_rows: u64,
    pub(crate) hot_bytes: u64,
    pub(crate) segments: u64,
    /// Row versions in Parquet, superseded ones and tombstones included.
    pub(crate) segment_rows: u64,
    pub(crate) segment_bytes: u64,
    /// Rows in Parquet that were superseded or deleted since.
    pub(crate) deleted_rows: u64,
    pub(crate) flushed_seq: u64,
}

impl PartitionFacts {
    pub(crate) fn of(version: &Version) -> Self {
        let mut facts = Self { flushed_seq: version.manifest.flushed_seq, ..Self::default() };
        for memtable in version.memtables() {
            // Rows that a pack has are in Parquet, though memory has them too while the partition is loaded.
            if memtable.first_unflushed().is_none() {
                facts.segment_rows += memtable.rows();
                continue;
            }
            facts.hot_rows += memtable.rows();
            facts.hot_bytes += memtable.bytes() as u64;
        }
        for segment in version.segments.iter() {
            facts.segments += 1;
            facts.segment_rows += segment.meta().rows;
            facts.segment_bytes += segment.meta().bytes;
            facts.deleted_rows += segment.marks.len();
        }
        facts
    }
}

impl Add for PartitionFacts {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            hot_rows: self.hot_rows + other.hot_rows,
            hot_bytes: self.hot_bytes + other.hot_bytes,
            segments: self.segments + other.segments,
            segment_rows: self.segment_rows + other.segment_rows,
            segment_bytes: self.segment_bytes + other.segment_bytes,
            deleted_rows: self.deleted_rows + other.deleted_rows,
            flushed_seq: self.flushed_seq.max(other.flushed_seq),
        }
    }
}

define_table!(
    /// `system.partitions`.
    Partitions,
    SYSTEM_NAMESPACE,
    "partitions",
    everyone: false,
    [
        "table_id": BigInt,
        "user_id": Text,
        "hot_rows": BigInt,
        "hot_bytes": BigInt,
        "segments": BigInt,
        "segment_rows": BigInt,
        "segment_bytes": BigInt,
        "deleted_rows": BigInt,
        "flushed_seq": BigInt,
    ],
    partitions
);

async fn partitions(ctx: &StatementContext) -> Result<Vec<Vec<Cell>>> {
    let mut rows = Vec::new();
    for table in ctx.catalog.tables() {
        for (user, version) in partitions_of(ctx, table).await? {
            let facts = PartitionFacts::of(&version);
            rows.push(vec![
                grid::count(table.id.0),
                Cell::from(user.map(|user| user.to_string())),
                grid::count(facts.hot_rows),
                grid::count(facts.hot_bytes),
                grid::count(facts.segments),
                grid::count(facts.segment_rows),
                grid::count(facts.segment_bytes),
                grid::count(facts.deleted_rows),
                grid::count(facts.flushed_seq),
            ]);
        }
    }
    Ok(rows)
}

define_table!(
    /// `system.segments`: one row per Parquet file.
    Segments,
    SYSTEM_NAMESPACE,
    "segments",
    everyone: false,
    [
        "table_id": BigInt,
        "user_id": Text,
        "segment_id": BigInt,
        "path": Text,
        "level": Int,
        "rows": BigInt,
        "tombstones": BigInt,
        "bytes": BigInt,
        "min_seq": BigInt,
        "max_seq": BigInt,
        "deleted_rows": BigInt,
        "schema_version": Int,
        "created_at": Timestamp,
    ],
    segments
);

async fn segments(ctx: &StatementContext) -> Result<Vec<Vec<Cell>>> {
    let mut rows = Vec::new();
    for table in ctx.catalog.tables() {
        for (user, version) in partitions_of(ctx, table).await? {
            let user = user.map(|user| user.to_string());
            for segment in version.segments.iter() {
                let meta = segment.meta();
                rows.push(vec![
                    grid::count(table.id.0),
                    Cell::from(user.clone()),
                    grid::count(meta.id),
                    Cell::from(path_below(segment.path(), ctx)),
                    Cell::Int(meta.level.into()),
                    grid::count(meta.rows),
                    grid::count(meta.tombstones),
                    grid::count(meta.bytes),
                    grid::count(meta.min_seq),
                    grid::count(meta.max_seq),
                    grid::count(segment.marks.len()),
                    Cell::Int(meta.schema_version.into()),
                    Cell::Int(meta.created_at),
                ]);
            }
        }
    }
    Ok(rows)
}

/// A file's path below the data directory.
fn path_below(path: &std::path::Path, ctx: &StatementContext) -> String {
    let dir = &ctx.instance.database().config().dir;
    path.strip_prefix(dir).unwrap_or(path).display().to_string()
}
