//! Server-sent events out of a body.

use std::io::{BufRead, BufReader, Read};

use serde_json::Value;

/// One block of a feed.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Event {
    /// Its id, if it has one.
    pub id: Option<String>,
    /// Its name; empty for a block that only moves the id.
    pub name: String,
    /// Its data.
    pub data: Value,
}

impl Event {
    /// The member `rows` of the data.
    pub fn rows(&self) -> &[Value] {
        self.data["rows"].as_array().map(Vec::as_slice).unwrap_or_default()
    }
}

/// Calls `handle` with every block until it returns false or the body ends. As browsers do, a block that is cut short
/// is forgotten.
pub(crate) fn read(body: impl Read, mut handle: impl FnMut(Event) -> bool) {
    let mut event = Event::default();
    let mut data = String::new();
    for line in BufReader::new(body).lines().map_while(Result::ok) {
        let (field, value) = line.split_once(':').unwrap_or((&line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "id" => event.id = Some(value.into()),
            "event" => event.name = value.into(),
            "data" => data.push_str(value),
            "" if line.is_empty() => {
                if !data.is_empty() {
                    event.data =
                        serde_json::from_str(&data).unwrap_or_else(|error| panic!("{error}: {data}"));
                    data.clear();
                }
                let whole = std::mem::take(&mut event);
                if whole != Event::default() && !handle(whole) {
                    return;
                }
            }
            // A comment, or `retry`.
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn blocks_are_read_and_a_cut_one_is_forgotten() {
        let text = "retry: 1000\n\n: hello\nid: 7.1\nevent: insert\ndata: {\"a\":1}\n\nid: 8\n\nevent: update\ndata: {}\n";
        let mut seen = Vec::new();
        read(text.as_bytes(), |event| {
            seen.push(event);
            true
        });
        let insert = Event { id: Some("7.1".into()), name: "insert".into(), data: json!({"a": 1}) };
        assert_eq!(seen, [insert, Event { id: Some("8".into()), ..Event::default() }]);
    }
}
