//! JSON parameters become typed values, and so do literals of the text.
//!
//! Values take the forms that results have: BYTES is base64, DECIMAL and large integers may be strings, TIMESTAMP is
//! RFC 3339. Conversion is exact or an error: nothing is rounded, truncated or wrapped.

mod literal;
mod numbers;
mod temporal;

use std::sync::Arc;

use arrow::array::{ArrayRef, ListArray};
use arrow::buffer::OffsetBuffer;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use datafusion::scalar::ScalarValue;
use kalamdb_engine::DataType;
use serde_json::Value;

use crate::error::{Error, ErrorCode, Result};

pub(crate) use literal::{from_literal, literal};

/// The most parameters of a statement.
pub(crate) const MAX_PARAMS: usize = 1_000;

/// Refuses too many parameters.
///
/// # Errors
/// [`ErrorCode::TooLarge`].
pub(crate) fn check_count(params: &[Value]) -> Result<()> {
    if params.len() <= MAX_PARAMS {
        return Ok(());
    }
    Err(Error::new(
        ErrorCode::TooLarge,
        format!("{} parameters: at most {MAX_PARAMS} are allowed", params.len()),
    ))
}

/// A parameter whose type the statement does not say: the natural type of the JSON value.
///
/// # Errors
/// [`ErrorCode::ValueOutOfRange`] for an integer beyond BIGINT.
pub(crate) fn scalar(value: &Value) -> Result<ScalarValue> {
    Ok(match value {
        Value::Null => ScalarValue::Null,
        Value::Bool(value) => ScalarValue::Boolean(Some(*value)),
        Value::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
            (Some(value), ..) => ScalarValue::Int64(Some(value)),
            (None, Some(_), _) => return Err(out_of_range(value, &DataType::BigInt)),
            (None, None, Some(value)) => ScalarValue::Float64(Some(value)),
            (None, None, None) => return Err(out_of_range(value, &DataType::Double)),
        },
        Value::String(text) => ScalarValue::Utf8View(Some(text.clone())),
        Value::Array(items) => untyped_array(items)?,
        Value::Object(_) => ScalarValue::Utf8View(Some(value.to_string())),
    })
}

fn untyped_array(items: &[Value]) -> Result<ScalarValue> {
    let scalars = items.iter().map(scalar).collect::<Result<Vec<_>>>()?;
    let mut kind = arrow::datatypes::DataType::Null;
    for item in scalars.iter().filter(|item| !item.is_null()) {
        kind = match (&kind, item.data_type()) {
            (arrow::datatypes::DataType::Null, found) => found,
            (known, found) if *known == found => found,
            (arrow::datatypes::DataType::Int64, arrow::datatypes::DataType::Float64)
            | (arrow::datatypes::DataType::Float64, arrow::datatypes::DataType::Int64) => {
                arrow::datatypes::DataType::Float64
            }
            _ => return Err(Error::new(ErrorCode::TypeMismatch, "an array parameter mixes types")),
        };
    }
    let scalars = scalars.iter().map(|item| item.cast_to(&kind)).collect::<Result<Vec<_>, _>>()?;
    Ok(ScalarValue::List(ScalarValue::new_list_nullable(&scalars, &kind)))
}

/// A parameter for a value of this type.
///
/// # Errors
/// [`ErrorCode::TypeMismatch`] for the wrong kind of value, [`ErrorCode::ValueOutOfRange`] for one that does not fit.
pub(crate) fn typed(value: &Value, target: &DataType) -> Result<ScalarValue> {
    match (value, target) {
        (Value::Null, _) => null(target),
        (Value::Object(_) | Value::Array(_), DataType::Json) => {
            Ok(ScalarValue::Utf8View(Some(value.to_string())))
        }
        (Value::Bool(flag), DataType::Json) => Ok(ScalarValue::Utf8View(Some(flag.to_string()))),
        (Value::Number(number), DataType::Json) => Ok(ScalarValue::Utf8View(Some(number.to_string()))),
        (Value::Bool(flag), DataType::Boolean) => Ok(ScalarValue::Boolean(Some(*flag))),
        (Value::Bool(flag), DataType::Text) => Ok(ScalarValue::Utf8View(Some(flag.to_string()))),
        (Value::Number(number), DataType::Text) => Ok(ScalarValue::Utf8View(Some(number.to_string()))),
        (Value::Number(number), _) => numbers::from_text(&number.to_string(), target),
        (Value::String(text), _) => from_text(text, target),
        (Value::Array(items), DataType::Array(item)) => array(items, item),
        _ => Err(mismatch(&shown(value), target)),
    }
}

/// The NULL of a type.
pub(crate) fn null(target: &DataType) -> Result<ScalarValue> {
    ScalarValue::try_from(&target.arrow()).map_err(Error::from)
}

/// Text for a value of this type: a string parameter or a quoted literal.
///
/// # Errors
/// As [`typed`].
pub(crate) fn from_text(text: &str, target: &DataType) -> Result<ScalarValue> {
    match target {
        DataType::Text => Ok(ScalarValue::Utf8View(Some(text.to_owned()))),
        DataType::Json => json(text),
        DataType::Uuid => uuid(text),
        DataType::Bytes => bytes(text),
        DataType::Boolean => boolean(text),
        DataType::Timestamp | DataType::Date | DataType::Time => temporal::from_text(text, target),
        DataType::Array(item) => match serde_json::from_str(text) {
            Ok(Value::Array(items)) => array(&items, item),
            _ => match in_braces(text) {
                Some(items) => array(&items, item),
                None => Err(mismatch(&format!("{text:?}"), target)),
            },
        },
        _ => numbers::from_text(text, target),
    }
}

fn json(text: &str) -> Result<ScalarValue> {
    match serde_json::from_str::<serde::de::IgnoredAny>(text) {
        Ok(_) => Ok(ScalarValue::Utf8View(Some(text.to_owned()))),
        Err(error) => Err(Error::new(ErrorCode::TypeMismatch, format!("this is not JSON: {error}"))
            .with_hint(
                "a string parameter of a JSON column is JSON text; a JSON string needs quotes of its own",
            )),
    }
}

fn uuid(text: &str) -> Result<ScalarValue> {
    let parsed =
        uuid::Uuid::try_parse(text.trim()).map_err(|_| mismatch(&format!("{text:?}"), &DataType::Uuid))?;
    Ok(ScalarValue::Utf8View(Some(parsed.hyphenated().to_string())))
}

fn bytes(text: &str) -> Result<ScalarValue> {
    let decoded =
        [STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD].iter().find_map(|form| form.decode(text).ok());
    let decoded = decoded.ok_or_else(|| mismatch("text that is not base64", &DataType::Bytes))?;
    Ok(ScalarValue::BinaryView(Some(decoded)))
}

fn boolean(text: &str) -> Result<ScalarValue> {
    let value = match text.trim().to_ascii_lowercase().as_str() {
        "true" | "t" | "yes" | "on" | "1" => true,
        "false" | "f" | "no" | "off" | "0" => false,
        _ => return Err(mismatch(&format!("{text:?}"), &DataType::Boolean)),
    };
    Ok(ScalarValue::Boolean(Some(value)))
}

fn array(items: &[Value], item: &DataType) -> Result<ScalarValue> {
    let scalars = items.iter().map(|value| typed(value, item)).collect::<Result<Vec<_>>>()?;
    list(scalars, item)
}

/// The elements of an array as PostgreSQL writes it, `{1,2,NULL,"a, b"}`; `None` if it is none, or one of arrays.
fn in_braces(text: &str) -> Option<Vec<Value>> {
    let mut rest = text.trim().strip_prefix('{')?.strip_suffix('}')?.trim();
    let mut items = Vec::new();
    while !rest.is_empty() {
        let item = if let Some(quoted) = rest.strip_prefix('"') {
            let mut item = String::new();
            let mut chars = quoted.char_indices();
            let end = loop {
                match chars.next()? {
                    (_, '\\') => item.push(chars.next()?.1),
                    (at, '"') => break at,
                    (_, c) => item.push(c),
                }
            };
            rest = quoted[end + 1..].trim_start();
            Value::String(item)
        } else {
            let end = rest.find(',').unwrap_or(rest.len());
            let item = rest[..end].trim();
            if item.is_empty() || item.contains(['{', '}', '"']) {
                return None;
            }
            rest = &rest[end..];
            if item.eq_ignore_ascii_case("null") { Value::Null } else { Value::String(item.to_owned()) }
        };
        items.push(item);
        rest = match rest.strip_prefix(',') {
            // Something has to follow a comma.
            Some(rest) if !rest.trim().is_empty() => rest.trim_start(),
            None if rest.is_empty() => rest,
            _ => return None,
        };
    }
    Some(items)
}

/// A list value with exactly the field that the engine's type has.
fn list(scalars: Vec<ScalarValue>, item: &DataType) -> Result<ScalarValue> {
    let length = scalars.len();
    let values: ArrayRef = match length {
        0 => arrow::array::new_empty_array(&item.arrow()),
        _ => ScalarValue::iter_to_array(scalars)?,
    };
    let offsets = OffsetBuffer::from_lengths([length]);
    let array = ListArray::try_new(Arc::new(item.field("item", true)), offsets, values, None)?;
    Ok(ScalarValue::List(Arc::new(array)))
}

/// The error for a value that is of another kind than the type.
pub(crate) fn mismatch(shown: &str, target: &DataType) -> Error {
    Error::new(ErrorCode::TypeMismatch, format!("{shown} is not a {target}"))
}

fn out_of_range(value: impl std::fmt::Display, target: &DataType) -> Error {
    Error::new(ErrorCode::ValueOutOfRange, format!("{value} does not fit {target}"))
}

fn shown(value: &Value) -> String {
    match value {
        Value::Array(_) => "a JSON array".into(),
        Value::Object(_) => "a JSON object".into(),
        Value::String(text) => format!("{:?}", text.chars().take(60).collect::<String>()),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests;
