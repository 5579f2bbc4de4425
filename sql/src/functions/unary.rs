//! What functions of one operand have in common.

use arrow::array::ArrayRef;
use datafusion::common::{Result, ScalarValue, internal_err};
use datafusion::logical_expr::ColumnarValue;

/// The one operand of a function of this name.
pub(super) fn operand<'a, T>(name: &str, operands: &'a [T]) -> Result<&'a T> {
    let [operand] = operands else { return internal_err!("{name} takes one operand") };
    Ok(operand)
}

/// Applies a function over arrays to its operand: an array, or one value for all rows.
pub(super) fn apply(
    name: &str,
    operands: &[ColumnarValue],
    function: impl FnOnce(&ArrayRef) -> Result<ArrayRef>,
) -> Result<ColumnarValue> {
    Ok(match operand(name, operands)? {
        ColumnarValue::Array(array) => ColumnarValue::Array(function(array)?),
        ColumnarValue::Scalar(scalar) => {
            let array = function(&scalar.to_array()?)?;
            ColumnarValue::Scalar(ScalarValue::try_from_array(&array, 0)?)
        }
    })
}
