//! Reading a live feed: events out of lines, and how they are shown.

use std::fmt::{self, Write as _};
use std::io::{BufRead, BufReader, Read};

use serde::Deserialize;
use serde::de::{MapAccess, Visitor};
use serde_json::Value;

/// One event.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Event {
    /// Its name.
    pub(crate) name: String,
    data: Data,
}

/// What is shown of an event's data.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct Data {
    rows: Vec<Row>,
    old_rows: Vec<Row>,
    reason: String,
    code: String,
    message: String,
}

/// A row as JSON, its columns in the order of the query.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Row(String);

/// Calls `handle` with every event until it returns false or the feed ends.
///
/// # Errors
/// If the connection fails.
pub(crate) fn read(body: impl Read, mut handle: impl FnMut(Event) -> bool) -> std::io::Result<()> {
    let mut name = String::new();
    let mut data = String::new();
    for line in BufReader::new(body).lines() {
        let line = line?;
        if let Some(value) = line.strip_prefix("event:") {
            name = value.trim_start().to_owned();
        } else if let Some(value) = line.strip_prefix("data:") {
            data.push_str(value.trim_start());
        } else if line.is_empty() && !data.is_empty() {
            let event = Event {
                name: std::mem::take(&mut name),
                data: serde_json::from_str(&data).unwrap_or_default(),
            };
            data.clear();
            if !handle(event) {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// True if a feed of one query has nothing more after this event.
pub(crate) fn is_last(event: &Event) -> bool {
    matches!(event.name.as_str(), "closed" | "error")
}

/// The lines that show an event; none for those that only keep the feed going.
pub(crate) fn show(event: &Event) -> Vec<String> {
    let Data { rows: new, old_rows: old, reason, code, message } = &event.data;
    let rows = |sign: char, rows: &[Row]| -> Vec<String> {
        rows.iter().map(|row| format!("{sign} {}", row.0)).collect()
    };
    match event.name.as_str() {
        "snapshot" => rows(' ', new),
        "insert" => rows('+', new),
        "delete" => rows('-', new),
        "update" => {
            let (old, new) = (rows('-', old), rows('+', new));
            old.into_iter().zip(new).flat_map(|(old, new)| [old, new]).collect()
        }
        "reset" => vec![format!("! the feed starts anew: {reason}")],
        "error" => vec![format!("! {code}: {message}")],
        "closed" => vec![format!("! the feed is closed: {reason}")],
        _ => Vec::new(),
    }
}

impl<'de> Deserialize<'de> for Row {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Columns;
        impl<'de> Visitor<'de> for Columns {
            type Value = Row;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a row")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut columns: A) -> Result<Row, A::Error> {
                let mut text = String::from("{");
                while let Some((name, value)) = columns.next_entry::<String, Value>()? {
                    let comma = if text.len() > 1 { "," } else { "" };
                    // Writing to a String cannot fail.
                    let _ = write!(text, "{comma}{}:{value}", Value::from(name));
                }
                text.push('}');
                Ok(Row(text))
            }
        }
        deserializer.deserialize_map(Columns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_and_shown() {
        let text = "retry: 1000\n\nevent: ready\ndata: {\"seq\":1}\n\nid: 2\nevent: update\n\
                    data: {\"rows\":[{\"b\":2,\"a\":null}],\"old_rows\":[{\"b\":1,\"a\":\"x\"}]}\n\nid: 3\n\n\
                    event: closed\ndata: {\"reason\":\"shutdown\"}\n\nevent: cut";
        let mut shown = Vec::new();
        read(text.as_bytes(), |event| {
            shown.extend(show(&event));
            true
        })
        .unwrap();
        assert_eq!(
            shown,
            ["- {\"b\":1,\"a\":\"x\"}", "+ {\"b\":2,\"a\":null}", "! the feed is closed: shutdown"]
        );
    }
}
