//! KalamDB's storage engine: commit pipeline, memtable, segments, manifests, snapshots, catalog and change feed.
//!
//! Four ideas carry it. The log is the truth, and the feed. A partition is a list of immutable columnar chunks, plus who
//! superseded what. A snapshot is one sequence number. Everything durable but the log is a file that others can read.
//!
//! Start at [`Database`]; [`commit`], [`flush`] and [`compaction`] explain in which order things become durable and visible.

#![cfg_attr(not(test), warn(clippy::unwrap_used))]

mod all_users;
pub mod alter;
mod array_memory;
pub mod catalog;
pub mod codec;
pub mod commit;
pub mod compaction;
mod compactor;
mod config;
mod database;
mod ddl;
pub mod delete_vector;
mod dropped;
mod error;
mod evict;
mod failures;
mod feed;
mod fit;
pub mod flush;
mod flusher;
mod history;
mod hot;
mod ids;
mod keys;
mod lookup;
pub mod manifest;
pub mod marks;
mod memory;
pub mod memtable;
pub mod offline;
mod order;
mod pack;
pub mod partition;
mod partitions;
mod pick;
pub mod project;
mod purge;
pub mod read;
mod recovery;
pub mod retention;
mod row_checks;
pub mod rows;
mod schema;
mod sealed;
pub mod segment;
mod sequencer;
#[cfg(feature = "sim")]
pub mod sim;
mod snapshot;
mod snowflake;
mod sorted;
mod stats;
pub mod store;
pub mod stream;
mod sync;
pub mod system;
mod tombstones;
mod transaction;
mod types;
mod unread;
mod vectors;
mod view;
mod views;
mod widen;
mod write;

pub use all_users::{AllUsers, SmallUsers, SmallUsersReader, UsersBatch};
pub use alter::{AlterTable, NewColumn, TableChange};
pub use arrow;
pub use catalog::{
    Access, Catalog, DEFAULT_NAMESPACE, Ddl, Namespace, NewTable, SYSTEM_NAMESPACE, Table, TableKind,
    TableOptions,
};
pub use commit::Committed;
pub use compaction::{CompactionEnd, CompactionEvent, CompactionOutcome, CompactionStatus};
pub use config::{CompactionConfig, Config};
pub use database::Database;
pub use ddl::DdlOutcome;
pub use error::{Error, Result};
pub use failures::{BackgroundFailure, BackgroundWork};
pub use feed::{Commit, Feed, PartitionChange};
pub use flush::FlushOutcome;
pub use ids::{
    ColumnId, MAX_NAME_BYTES, NamespaceId, PartitionId, Seq, TableId, TableName, UserId, path_component,
};
pub use kalamdb_wal::{
    Clock, Disk, DiskFile, FORMAT as LOG_FORMAT, MAX_RECORD, Metrics as LogMetrics, RealDisk, Retain,
    SyncPolicy, SystemClock, Verdict as LogVerdict,
};
pub use manifest::{Manifest, SegmentMeta};
pub use memory::MemoryReport;
pub use pack::{PackManifest, PackMeta};
pub use pick::Picked;
pub use purge::PurgeOutcome;
pub use schema::{
    Column, DELETED, MAX_COLUMNS, SEQ, SchemaDef, TS, TableSchema, UPDATED, is_reserved, stream_fields,
    system_fields,
};
pub use segment::{Segment, SegmentReader};
pub use snapshot::Snapshot;
pub use stats::{Bound, ColumnStats};
pub use stream::{Evicted, Listener, Stream, StreamInsert, StreamRows, StreamStats, StreamView};
pub use transaction::Transaction;
pub use types::{DataType, TIMEZONE, TYPE_METADATA_KEY};
pub use unread::Unread;
pub use view::{ChunkView, PartitionView, RowsChunk, SegmentChunk};
pub use views::{NewView, View, ViewDefinition};
pub use widen::{is_widening, widenings};
pub use write::{Changed, OldRows, PartitionWrite, Removed};
