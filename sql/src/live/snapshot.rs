//! The initial rows of a connection's subscriptions, all as of one snapshot, in batches.

use std::collections::VecDeque;
use std::sync::Arc;

use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use datafusion::sql::sqlparser::ast::Statement;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use serde_json::Value;

use crate::error::Result;
use crate::json::{RowEncoder, RowFormat};
use crate::live::shape::{self, Source};
use crate::session::RowSet;
use crate::statement::StatementContext;

/// The most rows in one `snapshot` event.
const MAX_ROWS: usize = 1_000;
/// A `snapshot` event ends with the row that takes it over this many bytes.
const MAX_BYTES: usize = 1 << 20;

/// A subscription's SELECT as it was asked.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) statement: Arc<Statement>,
    pub(crate) source: Source,
    pub(crate) params: Arc<[Value]>,
    pub(crate) last_rows: Option<u64>,
    /// The names of the key's columns.
    pub(crate) key: Vec<String>,
}

/// The rows of one subscription, encoded batch by batch as the client takes them.
pub(crate) struct Rows {
    state: State,
    encoder: Option<RowEncoder>,
    batches: VecDeque<RecordBatch>,
    /// Rows of the first of `batches` that were encoded already.
    offset: usize,
    /// The batch after the one handed out, so that the last is known to be the last.
    ahead: Option<Vec<u8>>,
    first: bool,
    done: bool,
}

enum State {
    Starting(BoxFuture<'static, Result<Started>>),
    Reading(BoxStream<'static, Result<RecordBatch>>),
}

struct Started {
    encoder: RowEncoder,
    rows: BoxStream<'static, Result<RecordBatch>>,
}

/// A batch of rows as JSON without brackets.
pub(crate) struct Batch {
    pub(crate) rows: Vec<u8>,
    pub(crate) first: bool,
    pub(crate) last: bool,
}

impl Rows {
    /// The rows of a subscription at the context's snapshot.
    pub(crate) fn start(context: Arc<StatementContext>, asked: Asked) -> Self {
        Self {
            state: State::Starting(Box::pin(select(context, asked))),
            encoder: None,
            batches: VecDeque::new(),
            offset: 0,
            ahead: None,
            first: true,
            done: false,
        }
    }

    /// The next batch; `None` after the last. There is at least one. Cancel safe.
    ///
    /// # Errors
    /// What the query fails with; the subscription is over.
    pub(crate) async fn next(&mut self) -> Result<Option<Batch>> {
        loop {
            if self.done {
                return Ok(None);
            }
            match self.encode().await? {
                Some(rows) => {
                    if let Some(ready) = self.ahead.replace(rows) {
                        return Ok(Some(self.batch(ready)));
                    }
                }
                None => {
                    self.done = true;
                    let rows = self.ahead.take().unwrap_or_default();
                    return Ok(Some(self.batch(rows)));
                }
            }
        }
    }

    fn batch(&mut self, rows: Vec<u8>) -> Batch {
        Batch { rows, first: std::mem::replace(&mut self.first, false), last: self.done }
    }

    /// As many rows as one event takes; `None` if there are no more.
    async fn encode(&mut self) -> Result<Option<Vec<u8>>> {
        // Read everything before encoding anything: a cancelled wait must not lose rows.
        while self.waiting_rows() < MAX_ROWS && self.read().await? {}
        let Some(encoder) = &self.encoder else { return Ok(None) };
        let mut out = Vec::new();
        let mut rows = 0;
        while let Some(batch) = self.batches.front()
            && rows < MAX_ROWS
            && out.len() < MAX_BYTES
        {
            let left = batch.num_rows() - self.offset;
            let part = batch.slice(self.offset, left.min(MAX_ROWS - rows));
            if rows > 0 && part.num_rows() > 0 {
                out.push(b',');
            }
            let written = encoder.of(&part).write_until(b",", MAX_BYTES, &mut out);
            rows += written;
            self.offset += written;
            if written == left {
                self.batches.pop_front();
                self.offset = 0;
            }
        }
        Ok((rows > 0).then_some(out))
    }

    fn waiting_rows(&self) -> usize {
        self.batches.iter().map(RecordBatch::num_rows).sum::<usize>() - self.offset
    }

    /// Reads one more batch; false if there is none.
    async fn read(&mut self) -> Result<bool> {
        let stream = match &mut self.state {
            State::Reading(stream) => stream,
            State::Starting(future) => {
                let started = future.await?;
                self.encoder = Some(started.encoder);
                self.state = State::Reading(started.rows);
                return Ok(true);
            }
        };
        match stream.next().await.transpose()? {
            Some(batch) => {
                self.batches.push_back(batch);
                Ok(true)
            }
            None => Ok(false),
        }
    }
}

async fn select(context: Arc<StatementContext>, asked: Asked) -> Result<Started> {
    let run = async |statement: &Statement| -> Result<RowSet> {
        crate::query::query(&context, statement, &asked.params).await
    };
    let Some(count) = asked.last_rows else {
        let rows = run(&asked.statement).await?;
        return Ok(Started {
            encoder: RowEncoder::new(&rows.schema, RowFormat::Objects),
            rows: rows.stream.fuse().boxed(),
        });
    };
    let key: Vec<&str> = asked.key.iter().map(String::as_str).collect();
    let rows = run(&shape::newest(&asked.statement, &asked.source, &key, count)).await?;
    let encoder = RowEncoder::new(&rows.schema, RowFormat::Objects);
    // They come newest first, and the client wants them oldest first.
    let mut batches: Vec<Result<RecordBatch>> = Vec::new();
    let mut stream = rows.stream;
    while let Some(batch) = stream.next().await {
        batches.push(Ok(reversed(&batch?)?));
    }
    batches.reverse();
    Ok(Started { encoder, rows: futures::stream::iter(batches).fuse().boxed() })
}

fn reversed(batch: &RecordBatch) -> Result<RecordBatch> {
    let indices: UInt32Array = (0..batch.num_rows() as u32).rev().collect();
    Ok(take_record_batch(batch, &indices)?)
}
