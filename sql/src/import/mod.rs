//! Bulk rows into one table: CSV, NDJSON or record batches, committed in batches while more are read.
//!
//! Each batch is one commit, durable as a whole. While a commit waits for the log the next batch is parsed; one commit
//! is in flight at a time, so that the rows that are in are always the first ones of the input. An error says which
//! line it is about, and [`Importer::committed_rows`] how many rows are in. Memory is bounded by two batches.

mod columns;
mod csv;
mod ndjson;
mod sink;

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use bytes::Bytes;

use crate::error::{Error, ErrorCode, Result};
use crate::statement::StatementContext;
use csv::CsvReader;
use ndjson::NdjsonReader;
use sink::Sink;

/// The most rows of a batch.
const MAX_BATCH_ROWS: usize = 1_000_000;

/// How an import reads and commits.
#[derive(Debug, Clone)]
pub struct ImportOptions {
    /// A text that means NULL in CSV, besides the empty field.
    pub null: Option<String>,
    /// Rows per commit.
    pub batch_rows: usize,
    /// The column that says whose a row is, for USER tables; needs `dba`. Without it all rows are the session's own.
    pub user_column: Option<String>,
}

impl Default for ImportOptions {
    fn default() -> Self {
        Self { null: None, batch_rows: 10_000, user_column: None }
    }
}

/// What an import did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImportReport {
    /// Rows committed.
    pub rows: u64,
    /// The last commit; `None` if there were no rows.
    pub seq: Option<u64>,
}

/// An import in progress. All input of one import has one format.
#[derive(Debug)]
pub struct Importer {
    sink: Sink,
    input: Input,
    batch_rows: usize,
    null: Option<String>,
}

#[derive(Debug)]
enum Input {
    None,
    Csv(Box<CsvReader>),
    Ndjson(NdjsonReader),
    Batches(Vec<RecordBatch>),
    Failed,
}

impl Importer {
    pub(crate) async fn new(
        ctx: Arc<StatementContext>,
        namespace: &str,
        table: &str,
        options: ImportOptions,
    ) -> Result<Self> {
        if options.batch_rows == 0 || options.batch_rows > MAX_BATCH_ROWS {
            let message = format!("batch_rows is {}: it must be 1 to {MAX_BATCH_ROWS}", options.batch_rows);
            return Err(Error::new(ErrorCode::InvalidParameter, message));
        }
        let sink = Sink::new(&ctx, namespace, table, options.user_column)?;
        Ok(Self { sink, input: Input::None, batch_rows: options.batch_rows, null: options.null })
    }

    /// Takes the next bytes of a CSV text, cut anywhere. Its first line names the columns.
    ///
    /// # Errors
    /// What is wrong with the text, with its line, or with an earlier batch; the import is over then.
    pub async fn write_csv(&mut self, chunk: Bytes) -> Result<()> {
        if let Input::None = self.input {
            self.input = Input::Csv(Box::new(CsvReader::new(self.batch_rows, self.null.clone())));
        }
        let Input::Csv(reader) = &mut self.input else { return Err(mixed()) };
        let result = reader.write(&chunk, &mut self.sink).await;
        self.keep(result).await
    }

    /// Takes the next bytes of newline-delimited JSON objects, cut anywhere.
    ///
    /// # Errors
    /// As [`Importer::write_csv`].
    pub async fn write_ndjson(&mut self, chunk: Bytes) -> Result<()> {
        if let Input::None = self.input {
            self.input = Input::Ndjson(NdjsonReader::new(self.batch_rows));
        }
        let Input::Ndjson(reader) = &mut self.input else { return Err(mixed()) };
        let result = reader.write(&chunk, &mut self.sink).await;
        self.keep(result).await
    }

    /// Takes the next rows in Arrow form; columns match by name.
    ///
    /// # Errors
    /// As [`Importer::write_csv`].
    pub async fn write_batch(&mut self, batch: RecordBatch) -> Result<()> {
        if let Input::None = self.input {
            self.input = Input::Batches(Vec::new());
        }
        let Input::Batches(waiting) = &mut self.input else { return Err(mixed()) };
        waiting.push(batch);
        let rows: usize = waiting.iter().map(RecordBatch::num_rows).sum();
        if rows < self.batch_rows {
            return Ok(());
        }
        let result = write_batches(&mut self.sink, waiting, self.batch_rows, false).await;
        self.keep(result).await
    }

    /// Commits what is left and waits for it.
    ///
    /// # Errors
    /// As [`Importer::write_csv`].
    pub async fn finish(&mut self) -> Result<ImportReport> {
        let result = match &mut self.input {
            Input::None => Ok(()),
            Input::Csv(reader) => reader.finish(&mut self.sink).await,
            Input::Ndjson(reader) => reader.finish(&mut self.sink).await,
            Input::Batches(waiting) => write_batches(&mut self.sink, waiting, self.batch_rows, true).await,
            Input::Failed => Err(over()),
        };
        self.keep(result).await?;
        let settled = self.sink.settle().await;
        self.keep(settled).await?;
        Ok(self.sink.report())
    }

    /// Rows that are durable; after an error, how many of the first rows are in.
    pub fn committed_rows(&self) -> u64 {
        self.sink.report().rows
    }

    /// After an error nothing more is taken; the commit that is still in flight is awaited, so that the count is right.
    async fn keep(&mut self, result: Result<()>) -> Result<()> {
        if result.is_err() {
            self.input = Input::Failed;
            // The first error is the one to report.
            let _ = self.sink.settle().await;
        }
        result
    }
}

fn mixed() -> Error {
    Error::new(ErrorCode::InvalidParameter, "an import takes one format, and nothing after an error")
}

fn over() -> Error {
    Error::new(ErrorCode::InvalidParameter, "the import has failed before")
}

/// Commits full batches of what is waiting, and the rest too if `all`.
async fn write_batches(
    sink: &mut Sink,
    waiting: &mut Vec<RecordBatch>,
    batch_rows: usize,
    all: bool,
) -> Result<()> {
    let Some(first) = waiting.first() else { return Ok(()) };
    let schema = first.schema();
    if waiting.iter().any(|batch| batch.schema().fields() != schema.fields()) {
        return Err(Error::new(ErrorCode::InvalidParameter, "the record batches have different columns"));
    }
    let whole = concat_batches(&schema, waiting.iter())?;
    waiting.clear();
    let mut at = 0;
    while at < whole.num_rows() {
        let rows = batch_rows.min(whole.num_rows() - at);
        if rows < batch_rows && !all {
            waiting.push(whole.slice(at, rows));
            break;
        }
        sink.write(columns::from_batch(sink, &whole.slice(at, rows))?).await?;
        at += rows;
    }
    Ok(())
}
