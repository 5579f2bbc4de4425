//! Reading a live feed: events out of lines, and how they are shown.

use std::io::{BufRead, BufReader, Read};

use serde_json::Value;

/// One event.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Event {
    /// Its name.
    pub(crate) name: String,
    /// Its data.
    pub(crate) data: Value,
}

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
    let rows = |sign: char, member: &str| -> Vec<String> {
        let rows = event.data[member].as_array().map(Vec::as_slice).unwrap_or_default();
        rows.iter().map(|row| format!("{sign} {row}")).collect()
    };
    let text = |member: &str| event.data[member].as_str().unwrap_or_default().to_owned();
    match event.name.as_str() {
        "snapshot" => rows(' ', "rows"),
        "insert" => rows('+', "rows"),
        "delete" => rows('-', "rows"),
        "update" => {
            let (old, new) = (rows('-', "old_rows"), rows('+', "rows"));
            old.into_iter().zip(new).flat_map(|(old, new)| [old, new]).collect()
        }
        "reset" => vec![format!("! the feed starts anew: {}", text("reason"))],
        "error" => vec![format!("! {}: {}", text("code"), text("message"))],
        "closed" => vec![format!("! the feed is closed: {}", text("reason"))],
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_and_shown() {
        let text = "retry: 1000\n\nevent: ready\ndata: {\"seq\":1}\n\nid: 2\nevent: update\n\
                    data: {\"rows\":[{\"a\":2}],\"old_rows\":[{\"a\":1}]}\n\nid: 3\n\n\
                    event: closed\ndata: {\"reason\":\"shutdown\"}\n\nevent: cut";
        let mut shown = Vec::new();
        read(text.as_bytes(), |event| {
            shown.extend(show(&event));
            true
        })
        .unwrap();
        assert_eq!(shown, ["- {\"a\":1}", "+ {\"a\":2}", "! the feed is closed: shutdown"]);
    }
}
