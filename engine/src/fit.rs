//! Whether what a caller wants to commit fits its table, checked before anything is locked or logged: a record that
//! could not be read again, or a commit that could not be applied, must never begin.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, MutableArrayData, RecordBatch, make_array};
use arrow::datatypes::DataType;

use crate::catalog::Table;
use crate::error::{Error, Result};
use crate::view::Place;
use crate::write::OldRows;

/// Buffers smaller than this are not worth looking at.
const SMALL: usize = 256;

/// New rows in the table's own schema, in no more memory than they need.
pub(crate) fn new_rows(table: &Table, rows: RecordBatch) -> Result<RecordBatch> {
    let schema = &table.schema;
    if rows.num_columns() != schema.columns().len() {
        return Err(Error::internal("commit", "rows with other columns than the table's"));
    }
    for (column, values) in schema.columns().iter().zip(rows.columns()) {
        if !column.nullable && values.logical_null_count() > 0 {
            let (table, column) = (table.qualified_name(), column.name.clone());
            return Err(Error::NotNullViolation { table, column });
        }
    }
    let rows = schema.keys().normal_rows(rows, schema.key_indices());
    let rows = rows.map_err(|e| Error::internal("commit", e))?;
    if Arc::ptr_eq(rows.schema_ref(), schema.rows()) && !rows.columns().iter().any(is_wasteful) {
        return Ok(rows);
    }
    let columns = rows.columns().iter().map(compact).collect();
    RecordBatch::try_new(schema.rows().clone(), columns).map_err(|e| Error::internal("commit", e))
}

/// Old rows in the table's own schema; there must be `count` of them.
pub(crate) fn old_rows(table: &Table, old: OldRows, count: usize) -> Result<OldRows> {
    for part in [old.rows.num_rows(), old.seqs.len(), old.updated.len()] {
        same_length(count, part)?;
    }
    let rows = match Arc::ptr_eq(old.rows.schema_ref(), table.schema.rows()) {
        true => old.rows,
        false => RecordBatch::try_new(table.schema.rows().clone(), old.rows.columns().to_vec())
            .map_err(|e| Error::internal("commit", e))?,
    };
    let rows = match rows.columns().iter().any(is_wasteful) {
        true => RecordBatch::try_new(rows.schema(), rows.columns().iter().map(compact).collect())
            .map_err(|e| Error::internal("commit", e))?,
        false => rows,
    };
    Ok(OldRows { rows, ..old })
}

/// Fails unless the two counts agree.
pub(crate) fn same_length(addresses: usize, rows: usize) -> Result<()> {
    match addresses == rows {
        true => Ok(()),
        false => Err(Error::internal("commit", format!("{addresses} addresses for {rows} rows"))),
    }
}

/// Fails if a row is to be superseded twice.
pub(crate) fn no_place_twice(places: &[Place]) -> Result<()> {
    if places.is_sorted_by(|a, b| a < b) {
        return Ok(());
    }
    let mut sorted = places.to_vec();
    sorted.sort_unstable();
    match sorted.windows(2).any(|pair| pair[0] == pair[1]) {
        true => Err(Error::internal("commit", "a row is changed twice")),
        false => Ok(()),
    }
}

/// True for values that keep far more memory alive than they use: a slice of a large batch, or one value in a builder's
/// default block. Rows in memory stay there for long.
fn is_wasteful(column: &ArrayRef) -> bool {
    let (held, used): (usize, &dyn Fn() -> usize) = match column.data_type() {
        DataType::Utf8View => {
            let view = column.as_string_view();
            (view.data_buffers().iter().map(|b| b.capacity()).sum(), &|| view.total_buffer_bytes_used())
        }
        DataType::BinaryView => {
            let view = column.as_binary_view();
            (view.data_buffers().iter().map(|b| b.capacity()).sum(), &|| view.total_buffer_bytes_used())
        }
        other => {
            let Some(width) = other.primitive_width() else { return false };
            // NULLs take a bit each, which is not worth looking at.
            (column.get_buffer_memory_size(), &move || width * column.len())
        }
    };
    held > SMALL && held / 2 > used()
}

fn compact(column: &ArrayRef) -> ArrayRef {
    match column.data_type() {
        DataType::Utf8View if is_wasteful(column) => Arc::new(column.as_string_view().gc()),
        DataType::BinaryView if is_wasteful(column) => Arc::new(column.as_binary_view().gc()),
        _ if is_wasteful(column) => copied(column),
        _ => column.clone(),
    }
}

/// The same values in buffers of their own.
fn copied(column: &ArrayRef) -> ArrayRef {
    let data = column.to_data();
    let mut copy = MutableArrayData::new(vec![&data], false, column.len());
    match copy.try_extend(0, 0, column.len()) {
        Ok(()) => make_array(copy.freeze()),
        // Too long for its offsets, which a column that fits in memory cannot be.
        Err(_) => column.clone(),
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Int64Array, StringViewArray};

    use super::*;

    #[test]
    fn a_slice_of_a_large_array_gets_buffers_of_its_own() {
        let numbers: Int64Array = (0..10_000).map(|n| (n % 3 != 0).then_some(n)).collect();
        let texts =
            StringViewArray::from_iter_values((0..10_000).map(|n| format!("a text that is long, {n}")));
        let columns: [ArrayRef; 2] = [Arc::new(numbers.slice(5_000, 4)), Arc::new(texts.slice(5_000, 4))];
        for column in columns {
            let compacted = compact(&column);
            assert_eq!(&compacted, &column);
            assert!(compacted.get_buffer_memory_size() < 1_024, "{}", compacted.get_buffer_memory_size());
        }
    }
}
