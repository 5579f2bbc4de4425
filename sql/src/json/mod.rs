//! Rows as JSON, in the forms that HTTP answers and live feeds share.
//!
//! Integers beyond ±(2^53-1) are strings, DECIMAL is a string, TIMESTAMP is RFC 3339 with microseconds and `Z`, BYTES is
//! base64, JSON columns are embedded as JSON, NaN and the infinities are strings. A row never contains a line break,
//! so that it can be a line of NDJSON or of an event stream.

mod cell;
mod time;

use arrow::array::RecordBatch;
use arrow::datatypes::Schema;

use cell::Cell;

pub(crate) use time::write_timestamp;

/// How a row is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RowFormat {
    /// `{"id":1,"text":"Hello"}`
    #[default]
    Objects,
    /// `[1,"Hello"]`
    Arrays,
}

/// Writes rows of one schema. What depends on the schema alone is prepared once, columns are downcast once per batch.
#[derive(Debug, Clone)]
pub struct RowEncoder {
    format: RowFormat,
    /// What comes before each value: a brace or comma, and the key of an object.
    prefixes: Vec<Vec<u8>>,
    json: Vec<bool>,
}

impl RowEncoder {
    /// An encoder for batches of this schema.
    pub fn new(schema: &Schema, format: RowFormat) -> Self {
        let prefix = |(i, field): (usize, &std::sync::Arc<arrow::datatypes::Field>)| {
            let mut prefix = if i == 0 { Vec::new() } else { vec![b','] };
            if format == RowFormat::Objects {
                cell::write_str(field.name(), &mut prefix);
                prefix.push(b':');
            }
            prefix
        };
        Self {
            format,
            prefixes: schema.fields().iter().enumerate().map(prefix).collect(),
            json: schema.fields().iter().map(|field| cell::is_json(field)).collect(),
        }
    }

    /// Appends all rows of a batch, separated by commas, without brackets around them.
    pub fn encode_rows(&self, batch: &RecordBatch, out: &mut Vec<u8>) {
        self.encode_separated(batch, b",", out);
    }

    /// Appends all rows of a batch with `separator` between them.
    pub fn encode_separated(&self, batch: &RecordBatch, separator: &[u8], out: &mut Vec<u8>) {
        self.of(batch).write_until(separator, usize::MAX, out);
    }

    /// Prepares a batch, whose rows are then written one by one.
    pub(crate) fn of<'a>(&'a self, batch: &'a RecordBatch) -> Rows<'a> {
        let cells = batch.columns().iter().zip(&self.json).map(|(column, json)| Cell::new(column, *json));
        Rows { encoder: self, cells: cells.collect(), count: batch.num_rows() }
    }
}

/// The rows of a batch, whose columns are downcast.
pub(crate) struct Rows<'a> {
    encoder: &'a RowEncoder,
    cells: Vec<Cell<'a>>,
    count: usize,
}

impl Rows<'_> {
    /// Appends one row.
    pub(crate) fn write(&self, row: usize, out: &mut Vec<u8>) {
        let (open, close) = match self.encoder.format {
            RowFormat::Objects => (b'{', b'}'),
            RowFormat::Arrays => (b'[', b']'),
        };
        out.push(open);
        for (cell, prefix) in self.cells.iter().zip(&self.encoder.prefixes) {
            out.extend_from_slice(prefix);
            cell.write(row, out);
        }
        out.push(close);
    }

    /// Appends rows from the first on, with `separator` between them, until `out` has `bytes` bytes; at least one, if there
    /// is one. Returns how many.
    pub(crate) fn write_until(&self, separator: &[u8], bytes: usize, out: &mut Vec<u8>) -> usize {
        for row in 0..self.count {
            if row > 0 {
                if out.len() >= bytes {
                    return row;
                }
                out.extend_from_slice(separator);
            }
            self.write(row, out);
        }
        self.count
    }
}

#[cfg(test)]
mod tests;
