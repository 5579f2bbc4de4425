//! CSV (RFC 4180) with a line of names. Values look as they do in JSON, text without its quotes; NULL is an empty field
//! and an empty text is `""`, so that an import of the answer gives the same rows.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{Schema, SchemaRef};
use kalamdb_sql::{Error, RowEncoder, RowFormat};

/// The field metadata key and value of columns that hold JSON text.
const JSON_COLUMN: (&str, &str) = ("kalamdb.type", "JSON");

/// Writes batches as lines.
pub(crate) struct CsvWriter {
    columns: Vec<Column>,
}

struct Column {
    /// The encoder of this column alone: a row is an array of one value.
    encoder: RowEncoder,
    schema: SchemaRef,
    is_json: bool,
}

impl CsvWriter {
    /// Writes the line of names.
    pub(crate) fn new(schema: &Schema, out: &mut Vec<u8>) -> Self {
        let mut columns = Vec::with_capacity(schema.fields().len());
        for (index, field) in schema.fields().iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            quote(field.name().as_bytes(), out);
            let schema = Arc::new(Schema::new(vec![Arc::clone(field)]));
            let encoder = RowEncoder::new(&schema, RowFormat::Arrays);
            let is_json = field.metadata().get(JSON_COLUMN.0).is_some_and(|kind| kind == JSON_COLUMN.1);
            columns.push(Column { encoder, schema, is_json });
        }
        out.extend_from_slice(b"\r\n");
        Self { columns }
    }

    /// Writes the rows of a batch.
    ///
    /// # Errors
    /// If the batch does not have the schema's columns, or a value cannot be encoded: bugs.
    pub(crate) fn write(&mut self, batch: &RecordBatch, out: &mut Vec<u8>) -> Result<(), Error> {
        let mut encoded = Vec::with_capacity(self.columns.len());
        for (column, array) in self.columns.iter().zip(batch.columns()) {
            encoded.push(column.encode(array)?);
        }
        // No JSON text has a line break of its own.
        let mut lines: Vec<_> = encoded.iter().map(|text| text.split(|byte| *byte == b'\n')).collect();
        for _ in 0..batch.num_rows() {
            for (index, (column, lines)) in self.columns.iter().zip(&mut lines).enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                let row = lines.next().unwrap_or_default();
                let json = row.strip_prefix(b"[").and_then(|row| row.strip_suffix(b"]")).unwrap_or(row);
                field(json, column.is_json, out)?;
            }
            out.extend_from_slice(b"\r\n");
        }
        Ok(())
    }
}

impl Column {
    /// The column as JSON, one array of one value a line.
    fn encode(&self, array: &ArrayRef) -> Result<Vec<u8>, Error> {
        let alone = RecordBatch::try_new(Arc::clone(&self.schema), vec![Arc::clone(array)])?;
        let mut text = Vec::new();
        self.encoder.encode_separated(&alone, b"\n", &mut text);
        Ok(text)
    }
}

/// Writes one value, given as JSON text.
fn field(json: &[u8], is_json: bool, out: &mut Vec<u8>) -> Result<(), Error> {
    match json {
        b"null" => Ok(()),
        [b'"', inner @ .., b'"'] if !is_json => {
            if inner.contains(&b'\\') {
                let text: String = serde_json::from_slice(json).map_err(Error::internal)?;
                quote(text.as_bytes(), out);
            } else {
                quote(inner, out);
            }
            Ok(())
        }
        other => {
            quote(other, out);
            Ok(())
        }
    }
}

/// Writes a value that is not NULL, in quotes if it needs them.
fn quote(text: &[u8], out: &mut Vec<u8>) {
    let special = |byte: &u8| matches!(byte, b',' | b'"' | b'\r' | b'\n');
    let spaced = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_whitespace);
    if !text.is_empty() && !text.iter().any(special) && !spaced(text.first()) && !spaced(text.last()) {
        out.extend_from_slice(text);
        return;
    }
    out.push(b'"');
    for byte in text {
        if *byte == b'"' {
            out.push(b'"');
        }
        out.push(*byte);
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(json: &str, is_json: bool) -> String {
        let mut out = Vec::new();
        field(json.as_bytes(), is_json, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn null_and_empty_text_differ_and_specials_are_quoted() {
        let cases = [
            ("null", ""),
            ("\"\"", "\"\""),
            ("\"plain\"", "plain"),
            ("\"a,b\"", "\"a,b\""),
            (r#""say \"hi\"""#, r#""say ""hi""""#),
            (r#""two\nlines""#, "\"two\nlines\""),
            ("\" spaced \"", "\" spaced \""),
            ("12.5", "12.5"),
            ("[1,2]", "\"[1,2]\""),
        ];
        for (json, csv) in cases {
            assert_eq!(written(json, false), csv, "{json}");
        }
        assert_eq!(written(r#""text""#, true), r#""""text""""#, "JSON text keeps its own quotes");
    }
}
