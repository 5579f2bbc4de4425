//! Answers that are one table: NDJSON, CSV, Arrow. They hold the result of the last statement of the request; the
//! statements before it may not give rows.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use kalamdb_sql::{Error, ErrorCode, Outcome, ParsedStatement, RowEncoder, RowFormat, Session};
use serde_json::Value;

use super::Format;
use super::arrow::ArrowWriter;
use super::csv::CsvWriter;
use super::parts::Parts;
use crate::http::produce::{Failure, Produce, Step};

/// Runs statements and writes the last one's rows.
pub(crate) struct TableRun {
    session: Session,
    statements: std::vec::IntoIter<ParsedStatement>,
    params: Vec<Value>,
    layout: RowFormat,
    format: Format,
    begun: usize,
    open: Option<(Parts, Writer)>,
}

enum Writer {
    Ndjson(RowEncoder),
    Csv(CsvWriter),
    Arrow(Box<ArrowWriter>),
}

impl TableRun {
    /// A run of these statements.
    pub(crate) fn new(
        session: Session,
        statements: Vec<ParsedStatement>,
        params: Vec<Value>,
        layout: RowFormat,
        format: Format,
    ) -> Self {
        Self { session, statements: statements.into_iter(), params, layout, format, begun: 0, open: None }
    }

    async fn begin(&mut self, statement: &ParsedStatement, out: &mut Vec<u8>) -> Result<Step, Error> {
        let outcome = self.session.execute(statement, &self.params).await?;
        if self.statements.len() > 0 {
            return match outcome.rows {
                None => Ok(Step::Result),
                Some(_) => Err(Error::new(
                    ErrorCode::InvalidParameter,
                    "this format holds one result, and a statement before the last one gives rows",
                )
                .with_hint("accept application/json, or send the statements one by one")),
            };
        }
        let (schema, rows) = rows_of(outcome)?;
        let writer = Writer::new(self.format, self.layout, &schema, out)?;
        let parts = match self.format {
            // Whoever reads batches wants them large.
            Format::Arrow => Parts::whole(rows),
            _ => Parts::few(rows),
        };
        self.open = Some((parts, writer));
        Ok(Step::Inside)
    }
}

/// The rows of an outcome; without any, what there is to say about it as one row.
fn rows_of(outcome: Outcome) -> Result<(SchemaRef, BoxStream<'static, Result<RecordBatch, Error>>), Error> {
    if let Some(rows) = outcome.rows {
        return Ok((rows.schema, rows.stream));
    }
    let number = |value: Option<u64>| -> ArrayRef {
        Arc::new(Int64Array::from(vec![value.and_then(|value| i64::try_from(value).ok())]))
    };
    let (fields, columns) = match outcome.message {
        Some(message) => (
            vec![Field::new("message", DataType::Utf8, true)],
            vec![Arc::new(StringArray::from(vec![message])) as ArrayRef],
        ),
        None => (
            vec![
                Field::new("affected_rows", DataType::Int64, true),
                Field::new("seq", DataType::Int64, true),
            ],
            vec![number(outcome.affected_rows), number(outcome.seq)],
        ),
    };
    let schema = Arc::new(Schema::new(fields));
    let batch = RecordBatch::try_new(Arc::clone(&schema), columns)?;
    Ok((schema, stream::iter([Ok(batch)]).boxed()))
}

impl Produce for TableRun {
    fn content_type(&self) -> &'static str {
        match self.format {
            Format::Json => "application/json",
            Format::Ndjson => "application/x-ndjson",
            Format::Csv => "text/csv; charset=utf-8; header=present",
            Format::Arrow => "application/vnd.apache.arrow.stream",
        }
    }

    fn opening(&self) -> &'static [u8] {
        b""
    }

    fn results_are_json(&self) -> bool {
        false
    }

    async fn step(&mut self, out: &mut Vec<u8>) -> Result<Step, Failure> {
        let index = self.begun.saturating_sub(1);
        if let Some((rows, writer)) = &mut self.open {
            let written = match rows.next().await {
                Some(batch) => batch.and_then(|batch| writer.write(&batch, out)).map(|()| Step::Inside),
                None => writer.finish(out).map(|()| Step::End),
            };
            return written.map_err(|error| Failure { error, index });
        }
        let Some(statement) = self.statements.next() else { return Ok(Step::End) };
        let index = self.begun;
        self.begun += 1;
        self.begin(&statement, out).await.map_err(|error| Failure { error, index })
    }
}

impl Writer {
    fn new(format: Format, layout: RowFormat, schema: &SchemaRef, out: &mut Vec<u8>) -> Result<Self, Error> {
        Ok(match format {
            Format::Json | Format::Ndjson => Self::Ndjson(RowEncoder::new(schema, layout)),
            Format::Csv => Self::Csv(CsvWriter::new(schema, out)),
            Format::Arrow => Self::Arrow(Box::new(ArrowWriter::new(schema, out)?)),
        })
    }

    fn write(&mut self, batch: &RecordBatch, out: &mut Vec<u8>) -> Result<(), Error> {
        match self {
            Self::Ndjson(encoder) => {
                encoder.encode_separated(batch, b"\n", out);
                out.push(b'\n');
                Ok(())
            }
            Self::Csv(writer) => writer.write(batch, out),
            Self::Arrow(writer) => writer.write(batch, out),
        }
    }

    fn finish(&mut self, out: &mut Vec<u8>) -> Result<(), Error> {
        match self {
            Self::Arrow(writer) => writer.finish(out),
            Self::Ndjson(_) | Self::Csv(_) => Ok(()),
        }
    }
}
