//! Casts to floating-point numbers that do not become infinite, and to whole numbers that are the nearest: DataFusion cuts
//! the fraction off, where storing the value in a column of that type rounds it.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, ArrowPrimitiveType, AsArray, PrimitiveArray};
use arrow::compute::{CastOptions, cast, cast_with_options};
use arrow::datatypes::{DECIMAL128_MAX_PRECISION, DataType, Field, FieldRef, Float32Type, Float64Type};
use arrow::error::ArrowError;
use datafusion::common::Result;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use crate::functions::unary;

/// The function for a cast; `None` if Arrow's own cannot lose a finite value.
pub(super) fn function(from: &DataType, to: &DataType) -> Option<ScalarUDF> {
    let text = matches!(from, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
    match to {
        DataType::Float32 if text || *from == DataType::Float64 => {}
        DataType::Float64 if text => {}
        DataType::Int16 | DataType::Int32 | DataType::Int64 if has_fraction(from) => {}
        _ => return None,
    }
    let signature = Signature::any(1, Volatility::Immutable);
    Some(ScalarUDF::from(CheckedCast { to: to.clone(), signature }))
}

fn has_fraction(from: &DataType) -> bool {
    match from {
        DataType::Decimal128(_, scale) => *scale > 0,
        from => from.is_floating(),
    }
}

/// A cast as a function. Its column is named like the operand, as casts are.
#[derive(Debug, PartialEq, Eq, Hash)]
struct CheckedCast {
    to: DataType,
    signature: Signature,
}

impl ScalarUDFImpl for CheckedCast {
    fn name(&self) -> &str {
        match self.to {
            DataType::Float32 => "checked_float",
            DataType::Float64 => "checked_double",
            _ => "nearest_integer",
        }
    }

    fn display_name(&self, args: &[Expr]) -> Result<String> {
        let operand = unary::operand(self.name(), args)?;
        Ok(format!("CAST({operand} AS {})", self.to))
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        let operand = unary::operand(self.name(), args)?;
        Ok(operand.schema_name().to_string())
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(self.to.clone())
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        let nullable = args.arg_fields.iter().any(|field| field.is_nullable());
        Ok(Arc::new(Field::new(self.name(), self.to.clone(), nullable)))
    }

    fn is_strict(&self) -> bool {
        true
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        unary::apply(self.name(), &args.args, |array| checked(array, &self.to))
    }
}

fn checked(array: &ArrayRef, to: &DataType) -> Result<ArrayRef> {
    let options = CastOptions { safe: false, ..CastOptions::default() };
    let result = match to {
        DataType::Float32 | DataType::Float64 => cast_with_options(array, to, &options)?,
        _ => return Ok(cast_with_options(&rounded(array)?, to, &options)?),
    };
    match to {
        DataType::Float32 => check::<Float32Type>(array, result.as_primitive(), f32::is_infinite)?,
        _ => check::<Float64Type>(array, result.as_primitive(), f64::is_infinite)?,
    }
    Ok(result)
}

/// The nearest whole numbers: of a DECIMAL half a one is rounded up, of a DOUBLE to the even one, as PostgreSQL does.
fn rounded(array: &ArrayRef) -> Result<ArrayRef> {
    if let DataType::Decimal128(..) = array.data_type() {
        return Ok(cast(array, &DataType::Decimal128(DECIMAL128_MAX_PRECISION, 0))?);
    }
    let wide = cast(array, &DataType::Float64)?;
    Ok(Arc::new(wide.as_primitive::<Float64Type>().unary::<_, Float64Type>(f64::round_ties_even)))
}

/// A value may be infinite only if it was, or said so.
fn check<T: ArrowPrimitiveType>(
    from: &ArrayRef,
    result: &PrimitiveArray<T>,
    is_infinite: impl Fn(T::Native) -> bool,
) -> Result<()> {
    if !result.values().iter().fold(false, |any, value| any | is_infinite(*value)) {
        return Ok(());
    }
    let rows = (0..result.len()).filter(|row| result.is_valid(*row) && is_infinite(result.value(*row)));
    let names_infinity = |text: &str| text.to_ascii_lowercase().contains("inf");
    for row in rows {
        let was = match from.data_type() {
            DataType::Float64 => from.as_primitive::<Float64Type>().value(row).is_infinite(),
            _ => names_infinity(cast(&from.slice(row, 1), &DataType::Utf8)?.as_string::<i32>().value(0)),
        };
        if !was {
            let message = format!("a number is greater than {} can hold", result.data_type());
            return Err(ArrowError::CastError(message).into());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use arrow::array::{Float64Array, StringViewArray};

    use super::*;

    #[test]
    fn only_what_was_infinite_is_infinite_after_a_cast() {
        let values: ArrayRef =
            Arc::new(Float64Array::from(vec![Some(1.5), None, Some(f64::INFINITY), Some(f64::NAN)]));
        assert!(checked(&values, &DataType::Float32).is_ok());
        let values: ArrayRef = Arc::new(Float64Array::from(vec![Some(1.5), Some(-1e39)]));
        assert!(checked(&values, &DataType::Float32).is_err());
        let texts: ArrayRef = Arc::new(StringViewArray::from(vec![Some("-Infinity"), None, Some("inf")]));
        assert!(checked(&texts, &DataType::Float64).is_ok());
        let texts: ArrayRef = Arc::new(StringViewArray::from(vec!["1e999"]));
        assert!(checked(&texts, &DataType::Float64).is_err());
    }
}
