//! The forms an answer can take, and choosing one by `Accept`.

pub(crate) mod arrow;
pub(crate) mod csv;
pub(crate) mod json;
mod parts;
pub(crate) mod table;

use axum::http::HeaderValue;

/// A form of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// All results, with their schemas.
    Json,
    /// The rows of one result, one JSON text a line.
    Ndjson,
    /// The rows of one result, with a line of names.
    Csv,
    /// The rows of one result as an Arrow IPC stream.
    Arrow,
}

const KNOWN: [(&str, Format); 5] = [
    ("application/json", Format::Json),
    ("application/x-ndjson", Format::Ndjson),
    ("application/ndjson", Format::Ndjson),
    ("text/csv", Format::Csv),
    ("application/vnd.apache.arrow.stream", Format::Arrow),
];

/// The form the client likes best; JSON if it names none we have.
pub(crate) fn negotiate(accept: Option<&HeaderValue>) -> Format {
    let text = accept.and_then(|value| value.to_str().ok()).unwrap_or_default();
    let mut best = (0.0, Format::Json);
    for item in text.split(',') {
        let mut parts = item.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default().to_ascii_lowercase();
        let weight = parts.find_map(|part| part.strip_prefix("q=")?.parse().ok()).unwrap_or(1.0);
        let wildcard = matches!(name.as_str(), "*/*" | "application/*").then_some(Format::Json);
        let known = KNOWN.iter().find(|(known, _)| *known == name).map(|(_, format)| *format);
        if let Some(format) = known.or(wildcard).filter(|_| weight > best.0) {
            best = (weight, format);
        }
    }
    best.1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_liked_form_we_have_is_taken() {
        let cases = [
            ("", Format::Json),
            ("*/*", Format::Json),
            ("text/html", Format::Json),
            ("text/csv", Format::Csv),
            ("TEXT/CSV; charset=utf-8", Format::Csv),
            ("application/json;q=0.5, application/x-ndjson", Format::Ndjson),
            ("text/csv;q=0.1, */*", Format::Json),
            ("text/html, application/vnd.apache.arrow.stream", Format::Arrow),
            ("text/csv;q=0", Format::Json),
        ];
        for (accept, format) in cases {
            assert_eq!(negotiate(Some(&accept.parse().unwrap())), format, "{accept}");
        }
        assert_eq!(negotiate(None), Format::Json);
    }
}
