//! Writing a segment: rows in key order into Parquet, live rows first, tombstones in row groups of their own.
//!
//! A segment is written aside, as `<purpose>.tmp`, and gets its name and its place in the partition only at the end: what
//! the partition looks like with it is not known before, and until then nothing could mean the file. When
//! [`SegmentWriter::finish`] returns, file and name are durable; no manifest names it yet. A writer that is dropped
//! removes what it wrote; what a crash leaves is removed when the partition is next loaded.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use kalamdb_wal::{Disk, DiskFile, durable};
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::SortingColumn;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;

use super::encode::{Columns, ROW_GROUP_ROWS, RowGroups};
use super::facts::{FACT, Facts, Finish};
use crate::error::{Error, Result};
use crate::ids::PartitionId;
use crate::manifest::SegmentMeta;
use crate::schema::{SEQ, TableSchema, UPDATED};

/// Rows per page, at most: what reading one row decodes of every column.
const PAGE_ROWS: usize = 4_096;
/// Bytes per page before compression, about, for the same reason.
const PAGE_BYTES: usize = 64 << 10;
/// Bytes of a column's dictionary. Whoever reads one row decodes all of it, and a column whose values hardly repeat fills
/// whatever is allowed before the writer gives up on a dictionary.
const DICTIONARY_BYTES: usize = 64 << 10;
/// Bytes gathered before they are written to the file.
const WRITE_BUFFER: usize = 1 << 20;
/// The metadata key that tells Parquet readers (and our own repair) a column's lasting id.
const FIELD_ID: &str = "PARQUET:field_id";
/// Field ids of the system columns begin here.
const SYSTEM_FIELD_IDS: u32 = 2_000_000_000;

/// What a segment is to hold.
#[derive(Debug)]
pub struct Spec<'a> {
    /// The partition it belongs to.
    pub partition: &'a PartitionId,
    /// The schema of its rows.
    pub schema: &'a Arc<TableSchema>,
    /// `zstd`, `snappy` or `none`.
    pub compression: &'a str,
    /// Expected rows, for sizing the bloom filters.
    pub rows: usize,
    /// Who writes it, part of the unfinished file's name: no two at a time in one partition.
    pub purpose: &'static str,
}

/// A segment being written.
pub struct SegmentWriter {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    aside: PathBuf,
    partition: PartitionId,
    schema: Arc<TableSchema>,
    file: Arc<dyn DiskFile>,
    row_groups: RowGroups,
    facts: Facts,
    /// True once live rows are done with.
    tombstones: bool,
    finished: bool,
}

impl SegmentWriter {
    /// Begins a segment in a partition's directory.
    ///
    /// # Errors
    /// [`Error::StorageFull`] or another I/O error.
    pub fn create(disk: &Arc<dyn Disk>, dir: &Path, spec: &Spec<'_>) -> Result<Self> {
        let aside = dir.join(format!("batch-{}.parquet.tmp", spec.purpose));
        let failed = |action: &str, e: io::Error| Error::io(format!("{action} {}", aside.display()), e);
        // Left by one that could not remove it.
        if disk.exists(&aside).map_err(|e| failed("look for", e))? {
            disk.remove_file(&aside).map_err(|e| failed("remove", e))?;
        }
        let file = disk.create(&aside).map_err(|e| failed("create", e))?;
        let row_groups = RowGroups::new(Sink::new(file.clone()), file_schema(spec.schema), properties(spec))?;
        Ok(Self {
            disk: disk.clone(),
            dir: dir.to_owned(),
            aside,
            partition: spec.partition.clone(),
            schema: spec.schema.clone(),
            file,
            row_groups,
            facts: Facts::new(spec.schema),
            tombstones: false,
            finished: false,
        })
    }

    /// Adds stored rows (with system columns); all live rows in key order, then all tombstones in key order.
    ///
    /// # Errors
    /// [`Error::StorageFull`] or another I/O error; [`Error::Internal`] for live rows after tombstones.
    pub fn push(&mut self, rows: &RecordBatch, tombstones: bool) -> Result<()> {
        if rows.num_rows() == 0 {
            return Ok(());
        }
        self.turn_to(tombstones)?;
        let cell = |column: usize, row| Ok(rows.column(column).slice(row, 1));
        self.facts.note_rows(&self.schema, rows.num_rows(), tombstones, cell)?;
        for (facts, column) in self.facts.columns(tombstones).into_iter().zip(rows.columns()) {
            facts.into_iter().for_each(|facts| facts.update(column));
        }
        self.row_groups.push(rows)
    }

    /// Adds all live rows, or all tombstones, at once: quicker where there is more than one processor.
    ///
    /// # Errors
    /// As [`SegmentWriter::push`], and those of `rows`.
    pub(crate) fn write(&mut self, rows: &impl Columns, tombstones: bool) -> Result<()> {
        if rows.len() == 0 {
            return Ok(());
        }
        self.turn_to(tombstones)?;
        let cell = |column, row| rows.column(column, row..row + 1);
        self.facts.note_rows(&self.schema, rows.len(), tombstones, cell)?;
        self.row_groups.write(rows, self.facts.columns(tombstones))
    }

    fn turn_to(&mut self, tombstones: bool) -> Result<()> {
        match (self.tombstones, tombstones) {
            (false, true) => self.end_live(),
            (true, false) => Err(Error::internal("write a segment", "live rows after tombstones")),
            _ => Ok(()),
        }
    }

    fn end_live(&mut self) -> Result<()> {
        self.row_groups.end()?;
        self.facts.live_row_groups = self.row_groups.count() as u32;
        self.tombstones = true;
        Ok(())
    }

    /// Rows added so far.
    pub fn rows(&self) -> u64 {
        self.facts.rows
    }

    /// Bytes in the file so far; rows of the row group under way are not among them.
    pub fn bytes(&self) -> u64 {
        self.row_groups.sink().written
    }

    /// Writes and syncs what there is, so that [`SegmentWriter::finish`] has little left to do.
    ///
    /// # Errors
    /// [`Error::StorageFull`] or another I/O error.
    pub fn settle(&mut self) -> Result<()> {
        if !self.tombstones {
            self.end_live()?;
        }
        self.row_groups.flush(false)?;
        self.file.sync_data().map_err(|e| self.failed("sync", e))
    }

    /// Ends the file and gives it its name. The delete vectors that `place` names must be durable: a whole segment says
    /// that they are.
    ///
    /// # Errors
    /// [`Error::StorageFull`] or another I/O error. Whether the name survives a crash is not known then.
    pub fn finish(mut self, place: Finish<'_>) -> Result<SegmentMeta> {
        if !self.tombstones {
            self.end_live()?;
        }
        for (key, value) in self.facts.key_values(&self.partition, &self.schema, &place)? {
            self.row_groups.note(format!("{FACT}{key}"), value);
        }
        self.row_groups.flush(true)?;
        self.file.sync_all().map_err(|e| self.failed("sync", e))?;
        let path = self.dir.join(place.file_name());
        if let Err(error) = durable::rename(self.disk.as_ref(), &self.aside, &path) {
            // Best effort: what stays is an orphan that the next load removes.
            let _ = self.disk.remove_file(&path);
            return Err(error.into());
        }
        self.finished = true;
        let sink = self.row_groups.sink();
        let (bytes, crc32) = (sink.written, sink.crc.clone().finalize());
        Ok(self.facts.meta(&self.schema, &place, bytes, crc32))
    }

    fn failed(&self, action: &str, error: io::Error) -> Error {
        Error::io(format!("{action} {}", self.aside.display()), error)
    }
}

impl Drop for SegmentWriter {
    fn drop(&mut self) {
        if !self.finished {
            let _ = self.disk.remove_file(&self.aside);
        }
    }
}

/// Parquet wraps the I/O error of our sink; a full disk must still be told from other failures.
pub(crate) fn parquet_error(error: ParquetError) -> Error {
    if let ParquetError::External(source) = &error
        && let Some(io) = source.downcast_ref::<io::Error>()
    {
        return Error::io("write a segment", io::Error::new(io.kind(), io.to_string()));
    }
    Error::internal("write a segment", error)
}

/// The stored schema with each column's lasting id, which Parquet readers see as its field id.
fn file_schema(schema: &TableSchema) -> SchemaRef {
    let ids = schema.columns().iter().map(|c| c.id.0).chain(SYSTEM_FIELD_IDS..);
    let fields = schema.storage().fields().iter().zip(ids).map(|(field, id)| {
        let mut metadata = field.metadata().clone();
        metadata.insert(FIELD_ID.into(), id.to_string());
        field.as_ref().clone().with_metadata(metadata)
    });
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// What a table's option of that name stands for.
pub(crate) fn compression(option: &str) -> Compression {
    match option {
        "none" => Compression::UNCOMPRESSED,
        "snappy" => Compression::SNAPPY,
        _ => Compression::ZSTD(ZstdLevel::default()),
    }
}

/// How such a segment is encoded.
pub fn properties(spec: &Spec<'_>) -> WriterProperties {
    let mut builder = WriterProperties::builder()
        .set_created_by(format!("kalamdb {}", env!("CARGO_PKG_VERSION")))
        .set_compression(compression(spec.compression))
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
        .set_data_page_row_count_limit(PAGE_ROWS)
        .set_data_page_size_limit(PAGE_BYTES)
        .set_dictionary_page_size_limit(DICTIONARY_BYTES)
        .set_statistics_enabled(EnabledStatistics::Page)
        .set_sorting_columns(Some(sorting_columns(spec.schema)));
    for name in [SEQ, UPDATED] {
        let path = ColumnPath::new(vec![name.into()]);
        builder = builder
            .set_column_dictionary_enabled(path.clone(), false)
            .set_column_encoding(path, Encoding::DELTA_BINARY_PACKED);
    }
    for index in spec.schema.key_indices() {
        let column = &spec.schema.columns()[*index];
        let path = ColumnPath::new(vec![column.name.clone()]);
        if let [only] = spec.schema.key_indices()
            && only == index
        {
            // No value comes twice, and sorted numbers have small differences.
            builder = builder.set_column_dictionary_enabled(path.clone(), false);
            if column.data_type.arrow().is_integer() {
                builder = builder.set_column_encoding(path.clone(), Encoding::DELTA_BINARY_PACKED);
            }
        }
        builder = builder
            .set_column_bloom_filter_enabled(path.clone(), true)
            .set_column_bloom_filter_max_ndv(path, spec.rows.clamp(1, ROW_GROUP_ROWS) as u64);
    }
    builder.build()
}

/// Leaf numbers equal positions up to the first array column; a key behind one is not announced as sorted.
fn sorting_columns(schema: &TableSchema) -> Vec<SortingColumn> {
    let nested =
        schema.columns().iter().position(|c| matches!(c.data_type, crate::types::DataType::Array(_)));
    let flat = nested.unwrap_or(schema.columns().len());
    let keys = schema.key_indices().iter().take_while(|i| **i < flat);
    keys.map(|i| SortingColumn { column_idx: *i as i32, descending: false, nulls_first: true }).collect()
}

/// Passes what the Parquet writer writes on to a file, in large pieces, and checksums it.
pub(crate) struct Sink {
    file: Arc<dyn DiskFile>,
    buffer: Vec<u8>,
    written: u64,
    crc: crc32fast::Hasher,
}

impl Sink {
    pub(crate) fn new(file: Arc<dyn DiskFile>) -> Self {
        let (buffer, crc) = (Vec::with_capacity(WRITE_BUFFER), crc32fast::Hasher::new());
        Self { file, buffer, written: 0, crc }
    }

    /// Bytes in the file so far.
    pub(crate) fn written(&self) -> u64 {
        self.written
    }

    /// The checksum of those bytes.
    pub(crate) fn crc32(&self) -> u32 {
        self.crc.clone().finalize()
    }
}

impl io::Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.buffer.len() + bytes.len() > WRITE_BUFFER {
            self.flush()?;
        }
        self.buffer.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if !self.buffer.is_empty() {
            self.file.write_all_at(&self.buffer, self.written)?;
            self.crc.update(&self.buffer);
            self.written += self.buffer.len() as u64;
            self.buffer.clear();
        }
        Ok(())
    }
}
