//! Gathering the rows that a statement writes: a commit is one record of the log, so they have to be in memory together.
//!
//! They come batch by batch. What is held is part of the statement's memory, and a statement that can never
//! be committed, because its rows do not fit a record, ends as soon as that is known and not when memory has run out.

use arrow::array::RecordBatch;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use futures::StreamExt;

use crate::error::{Error, ErrorCode, Result};
use crate::plan::bytes_of;
use crate::statement::StatementContext;

/// The most bytes that the rows of one statement may have in memory. The log has short values in less room: rows that fit
/// one of its records may take several times as much here.
const MOST: usize = 3 * kalamdb_engine::MAX_RECORD;

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
    let memory = MemoryConsumer::new("rows to be written").register(ctx.task().memory_pool());
    let (mut batches, mut held) = (Vec::new(), 0);
    while let Some(batch) = rows.next().await {
        let batch = convert(batch?)?;
        let bytes = batch.columns().iter().map(bytes_of).sum::<usize>();
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
