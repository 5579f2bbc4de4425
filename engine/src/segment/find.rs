//! Finding a key in a segment without reading the segment: the manifest's key range, then each row group's bloom filter
//! and statistics, then the first keys of its blocks, and only then the keys of the one block that may hold it, which
//! are kept for the next search.
//!
//! A block is a thousand rows, about what one page of a narrow column holds. The first keys of all blocks are read when a
//! row group is first searched. Parquet's own page index would say the same for some types of keys, but not for keys of
//! several columns, long text or NaN.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use arrow::array::{ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Int16Type, Int32Type, Int64Type};
use arrow::row::Rows as KeyRows;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::statistics::StatisticsConverter;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReaderBuilder, RowSelection, RowSelector};
use parquet::bloom_filter::Sbbf;
use parquet::data_type::ByteArray;

use super::read::{Loaded, Segment};
use crate::error::{Error, Result};
use crate::schema::TableSchema;

/// Rows per block of keys.
const BLOCK_ROWS: usize = 1024;
/// Blocks that are kept decoded, per segment.
const KEPT_BLOCKS: usize = 128;

/// Keys of some rows that follow each other, in file order, which is key order.
#[derive(Debug)]
pub struct KeyBlock {
    first_row: u32,
    keys: KeyRows,
}

/// A row group that is searched.
#[derive(Debug, Clone, Copy)]
struct Group {
    number: usize,
    /// Its first row's number in the file.
    first_row: u32,
    rows: usize,
}

/// A row that holds a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// Its number in the file.
    pub row: u32,
    /// Whether it is a tombstone.
    pub tombstone: bool,
}

impl Segment {
    /// True if the segment's key range does not rule the key out.
    pub fn may_hold(&self, key: &[u8]) -> bool {
        self.min_key.as_slice() <= key && key <= self.max_key.as_slice()
    }

    /// The row, not marked as superseded, that holds a key. `columns` are the key's columns and `at` its place in them.
    ///
    /// # Errors
    /// [`Error::PartitionDamaged`] if the file cannot be read.
    pub fn find(&self, key: &[u8], columns: &[ArrayRef], at: usize) -> Result<Option<Found>> {
        self.find_where(key, columns, at, |row| !self.marks.contains(row))
    }

    /// The row that has a key and that `wanted` accepts, a live one before a tombstone.
    ///
    /// # Errors
    /// As [`Segment::find`].
    pub(crate) fn find_where(
        &self,
        key: &[u8],
        columns: &[ArrayRef],
        at: usize,
        wanted: impl Fn(u32) -> bool,
    ) -> Result<Option<Found>> {
        if !self.may_hold(key) {
            return Ok(None);
        }
        // Key columns may be renamed, so the names are those of the file.
        let schema = self.schema().as_ref();
        let loaded = self.load()?;
        let live_groups = self.meta().live_row_groups as usize;
        let mut first_row = 0u32;
        for number in 0..loaded.parquet.num_row_groups() {
            let rows = loaded.parquet.row_group(number).num_rows() as usize;
            let group = Group { number, first_row, rows };
            if in_bounds(loaded, schema, number, key)
                && passes_bloom(loaded, schema, number, columns, at)
                && let Some(row) = self.find_in_group(loaded, schema, group, key, &wanted)?
            {
                return Ok(Some(Found { row, tombstone: number >= live_groups }));
            }
            first_row += rows as u32;
        }
        Ok(None)
    }

    /// True if looking for a key takes nothing from the file: all it needs is kept.
    pub(crate) fn knows(&self, key: &[u8], columns: &[ArrayRef], at: usize) -> bool {
        if !self.may_hold(key) {
            return true;
        }
        let Some(loaded) = self.kept() else { return false };
        let mut first_row = 0u32;
        (0..loaded.parquet.num_row_groups()).all(|number| {
            let group_row = first_row;
            first_row += loaded.parquet.row_group(number).num_rows() as u32;
            let index = &loaded.groups[number];
            if index.bounds.get().is_none() {
                return false;
            }
            if !in_bounds(loaded, self.schema(), number, key) {
                return true;
            }
            if index.blooms.get().is_none() {
                return false;
            }
            if !passes_bloom(loaded, self.schema(), number, columns, at) {
                return true;
            }
            let Some(starts) = index.starts.get() else { return false };
            let is_kept = |block| self.kept_block(group_row + (block * BLOCK_ROWS) as u32).is_some();
            blocks_with(starts, key).all(is_kept)
        })
    }

    fn find_in_group(
        &self,
        loaded: &Loaded,
        schema: &TableSchema,
        group: Group,
        key: &[u8],
        wanted: impl Fn(u32) -> bool,
    ) -> Result<Option<u32>> {
        for block in blocks_with(self.block_starts(loaded, schema, group)?, key) {
            let block = self.key_block(loaded, schema, group, block)?;
            if let Some(row) = block.search(key, &wanted) {
                return Ok(Some(row));
            }
        }
        Ok(None)
    }

    /// The first key of every block of a row group.
    fn block_starts<'a>(
        &self,
        loaded: &'a Loaded,
        schema: &TableSchema,
        group: Group,
    ) -> Result<&'a KeyRows> {
        let starts = &loaded.groups[group.number].starts;
        if let Some(starts) = starts.get() {
            return Ok(starts);
        }
        let read = read_keys(loaded, schema, group, None, 1);
        let read = read.map_err(|e| Error::internal("read a segment's keys", e))?;
        Ok(starts.get_or_init(|| read))
    }

    fn key_block(
        &self,
        loaded: &Loaded,
        schema: &TableSchema,
        group: Group,
        block: usize,
    ) -> Result<Arc<KeyBlock>> {
        let skipped = block * BLOCK_ROWS;
        let first_row = group.first_row + skipped as u32;
        if let Some(block) = self.kept_block(first_row) {
            return Ok(block);
        }
        let len = BLOCK_ROWS.min(group.rows - skipped);
        let rows = RowSelection::from(vec![RowSelector::skip(skipped), RowSelector::select(len)]);
        let keys = read_keys(loaded, schema, group, Some(rows), BLOCK_ROWS)
            .map_err(|e| Error::internal("read a segment's keys", e))?;
        let block = Arc::new(KeyBlock { first_row, keys });
        let mut kept = self.keys.lock();
        if kept.len() == KEPT_BLOCKS {
            kept.remove(0);
        }
        kept.push(block.clone());
        Ok(block)
    }

    /// The block, if it is kept; it becomes the one that will be let go last.
    fn kept_block(&self, first_row: u32) -> Option<Arc<KeyBlock>> {
        let mut kept = self.keys.lock();
        let at = kept.iter().rposition(|block| block.first_row == first_row)?;
        let block = kept.remove(at);
        kept.push(block.clone());
        Some(block)
    }
}

/// The blocks that may hold a key. Versions of one key follow each other, so they may go on from one block to the next.
fn blocks_with(starts: &KeyRows, key: &[u8]) -> Range<usize> {
    let begin_before = |before: &dyn Fn(&[u8]) -> bool| {
        let (mut low, mut high) = (0, starts.num_rows());
        while low < high {
            let middle = low + (high - low) / 2;
            if before(starts.row(middle).data()) { low = middle + 1 } else { high = middle }
        }
        low
    };
    begin_before(&|start| start < key).saturating_sub(1)..begin_before(&|start| start <= key)
}

impl KeyBlock {
    pub(super) fn memory(&self) -> usize {
        size_of::<Self>() + self.keys.size()
    }

    /// The row with this key that `wanted` accepts; old versions may share the key with the newest.
    fn search(&self, key: &[u8], wanted: impl Fn(u32) -> bool) -> Option<u32> {
        let (mut low, mut high) = (0, self.keys.num_rows());
        while low < high {
            let middle = low + (high - low) / 2;
            if self.keys.row(middle).as_ref() < key { low = middle + 1 } else { high = middle }
        }
        (low..self.keys.num_rows())
            .take_while(|at| self.keys.row(*at).as_ref() == key)
            .map(|at| self.first_row + at as u32)
            .find(|row| wanted(*row))
    }
}

/// Keys of the selected rows of a row group, all if none are named: the first `of_each` of every [`BLOCK_ROWS`].
fn read_keys(
    loaded: &Loaded,
    schema: &TableSchema,
    group: Group,
    selected: Option<RowSelection>,
    of_each: usize,
) -> std::result::Result<KeyRows, Box<dyn std::error::Error>> {
    let metadata = loaded.reader.clone();
    let roots: Vec<usize> = key_roots(schema, metadata.schema())?;
    let mask = ProjectionMask::roots(loaded.parquet.file_metadata().schema_descr(), roots);
    let mut builder = ParquetRecordBatchReaderBuilder::new_with_metadata(loaded.bytes.clone(), metadata)
        .with_row_groups(vec![group.number])
        .with_projection(mask)
        .with_batch_size(BLOCK_ROWS);
    if let Some(selected) = selected {
        builder = builder.with_row_selection(selected);
    }
    let mut keys = schema.keys().empty_rows(of_each.max(group.rows.div_ceil(BLOCK_ROWS)), 0);
    for batch in builder.build()? {
        let batch = batch?;
        let columns = key_columns(schema, &batch.slice(0, of_each.min(batch.num_rows())))?;
        schema.keys().append(&mut keys, &columns)?;
    }
    Ok(keys)
}

fn key_roots(
    schema: &TableSchema,
    file: &arrow::datatypes::Schema,
) -> std::result::Result<Vec<usize>, arrow::error::ArrowError> {
    schema.key_indices().iter().map(|i| file.index_of(&schema.columns()[*i].name)).collect()
}

/// The key columns of a batch in key order, by name: Parquet gives them back in file order.
fn key_columns(
    schema: &TableSchema,
    batch: &RecordBatch,
) -> std::result::Result<Vec<ArrayRef>, arrow::error::ArrowError> {
    let names = schema.key_indices().iter().map(|i| &schema.columns()[*i].name);
    names.map(|name| batch.schema().index_of(name).map(|at| batch.column(at).clone())).collect()
}

/// What is parsed once per row group and kept while the segment is.
#[derive(Debug, Default)]
pub(super) struct GroupIndex {
    /// Per key column.
    blooms: OnceLock<Vec<Option<Sbbf>>>,
    bounds: OnceLock<Option<(KeyRows, KeyRows)>>,
    /// The first key of every block.
    starts: OnceLock<KeyRows>,
}

impl GroupIndex {
    pub(super) fn memory(&self) -> usize {
        let blooms = self.blooms.get().into_iter().flatten().flatten();
        let bounds = self.bounds.get().and_then(Option::as_ref);
        // A block of a bloom filter has 32 bytes.
        blooms.map(|filter| filter.num_blocks() * 32).sum::<usize>()
            + bounds.map_or(0, |(min, max)| min.size() + max.size())
            + self.starts.get().map_or(0, KeyRows::size)
            + size_of::<Self>()
    }
}

fn passes_bloom(
    loaded: &Loaded,
    schema: &TableSchema,
    group: usize,
    columns: &[ArrayRef],
    at: usize,
) -> bool {
    let row_group = loaded.parquet.row_group(group);
    let read = |index: &usize| {
        let name = &schema.columns()[*index].name;
        let chunk = row_group.columns().iter().find(|c| c.column_path().parts() == [name.as_str()]);
        chunk.and_then(|c| Sbbf::read_from_column_chunk(c, &loaded.bytes).ok().flatten())
    };
    let blooms = loaded.groups[group].blooms.get_or_init(|| schema.key_indices().iter().map(read).collect());
    blooms
        .iter()
        .zip(columns)
        .all(|(filter, column)| filter.as_ref().is_none_or(|filter| bloom_has(filter, column, at)))
}

fn bloom_has(filter: &Sbbf, column: &ArrayRef, at: usize) -> bool {
    match column.data_type() {
        DataType::Int64 => filter.check(&column.as_primitive::<Int64Type>().value(at)),
        DataType::Int32 => filter.check(&column.as_primitive::<Int32Type>().value(at)),
        DataType::Int16 => filter.check(&i32::from(column.as_primitive::<Int16Type>().value(at))),
        DataType::Utf8View => filter.check(&ByteArray::from(column.as_string_view().value(at))),
        _ => true,
    }
}

/// False if the row group's statistics rule the key out.
fn in_bounds(loaded: &Loaded, schema: &TableSchema, group: usize, key: &[u8]) -> bool {
    let bounds = loaded.groups[group].bounds.get_or_init(|| key_bounds(loaded, schema, group));
    bounds.as_ref().is_none_or(|(min, max)| min.row(0).as_ref() <= key && key <= max.row(0).as_ref())
}

/// The lowest and highest key by the row group's statistics. Only keys of one column are judged, and none of floating
/// point: their statistics leave NaN out.
fn key_bounds(loaded: &Loaded, schema: &TableSchema, group: usize) -> Option<(KeyRows, KeyRows)> {
    let [index] = schema.key_indices() else { return None };
    if schema.rows().field(*index).data_type().is_floating() {
        return None;
    }
    let parquet = loaded.parquet.file_metadata().schema_descr();
    let converter =
        StatisticsConverter::try_new(&schema.columns()[*index].name, schema.rows(), parquet).ok()?;
    let groups = [loaded.parquet.row_group(group)];
    let exact = |array: arrow::array::BooleanArray| array.values().value(0).then_some(());
    exact(converter.row_group_is_min_value_exact(groups).ok()?)?;
    exact(converter.row_group_is_max_value_exact(groups).ok()?)?;
    let min = converter.row_group_mins(groups).ok().filter(|a| a.is_valid(0))?;
    let max = converter.row_group_maxes(groups).ok().filter(|a| a.is_valid(0))?;
    Some((schema.keys().convert_columns(&[min]).ok()?, schema.keys().convert_columns(&[max]).ok()?))
}

/// Lower-case hexadecimal, which keeps byte order.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes
        .iter()
        .flat_map(|b| [DIGITS[usize::from(b >> 4)] as char, DIGITS[usize::from(b & 15)] as char])
        .collect()
}

/// What [`hex`] wrote; nothing for text it did not write.
pub fn unhex(text: &str) -> Vec<u8> {
    let digit = |c: u8| (c as char).to_digit(16).unwrap_or(0) as u8;
    text.as_bytes().chunks_exact(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
}
