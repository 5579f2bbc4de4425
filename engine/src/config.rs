//! What a database is opened with.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::store::{NoStores, Stores};
use kalamdb_wal::{Clock, Disk, RealDisk, Retain, SyncPolicy, SystemClock};

/// What a database is opened with. Clock, disk and randomness are values, so that a whole database can run in a
/// deterministic simulation.
#[derive(Debug, Clone)]
pub struct Config {
    /// The data directory; created if it is not there.
    pub dir: PathBuf,
    /// The filesystem.
    pub disk: Arc<dyn Disk>,
    /// Where tables are that are not on it.
    pub stores: Arc<dyn Stores>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Seeds the random source; taken from the operating system if absent.
    pub random_seed: Option<u64>,
    /// This node's number, 0 to 1023, part of every generated id.
    pub node_id: u16,
    /// When a commit counts as durable.
    pub sync: SyncPolicy,
    /// Bytes of one log segment.
    pub log_segment_bytes: u64,
    /// How much log is kept beyond what recovery needs, for live queries that resume.
    pub retain: Retain,
    /// Hot rows at which a partition is flushed, unless its table says otherwise.
    pub flush_rows: u64,
    /// Partitions of USER tables with fewer hot rows, and no files of their own yet, are flushed to packs.
    pub pack_rows: u64,
    /// Bytes of rows in memory from which on the largest partitions are flushed. At twice as many, commits wait.
    pub memtable_bytes: usize,
    /// Bytes that the buffers of all STREAM tables together may hold; beyond it the largest lose their oldest rows.
    pub stream_bytes: usize,
    /// How long a commit waits for flushes to make room before it fails with [`crate::Error::Overloaded`].
    pub overload_wait: Duration,
    /// Bytes of log that recovery may have to replay; the partitions that hold back more are flushed.
    pub log_bytes: u64,
    /// How segments are merged in the background.
    pub compaction: CompactionConfig,
    /// How long a flush or compaction of the background that failed is left alone; after each further failure twice as
    /// long, up to 8 times.
    pub retry_after: Duration,
    /// How long a partition stays loaded that nobody uses and that has nothing in memory only.
    pub evict_after: Duration,
    /// Bytes of decoded columns that are kept for reads of single rows of segments.
    pub page_bytes: usize,
    /// Bytes that loaded partitions may take beside hot rows; above, the longest unused are evicted at once.
    pub loaded_bytes: usize,
}

/// How segments are merged in the background.
#[derive(Debug, Clone)]
pub struct CompactionConfig {
    /// Compactions at a time. With 0 there are none but those commanded, one at a time.
    pub workers: usize,
    /// Bytes per second that all compactions together read and write; 0 is no limit.
    pub bytes_per_second: u64,
    /// Bytes of the largest segment that is made of smaller ones.
    pub max_segment_bytes: u64,
}

impl Default for CompactionConfig {
    fn default() -> Self {
        Self { workers: 1, bytes_per_second: 64 << 20, max_segment_bytes: 1 << 30 }
    }
}

impl Config {
    /// The defaults for a data directory.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            disk: Arc::new(RealDisk),
            stores: Arc::new(NoStores),
            clock: Arc::new(SystemClock),
            random_seed: None,
            node_id: 0,
            sync: SyncPolicy::Always,
            log_segment_bytes: 64 << 20,
            retain: Retain::default(),
            flush_rows: 250_000,
            pack_rows: 4_096,
            memtable_bytes: 512 << 20,
            stream_bytes: 64 << 20,
            overload_wait: Duration::from_secs(10),
            log_bytes: 1 << 30,
            compaction: CompactionConfig::default(),
            retry_after: Duration::from_secs(1),
            evict_after: Duration::from_secs(60),
            page_bytes: 64 << 20,
            loaded_bytes: 256 << 20,
        }
    }
}
