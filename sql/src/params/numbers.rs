//! Numbers, exactly.

use std::fmt::Display;
use std::str::FromStr;

use datafusion::scalar::ScalarValue;
use kalamdb_engine::DataType;

use super::{mismatch, out_of_range};
use crate::error::Result;

/// A number's text for a value of a numeric type.
pub(super) fn from_text(text: &str, target: &DataType) -> Result<ScalarValue> {
    let text = text.trim();
    let special = matches!(target, DataType::Float | DataType::Double) && is_special(text);
    if !special && !is_number(text) {
        return Err(mismatch(&format!("{:?}", text.chars().take(60).collect::<String>()), target));
    }
    match target {
        DataType::SmallInt => Ok(ScalarValue::Int16(Some(integer(text, target)?))),
        DataType::Int => Ok(ScalarValue::Int32(Some(integer(text, target)?))),
        DataType::BigInt => Ok(ScalarValue::Int64(Some(integer(text, target)?))),
        DataType::Float => Ok(ScalarValue::Float32(Some(float(text, target)?))),
        DataType::Double => Ok(ScalarValue::Float64(Some(float(text, target)?))),
        DataType::Decimal { precision, scale } => {
            let value = decimal(text, *precision, *scale, target)?;
            Ok(ScalarValue::Decimal128(Some(value), *precision, *scale as i8))
        }
        other => Err(mismatch(text, other)),
    }
}

fn is_number(text: &str) -> bool {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    digits.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        && digits.contains(|c: char| c.is_ascii_digit())
        && digits.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+' | b'-'))
        && text.parse::<f64>().is_ok()
}

fn is_special(text: &str) -> bool {
    matches!(text, "NaN" | "Infinity" | "-Infinity")
}

/// A whole number; `3.0` and `1e3` are whole too.
fn integer<T: FromStr + TryFrom<i128>>(text: &str, target: &DataType) -> Result<T> {
    if let Ok(value) = text.parse() {
        return Ok(value);
    }
    let (unscaled, exponent) = scientific(text).ok_or_else(|| out_of_range(text, target))?;
    let whole = shifted(unscaled, exponent).ok_or_else(|| fraction_or_range(text, exponent, target))?;
    T::try_from(whole).map_err(|_| out_of_range(text, target))
}

fn fraction_or_range(text: &str, exponent: i64, target: &DataType) -> crate::error::Error {
    if exponent < 0 { mismatch(text, target) } else { out_of_range(text, target) }
}

fn float<T: FromStr + PartialEq + Display>(text: &str, target: &DataType) -> Result<T> {
    let value: T = text.parse().map_err(|_| mismatch(text, target))?;
    // A number too large for the type is read as infinity.
    if value.to_string().trim_start_matches('-') == "inf" && !is_special(text) {
        return Err(out_of_range(text, target));
    }
    Ok(value)
}

fn decimal(text: &str, precision: u8, scale: u8, target: &DataType) -> Result<i128> {
    let (unscaled, exponent) = scientific(text).ok_or_else(|| out_of_range(text, target))?;
    let value = shifted(unscaled, exponent + i64::from(scale)).ok_or_else(|| out_of_range(text, target))?;
    if value.unsigned_abs() >= 10_u128.pow(u32::from(precision)) {
        return Err(out_of_range(text, target));
    }
    Ok(value)
}

/// `-12.50e3` as -1250 and 1: the value is the first times ten to the power of the second.
fn scientific(text: &str) -> Option<(i128, i64)> {
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i64>().ok()?),
        None => (text, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let fraction = fraction.trim_end_matches('0');
    let digits = format!("{whole}{fraction}");
    let unscaled: i128 =
        if digits.trim_start_matches(['-', '+']).is_empty() { 0 } else { digits.parse().ok()? };
    Some((unscaled, exponent - fraction.len() as i64))
}

/// `value` times ten to the power of `exponent`, if that is a whole number that fits.
fn shifted(value: i128, exponent: i64) -> Option<i128> {
    if value == 0 {
        return Some(0);
    }
    let power = 10_i128.checked_pow(u32::try_from(exponent.unsigned_abs()).ok()?)?;
    if exponent >= 0 {
        return value.checked_mul(power);
    }
    (value % power == 0).then_some(value / power)
}
