//! NDJSON: one object per line; keys are column names, a missing key takes the default.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::ArrayRef;
use datafusion::scalar::ScalarValue;
use serde_json::{Map, Value};

use super::columns::{Use, usage};
use super::sink::{Batch, Sink};
use crate::error::{Error, ErrorCode, Result};
use crate::functions::evaluate_default;
use crate::params;

/// The longest line, in bytes.
const MAX_LINE: usize = 64 << 20;

/// Reads lines that come in pieces.
#[derive(Debug)]
pub(super) struct NdjsonReader {
    batch_rows: usize,
    /// A line that has begun.
    line: Vec<u8>,
    line_number: u64,
    rows: Vec<(u64, Map<String, Value>)>,
    uses: HashMap<String, Use>,
}

impl NdjsonReader {
    pub(super) fn new(batch_rows: usize) -> Self {
        Self { batch_rows, line: Vec::new(), line_number: 0, rows: Vec::new(), uses: HashMap::new() }
    }

    pub(super) async fn write(&mut self, chunk: &[u8], sink: &mut Sink) -> Result<()> {
        let mut pieces = chunk.split(|byte| *byte == b'\n').peekable();
        while let Some(piece) = pieces.next() {
            self.line.extend_from_slice(piece);
            if pieces.peek().is_some() {
                self.end_line(sink).await?;
            } else if self.line.len() > MAX_LINE {
                return Err(at(
                    self.line_number + 1,
                    Error::new(ErrorCode::TooLarge, "the line is too long"),
                ));
            }
        }
        Ok(())
    }

    pub(super) async fn finish(&mut self, sink: &mut Sink) -> Result<()> {
        self.end_line(sink).await?;
        self.flush(sink).await
    }

    async fn end_line(&mut self, sink: &mut Sink) -> Result<()> {
        self.line_number += 1;
        let line = std::mem::take(&mut self.line);
        if line.iter().all(u8::is_ascii_whitespace) {
            return Ok(());
        }
        let row: Map<String, Value> = serde_json::from_slice(&line).map_err(|error| {
            at(
                self.line_number,
                Error::new(ErrorCode::InvalidParameter, format!("this is not a JSON object: {error}")),
            )
        })?;
        for name in row.keys() {
            if !self.uses.contains_key(name) {
                let usage =
                    usage(sink.table(), sink.user_column(), name).map_err(|e| at(self.line_number, e))?;
                self.uses.insert(name.clone(), usage);
            }
        }
        self.rows.push((self.line_number, row));
        if self.rows.len() == self.batch_rows { self.flush(sink).await } else { Ok(()) }
    }

    async fn flush(&mut self, sink: &mut Sink) -> Result<()> {
        if self.rows.is_empty() {
            return Ok(());
        }
        let rows = std::mem::take(&mut self.rows);
        let batch = self.convert(sink, &rows)?;
        sink.write(batch).await
    }

    fn convert(&self, sink: &Sink, rows: &[(u64, Map<String, Value>)]) -> Result<Batch> {
        let mut columns: Vec<Option<ArrayRef>> = vec![None; sink.table().schema.columns().len()];
        for (name, usage) in &self.uses {
            if let Some(index) = usage.column {
                if columns[index].is_some() {
                    return Err(Error::new(
                        ErrorCode::InvalidParameter,
                        format!("column {name} comes twice"),
                    ));
                }
                columns[index] = Some(column(sink, index, name, rows)?);
            }
        }
        let lines: Vec<u64> = rows.iter().map(|(line, _)| *line).collect();
        let place = move |row: usize| format!("line {}", lines.get(row).copied().unwrap_or_default());
        let owners = self.uses.iter().find(|(_, usage)| usage.owner).map(|(name, _)| owners(name, rows));
        Ok(Batch { columns, owners: owners.transpose()?, rows: rows.len(), place: Arc::new(place) })
    }
}

fn column(sink: &Sink, index: usize, name: &str, rows: &[(u64, Map<String, Value>)]) -> Result<ArrayRef> {
    let column = &sink.table().schema.columns()[index];
    let missing = rows.iter().filter(|(_, row)| !row.contains_key(name)).count();
    let defaults = if missing > 0 { Some(evaluate_default(&sink.context(), column, missing)?) } else { None };
    let mut next = 0;
    let mut scalars = Vec::with_capacity(rows.len());
    for (line, row) in rows {
        scalars.push(match (row.get(name), &defaults) {
            (Some(value), _) => params::typed(value, &column.data_type).map_err(|mut error| {
                error.message = format!("column {name}: {}", error.message);
                at(*line, error)
            })?,
            (None, Some(defaults)) => {
                next += 1;
                ScalarValue::try_from_array(defaults, next - 1)?
            }
            (None, None) => params::null(&column.data_type)?,
        });
    }
    Ok(ScalarValue::iter_to_array(scalars)?)
}

/// Whose each row is, as text.
fn owners(name: &str, rows: &[(u64, Map<String, Value>)]) -> Result<ArrayRef> {
    let owner = |(line, row): &(u64, Map<String, Value>)| match row.get(name) {
        Some(Value::String(owner)) => Ok(ScalarValue::Utf8View(Some(owner.clone()))),
        Some(Value::Number(owner)) => Ok(ScalarValue::Utf8View(Some(owner.to_string()))),
        _ => Err(at(
            *line,
            Error::new(ErrorCode::InvalidParameter, format!("{name} does not say whose the row is")),
        )),
    };
    Ok(ScalarValue::iter_to_array(rows.iter().map(owner).collect::<Result<Vec<_>>>()?)?)
}

fn at(line: u64, mut error: Error) -> Error {
    error.message = format!("line {line}: {}", error.message);
    error
}
