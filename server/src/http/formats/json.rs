//! The JSON answer: every statement's result with its schema, one after another.

use std::io::Write;
use std::time::Instant;

use kalamdb_sql::{ColumnInfo, Error, Outcome, ParsedStatement, RowEncoder, RowFormat, RowSet, Session};
use serde_json::Value;

use super::parts::Parts;
use crate::http::produce::{Failure, Produce, Step};

/// Runs statements and writes the JSON answer.
pub(crate) struct JsonRun {
    session: Session,
    statements: std::vec::IntoIter<ParsedStatement>,
    params: Vec<Value>,
    layout: RowFormat,
    started: Instant,
    /// How many statements were begun.
    begun: usize,
    open: Option<OpenResult>,
}

/// A result that is being written.
struct OpenResult {
    rows: Parts,
    encoder: RowEncoder,
    row_count: usize,
    tail: Tail,
}

/// What stands after the rows.
struct Tail {
    affected_rows: Option<u64>,
    seq: Option<u64>,
    message: Option<String>,
    started: Instant,
}

impl JsonRun {
    /// A run of these statements.
    pub(crate) fn new(
        session: Session,
        statements: Vec<ParsedStatement>,
        params: Vec<Value>,
        layout: RowFormat,
    ) -> Self {
        let statements = statements.into_iter();
        Self { session, statements, params, layout, started: Instant::now(), begun: 0, open: None }
    }

    async fn begin(&mut self, statement: &ParsedStatement, out: &mut Vec<u8>) -> Result<Step, Error> {
        let started = Instant::now();
        let outcome = self.session.execute(statement, &self.params).await?;
        if self.begun > 1 {
            out.push(b',');
        }
        let Outcome { rows, affected_rows, seq, message } = outcome;
        let tail = Tail { affected_rows, seq, message, started };
        let Some(RowSet { columns, schema, stream }) = rows else {
            write_head(&[], out);
            tail.write(0, out);
            return Ok(Step::Result);
        };
        write_head(&columns, out);
        let encoder = RowEncoder::new(&schema, self.layout);
        self.open = Some(OpenResult { rows: Parts::few(stream), encoder, row_count: 0, tail });
        Ok(Step::Inside)
    }
}

impl Produce for JsonRun {
    fn content_type(&self) -> &'static str {
        "application/json"
    }

    fn opening(&self) -> &'static [u8] {
        b"{\"status\":\"success\",\"results\":["
    }

    fn results_are_json(&self) -> bool {
        true
    }

    async fn step(&mut self, out: &mut Vec<u8>) -> Result<Step, Failure> {
        let index = self.begun.saturating_sub(1);
        if let Some(open) = &mut self.open {
            let more = open.step(out).await.map_err(|error| Failure { error, index })?;
            if more == Step::Result {
                self.open = None;
            }
            return Ok(more);
        }
        let Some(statement) = self.statements.next() else {
            write_end(self.started, out);
            return Ok(Step::End);
        };
        let index = self.begun;
        self.begun += 1;
        self.begin(&statement, out).await.map_err(|error| Failure { error, index })
    }
}

impl OpenResult {
    async fn step(&mut self, out: &mut Vec<u8>) -> Result<Step, Error> {
        match self.rows.next().await.transpose()? {
            Some(batch) => {
                if self.row_count > 0 {
                    out.push(b',');
                }
                self.encoder.encode_rows(&batch, out);
                self.row_count += batch.num_rows();
                Ok(Step::Inside)
            }
            None => {
                self.tail.write(self.row_count, out);
                Ok(Step::Result)
            }
        }
    }
}

impl Tail {
    fn write(&self, row_count: usize, out: &mut Vec<u8>) {
        let time = millis(self.started);
        put(out, format_args!("],\"row_count\":{row_count},\"affected_rows\":"));
        put_number(out, self.affected_rows);
        put(out, format_args!(",\"execution_time_ms\":{time},\"seq\":"));
        put_number(out, self.seq);
        if let Some(message) = &self.message {
            put(out, format_args!(",\"message\":{}", Value::from(message.as_str())));
        }
        out.push(b'}');
    }
}

fn write_head(columns: &[ColumnInfo], out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"schema\":[");
    for (index, column) in columns.iter().enumerate() {
        let comma = if index > 0 { "," } else { "" };
        let name = Value::from(column.name.as_str());
        let type_name = Value::from(column.type_name.as_str());
        put(
            out,
            format_args!("{comma}{{\"name\":{name},\"type\":{type_name},\"nullable\":{}}}", column.nullable),
        );
    }
    out.extend_from_slice(b"],\"rows\":[");
}

fn write_end(started: Instant, out: &mut Vec<u8>) {
    put(out, format_args!("],\"execution_time_ms\":{}}}\n", millis(started)));
}

/// Milliseconds with microseconds after the point, as JSON.
fn millis(since: Instant) -> String {
    format!("{:.3}", since.elapsed().as_secs_f64() * 1000.0)
}

fn put(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    // Writing to a Vec cannot fail.
    let _ = out.write_fmt(text);
}

fn put_number(out: &mut Vec<u8>, number: Option<u64>) {
    match number {
        Some(number) => put(out, format_args!("{number}")),
        None => out.extend_from_slice(b"null"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_has_all_members_whether_or_not_it_has_rows() {
        let mut out = Vec::new();
        let name = "a \"quoted\" name".to_owned();
        write_head(&[ColumnInfo { name, type_name: "BIGINT".into(), nullable: false }], &mut out);
        let started = Instant::now();
        Tail { affected_rows: Some(2), seq: None, message: Some("done".into()), started }.write(0, &mut out);
        let result: Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(result["schema"][0]["name"], "a \"quoted\" name");
        assert_eq!(result["rows"], serde_json::json!([]));
        assert_eq!((&result["affected_rows"], &result["seq"]), (&Value::from(2), &Value::Null));
        assert_eq!(result["message"], "done");
        assert!(result["execution_time_ms"].is_f64());
    }
}
