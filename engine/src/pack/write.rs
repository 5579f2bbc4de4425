//! Writing a pack: slices in the order of their users, in small pages so that one user is read by decoding little.
//!
//! When [`PackWriter::finish`] returns, file and name are durable; no manifest names it yet. A writer that is dropped
//! removes what it wrote.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, StringViewArray};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimestampMicrosecondType};
use kalamdb_wal::{Disk, DiskFile, durable};
use parquet::arrow::ArrowWriter;
use parquet::basic::Encoding;
use parquet::file::metadata::{KeyValue, SortingColumn};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;

use super::manifest::{FORMAT, PackMeta};
use super::{STATE, USER, file_name};
use crate::catalog::Table;
use crate::error::{Error, Result};
use crate::ids::{Seq, TableId, UserId};
use crate::schema::{DELETED, SEQ, TableSchema, UPDATED};
use crate::segment::facts::FACT;
use crate::segment::write::{Sink, compression, parquet_error};

/// Rows per page: what has to be decoded, at least, to read one user.
const PAGE_ROWS: usize = 1_024;
const ROW_GROUP_ROWS: usize = 131_072;
/// Rows gathered before they are handed to the Parquet writer.
const BATCH_ROWS: usize = 8_192;

/// A pack being written.
pub(crate) struct PackWriter<'a> {
    disk: &'a dyn Disk,
    dir: &'a Path,
    aside: PathBuf,
    file: Arc<dyn DiskFile>,
    parquet: ArrowWriter<Sink>,
    schema: SchemaRef,
    waiting: Vec<RecordBatch>,
    waiting_rows: usize,
    meta: PackMeta,
    table: TableId,
    finished: bool,
}

impl<'a> PackWriter<'a> {
    /// Begins a pack; `users` is about how many users it will have.
    pub(crate) fn create(
        disk: &'a dyn Disk,
        dir: &'a Path,
        table: &Table,
        id: u64,
        users: usize,
    ) -> Result<Self> {
        let path = file_name(id);
        let aside = dir.join(format!("{path}.tmp"));
        let failed = |action: &str, e: io::Error| Error::io(format!("{action} {}", aside.display()), e);
        if disk.exists(&aside).map_err(|e| failed("look for", e))? {
            disk.remove_file(&aside).map_err(|e| failed("remove", e))?;
        }
        let file = disk.create(&aside).map_err(|e| failed("create", e))?;
        let file_schema = pack_schema(&table.schema);
        let parquet = ArrowWriter::try_new(
            Sink::new(file.clone()),
            file_schema.clone(),
            Some(properties(table, users)),
        );
        let nobody = UserId::new("-")?;
        let meta = PackMeta {
            id,
            path,
            rows: 0,
            users: 0,
            bytes: 0,
            crc32: 0,
            schema_version: table.schema.version(),
            created_at: 0,
            min_user: nobody.clone(),
            max_user: nobody,
            min_state: Seq::MAX,
            max_state: 0,
            oldest_tombstone: None,
        };
        Ok(Self {
            disk,
            dir,
            aside,
            file,
            parquet: parquet.map_err(parquet_error)?,
            schema: file_schema,
            waiting: Vec::new(),
            waiting_rows: 0,
            meta,
            table: table.id,
            finished: false,
        })
    }

    /// Adds a user's slice: stored rows (with system columns), live ones in key order, then tombstones in key order. Users
    /// come in order, each once; a slice has at least one row.
    pub(crate) fn push(&mut self, user: &UserId, state: Seq, rows: &[RecordBatch]) -> Result<()> {
        if self.meta.users == 0 {
            self.meta.min_user = user.clone();
        } else if *user <= self.meta.max_user {
            return Err(Error::internal("write a pack", "users out of order"));
        }
        self.meta.max_user = user.clone();
        self.meta.users += 1;
        self.meta.min_state = self.meta.min_state.min(state);
        self.meta.max_state = self.meta.max_state.max(state);
        for rows in rows.iter().filter(|batch| batch.num_rows() > 0) {
            let count = rows.num_rows();
            let users: StringViewArray = std::iter::repeat_n(Some(user.as_str()), count).collect();
            let mut columns: Vec<ArrayRef> =
                vec![Arc::new(users), Arc::new(Int64Array::from(vec![state as i64; count]))];
            columns.extend(rows.columns().iter().cloned());
            let batch = RecordBatch::try_new(self.schema.clone(), columns);
            self.waiting.push(batch.map_err(|e| Error::internal("write a pack", e))?);
            self.waiting_rows += count;
            self.meta.rows += count as u64;
            let oldest = self.meta.oldest_tombstone.into_iter().chain(oldest_tombstone(rows)).min();
            self.meta.oldest_tombstone = oldest;
        }
        if self.waiting_rows >= BATCH_ROWS { self.drain() } else { Ok(()) }
    }

    fn drain(&mut self) -> Result<()> {
        let rows =
            concat_batches(&self.schema, &self.waiting).map_err(|e| Error::internal("write a pack", e))?;
        self.waiting.clear();
        self.waiting_rows = 0;
        self.parquet.write(&rows).map_err(parquet_error)
    }

    /// Users and bytes so far; what is not encoded yet counts as if it were not compressed.
    pub(crate) fn size(&self) -> (u64, usize) {
        (self.meta.users, self.parquet.inner().written() as usize + self.parquet.in_progress_size())
    }

    /// Ends the file and gives it its name. `replaces` are the packs whose slices it has.
    ///
    /// # Errors
    /// [`Error::StorageFull`] or another I/O error. Whether the name survives a crash is not known then.
    pub(crate) fn finish(mut self, replaces: &[u64], now: i64) -> Result<PackMeta> {
        self.drain()?;
        self.meta.created_at = now;
        for (key, value) in self.facts(replaces) {
            self.parquet.append_key_value_metadata(KeyValue::new(format!("{FACT}{key}"), value));
        }
        self.parquet.finish().map_err(parquet_error)?;
        let failed = |action: &str, e: io::Error| Error::io(format!("{action} {}", self.aside.display()), e);
        self.parquet.sync().map_err(|e| failed("write", e))?;
        self.file.sync_all().map_err(|e| failed("sync", e))?;
        let path = self.dir.join(&self.meta.path);
        if let Err(error) = durable::rename(self.disk, &self.aside, &path) {
            let _ = self.disk.remove_file(&path);
            return Err(error.into());
        }
        self.finished = true;
        (self.meta.bytes, self.meta.crc32) = (self.parquet.inner().written(), self.parquet.inner().crc32());
        Ok(self.meta.clone())
    }

    /// The manifest's facts, so that a lost manifest can be rebuilt from the files.
    fn facts(&self, replaces: &[u64]) -> Vec<(&'static str, String)> {
        let meta = &self.meta;
        let replaces: Vec<String> = replaces.iter().map(u64::to_string).collect();
        let mut facts = vec![
            ("pack_format", FORMAT.to_string()),
            ("table_id", self.table.to_string()),
            ("pack_id", meta.id.to_string()),
            ("users", meta.users.to_string()),
            ("schema_version", meta.schema_version.to_string()),
            ("created_at", meta.created_at.to_string()),
            ("min_user", meta.min_user.to_string()),
            ("max_user", meta.max_user.to_string()),
            ("min_state", meta.min_state.to_string()),
            ("max_state", meta.max_state.to_string()),
            ("replaces", replaces.join(",")),
        ];
        facts.extend(meta.oldest_tombstone.map(|at| ("oldest_tombstone", at.to_string())));
        facts
    }
}

impl Drop for PackWriter<'_> {
    fn drop(&mut self) {
        if !self.finished {
            // Best effort: what stays is an orphan that the next open of the table's packs removes.
            let _ = self.disk.remove_file(&self.aside);
        }
    }
}

/// When the first of these stored rows that are deleted was, microseconds since the epoch.
fn oldest_tombstone(rows: &RecordBatch) -> Option<i64> {
    let updated = rows.column_by_name(UPDATED)?.as_primitive_opt::<TimestampMicrosecondType>()?;
    let deleted = rows.column_by_name(DELETED)?.as_boolean_opt()?;
    deleted.values().set_indices().map(|row| updated.value(row)).min()
}

fn pack_schema(schema: &TableSchema) -> SchemaRef {
    let mut fields =
        vec![Field::new(USER, DataType::Utf8View, false), Field::new(STATE, DataType::Int64, false)];
    fields.extend(schema.storage().fields().iter().map(|field| field.as_ref().clone()));
    Arc::new(Schema::new(fields))
}

fn properties(table: &Table, users: usize) -> WriterProperties {
    let mut builder = WriterProperties::builder()
        .set_created_by(format!("kalamdb {}", env!("CARGO_PKG_VERSION")))
        .set_compression(compression(table.options.compression()))
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
        .set_data_page_row_count_limit(PAGE_ROWS)
        .set_statistics_enabled(EnabledStatistics::Page)
        // Users are looked up by the bounds of pages: they must be exact.
        .set_column_index_truncate_length(None)
        .set_statistics_truncate_length(None)
        .set_sorting_columns(Some(vec![SortingColumn {
            column_idx: 0,
            descending: false,
            nulls_first: true,
        }]));
    for name in [STATE, SEQ, UPDATED] {
        let path = ColumnPath::new(vec![name.into()]);
        builder = builder
            .set_column_dictionary_enabled(path.clone(), false)
            .set_column_encoding(path, Encoding::DELTA_BINARY_PACKED);
    }
    let path = ColumnPath::new(vec![USER.into()]);
    builder
        .set_column_bloom_filter_enabled(path.clone(), true)
        .set_column_bloom_filter_max_ndv(path, users.clamp(1, ROW_GROUP_ROWS) as u64)
        .build()
}
