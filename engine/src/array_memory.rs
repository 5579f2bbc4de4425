//! How much memory Arrow's arrays take.
//!
//! Arrow counts its buffers and the fields of an array. It does not count the allocations that hold these together, which
//! for a few short rows take more than the values do.

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::buffer::Buffer;
use arrow::datatypes::DataType;

/// The counts in front of what an `Arc` holds.
const COUNTS: usize = 2 * size_of::<usize>();
/// What a buffer's owner takes: counts, where the bytes are, how many, and how to free them.
const OWNER: usize = COUNTS + 5 * size_of::<usize>();

/// Bytes that a batch takes, its schema, which many share, aside.
pub(crate) fn of_batch(rows: &RecordBatch) -> usize {
    rows.columns().iter().map(|column| size_of::<ArrayRef>() + of_array(column)).sum()
}

fn of_array(array: &ArrayRef) -> usize {
    COUNTS + array.get_array_memory_size() + owners(array)
}

/// What the owners of an array's buffers take.
fn owners(array: &ArrayRef) -> usize {
    let nulls = if array.nulls().is_some() { OWNER } else { 0 };
    let views = |texts: usize| OWNER + COUNTS + texts * (size_of::<Buffer>() + OWNER);
    let values = match array.data_type() {
        DataType::Utf8View => views(array.as_string_view().data_buffers().len()),
        DataType::BinaryView => views(array.as_binary_view().data_buffers().len()),
        // Arrow has counted the elements' own fields already.
        DataType::List(_) => OWNER + COUNTS + owners(array.as_list::<i32>().values()),
        _ => OWNER,
    };
    nulls + values
}
