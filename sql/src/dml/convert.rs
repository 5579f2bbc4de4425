//! Fitting computed values into columns: exact, rounded only where SQL rounds, or an error.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, StringViewArray};
use arrow::compute::kernels::arity::unary;
use arrow::compute::{CastOptions, can_cast_types, cast_with_options};
use arrow::datatypes::{DataType as ArrowType, Field, Float32Type, Float64Type};
use kalamdb_engine::{Column, DataType};

use crate::error::{Error, ErrorCode, Result};
use crate::params;
use crate::types;

const CHECKED: CastOptions<'static> =
    CastOptions { safe: false, format_options: arrow::util::display::FormatOptions::new() };

/// Values of an expression as values of a column.
///
/// # Errors
/// [`ErrorCode::TypeMismatch`] if the types have nothing to do with each other; [`ErrorCode::ValueOutOfRange`] if a value
/// does not fit. Both name the column.
pub(crate) fn assign(values: &ArrayRef, column: &Column) -> Result<ArrayRef> {
    convert(values, &column.data_type).map_err(|mut error| {
        error.message = format!("column {}: {}", column.name, error.message);
        error
    })
}

fn convert(values: &ArrayRef, target: &DataType) -> Result<ArrayRef> {
    let arrow = target.arrow();
    let from = values.data_type();
    match target {
        DataType::Text | DataType::Bytes if is_text(from) => return cast(values, &arrow),
        // Text is read by the rules of the type, which are those of literals and parameters.
        _ if is_text(from) => return text_array(values, target),
        _ if *from == arrow => return Ok(values.clone()),
        DataType::Json if from.is_nested() => {}
        DataType::SmallInt | DataType::Int | DataType::BigInt if from.is_floating() => {
            return cast(&rounded(values)?, &arrow);
        }
        DataType::SmallInt | DataType::Int | DataType::BigInt if from.is_decimal() => {
            let whole = cast(values, &ArrowType::Decimal128(38, 0))?;
            return cast(&whole, &arrow);
        }
        DataType::Float if matches!(from, ArrowType::Float64) => return narrowed(values),
        _ => {}
    }
    if !is_assignable(from, target) || !can_cast_types(from, &arrow) {
        let shown = types::sql_name(&Field::new("", from.clone(), true));
        return Err(Error::new(ErrorCode::TypeMismatch, format!("a {shown} is not a {target}"))
            .with_hint(format!("CAST(... AS {target}) converts what can be converted")));
    }
    cast(values, &arrow)
}

fn cast(values: &ArrayRef, to: &ArrowType) -> Result<ArrayRef> {
    Ok(cast_with_options(values, to, &CHECKED)?)
}

fn is_text(from: &ArrowType) -> bool {
    matches!(from, ArrowType::Utf8 | ArrowType::LargeUtf8 | ArrowType::Utf8View)
}

/// Which types are stored into which without an explicit cast.
fn is_assignable(from: &ArrowType, target: &DataType) -> bool {
    let moment = matches!(from, ArrowType::Timestamp(..) | ArrowType::Date32 | ArrowType::Date64);
    if from.is_null() || is_text(from) {
        return true;
    }
    match target {
        DataType::Text => !from.is_nested(),
        DataType::SmallInt | DataType::Int | DataType::BigInt => from.is_numeric(),
        DataType::Float | DataType::Double | DataType::Decimal { .. } => from.is_numeric(),
        DataType::Timestamp | DataType::Date => moment,
        DataType::Time => {
            matches!(from, ArrowType::Time32(_) | ArrowType::Time64(_) | ArrowType::Timestamp(..))
        }
        DataType::Bytes => matches!(from, ArrowType::Binary | ArrowType::LargeBinary | ArrowType::BinaryView),
        DataType::Array(_) => from.is_list(),
        DataType::Boolean | DataType::Json | DataType::Uuid => false,
    }
}

fn rounded(values: &ArrayRef) -> Result<ArrayRef> {
    let values = cast(values, &ArrowType::Float64)?;
    Ok(Arc::new(unary::<_, _, Float64Type>(values.as_primitive::<Float64Type>(), f64::round_ties_even)))
}

/// DOUBLE as FLOAT; a finite value must not become infinite.
fn narrowed(values: &ArrayRef) -> Result<ArrayRef> {
    let wide = values.as_primitive::<Float64Type>();
    let narrow = unary::<_, _, Float32Type>(wide, |value| value as f32);
    let overflow = wide
        .iter()
        .zip(&narrow)
        .find(|(wide, narrow)| wide.is_some_and(f64::is_finite) && !narrow.is_some_and(f32::is_finite));
    match overflow {
        Some((Some(value), _)) => {
            Err(Error::new(ErrorCode::ValueOutOfRange, format!("{value} does not fit a FLOAT")))
        }
        _ => Ok(Arc::new(narrow)),
    }
}

/// Text as a type that has rules of its own.
fn text_array(values: &ArrayRef, target: &DataType) -> Result<ArrayRef> {
    let values = cast(values, &ArrowType::Utf8View)?;
    texts(values.as_string_view(), target).map_err(|(_, error)| error)
}

/// Text as values of a type; an error comes with the row it is about. NULL stays NULL.
///
/// # Errors
/// As [`params::from_text`].
pub(crate) fn texts(
    values: &StringViewArray,
    target: &DataType,
) -> std::result::Result<ArrayRef, (usize, Error)> {
    if *target == DataType::Text {
        return Ok(Arc::new(values.clone()));
    }
    if let Some(array) = fast_texts(values, target) {
        return Ok(array);
    }
    let null = params::null(target).map_err(|error| (0, error))?;
    let mut scalars = Vec::with_capacity(values.len());
    for (row, text) in values.iter().enumerate() {
        scalars.push(match text {
            Some(text) => params::from_text(text, target).map_err(|error| (row, error))?,
            None => null.clone(),
        });
    }
    if scalars.is_empty() {
        return Ok(arrow::array::new_empty_array(&target.arrow()));
    }
    datafusion::scalar::ScalarValue::iter_to_array(scalars).map_err(|error| (0, error.into()))
}

/// Whole numbers, fractions and dates of plain form by the column; `None` sends the column the slow way, which knows
/// every form and gives the errors.
fn fast_texts(values: &StringViewArray, target: &DataType) -> Option<ArrayRef> {
    use arrow::array::{Float64Array, Int16Array, Int32Array, Int64Array};
    fn all<T, A: FromIterator<Option<T>>>(
        values: &StringViewArray,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Option<A> {
        // The outer Option stops at the first text that is not of plain form.
        values.iter().map(|text| text.map_or(Some(None), |text| parse(text).map(Some))).collect()
    }
    Some(match target {
        DataType::SmallInt => Arc::new(all::<i16, Int16Array>(values, |text| text.parse().ok())?),
        DataType::Int => Arc::new(all::<i32, Int32Array>(values, |text| text.parse().ok())?),
        DataType::BigInt => Arc::new(all::<i64, Int64Array>(values, |text| text.parse().ok())?),
        DataType::Double => Arc::new(all::<f64, Float64Array>(values, plain_float)?),
        _ => return None,
    })
}

/// Digits, a point, an exponent: what Rust and SQL read alike.
fn plain_float(text: &str) -> Option<f64> {
    let plain = text.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'e' | b'E' | b'+'));
    text.parse().ok().filter(|value: &f64| plain && value.is_finite())
}

#[cfg(test)]
mod tests {
    use arrow::array::{Float64Array, Int64Array, StringArray};
    use arrow::datatypes::{Int32Type, Int64Type};

    use super::*;

    fn array(values: impl Array + 'static) -> ArrayRef {
        Arc::new(values)
    }

    #[test]
    fn fractions_are_rounded_and_numbers_that_do_not_fit_are_refused() {
        let rounded = convert(&array(Float64Array::from(vec![1.5, 2.5, -1.4])), &DataType::Int).unwrap();
        assert_eq!(rounded.as_primitive::<Int32Type>().values(), &[2, 2, -1]);
        for (values, target) in [
            (array(Float64Array::from(vec![1e12])), DataType::Int),
            (array(Int64Array::from(vec![i64::MAX])), DataType::Int),
            (array(Float64Array::from(vec![1e300])), DataType::Float),
            (array(Int64Array::from(vec![12_345])), DataType::Decimal { precision: 4, scale: 1 }),
        ] {
            assert_eq!(convert(&values, &target).unwrap_err().code, ErrorCode::ValueOutOfRange, "{target}");
        }
    }

    #[test]
    fn unrelated_types_are_refused_and_text_is_read() {
        let number = array(Int64Array::from(vec![1]));
        for target in [DataType::Boolean, DataType::Timestamp, DataType::Json, DataType::Bytes] {
            assert_eq!(convert(&number, &target).unwrap_err().code, ErrorCode::TypeMismatch, "{target}");
        }
        let text = array(StringArray::from(vec!["7"]));
        assert_eq!(convert(&text, &DataType::BigInt).unwrap().as_primitive::<Int64Type>().values(), &[7]);
        let json = array(StringArray::from(vec!["{oops"]));
        assert_eq!(convert(&json, &DataType::Json).unwrap_err().code, ErrorCode::TypeMismatch);
    }

    #[test]
    fn an_error_in_a_column_of_text_names_its_row() {
        let values = StringViewArray::from(vec![Some("1"), None, Some("x")]);
        let (row, error) = texts(&values, &DataType::Int).unwrap_err();
        assert_eq!((row, error.code), (2, ErrorCode::TypeMismatch));
        let good = texts(&StringViewArray::from(vec![Some("1"), None]), &DataType::Double).unwrap();
        assert_eq!((good.null_count(), good.as_primitive::<Float64Type>().value(0)), (1, 1.0));
    }
}
