//! Writing a segment: rows in key order into Parquet, live rows first, tombstones in row groups of their own.
//!
//! When [`write`] returns, the file and its name are durable; nothing refers to it yet. A failure leaves at most an
//! orphan, which is removed at once if possible and otherwise when the partition is next loaded.

use std::io;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{Array, RecordBatch};
use arrow::datatypes::{Schema, SchemaRef};
use kalamdb_wal::{Disk, DiskFile};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::file::metadata::{KeyValue, SortingColumn};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;

use super::find::hex;
use crate::error::{Error, Result};
use crate::ids::{PartitionId, Seq};
use crate::manifest::SegmentMeta;
use crate::schema::{SEQ, TableSchema, UPDATED};
use crate::stats::Gather;

/// Rows per row group: small enough that a key lookup or a selective scan decodes little.
const ROW_GROUP_ROWS: usize = 131_072;
/// Bytes gathered before they are written to the file.
const WRITE_BUFFER: usize = 1 << 20;
/// The metadata key that tells Parquet readers (and our own repair) a column's lasting id.
const FIELD_ID: &str = "PARQUET:field_id";
/// What the names of our own facts in a file's key-value metadata begin with.
pub(crate) const FACT: &str = "kalamdb.";
/// Field ids of the system columns begin here.
const SYSTEM_FIELD_IDS: u32 = 2_000_000_000;

/// What a segment is to be.
#[derive(Debug)]
pub struct Spec<'a> {
    /// The partition it belongs to.
    pub partition: &'a PartitionId,
    /// Its id, new in the partition; the file is `batch-<id>.parquet`.
    pub id: u64,
    /// Compaction level.
    pub level: u32,
    /// The schema of its rows.
    pub schema: &'a TableSchema,
    /// `zstd`, `snappy` or `none`.
    pub compression: &'a str,
    /// Time of writing, microseconds since the epoch.
    pub now: i64,
    /// The partition's state before and with this segment: every commit after the one and up to the other is in it.
    pub commits: (Seq, Seq),
    /// Expected rows, for sizing the bloom filters.
    pub rows: usize,
}

/// Writes a segment from batches of stored rows (with system columns), each sequence sorted by key. `None` if both are
/// empty.
///
/// # Errors
/// [`Error::StorageFull`] or another I/O error; no file is left behind then, if it can be helped.
pub fn write(
    disk: &dyn Disk,
    dir: &Path,
    spec: &Spec<'_>,
    live: impl Iterator<Item = Result<RecordBatch>>,
    tombstones: impl Iterator<Item = Result<RecordBatch>>,
) -> Result<Option<SegmentMeta>> {
    let name = format!("batch-{}.parquet", spec.id);
    let path = dir.join(&name);
    let written = write_file(disk, &path, spec, live, tombstones).and_then(|written| match written {
        Some(written) => {
            disk.sync_dir(dir).map_err(|e| Error::io(format!("sync {}", dir.display()), e))?;
            Ok(Some(written.meta(spec, name)))
        }
        None => Ok(None),
    });
    if !matches!(written, Ok(Some(_))) {
        // Best effort: what stays is an orphan that the next load removes.
        let _ = disk.remove_file(&path);
    }
    written
}

fn write_file(
    disk: &dyn Disk,
    path: &Path,
    spec: &Spec<'_>,
    live: impl Iterator<Item = Result<RecordBatch>>,
    tombstones: impl Iterator<Item = Result<RecordBatch>>,
) -> Result<Option<Written>> {
    let failed = |action: &str, e: io::Error| Error::io(format!("{action} {}", path.display()), e);
    // An orphan of this name can be left from a flush that crashed before its manifest.
    if disk.exists(path).map_err(|e| failed("look for", e))? {
        disk.remove_file(path).map_err(|e| failed("remove", e))?;
    }
    let file = disk.create(path).map_err(|e| failed("create", e))?;
    let schema = file_schema(spec.schema);
    let sink = Sink {
        file: file.clone(),
        buffer: Vec::with_capacity(WRITE_BUFFER),
        written: 0,
        crc: crc32fast::Hasher::new(),
    };
    let mut writer =
        ArrowWriter::try_new(sink, schema.clone(), Some(properties(spec))).map_err(parquet_error)?;
    let mut facts = Written::new(spec.schema);
    for batch in live {
        facts.push(&mut writer, &schema, spec.schema, &batch?, false)?;
    }
    writer.flush().map_err(parquet_error)?;
    facts.live_row_groups = writer.flushed_row_groups().len() as u32;
    for batch in tombstones {
        facts.push(&mut writer, &schema, spec.schema, &batch?, true)?;
    }
    if facts.rows == 0 {
        return Ok(None);
    }
    for (key, value) in facts.key_values(spec)? {
        writer.append_key_value_metadata(KeyValue::new(format!("{FACT}{key}"), value));
    }
    writer.finish().map_err(parquet_error)?;
    let sink = writer.inner_mut();
    io::Write::flush(sink).map_err(|e| failed("write", e))?;
    facts.bytes = sink.written;
    facts.crc32 = sink.crc.clone().finalize();
    file.sync_all().map_err(|e| failed("sync", e))?;
    Ok(Some(facts))
}

/// Parquet wraps the I/O error of our sink; a full disk must still be told from other failures.
fn parquet_error(error: parquet::errors::ParquetError) -> Error {
    if let parquet::errors::ParquetError::External(source) = &error
        && let Some(io) = source.downcast_ref::<io::Error>()
    {
        return Error::io("write a segment", io::Error::new(io.kind(), io.to_string()));
    }
    Error::internal("write a segment", error)
}

/// What is learnt while writing.
struct Written {
    rows: u64,
    tombstones: u64,
    live_row_groups: u32,
    bytes: u64,
    crc32: u32,
    seqs: Option<(Seq, Seq)>,
    keys: Option<(Vec<u8>, Vec<u8>)>,
    columns: Vec<Gather>,
}

impl Written {
    fn new(schema: &TableSchema) -> Self {
        let columns = schema.columns().iter().map(|c| Gather::new(c.id)).collect();
        Self {
            rows: 0,
            tombstones: 0,
            live_row_groups: 0,
            bytes: 0,
            crc32: 0,
            seqs: None,
            keys: None,
            columns,
        }
    }

    fn push(
        &mut self,
        writer: &mut ArrowWriter<Sink>,
        file: &SchemaRef,
        schema: &TableSchema,
        batch: &RecordBatch,
        tombstones: bool,
    ) -> Result<()> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        self.rows += batch.num_rows() as u64;
        if tombstones {
            self.tombstones += batch.num_rows() as u64;
        } else {
            self.columns.iter_mut().zip(batch.columns()).for_each(|(stats, column)| stats.update(column));
        }
        self.note_seqs(batch);
        self.note_keys(schema, batch)?;
        let batch = RecordBatch::try_new(file.clone(), batch.columns().to_vec());
        writer.write(&batch.map_err(|e| Error::internal("write a segment", e))?).map_err(parquet_error)
    }

    fn note_seqs(&mut self, batch: &RecordBatch) {
        let column = batch.column(batch.num_columns() - 3);
        let seqs = arrow::array::AsArray::as_primitive::<arrow::datatypes::Int64Type>(column.as_ref());
        let bounds = (arrow::compute::min(seqs), arrow::compute::max(seqs));
        if let (Some(min), Some(max)) = bounds {
            let (min, max) = (min as Seq, max as Seq);
            let (low, high) = self.seqs.unwrap_or((min, max));
            self.seqs = Some((low.min(min), high.max(max)));
        }
    }

    /// Batches come sorted, so the first and last row bound each.
    fn note_keys(&mut self, schema: &TableSchema, batch: &RecordBatch) -> Result<()> {
        let ends = |row: usize| {
            let columns: Vec<_> =
                schema.key_indices().iter().map(|i| batch.column(*i).slice(row, 1)).collect();
            schema.keys().convert_columns(&columns).map_err(|e| Error::internal("encode a key", e))
        };
        let (first, last) = (ends(0)?, ends(batch.num_rows() - 1)?);
        let (first, last) = (first.row(0).as_ref().to_vec(), last.row(0).as_ref().to_vec());
        self.keys = Some(match self.keys.take() {
            Some((low, high)) => (low.min(first), high.max(last)),
            None => (first, last),
        });
        Ok(())
    }

    /// The same facts that go into the manifest, so that a lost manifest can be rebuilt from the files.
    fn key_values(&self, spec: &Spec<'_>) -> Result<Vec<(&'static str, String)>> {
        let (min_seq, max_seq) = self.seqs.unwrap_or_default();
        let (min_key, max_key) =
            self.keys.as_ref().map(|(min, max)| (hex(min), hex(max))).unwrap_or_default();
        let columns: Vec<_> = self.columns.iter().cloned().map(Gather::finish).collect();
        let columns = serde_json::to_string(&columns).map_err(|e| Error::internal("write a segment", e))?;
        let mut facts = vec![
            ("format_version", crate::manifest::FORMAT.to_string()),
            ("table_id", spec.partition.table.to_string()),
            ("segment_id", spec.id.to_string()),
            ("level", spec.level.to_string()),
            ("live_row_groups", self.live_row_groups.to_string()),
            ("tombstones", self.tombstones.to_string()),
            ("min_seq", min_seq.to_string()),
            ("max_seq", max_seq.to_string()),
            ("schema_version", spec.schema.version().to_string()),
            ("created_at", spec.now.to_string()),
            ("after_seq", spec.commits.0.to_string()),
            ("flushed_seq", spec.commits.1.to_string()),
            ("min_key", min_key),
            ("max_key", max_key),
            ("columns", columns),
        ];
        if let Some(user) = &spec.partition.user {
            facts.push(("user_id", user.to_string()));
        }
        Ok(facts)
    }

    fn meta(self, spec: &Spec<'_>, path: String) -> SegmentMeta {
        let (min_seq, max_seq) = self.seqs.unwrap_or_default();
        let (min_key, max_key) = self.keys.unwrap_or_default();
        SegmentMeta {
            id: spec.id,
            path,
            level: spec.level,
            rows: self.rows,
            live_row_groups: self.live_row_groups,
            tombstones: self.tombstones,
            bytes: self.bytes,
            min_seq,
            max_seq,
            schema_version: spec.schema.version(),
            created_at: spec.now,
            crc32: self.crc32,
            min_key: hex(&min_key),
            max_key: hex(&max_key),
            columns: self.columns.into_iter().map(Gather::finish).collect(),
            deletes_path: None,
            deleted_rows: 0,
        }
    }
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

fn properties(spec: &Spec<'_>) -> WriterProperties {
    let compression = match spec.compression {
        "none" => Compression::UNCOMPRESSED,
        "snappy" => Compression::SNAPPY,
        _ => Compression::ZSTD(ZstdLevel::default()),
    };
    let mut builder = WriterProperties::builder()
        .set_created_by(format!("kalamdb {}", env!("CARGO_PKG_VERSION")))
        .set_compression(compression)
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
        .set_statistics_enabled(EnabledStatistics::Page)
        .set_sorting_columns(Some(sorting_columns(spec.schema)));
    for name in [SEQ, UPDATED] {
        let path = ColumnPath::new(vec![name.into()]);
        builder = builder
            .set_column_dictionary_enabled(path.clone(), false)
            .set_column_encoding(path, Encoding::DELTA_BINARY_PACKED);
    }
    for index in spec.schema.key_indices() {
        let path = ColumnPath::new(vec![spec.schema.columns()[*index].name.clone()]);
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
struct Sink {
    file: Arc<dyn DiskFile>,
    buffer: Vec<u8>,
    written: u64,
    crc: crc32fast::Hasher,
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
