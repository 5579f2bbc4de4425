//! Values straight from the parsed statement, without the planner.

use datafusion::scalar::ScalarValue;
use datafusion::sql::sqlparser::ast::{Expr, UnaryOperator, Value as SqlValue, ValueWithSpan};
use kalamdb_engine::DataType;
use serde_json::Value;

use super::{from_text, mismatch, null, numbers, typed};
use crate::dialect::position;
use crate::error::{Error, ErrorCode, Result};

/// The value of a literal or parameter for a column of this type; `None` if the expression is anything else and has to
/// be planned.
///
/// # Errors
/// As [`typed`], with the place of the literal.
pub(crate) fn literal(expr: &Expr, params: &[Value], target: &DataType) -> Result<Option<ScalarValue>> {
    match expr {
        Expr::Value(value) => {
            of_value(value, params, target).map_err(|e| e.with_position(position(value.span)))
        }
        Expr::UnaryOp { op, expr } => match (op, expr.as_ref()) {
            (
                UnaryOperator::Minus,
                Expr::Value(ValueWithSpan { value: SqlValue::Number(digits, _), span }),
            ) => {
                let value = numbers::from_text(&format!("-{digits}"), target);
                value.map(Some).map_err(|e| e.with_position(position(*span)))
            }
            (UnaryOperator::Plus, inner @ Expr::Value(_)) => literal(inner, params, target),
            _ => Ok(None),
        },
        Expr::Nested(inner) => literal(inner, params, target),
        _ => Ok(None),
    }
}

fn of_value(value: &ValueWithSpan, params: &[Value], target: &DataType) -> Result<Option<ScalarValue>> {
    let scalar = match &value.value {
        SqlValue::Null => null(target)?,
        SqlValue::Placeholder(name) => typed(placeholder(name, params)?, target)?,
        SqlValue::Boolean(flag) => match target {
            DataType::Boolean => ScalarValue::Boolean(Some(*flag)),
            DataType::Text | DataType::Json => ScalarValue::Utf8View(Some(flag.to_string())),
            _ => return Err(mismatch(&flag.to_string(), target)),
        },
        SqlValue::Number(digits, _) => match target {
            DataType::Text => ScalarValue::Utf8View(Some(digits.clone())),
            DataType::Json => from_text(digits, target)?,
            _ => numbers::from_text(digits, target)?,
        },
        // BYTES in SQL text follow other rules than base64 parameters: `'abc'` is three bytes.
        SqlValue::SingleQuotedString(text) | SqlValue::EscapedStringLiteral(text) => {
            from_literal(text, target)?
        }
        SqlValue::HexStringLiteral(digits) if *target == DataType::Bytes => ScalarValue::BinaryView(Some(
            hex(digits).ok_or_else(|| mismatch("a text that is not hexadecimal", target))?,
        )),
        _ => return Ok(None),
    };
    Ok(Some(scalar))
}

/// The value of a quoted literal for a column of this type.
///
/// # Errors
/// As [`typed`].
pub(crate) fn from_literal(text: &str, target: &DataType) -> Result<ScalarValue> {
    match target {
        DataType::Bytes => Ok(ScalarValue::BinaryView(Some(bytes(text)?))),
        _ => from_text(text, target),
    }
}

/// `'\x00ff'` is hexadecimal as in PostgreSQL, anything else the bytes of the text itself.
fn bytes(text: &str) -> Result<Vec<u8>> {
    match text.strip_prefix("\\x") {
        Some(digits) => {
            hex(digits).ok_or_else(|| mismatch("a text that is not hexadecimal", &DataType::Bytes))
        }
        None => Ok(text.as_bytes().to_vec()),
    }
}

fn hex(digits: &str) -> Option<Vec<u8>> {
    if !digits.len().is_multiple_of(2) || !digits.is_ascii() {
        return None;
    }
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).ok()).collect()
}

/// The parameter that `$n` names.
///
/// # Errors
/// [`ErrorCode::InvalidParameter`] if there is none.
fn placeholder<'a>(name: &str, params: &'a [Value]) -> Result<&'a Value> {
    let number =
        name.strip_prefix('$').and_then(|digits| digits.parse::<usize>().ok()).filter(|number| *number > 0);
    let number = number.ok_or_else(|| {
        Error::new(ErrorCode::InvalidParameter, format!("{name} is not a parameter"))
            .with_hint("parameters are written $1, $2, ...")
    })?;
    params.get(number - 1).ok_or_else(|| {
        Error::new(
            ErrorCode::InvalidParameter,
            format!("the statement uses ${number}, but {} parameters were given", params.len()),
        )
    })
}
