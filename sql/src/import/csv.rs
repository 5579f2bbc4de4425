//! CSV: texts by the column, then values of the table's types.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch, StringViewArray};
use arrow::compute::kernels::cmp::eq;
use arrow::compute::nullif;
use arrow::csv::ReaderBuilder;
use arrow::csv::reader::Decoder;
use arrow::datatypes::{DataType, Field, Schema};

use super::columns::{Use, uses};
use super::sink::{Batch, Sink};
use crate::dml::convert::texts;
use crate::error::{Error, ErrorCode, Result};

/// The longest header line, in bytes.
const MAX_HEADER: usize = 1 << 20;
/// The most bytes of one batch.
const MAX_BATCH_BYTES: usize = 512 << 20;

/// Reads a CSV text that comes in pieces.
#[derive(Debug)]
pub(super) struct CsvReader {
    batch_rows: usize,
    null: Option<String>,
    /// The text so far, until the header is whole.
    header: Vec<u8>,
    body: Option<Body>,
}

#[derive(Debug)]
struct Body {
    decoder: Decoder,
    uses: Vec<Use>,
    /// The line of the next record.
    line: u64,
    /// Bytes taken since the last batch.
    bytes: usize,
}

impl CsvReader {
    pub(super) fn new(batch_rows: usize, null: Option<String>) -> Self {
        Self { batch_rows, null, header: Vec::new(), body: None }
    }

    pub(super) async fn write(&mut self, chunk: &[u8], sink: &mut Sink) -> Result<()> {
        if self.body.is_some() {
            return self.decode(chunk, sink).await;
        }
        self.header.extend_from_slice(chunk);
        match end_of_record(&self.header) {
            Some(end) => self.begin(end, sink).await,
            None if self.header.len() > MAX_HEADER => {
                Err(Error::new(ErrorCode::InvalidParameter, "line 1: the header line is too long"))
            }
            None => Ok(()),
        }
    }

    pub(super) async fn finish(&mut self, sink: &mut Sink) -> Result<()> {
        if self.body.is_none() && !self.header.is_empty() {
            self.begin(self.header.len(), sink).await?;
        }
        let Some(body) = &mut self.body else { return Ok(()) };
        body.decoder.decode(&[]).map_err(|e| malformed(&e))?;
        self.flush(sink).await
    }

    async fn begin(&mut self, end: usize, sink: &mut Sink) -> Result<()> {
        let text = std::mem::take(&mut self.header);
        let header = std::str::from_utf8(&text[..end]);
        let header =
            header.map_err(|_| Error::new(ErrorCode::InvalidParameter, "line 1: the text is not UTF-8"))?;
        let names = fields(header.trim_start_matches('\u{feff}'));
        let uses = uses(sink.table(), sink.user_column(), &names).map_err(|mut error| {
            error.message = format!("line 1: {}", error.message);
            error
        })?;
        let columns: Vec<Field> =
            names.iter().map(|name| Field::new(name, DataType::Utf8View, true)).collect();
        let decoder = ReaderBuilder::new(Arc::new(Schema::new(columns)))
            .with_header(true)
            .with_batch_size(self.batch_rows)
            .build_decoder();
        let line = 2 + newlines(&header[..header.trim_end().len()]);
        self.body = Some(Body { decoder, uses, line, bytes: 0 });
        self.decode(&text, sink).await
    }

    async fn decode(&mut self, mut text: &[u8], sink: &mut Sink) -> Result<()> {
        while !text.is_empty() {
            let Some(body) = &mut self.body else { return Ok(()) };
            let used = body.decoder.decode(text).map_err(|e| malformed(&e))?;
            text = &text[used..];
            body.bytes += used;
            if body.decoder.capacity() == 0 {
                self.flush(sink).await?;
            } else if used == 0 || body.bytes > MAX_BATCH_BYTES {
                let message = format!("line {} and what follows: the rows are too long", body.line);
                return Err(Error::new(ErrorCode::TooLarge, message)
                    .with_hint("is a quote missing? otherwise use smaller batches"));
            }
        }
        Ok(())
    }

    async fn flush(&mut self, sink: &mut Sink) -> Result<()> {
        let Some(body) = &mut self.body else { return Ok(()) };
        let Some(records) = body.decoder.flush().map_err(|e| malformed(&e))? else { return Ok(()) };
        let batch = body.convert(sink, &records, self.null.as_deref())?;
        body.line += records.num_rows() as u64 + newlines_within(&records, records.num_rows());
        body.bytes = 0;
        sink.write(batch).await
    }
}

impl Body {
    fn convert(&self, sink: &Sink, records: &RecordBatch, null: Option<&str>) -> Result<Batch> {
        let table = sink.table();
        let mut columns: Vec<Option<ArrayRef>> = vec![None; table.schema.columns().len()];
        let mut owners = None;
        let (first, kept) = (self.line, records.clone());
        let place = move |row: usize| format!("line {}", first + row as u64 + newlines_within(&kept, row));
        for (usage, values) in self.uses.iter().zip(records.columns()) {
            let values = without(values.as_string_view(), null)?;
            if let Some(index) = usage.column {
                let column = &table.schema.columns()[index];
                let array = texts(&values, &column.data_type).map_err(|(row, mut error)| {
                    error.message = format!("{}: column {}: {}", place(row), column.name, error.message);
                    error
                })?;
                columns[index] = Some(array);
            }
            if usage.owner {
                owners = Some(Arc::new(values) as ArrayRef);
            }
        }
        Ok(Batch { columns, owners, rows: records.num_rows(), place: Arc::new(place) })
    }
}

/// The texts, those equal to `null` as NULL.
fn without(values: &StringViewArray, null: Option<&str>) -> Result<StringViewArray> {
    let Some(null) = null else { return Ok(values.clone()) };
    let is_null = eq(values, &StringViewArray::new_scalar(null))?;
    Ok(nullif(values, &is_null)?.as_string_view().clone())
}

/// Line breaks within the fields of the first `rows` records.
fn newlines_within(records: &RecordBatch, rows: usize) -> u64 {
    let of =
        |column: &ArrayRef| column.as_string_view().iter().take(rows).flatten().map(newlines).sum::<u64>();
    records.columns().iter().map(of).sum()
}

fn newlines(text: &str) -> u64 {
    text.bytes().filter(|byte| *byte == b'\n').count() as u64
}

/// The length of the first record with its line break, if it is whole. Quotes may hold line breaks.
fn end_of_record(text: &[u8]) -> Option<usize> {
    let mut quoted = false;
    for (at, byte) in text.iter().enumerate() {
        match byte {
            b'"' => quoted = !quoted,
            b'\n' if !quoted => return Some(at + 1),
            _ => {}
        }
    }
    None
}

/// The fields of one record.
fn fields(record: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let (mut quoted, mut characters) = (false, record.trim_end_matches(['\r', '\n']).chars().peekable());
    while let Some(character) = characters.next() {
        match character {
            '"' if quoted && characters.peek() == Some(&'"') => {
                characters.next();
                fields.last_mut().into_iter().for_each(|field| field.push('"'));
            }
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(String::new()),
            other => fields.last_mut().into_iter().for_each(|field| field.push(other)),
        }
    }
    fields.into_iter().map(|field| field.trim().to_owned()).collect()
}

/// The decoder's error; its message names the line.
fn malformed(error: &arrow::error::ArrowError) -> Error {
    let message = match error {
        arrow::error::ArrowError::CsvError(message) => message.clone(),
        other => other.to_string(),
    };
    Error::new(ErrorCode::InvalidParameter, format!("the CSV text is malformed: {message}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_fields_may_be_quoted() {
        assert_eq!(fields("a, b ,\"c,\"\"d\"\"\"\r\n"), ["a", "b", "c,\"d\""]);
        assert_eq!(end_of_record(b"a,\"b\nc\",d\nrest"), Some(10));
        assert_eq!(end_of_record(b"a,b"), None);
    }
}
