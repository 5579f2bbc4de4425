//! An open segment: its mapped file, parsed footer and page index, loaded and verified on first use.

use std::borrow::Cow;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use arrow::array::ArrayRef;
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use kalamdb_wal::{Access, Disk};
use parking_lot::Mutex;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use parquet::arrow::async_reader::AsyncFileReader;
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader};

use super::Trash;
use super::find::{GroupIndex, KeyBlock, unhex};
use super::pages::{Page, PageCache};
use crate::error::{Error, Result};
use crate::ids::PartitionId;
use crate::manifest::SegmentMeta;
use crate::marks::Marks;
use crate::project::{Source, source};
use crate::schema::TableSchema;
use crate::stats::ColumnStats;
use crate::unread::{Once, Unread};

/// Why a partition is closed; shared by its segments, set by the first that finds itself damaged.
pub type Damage = Arc<OnceLock<String>>;

/// What the segments of a partition share.
#[derive(Debug, Clone)]
pub struct Shared {
    /// Set once one of them turns out not to be what was written.
    pub damage: Damage,
    /// With all segments of the database.
    pub pages: Arc<PageCache>,
}

/// One Parquet file of a partition, with the marks of its superseded rows.
#[derive(Debug)]
pub struct Segment {
    meta: SegmentMeta,
    schema: Arc<TableSchema>,
    partition: PartitionId,
    path: PathBuf,
    disk: Arc<dyn Disk>,
    /// Rows superseded or deleted since the file was written.
    pub marks: Marks,
    loaded: Once<Loaded>,
    shared: Shared,
    /// The segment's number among those that share pages.
    number: u64,
    /// Where its rows went, once a compaction replaced it. Set under the partition's commit lock.
    relocated: OnceLock<Relocated>,
    pub(super) min_key: Vec<u8>,
    pub(super) max_key: Vec<u8>,
    /// Decoded keys of recently searched row groups.
    pub(super) keys: Mutex<Vec<Arc<KeyBlock>>>,
}

/// Where the rows of a replaced segment went.
#[derive(Debug)]
pub struct Relocated {
    /// The segment that has them now, or had them until it was replaced in turn.
    pub to: Arc<Segment>,
    /// Per row, its row there, or [`Relocated::DROPPED`].
    pub rows: Vec<u32>,
    /// What removes the file once nobody reads it any more.
    pub trash: Arc<Trash>,
}

impl Relocated {
    /// A row that no snapshot saw any more and that went nowhere.
    pub const DROPPED: u32 = u32::MAX;
}

/// The parts that are read from the file.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The whole file, mapped.
    pub bytes: Bytes,
    /// Footer and page index.
    pub parquet: Arc<ParquetMetaData>,
    /// The same with the Arrow schema, for readers; made once, because decoding the schema costs more than a row.
    pub reader: ArrowReaderMetadata,
    /// What helps to find keys, per row group.
    pub(super) groups: Arc<[GroupIndex]>,
}

impl Segment {
    /// Names a segment whose rows are of `schema`; nothing is read yet.
    pub fn new(
        meta: SegmentMeta,
        schema: Arc<TableSchema>,
        marks: Marks,
        partition: PartitionId,
        dir: &Path,
        disk: Arc<dyn Disk>,
        shared: Shared,
    ) -> Self {
        let path = dir.join(&meta.path);
        let key = |text: &str| schema.keys().normal_key(unhex(text));
        let (min_key, max_key) = (key(&meta.min_key), key(&meta.max_key));
        let (loaded, keys, relocated) = (Once::default(), Mutex::default(), OnceLock::new());
        let number = shared.pages.number();
        Self {
            meta,
            schema,
            partition,
            path,
            disk,
            marks,
            loaded,
            shared,
            number,
            relocated,
            min_key,
            max_key,
            keys,
        }
    }

    /// Where its rows went, if it was replaced.
    pub fn relocated(&self) -> Option<&Relocated> {
        self.relocated.get()
    }

    /// Says where its rows went. Its file is removed when the last version and view that name it are gone.
    pub(crate) fn relocate(&self, relocated: Relocated) {
        // Only one compaction at a time, which replaces a segment once.
        let _ = self.relocated.set(relocated);
    }

    /// Holds the mapped file against the manifest's checksum once more: what is copied to another file gets a checksum
    /// of its own there, which would hide what happened to it since it was loaded.
    ///
    /// # Errors
    /// See [`Segment::load`].
    pub(crate) fn verify(&self) -> Result<&Loaded> {
        let loaded = self.load()?;
        match crc32fast::hash(&loaded.bytes) == self.meta.crc32 {
            true => Ok(loaded),
            false => Err(self.damaged("the checksum does not match the manifest's any more")),
        }
    }

    /// Closes the partition.
    pub(crate) fn damaged(&self, reason: impl std::fmt::Display) -> Error {
        let reason = format!("{}: {reason}", self.meta.path);
        self.shared.damage.get_or_init(|| reason.clone());
        Error::PartitionDamaged { partition: self.partition.clone(), reason }
    }

    /// The values of a page, if they were read lately.
    pub(crate) fn kept_page(&self, page: Page) -> Option<ArrayRef> {
        self.shared.pages.get(self.number, page)
    }

    /// Keeps the values of a page for whoever reads another row of it.
    pub(crate) fn keep_page(&self, page: Page, values: ArrayRef) {
        self.shared.pages.keep(self.number, page, values);
    }

    /// What the manifest says of it.
    pub fn meta(&self) -> &SegmentMeta {
        &self.meta
    }

    /// The schema it was written with. Its columns have these names in the file, whatever they are called now.
    pub fn schema(&self) -> &Arc<TableSchema> {
        &self.schema
    }

    /// What the manifest says of the column at `at` of a newer schema, in terms of that schema; `None` if nothing.
    pub fn stats(&self, schema: &TableSchema, at: usize) -> Option<Cow<'_, ColumnStats>> {
        let column = &schema.columns()[at];
        let stored = self.meta.columns.iter().find(|stats| stats.id == column.id);
        match (stored, source(&self.schema, schema, at).ok()?) {
            (Some(stats), Source::Column(_)) => Some(Cow::Borrowed(stats)),
            (Some(stats), Source::Widened(there, types)) => {
                let first = &self.schema.columns()[there].data_type;
                let froms = std::iter::once(first).chain(&types);
                let widened =
                    froms.zip(&types).fold(stats.clone(), |stats, (from, to)| stats.widened(from, to));
                Some(Cow::Owned(widened))
            }
            (None, Source::Value(_) | Source::Null) => {
                let stats = ColumnStats::of_initial(column.id, schema.initial(at), self.meta.live_rows());
                Some(Cow::Owned(stats))
            }
            _ => None,
        }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Maps the file and parses its footer, once; the file's checksum is verified then.
    ///
    /// # Errors
    /// [`Error::PartitionDamaged`] if the file is missing or not what the manifest says; also on every later call. Another
    /// I/O error if it cannot be read now: the next call tries again.
    pub fn load(&self) -> Result<&Loaded> {
        self.loaded.get_or_read(|| self.read()).map_err(|unread| match unread {
            Unread::Damaged(reason) => self.damaged(reason),
            Unread::NotNow(error) => error,
        })
    }

    /// What [`Segment::load`] gives, if it was loaded before.
    pub(super) fn kept(&self) -> Option<&Loaded> {
        self.loaded.get()
    }

    fn read(&self) -> std::result::Result<Loaded, Unread> {
        let mapped = self.disk.open(&self.path).and_then(|file| file.map(Access::Whole));
        let bytes = mapped.map_err(|e| match Unread::io(&self.meta.path, e) {
            // The name is put before every damage.
            Unread::Damaged(_) => Unread::from("it is missing or cut short"),
            now => now,
        })?;
        Ok(self.parsed(bytes)?)
    }

    fn parsed(&self, bytes: Bytes) -> std::result::Result<Loaded, String> {
        if bytes.len() as u64 != self.meta.bytes {
            return Err(format!("{} bytes where the manifest says {}", bytes.len(), self.meta.bytes));
        }
        if crc32fast::hash(&bytes) != self.meta.crc32 {
            return Err("the checksum does not match the manifest's".into());
        }
        let mut reader = ParquetMetaDataReader::new().with_page_index_policy(PageIndexPolicy::Optional);
        reader.try_parse(&bytes).map_err(|e| e.to_string())?;
        let parquet = Arc::new(reader.finish().map_err(|e| e.to_string())?);
        let options = ArrowReaderOptions::new();
        let reader = ArrowReaderMetadata::try_new(parquet.clone(), options).map_err(|e| e.to_string())?;
        let groups = (0..parquet.num_row_groups()).map(|_| GroupIndex::default()).collect();
        Ok(Loaded { bytes, parquet, reader, groups })
    }

    /// Bytes it takes in memory, the mapped file apart.
    pub(crate) fn memory(&self) -> usize {
        let loaded = self.loaded.get();
        let parsed = loaded.map_or(0, |loaded| {
            let groups: usize = loaded.groups.iter().map(GroupIndex::memory).sum();
            loaded.parquet.memory_size() + groups
        });
        let keys: usize = self.keys.lock().iter().map(|block| block.memory()).sum();
        let own = size_of::<Self>() + self.path.as_os_str().len() + self.min_key.len() + self.max_key.len();
        own + self.meta.memory() - size_of::<SegmentMeta>() + self.marks.memory() + parsed + keys
    }

    /// Footer and page index; see [`Segment::load`].
    ///
    /// # Errors
    /// See [`Segment::load`].
    pub fn parquet_metadata(&self) -> Result<Arc<ParquetMetaData>> {
        Ok(self.load()?.parquet.clone())
    }

    /// A reader over the mapped file for Parquet's and DataFusion's decoders; cheap to make.
    ///
    /// # Errors
    /// See [`Segment::load`].
    pub fn reader(&self) -> Result<SegmentReader> {
        Ok(SegmentReader(self.load()?.clone()))
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        self.shared.pages.forget(self.number);
        if let Some(relocated) = self.relocated.get() {
            relocated.trash.remove(&self.path);
        }
    }
}

/// Reads slices of a mapped segment without copying.
#[derive(Debug, Clone)]
pub struct SegmentReader(Loaded);

impl AsyncFileReader for SegmentReader {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, ParquetResult<Bytes>> {
        let slice = usize::try_from(range.start)
            .ok()
            .zip(usize::try_from(range.end).ok())
            .filter(|(start, end)| start <= end && *end <= self.0.bytes.len())
            .map(|(start, end)| self.0.bytes.slice(start..end))
            .ok_or_else(|| ParquetError::EOF(format!("{range:?} is not in the file")));
        async move { slice }.boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        _: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, ParquetResult<Arc<ParquetMetaData>>> {
        let parquet = self.0.parquet.clone();
        async move { Ok(parquet) }.boxed()
    }
}
