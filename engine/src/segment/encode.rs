//! Rows into row groups of a Parquet file: batch by batch as they come, or all at once, column by column.
//!
//! Rows that are all there already are encoded by several threads, each taking the next column of a row group that nobody
//! has. A column is put in order and encoded piece by piece, so that only encoded row groups are held as a whole, as one
//! is when batches come one by one. Where rows are wide these are no more than one at a time either.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::LazyLock;
use std::thread::{self, available_parallelism};

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{Field, SchemaRef};
use parking_lot::Mutex;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::{
    ArrowColumnChunk, ArrowColumnWriter, ArrowRowGroupWriterFactory, compute_leaves,
};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;

use super::write::{Sink, parquet_error};
use crate::error::{Error, Result};
use crate::stats::Gather;

/// Rows per row group: small enough that a key lookup or a selective scan decodes little.
pub(super) const ROW_GROUP_ROWS: usize = 131_072;
/// Rows of a column that are put in order and encoded at a time. Fewer are not worth a thread.
const PIECE_ROWS: usize = 8_192;
/// Bytes of rows whose row groups are encoded at the same time, if one does not have more. Encoded ones are held until they
/// are written in order.
const HELD_BYTES: usize = 128 << 20;
/// Threads that encode: no more than this many, nor than there are processors.
const MAX_THREADS: usize = 4;

/// Rows that can be had column by column, in the order they get in the file.
pub(crate) trait Columns: Sync {
    /// How many.
    fn len(&self) -> usize;
    /// About how many bytes of memory they take.
    fn bytes(&self) -> usize;
    /// A stored column, system columns included, of the rows in a range.
    fn column(&self, at: usize, rows: Range<usize>) -> Result<ArrayRef>;
}

/// A Parquet file and its row group under way.
pub(super) struct RowGroups {
    file: SerializedFileWriter<Sink>,
    factory: ArrowRowGroupWriterFactory,
    schema: SchemaRef,
    under_way: Option<RowGroup>,
}

struct RowGroup {
    columns: Vec<ArrowColumnWriter>,
    rows: usize,
}

impl RowGroups {
    pub(super) fn new(sink: Sink, schema: SchemaRef, properties: WriterProperties) -> Result<Self> {
        // It adds the Arrow schema to the file's metadata.
        let writer = ArrowWriter::try_new(sink, schema.clone(), Some(properties)).map_err(parquet_error)?;
        let (file, factory) = writer.into_serialized_writer().map_err(parquet_error)?;
        Ok(Self { file, factory, schema, under_way: None })
    }

    /// Row groups that are done.
    pub(super) fn count(&self) -> usize {
        self.file.flushed_row_groups().len()
    }

    /// What they are written to.
    pub(super) fn sink(&self) -> &Sink {
        self.file.inner()
    }

    /// Adds rows to the row group under way, and to further ones when it is full.
    ///
    /// # Errors
    /// [`Error::StorageFull`] or another I/O error.
    pub(super) fn push(&mut self, batch: &RecordBatch) -> Result<()> {
        let mut from = 0;
        while from < batch.num_rows() {
            let group = match &mut self.under_way {
                Some(group) => group,
                none => none.insert(RowGroup {
                    columns: writers(&self.factory, self.file.flushed_row_groups().len())?,
                    rows: 0,
                }),
            };
            let taken = (ROW_GROUP_ROWS - group.rows).min(batch.num_rows() - from);
            for ((field, writer), column) in
                self.schema.fields().iter().zip(&mut group.columns).zip(batch.columns())
            {
                write(writer, field, &column.slice(from, taken))?;
            }
            from += taken;
            group.rows += taken;
            if group.rows == ROW_GROUP_ROWS {
                self.end()?;
            }
        }
        Ok(())
    }

    /// Ends the row group under way, if there is one.
    ///
    /// # Errors
    /// [`Error::StorageFull`] or another I/O error.
    pub(super) fn end(&mut self) -> Result<()> {
        let Some(group) = self.under_way.take() else { return Ok(()) };
        let chunks = group.columns.into_iter().map(|writer| writer.close().map_err(parquet_error));
        let chunks = chunks.collect::<Result<_>>()?;
        self.append(chunks)
    }

    /// Writes rows as row groups of their own. What is learnt of column `at` goes to `facts[at]`, if there is any.
    ///
    /// # Errors
    /// [`Error::StorageFull`] or another I/O error; those of `rows`.
    pub(super) fn write(&mut self, rows: &dyn Columns, facts: Vec<Option<&mut Gather>>) -> Result<()> {
        self.end()?;
        let facts: Vec<_> = facts.into_iter().map(|facts| facts.map(Mutex::new)).collect();
        // Of one size, so that threads that have one each are done together.
        let count = rows.len().div_ceil(ROW_GROUP_ROWS).max(1);
        let size = rows.len().div_ceil(count).max(1);
        let groups = (0..rows.len()).step_by(size).map(|first| first..rows.len().min(first + size));
        let groups: Vec<_> = groups.collect();
        let threads = if rows.len() <= PIECE_ROWS { 1 } else { threads() };
        let at_once = (HELD_BYTES / (rows.bytes() / count).max(1)).clamp(1, threads);
        for groups in groups.chunks(at_once) {
            for chunks in self.encode(rows, groups, &facts, threads)? {
                self.append(chunks)?;
            }
        }
        Ok(())
    }

    /// Encodes row groups, the next ones of the file.
    fn encode(
        &self,
        rows: &dyn Columns,
        groups: &[Range<usize>],
        facts: &[Option<Mutex<&mut Gather>>],
        threads: usize,
    ) -> Result<Vec<Vec<ArrowColumnChunk>>> {
        let mut columns = Vec::new();
        for (group, range) in groups.iter().enumerate() {
            let writers = writers(&self.factory, self.count() + group)?;
            let parts = self.schema.fields().iter().zip(writers).zip(facts).enumerate();
            columns.extend(parts.map(|(at, ((field, writer), facts))| {
                let place = (group, at);
                Column { place, rows: range.clone(), field, writer, facts: facts.as_ref() }
            }));
        }
        // Taken from the end: texts first, which take longest.
        columns.sort_by_key(|column| !column.field.data_type().is_primitive());
        let threads = threads.min(columns.len());
        let columns = Mutex::new(columns);
        let encoded = Mutex::new(BTreeMap::new());
        let work = || -> Result<()> {
            loop {
                let Some(column) = columns.lock().pop() else { return Ok(()) };
                let place = column.place;
                match column.encode(rows) {
                    Ok(chunk) => drop(encoded.lock().insert(place, chunk)),
                    Err(error) => {
                        columns.lock().clear();
                        return Err(error);
                    }
                }
            }
        };
        thread::scope(|scope| {
            // Where there can be no more threads, this one does it all.
            let spawn = |_| thread::Builder::new().name("encode".into()).spawn_scoped(scope, work).ok();
            let others: Vec<_> = (1..threads).filter_map(spawn).collect();
            let own = work();
            let panicked = |_| Err(Error::internal("write a segment", "a thread panicked"));
            others.into_iter().map(|other| other.join().unwrap_or_else(panicked)).fold(own, Result::and)
        })?;
        let mut encoded = encoded.into_inner().into_values();
        let columns = self.schema.fields().len();
        Ok(groups.iter().map(|_| encoded.by_ref().take(columns).collect()).collect())
    }

    fn append(&mut self, chunks: Vec<ArrowColumnChunk>) -> Result<()> {
        let mut group = self.file.next_row_group().map_err(parquet_error)?;
        for chunk in chunks {
            chunk.append_to_row_group(&mut group).map_err(parquet_error)?;
        }
        group.close().map(drop).map_err(parquet_error)
    }

    /// Adds a fact to the file's metadata.
    pub(super) fn note(&mut self, key: String, value: String) {
        self.file.append_key_value_metadata(KeyValue::new(key, value));
    }

    /// Writes everything to the file; with what is at its end if it is `complete`.
    ///
    /// # Errors
    /// [`Error::StorageFull`] or another I/O error.
    pub(super) fn flush(&mut self, complete: bool) -> Result<()> {
        self.end()?;
        if complete {
            self.file.finish().map_err(parquet_error)?;
        }
        self.file.flush().map_err(|e| Error::io("write a segment", e))
    }
}

/// A column of a row group that is encoded at once.
struct Column<'a, 'b> {
    /// Which row group, and which column of it.
    place: (usize, usize),
    rows: Range<usize>,
    field: &'a Field,
    writer: ArrowColumnWriter,
    facts: Option<&'a Mutex<&'b mut Gather>>,
}

impl Column<'_, '_> {
    fn encode(mut self, rows: &dyn Columns) -> Result<ArrowColumnChunk> {
        for first in self.rows.clone().step_by(PIECE_ROWS) {
            let piece = rows.column(self.place.1, first..self.rows.end.min(first + PIECE_ROWS))?;
            if let Some(facts) = self.facts {
                facts.lock().update(&piece);
            }
            write(&mut self.writer, self.field, &piece)?;
        }
        self.writer.close().map_err(parquet_error)
    }
}

/// A writer for each column of a row group: of our types, each is one column of Parquet.
fn writers(factory: &ArrowRowGroupWriterFactory, group: usize) -> Result<Vec<ArrowColumnWriter>> {
    factory.create_column_writers(group).map_err(parquet_error)
}

fn write(writer: &mut ArrowColumnWriter, field: &Field, values: &ArrayRef) -> Result<()> {
    // The writer would take either, and write something else.
    if values.data_type() != field.data_type() || (!field.is_nullable() && values.null_count() > 0) {
        return Err(Error::internal("write a segment", format!("{field} cannot hold these values")));
    }
    for leaf in compute_leaves(field, values).map_err(parquet_error)? {
        writer.write(&leaf).map_err(parquet_error)?;
    }
    Ok(())
}

fn threads() -> usize {
    // Not free: it reads the limits of the process's control group.
    static PROCESSORS: LazyLock<usize> = LazyLock::new(|| available_parallelism().map_or(1, usize::from));
    PROCESSORS.min(MAX_THREADS)
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use arrow::array::{Array, Int64Array, ListArray, StringViewArray};
    use arrow::compute::concat_batches;
    use arrow::datatypes::{Int64Type, Schema};
    use kalamdb_wal::Disk;
    use kalamdb_wal::sim::SimDisk;
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

    use super::*;
    use crate::ids::ColumnId;
    use crate::stats::Bound;

    const ROWS: usize = ROW_GROUP_ROWS + 1_001;

    /// Rows that are said to be so large; a column may fail at a row.
    struct Given {
        rows: RecordBatch,
        bytes: usize,
        fails: Option<(usize, usize)>,
    }

    impl Columns for Given {
        fn len(&self) -> usize {
            self.rows.num_rows()
        }

        fn bytes(&self) -> usize {
            self.bytes
        }

        fn column(&self, at: usize, rows: Range<usize>) -> Result<ArrayRef> {
            match self.fails {
                Some((column, row)) if column == at && rows.contains(&row) => Err(Error::Conflict),
                _ => Ok(self.rows.column(at).slice(rows.start, rows.len())),
            }
        }
    }

    fn given(bytes: usize) -> Given {
        let numbers = Int64Array::from_iter_values(0..ROWS as i64);
        let texts: StringViewArray =
            (0..ROWS).map(|row| (row % 5 > 0).then(|| format!("text number {row}"))).collect();
        let lists = (0..ROWS).map(|row| (row % 3 > 0).then(|| vec![Some(row as i64), None]));
        let lists = ListArray::from_iter_primitive::<Int64Type, _, _>(lists);
        let field = |name, array: &dyn Array, nullable| Field::new(name, array.data_type().clone(), nullable);
        let fields = vec![field("n", &numbers, false), field("t", &texts, true), field("l", &lists, true)];
        let columns: Vec<ArrayRef> = vec![Arc::new(numbers), Arc::new(texts), Arc::new(lists)];
        let rows = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap();
        Given { rows, bytes, fails: None }
    }

    fn file(disk: &SimDisk, schema: SchemaRef) -> RowGroups {
        let sink = Sink::new(disk.create(Path::new("/file")).unwrap());
        RowGroups::new(sink, schema, WriterProperties::builder().build()).unwrap()
    }

    #[test]
    fn rows_written_at_once_are_read_back_in_order_in_groups_of_one_size() {
        // All at the same time, and one group after the other.
        for bytes in [0, usize::MAX] {
            let (disk, given) = (SimDisk::new(), given(bytes));
            let mut file = file(&disk, given.rows.schema());
            let mut numbers = Gather::new(ColumnId(1));
            file.write(&given, vec![Some(&mut numbers), None, None]).unwrap();
            file.push(&given.rows.slice(0, 10)).unwrap();
            file.flush(true).unwrap();
            let bytes = disk.contents(Path::new("/file")).unwrap();
            let reader = ParquetRecordBatchReaderBuilder::try_new(bytes::Bytes::from(bytes)).unwrap();
            let sizes: Vec<i64> =
                reader.metadata().row_groups().iter().map(|group| group.num_rows()).collect();
            assert_eq!(sizes, [66_037, 66_036, 10]);
            let read: Vec<RecordBatch> = reader.build().unwrap().map(Result::unwrap).collect();
            let read = concat_batches(&given.rows.schema(), &read).unwrap();
            assert_eq!(read.slice(0, ROWS), given.rows);
            assert_eq!(read.slice(ROWS, 10), given.rows.slice(0, 10));
            let learnt = numbers.finish();
            assert_eq!((learnt.min, learnt.max), (Some(Bound::Int(0)), Some(Bound::Int(ROWS as i64 - 1))));
        }
    }

    #[test]
    fn a_column_that_fails_or_has_nulls_it_must_not_have_fails_the_whole() {
        let disk = SimDisk::new();
        let mut failing = given(0);
        failing.fails = Some((1, ROWS - 1));
        let failed = file(&disk, failing.rows.schema()).write(&failing, vec![None, None, None]);
        assert!(matches!(failed, Err(Error::Conflict)), "{failed:?}");
        let given = given(0);
        let fields = given.rows.schema().fields().clone();
        let strict = fields.iter().map(|field| field.as_ref().clone().with_nullable(false));
        let schema = Arc::new(Schema::new(strict.collect::<Vec<_>>()));
        disk.remove_file(Path::new("/file")).unwrap();
        let failed = file(&disk, schema).write(&given, vec![None, None, None]);
        assert!(matches!(failed, Err(Error::Internal { .. })), "{failed:?}");
    }
}
