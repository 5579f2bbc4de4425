//! Looking into JSON text without making a tree of it: what is asked for is a part of the text, and is given as that part.
//!
//! The text is known to be JSON. If it is not after all, something or nothing is found, in time linear in its length.

use std::borrow::Cow;

/// What a JSON value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Null,
    Bool,
    Number,
    String,
    Array,
    Object,
}

impl Kind {
    /// The kind of a value by its first character.
    pub(super) fn of(value: &str) -> Self {
        match value.trim_ascii_start().as_bytes().first() {
            Some(b'{') => Self::Object,
            Some(b'[') => Self::Array,
            Some(b'"') => Self::String,
            Some(b't' | b'f') => Self::Bool,
            Some(b'n') | None => Self::Null,
            Some(_) => Self::Number,
        }
    }

    /// Its name as PostgreSQL has it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool => "boolean",
            Self::Number => "number",
            Self::String => "string",
            Self::Array => "array",
            Self::Object => "object",
        }
    }
}

/// One step of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step<'a> {
    /// Into an object.
    Key(&'a str),
    /// Into an array; negative numbers count from its end.
    Index(i64),
    /// Into an object by the text, or into an array by the number that the text is.
    Either(&'a str),
}

/// The part of a value that a step leads to. Of a key that is there several times the last counts.
pub(super) fn step<'a>(value: &'a str, step: Step<'_>) -> Option<&'a str> {
    match (Kind::of(value), step) {
        (Kind::Object, Step::Key(key) | Step::Either(key)) => {
            Members::of(value).filter(|member| is_key(member.key, key)).last().map(|member| member.value)
        }
        (Kind::Array, Step::Index(at)) => element(value, at),
        (Kind::Array, Step::Either(text)) => element(value, text.trim().parse().ok()?),
        _ => None,
    }
}

fn element(array: &str, at: i64) -> Option<&str> {
    let from_start = |at: usize| Members::of(array).nth(at).map(|member| member.value);
    match usize::try_from(at) {
        Ok(at) => from_start(at),
        Err(_) => {
            let back = usize::try_from(at.unsigned_abs()).ok()?;
            from_start(Members::of(array).count().checked_sub(back)?)
        }
    }
}

/// Whether a key as it is written, with its quotes, is this text.
fn is_key(written: &str, key: &str) -> bool {
    match written.get(1..written.len().saturating_sub(1)) {
        Some(plain) if !plain.contains('\\') => plain == key,
        _ => string(written).is_some_and(|text| text == key),
    }
}

/// The text that a JSON string stands for; `None` if it is none that text can be (half of a surrogate pair).
pub(super) fn string(written: &str) -> Option<Cow<'_, str>> {
    let written = written.trim_ascii();
    match written.get(1..written.len().saturating_sub(1)) {
        Some(plain) if !plain.contains('\\') => Some(Cow::Borrowed(plain)),
        _ => serde_json::from_str(written).ok().map(Cow::Owned),
    }
}

/// One member of an object, or element of an array.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Member<'a> {
    /// The key as it is written; empty in arrays.
    pub(super) key: &'a str,
    pub(super) value: &'a str,
}

/// The members of an object or array, in the order they are written; none of anything else.
pub(super) struct Members<'a> {
    /// From the next member on.
    rest: &'a str,
    keyed: bool,
}

impl<'a> Members<'a> {
    pub(super) fn of(value: &'a str) -> Self {
        let value = value.trim_ascii_start();
        let keyed = value.starts_with('{');
        let rest = if keyed || value.starts_with('[') { &value[1..] } else { "" };
        Self { rest: rest.trim_ascii_start(), keyed }
    }

    /// Takes the value that comes next, and the character behind it if it is this one.
    fn take(&mut self, behind: u8) -> &'a str {
        let (value, rest) = self.rest.split_at(end_of_value(self.rest.as_bytes()));
        let rest = rest.trim_ascii_start();
        self.rest = rest.strip_prefix(char::from(behind)).unwrap_or(rest).trim_ascii_start();
        value
    }
}

impl<'a> Iterator for Members<'a> {
    type Item = Member<'a>;

    fn next(&mut self) -> Option<Member<'a>> {
        if matches!(self.rest.as_bytes().first(), None | Some(b'}' | b']')) {
            self.rest = "";
            return None;
        }
        let before = self.rest.len();
        let key = if self.keyed { self.take(b':') } else { "" };
        let value = self.take(b',');
        // What is not JSON must not be read for ever.
        (self.rest.len() < before).then_some(Member { key, value })
    }
}

/// Where the value ends that these bytes begin with: always between characters, as it is at a sign of JSON or at the end.
fn end_of_value(bytes: &[u8]) -> usize {
    match bytes.first() {
        Some(b'"') => end_of_string(bytes, 0),
        Some(b'{' | b'[') => end_of_nested(bytes),
        _ => {
            let ends = |byte: &u8| matches!(byte, b',' | b'}' | b']' | b':' | b' ' | b'\n' | b'\r' | b'\t');
            bytes.iter().position(ends).unwrap_or(bytes.len())
        }
    }
}

/// Behind the string that begins at `start`.
fn end_of_string(bytes: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    bytes.len()
}

fn end_of_nested(bytes: &[u8]) -> usize {
    let mut open = 0_usize;
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => {
                at = end_of_string(bytes, at);
                continue;
            }
            b'{' | b'[' => open += 1,
            b'}' | b']' => {
                open = open.saturating_sub(1);
                if open == 0 {
                    return at + 1;
                }
            }
            _ => {}
        }
        at += 1;
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str =
        r#" { "a" : 1.50 , "b":[ 10, "x]\"," , {"c":null} ,[] ] , "\u0061b": {"d": "é"}, "e":true } "#;

    fn path<'a>(text: &'a str, steps: &[Step<'_>]) -> Option<&'a str> {
        steps.iter().try_fold(text, |value, next| step(value, *next))
    }

    #[test]
    fn a_path_leads_to_a_part_of_the_text_as_it_is_written() {
        use Step::{Either, Index, Key};
        let cases: [(&[Step<'_>], Option<&str>); 14] = [
            (&[Key("a")], Some("1.50")),
            (&[Key("b"), Index(0)], Some("10")),
            (&[Key("b"), Index(1)], Some(r#""x]\",""#)),
            (&[Key("b"), Index(2), Key("c")], Some("null")),
            (&[Key("b"), Index(-1)], Some("[]")),
            (&[Key("b"), Index(-4)], Some("10")),
            (&[Key("b"), Index(-5)], None),
            (&[Key("b"), Index(4)], None),
            (&[Key("b"), Key("0")], None),
            (&[Key("b"), Either("0")], Some("10")),
            (&[Either("ab"), Key("d")], Some("\"é\"")),
            (&[Key("e"), Key("x")], None),
            (&[Index(0)], None),
            (&[Key("nothing")], None),
        ];
        for (steps, expected) in cases {
            assert_eq!(path(TEXT, steps), expected, "{steps:?}");
        }
    }

    #[test]
    fn the_last_of_equal_keys_counts_and_escapes_in_keys_are_read() {
        assert_eq!(step(r#"{"k":1,"\u006b":2}"#, Step::Key("k")), Some("2"));
        assert_eq!(step(r#"{"a\"b":1}"#, Step::Key("a\"b")), Some("1"));
        assert_eq!(step(r#"{"":1}"#, Step::Key("")), Some("1"));
    }

    #[test]
    fn members_are_all_there_and_scalars_have_none() {
        let count = |text| Members::of(text).count();
        assert_eq!(count(TEXT), 4);
        assert_eq!((count("[]"), count("{ }"), count("[1]"), count("[ 1 , 2 ]")), (0, 0, 1, 2));
        assert_eq!((count("7"), count("\"[1]\""), count("null"), count("")), (0, 0, 0, 0));
    }

    #[test]
    fn strings_lose_their_escapes() {
        assert_eq!(string(r#""plain é""#).unwrap(), "plain é");
        assert_eq!(string(r#""a\n\u00e9\ud83d\ude00""#).unwrap(), "a\né😀");
        assert_eq!(string(r#""\ud800""#), None);
    }

    #[test]
    fn text_that_is_no_json_is_read_to_its_end_without_harm() {
        for text in
            ["{", "[", "[1", "{\"a", "{\"a\":", "[,,,]", "{:}", "[\"\\", "}", "[é é]", "{\"a\" 1}", "[1}2]"]
        {
            assert!(Members::of(text).count() <= text.len(), "{text}");
            step(text, Step::Key("a"));
            step(text, Step::Index(-1));
        }
    }
}
