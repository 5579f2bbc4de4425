//! Gathering the rows that a statement writes: a commit is one record of the log, so they have to be in memory together.
//!
//! They come batch by batch. What is held is taken from the memory that all queries share, and a statement that can never
//! be committed, because its rows do not fit a record, ends as soon as that is known and not when memory has run out.

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{ByteViewType, DataType as ArrowType};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use futures::StreamExt;

use crate::error::{Error, ErrorCode, Result};
use crate::statement::StatementContext;

/// The most bytes that the rows of one statement may have in memory. The log has short values in less room: rows that fit
/// one of its records may take several times as much here.
const MOST: usize = 4 * kalamdb_engine::MAX_RECORD;

/// Rows that a statement has read, with the memory that they were promised.
pub(super) struct Gathered {
    /// The rows.
    pub(super) batches: Vec<RecordBatch>,
    /// Held until they are committed.
    pub(super) memory: MemoryReservation,
}

/// Reads all rows of a stream, each batch as `convert` makes it.
///
/// # Errors
/// [`ErrorCode::TooLarge`] beyond what one commit holds; [`ErrorCode::Overloaded`] if memory is short; the stream's.
pub(super) async fn gather(
    ctx: &StatementContext,
    mut rows: SendableRecordBatchStream,
    mut convert: impl FnMut(RecordBatch) -> Result<RecordBatch>,
) -> Result<Gathered> {
    let pool = ctx.instance.queries().task().memory_pool().clone();
    let memory = MemoryConsumer::new("rows to be written").register(&pool);
    let (mut batches, mut held) = (Vec::new(), 0);
    while let Some(batch) = rows.next().await {
        let batch = convert(batch?)?;
        let bytes = batch.columns().iter().map(bytes).sum::<usize>();
        held += bytes;
        if held > MOST {
            return Err(too_large());
        }
        // They are there twice while they are put together.
        memory.try_grow(2 * bytes)?;
        batches.push(batch);
    }
    Ok(Gathered { batches, memory })
}

fn too_large() -> Error {
    let most = MOST >> 20;
    let message = format!("the statement would write more than {most} MiB at once");
    Error::new(ErrorCode::TooLarge, message)
        .with_hint("write the rows in parts, by ranges of a key for example")
}

/// Bytes of an array's own values, not of what its buffers hold besides.
fn bytes(array: &ArrayRef) -> usize {
    match array.data_type() {
        ArrowType::Utf8View => in_view(array.as_string_view()),
        ArrowType::BinaryView => in_view(array.as_binary_view()),
        _ => array.to_data().get_slice_memory_size().unwrap_or_else(|_| array.get_array_memory_size()),
    }
}

fn in_view<T: ByteViewType + ?Sized>(array: &arrow::array::GenericByteViewArray<T>) -> usize {
    // The low half of a view is the length.
    array.views().iter().map(|view| size_of::<u128>() + *view as u32 as usize).sum()
}
