//! [`Asked`]: what a function wants to know of the value that its path leads to.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::{Arc, OnceLock};

use arrow::array::{
    ArrayRef, ArrowPrimitiveType, BooleanArray, ListArray, PrimitiveArray, StringViewArray, StringViewBuilder,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::{Float64Type, Int64Type};
use arrow::error::ArrowError;
use datafusion::common::Result;
use kalamdb_engine::DataType;

use super::text::{Kind, Members, string};

/// What is asked of the value that a path leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Asked {
    /// The value.
    Json,
    /// The same; steps are texts that are also numbers, as in PostgreSQL's function.
    JsonByTexts,
    /// The value as text: of a string what it stands for, of null NULL.
    Text,
    /// The same by texts.
    TextByTexts,
    /// What a string stands for.
    Str,
    /// A whole number.
    Int,
    /// A number.
    Float,
    /// A truth value.
    Bool,
    /// The elements of an array.
    Array,
    /// How many elements or members there are.
    Length,
    /// Whether there is a value, even null.
    Contains,
    /// The keys of an object.
    Keys,
    /// What kind of value it is.
    TypeOf,
}

impl Asked {
    pub(super) const ALL: [Self; 13] = [
        Self::Json,
        Self::JsonByTexts,
        Self::Text,
        Self::TextByTexts,
        Self::Str,
        Self::Int,
        Self::Float,
        Self::Bool,
        Self::Array,
        Self::Length,
        Self::Contains,
        Self::Keys,
        Self::TypeOf,
    ];

    /// The function's name, and others that it has.
    pub(super) fn names(self) -> &'static [&'static str] {
        match self {
            Self::Json => &["json_get", "json_get_json"],
            Self::JsonByTexts => &["json_extract_path", "jsonb_extract_path"],
            Self::Text => &["json_as_text"],
            Self::TextByTexts => &["json_extract_path_text", "jsonb_extract_path_text"],
            Self::Str => &["json_get_str"],
            Self::Int => &["json_get_int"],
            Self::Float => &["json_get_float"],
            Self::Bool => &["json_get_bool"],
            Self::Array => &["json_get_array"],
            Self::Length => &["json_length", "json_array_length", "jsonb_array_length"],
            Self::Contains => &["json_contains"],
            Self::Keys => &["json_object_keys", "jsonb_object_keys"],
            Self::TypeOf => &["json_typeof", "jsonb_typeof"],
        }
    }

    /// The other names.
    pub(super) fn aliases(self) -> &'static [String] {
        static ALIASES: OnceLock<Vec<Vec<String>>> = OnceLock::new();
        let made = || {
            let others = |asked: &Self| asked.names()[1..].iter().map(|name| (*name).to_owned()).collect();
            Self::ALL.iter().map(others).collect()
        };
        &ALIASES.get_or_init(made)[self as usize]
    }

    /// The type of what is given.
    pub(super) fn data_type(self) -> DataType {
        match self {
            Self::Json | Self::JsonByTexts => DataType::Json,
            Self::Text | Self::TextByTexts | Self::Str | Self::TypeOf => DataType::Text,
            Self::Int | Self::Length => DataType::BigInt,
            Self::Float => DataType::Double,
            Self::Bool | Self::Contains => DataType::Boolean,
            Self::Array => DataType::Array(Box::new(DataType::Json)),
            Self::Keys => DataType::Array(Box::new(DataType::Text)),
        }
    }

    /// True if all steps are texts, and one that is a number may be a place in an array.
    pub(super) fn takes_texts(self) -> bool {
        matches!(self, Self::JsonByTexts | Self::TextByTexts)
    }

    /// The answer for each row: of the value that was found, if any was, and NULL for rows with a NULL operand.
    ///
    /// # Errors
    /// [`ArrowError::ParseError`] for numbers beyond the type and strings that no text can be.
    pub(super) fn give(self, rows: Vec<Option<Option<&str>>>) -> Result<ArrayRef> {
        if self == Self::Contains {
            let there = rows.into_iter().map(|found| found.map(|value| value.is_some()));
            return Ok(Arc::new(there.collect::<BooleanArray>()));
        }
        let found = rows.into_iter().map(Option::flatten);
        Ok(match self {
            Self::Json | Self::JsonByTexts => Arc::new(found.collect::<StringViewArray>()),
            Self::Text | Self::TextByTexts => texts(found, |kind| kind != Kind::Null)?,
            Self::Str => texts(found, |kind| kind == Kind::String)?,
            Self::Int => numbers::<Int64Type>(found, int)?,
            Self::Float => numbers::<Float64Type>(found, float)?,
            Self::Length => numbers::<Int64Type>(found, |value| Ok(length(value)))?,
            Self::Bool | Self::Contains => {
                Arc::new(found.map(|value| truth(value?)).collect::<BooleanArray>())
            }
            Self::TypeOf => {
                let kinds = found.map(|value| Some(Kind::of(value?).name()));
                Arc::new(kinds.collect::<StringViewArray>())
            }
            Self::Array => lists(&DataType::Json, found, elements)?,
            Self::Keys => lists(&DataType::Text, found, keys)?,
        })
    }
}

/// The texts of values of the kinds that are wanted: of strings what they stand for, of others what is written.
fn texts<'a>(
    found: impl Iterator<Item = Option<&'a str>>,
    wanted: impl Fn(Kind) -> bool,
) -> Result<ArrayRef> {
    let mut texts = StringViewBuilder::new();
    for value in found {
        match value.map(|value| (Kind::of(value), value)) {
            Some((Kind::String, value)) if wanted(Kind::String) => texts.append_value(unquoted(value)?),
            Some((kind, value)) if wanted(kind) => texts.append_value(value.trim_ascii()),
            _ => texts.append_null(),
        }
    }
    Ok(Arc::new(texts.finish()))
}

fn unquoted(value: &str) -> Result<Cow<'_, str>> {
    let error =
        || ArrowError::ParseError("a JSON string holds half of a surrogate pair, which no text can".into());
    Ok(string(value).ok_or_else(error)?)
}

fn numbers<'a, T: ArrowPrimitiveType>(
    found: impl Iterator<Item = Option<&'a str>>,
    read: impl Fn(&'a str) -> Result<Option<T::Native>>,
) -> Result<ArrayRef> {
    let numbers = found.map(|value| value.map_or(Ok(None), &read)).collect::<Result<Vec<_>>>()?;
    Ok(Arc::new(PrimitiveArray::<T>::from_iter(numbers)))
}

/// A whole number, however it is written.
fn int(value: &str) -> Result<Option<i64>> {
    if Kind::of(value) != Kind::Number {
        return Ok(None);
    }
    let value = value.trim_ascii();
    if let Ok(number) = value.parse() {
        return Ok(Some(number));
    }
    /// The first number beyond BIGINT.
    const END: f64 = 9_223_372_036_854_775_808.0;
    match value.parse::<f64>() {
        Ok(number) if number.is_finite() && number.fract() != 0.0 => Ok(None),
        Ok(number) if (-END..END).contains(&number) && !is_plain(value) => Ok(Some(number as i64)),
        _ => Err(beyond(value, "BIGINT")),
    }
}

/// Digits alone: such a number is exactly what it says.
fn is_plain(number: &str) -> bool {
    number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-')
}

fn float(value: &str) -> Result<Option<f64>> {
    if Kind::of(value) != Kind::Number {
        return Ok(None);
    }
    match value.trim_ascii().parse::<f64>() {
        Ok(number) if number.is_finite() => Ok(Some(number)),
        _ => Err(beyond(value, "DOUBLE")),
    }
}

fn beyond(value: &str, type_name: &str) -> datafusion::error::DataFusionError {
    let shown: String = value.chars().take(60).collect();
    ArrowError::ParseError(format!("the JSON number {shown} does not fit {type_name}")).into()
}

fn truth(value: &str) -> Option<bool> {
    match value.trim_ascii() {
        "true" => Some(true),
        "false" => Some(false),
        _ => None,
    }
}

fn length(value: &str) -> Option<i64> {
    let counted = matches!(Kind::of(value), Kind::Array | Kind::Object);
    counted.then(|| Members::of(value).count() as i64)
}

fn elements(value: &str) -> Result<Option<Vec<Cow<'_, str>>>> {
    let elements = || Members::of(value).map(|element| Cow::Borrowed(element.value)).collect();
    Ok((Kind::of(value) == Kind::Array).then(elements))
}

/// Every key once.
fn keys(value: &str) -> Result<Option<Vec<Cow<'_, str>>>> {
    if Kind::of(value) != Kind::Object {
        return Ok(None);
    }
    let mut seen = HashSet::new();
    let mut keys = Vec::new();
    for member in Members::of(value) {
        let key = unquoted(member.key)?;
        if seen.insert(key.clone()) {
            keys.push(key);
        }
    }
    Ok(Some(keys))
}

fn lists<'a>(
    item: &DataType,
    found: impl Iterator<Item = Option<&'a str>>,
    list: impl Fn(&'a str) -> Result<Option<Vec<Cow<'a, str>>>>,
) -> Result<ArrayRef> {
    let lists = found.map(|value| value.map_or(Ok(None), &list)).collect::<Result<Vec<_>>>()?;
    let offsets = OffsetBuffer::from_lengths(lists.iter().map(|list| list.as_ref().map_or(0, Vec::len)));
    let nulls = NullBuffer::from_iter(lists.iter().map(Option::is_some));
    let values = StringViewArray::from_iter_values(lists.into_iter().flatten().flatten());
    Ok(Arc::new(ListArray::try_new(
        Arc::new(item.field("item", true)),
        offsets,
        Arc::new(values),
        Some(nulls),
    )?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_are_exact_or_nothing_or_beyond() {
        for (text, expected) in [
            ("7", Some(7)),
            ("-0", Some(0)),
            ("9223372036854775807", Some(i64::MAX)),
            ("-9223372036854775808", Some(i64::MIN)),
            ("2.0", Some(2)),
            ("1e3", Some(1000)),
            ("1.5", None),
            ("\"7\"", None),
            ("null", None),
        ] {
            assert_eq!(int(text).unwrap(), expected, "{text}");
        }
        for text in ["9223372036854775808", "-9223372036854775809", "1e19", "1e999"] {
            assert!(int(text).is_err(), "{text}");
        }
        assert_eq!(float("12").unwrap(), Some(12.0));
        assert!(float("1e999").is_err());
    }

    #[test]
    fn every_function_has_a_name_and_its_own_other_names() {
        for asked in Asked::ALL {
            let aliases: Vec<&str> = asked.aliases().iter().map(String::as_str).collect();
            assert_eq!(aliases, asked.names()[1..], "{asked:?}");
        }
    }
}
