//! Batches that own what they keep in memory.
//!
//! A batch may be a slice of a chunk many times its size, or hold views into pages of a file that other batches hold too.
//! Whoever keeps such batches and counts their memory counts the whole chunk for each of its slices.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow::compute::take;
use arrow::datatypes::{ByteViewType, DataType};
use datafusion::common::Result;
use datafusion::common::utils::memory::get_record_batch_memory_size;

/// A batch that holds at most this many times what it needs is left as it is,
const LOOSE: usize = 2;
/// and so is one that holds this much more: buffers grow in steps.
const SLACK: usize = 64 << 10;

/// The batch in parts of about `most` bytes each, none of which holds much more memory than its rows need.
///
/// # Errors
/// Those of copying.
pub(super) fn compacted(batch: RecordBatch, most: usize) -> Result<Vec<RecordBatch>> {
    let own: usize = batch.columns().iter().map(bytes_of).sum();
    if own <= most && get_record_batch_memory_size(&batch) <= LOOSE * own + SLACK {
        return Ok(vec![batch]);
    }
    let parts = own.div_ceil(most.max(1)).clamp(1, batch.num_rows().max(1));
    let rows = batch.num_rows().div_ceil(parts).max(1);
    (0..batch.num_rows())
        .step_by(rows)
        .map(|at| copied(&batch, at, rows.min(batch.num_rows() - at)))
        .collect()
}

fn copied(batch: &RecordBatch, from: usize, rows: usize) -> Result<RecordBatch> {
    // A batch has fewer rows than that: offsets of its columns are 32 bits wide.
    let indices = UInt32Array::from_iter_values((from..from + rows).map(|row| row as u32));
    let columns = batch.columns().iter().map(|column| {
        let column = take(column, &indices, None)?;
        Ok(match column.data_type() {
            DataType::Utf8View => Arc::new(column.as_string_view().gc()) as ArrayRef,
            DataType::BinaryView => Arc::new(column.as_binary_view().gc()) as ArrayRef,
            _ => column,
        })
    });
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    Ok(RecordBatch::try_new_with_options(batch.schema(), columns.collect::<Result<_>>()?, &options)?)
}

/// Bytes of an array's own values, not of what its buffers hold besides.
pub(crate) fn bytes_of(array: &ArrayRef) -> usize {
    match array.data_type() {
        DataType::Utf8View => in_view(array.as_string_view()),
        DataType::BinaryView => in_view(array.as_binary_view()),
        _ => array.to_data().get_slice_memory_size().unwrap_or_else(|_| array.get_array_memory_size()),
    }
}

fn in_view<T: ByteViewType + ?Sized>(array: &arrow::array::GenericByteViewArray<T>) -> usize {
    // The low half of a view is the length.
    array.views().iter().map(|view| size_of::<u128>() + *view as u32 as usize).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Int64Array, StringViewArray};
    use arrow::compute::concat_batches;

    fn batch(rows: usize) -> RecordBatch {
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..rows as i64));
        let texts: ArrayRef = Arc::new(StringViewArray::from_iter_values(
            (0..rows).map(|row| format!("a text that is kept apart {row}")),
        ));
        RecordBatch::try_from_iter([("n", numbers), ("t", texts)]).unwrap()
    }

    #[test]
    fn a_slice_of_a_large_batch_comes_with_its_own_rows_alone() {
        let whole = batch(10_000);
        let parts = compacted(whole.slice(5_000, 10), 1 << 20).unwrap();
        assert_eq!(parts, [whole.slice(5_000, 10)]);
        assert!(get_record_batch_memory_size(&parts[0]) < get_record_batch_memory_size(&whole) / 100);
    }

    #[test]
    fn a_wide_batch_is_cut_and_loses_nothing() {
        let whole = batch(10_000);
        let parts = compacted(whole.clone(), 10_000).unwrap();
        assert!(parts.len() > 50);
        for part in &parts {
            assert!(get_record_batch_memory_size(part) < 30_000);
        }
        assert_eq!(concat_batches(&whole.schema(), &parts).unwrap(), whole);
    }

    #[test]
    fn a_batch_that_is_tight_is_not_copied() {
        let whole = batch(100);
        let parts = compacted(whole.clone(), 1 << 20).unwrap();
        assert!(Arc::ptr_eq(parts[0].column(0), whole.column(0)));
    }

    #[test]
    fn rows_without_columns_are_rows_all_the_same() {
        let options = RecordBatchOptions::new().with_row_count(Some(7));
        let none =
            RecordBatch::try_new_with_options(Arc::new(arrow::datatypes::Schema::empty()), vec![], &options);
        let parts = compacted(none.unwrap(), 10).unwrap();
        assert_eq!(parts.iter().map(RecordBatch::num_rows).sum::<usize>(), 7);
    }
}
