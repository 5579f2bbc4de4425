//! Arithmetic over arrays: as fast as the wrapping kernels as long as nothing overflows.

use arrow::array::{Array, ArrayRef, ArrowPrimitiveType, AsArray, Datum};
use arrow::compute::kernels::numeric;
use arrow::datatypes::{
    ArrowNativeTypeOp, DECIMAL128_MAX_PRECISION, DataType, Decimal128Type, Float32Type, Float64Type,
    Int32Type, Int64Type,
};
use arrow::error::ArrowError;
use datafusion::common::Result;
use datafusion::logical_expr::Operator;

/// `left op right`.
///
/// # Errors
/// [`ArrowError::ArithmeticOverflow`] and [`ArrowError::DivideByZero`], for rows that are not NULL.
pub(super) fn binary(op: Operator, left: &dyn Datum, right: &dyn Datum) -> Result<ArrayRef> {
    if let Some(result) = integers(op, left, right) {
        return Ok(result);
    }
    let result = match op {
        Operator::Plus => numeric::add(left, right)?,
        Operator::Minus => numeric::sub(left, right)?,
        Operator::Multiply => numeric::mul(left, right)?,
        Operator::Divide => {
            check_divisor(left, right)?;
            numeric::div(left, right)?
        }
        _ => {
            check_divisor(left, right)?;
            numeric::rem(left, right)?
        }
    };
    match result.data_type() {
        DataType::Float64 => check_finite::<Float64Type>(&result, left, right, f64::is_infinite)?,
        DataType::Float32 => check_finite::<Float32Type>(&result, left, right, f32::is_infinite)?,
        // A sum of two of the widest decimals may have a digit more than fits, though 128 bits hold it.
        DataType::Decimal128(precision @ DECIMAL128_MAX_PRECISION, scale) => {
            let values = result.as_primitive::<Decimal128Type>();
            values.validate_decimal_precision(*precision).map_err(|_| {
                overflow(&format!("a result has more digits than DECIMAL({precision},{scale}) can hold"))
            })?;
        }
        _ => {}
    }
    Ok(result)
}

/// `-operand`.
///
/// # Errors
/// [`ArrowError::ArithmeticOverflow`] for the least of all integers.
pub(super) fn negate(operand: &dyn Array) -> Result<ArrayRef> {
    Ok(numeric::neg(operand)?)
}

fn overflow(message: &str) -> ArrowError {
    ArrowError::ArithmeticOverflow(message.to_owned())
}

/// Sums and differences of integers in one pass that the compiler can vectorise; `None` for other operands, and if
/// anything overflowed: whether that row is NULL and what to say of it is the slow way's to find out.
fn integers(op: Operator, left: &dyn Datum, right: &dyn Datum) -> Option<ArrayRef> {
    if !matches!(op, Operator::Plus | Operator::Minus) {
        return None;
    }
    match (left.get().0.data_type(), right.get().0.data_type()) {
        (DataType::Int64, DataType::Int64) => wrapping::<Int64Type>(op, left, right),
        (DataType::Int32, DataType::Int32) => wrapping::<Int32Type>(op, left, right),
        _ => None,
    }
}

fn wrapping<T: ArrowPrimitiveType>(op: Operator, left: &dyn Datum, right: &dyn Datum) -> Option<ArrayRef> {
    let result = if op == Operator::Plus {
        numeric::add_wrapping(left, right).ok()?
    } else {
        numeric::sub_wrapping(left, right).ok()?
    };
    let zero = T::Native::ZERO;
    let sums = result.as_primitive::<T>().values();
    // A sum is less than its first part exactly if the second is negative; a difference the other way round.
    let wrapped = |first: T::Native, second: T::Native, result: T::Native| match op {
        Operator::Plus => result.is_lt(first) != second.is_lt(zero),
        _ => result.is_gt(first) != second.is_lt(zero),
    };
    let ((left, left_scalar), (right, right_scalar)) = (left.get(), right.get());
    let (left, right) = (left.as_primitive::<T>().values(), right.as_primitive::<T>().values());
    let any = match (left_scalar, right_scalar) {
        (false, false) => {
            let rows = left.iter().zip(right).zip(sums);
            rows.fold(false, |any, ((l, r), sum)| any | wrapped(*l, *r, *sum))
        }
        (false, true) => left.iter().zip(sums).fold(false, |any, (l, sum)| any | wrapped(*l, right[0], *sum)),
        (true, false) => right.iter().zip(sums).fold(false, |any, (r, sum)| any | wrapped(left[0], *r, *sum)),
        (true, true) => wrapped(left[0], right[0], sums[0]),
    };
    (!any).then_some(result)
}

/// Arrow checks the divisors of integers and decimals only.
fn check_divisor(left: &dyn Datum, right: &dyn Datum) -> Result<()> {
    match right.get().0.data_type() {
        DataType::Float64 => check_zeros::<Float64Type>(left, right, |value| value == 0.0),
        DataType::Float32 => check_zeros::<Float32Type>(left, right, |value| value == 0.0),
        _ => Ok(()),
    }
}

fn check_zeros<T: ArrowPrimitiveType>(
    left: &dyn Datum,
    right: &dyn Datum,
    is_zero: impl Fn(T::Native) -> bool + Copy,
) -> Result<()> {
    let ((left, left_scalar), (right, right_scalar)) = (left.get(), right.get());
    let divisors = right.as_primitive::<T>();
    if !divisors.values().iter().fold(false, |any, value| any | is_zero(*value)) {
        return Ok(());
    }
    let refused = |row: usize| {
        let (left_row, right_row) = (if left_scalar { 0 } else { row }, if right_scalar { 0 } else { row });
        left.is_valid(left_row) && divisors.is_valid(right_row) && is_zero(divisors.value(right_row))
    };
    let rows = if left_scalar { right.len() } else { left.len() };
    if (0..rows).any(refused) { Err(ArrowError::DivideByZero.into()) } else { Ok(()) }
}

/// A result may be infinite only if an operand is.
fn check_finite<T: ArrowPrimitiveType>(
    result: &ArrayRef,
    left: &dyn Datum,
    right: &dyn Datum,
    is_infinite: impl Fn(T::Native) -> bool + Copy,
) -> Result<()> {
    let values = result.as_primitive::<T>();
    if !values.values().iter().fold(false, |any, value| any | is_infinite(*value)) {
        return Ok(());
    }
    let was_infinite = |operand: &dyn Datum, row: usize| {
        let (array, scalar) = operand.get();
        is_infinite(array.as_primitive::<T>().value(if scalar { 0 } else { row }))
    };
    let overflowed = |row: &usize| {
        values.is_valid(*row)
            && is_infinite(values.value(*row))
            && !was_infinite(left, *row)
            && !was_infinite(right, *row)
    };
    match (0..values.len()).any(|row| overflowed(&row)) {
        true => Err(overflow("a result is greater than a floating-point number can be").into()),
        false => Ok(()),
    }
}
