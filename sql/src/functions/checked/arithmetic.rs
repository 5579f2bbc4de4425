//! The functions that stand for `+ - * / %` and unary minus.

use std::sync::{Arc, OnceLock};

use arrow::array::Datum;
use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::{Result, ScalarValue, internal_err};
use datafusion::logical_expr::type_coercion::binary::BinaryTypeCoercer;
use datafusion::logical_expr::{
    ColumnarValue, Expr, Operator, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
    Volatility,
};

use super::{is_checkable, kernels, sign};
use crate::functions::unary;

/// Operators that have a function here.
pub(in crate::functions) fn is_checked(op: Operator) -> bool {
    BINARY.contains(&op)
}

/// Functions that stand for operators of which decimals have an exact result.
pub(in crate::functions) fn is_exact(name: &str) -> bool {
    matches!(name, "checked_add" | "checked_subtract" | "checked_multiply" | "checked_negate")
}

const BINARY: [Operator; 5] =
    [Operator::Plus, Operator::Minus, Operator::Multiply, Operator::Divide, Operator::Modulo];

/// The function for an operator over operands of these types; `None` if they are not both numbers.
pub(super) fn binary(op: Operator, left: &DataType, right: &DataType) -> Option<Arc<ScalarUDF>> {
    let (left, right) = BinaryTypeCoercer::new(left, &op, right).get_input_types().ok()?;
    if !is_checkable(&left) || !is_checkable(&right) {
        return None;
    }
    static FUNCTIONS: OnceLock<[Arc<ScalarUDF>; 5]> = OnceLock::new();
    let functions = FUNCTIONS.get_or_init(|| BINARY.map(|op| Arc::new(ScalarUDF::from(Arithmetic::new(op)))));
    let at = BINARY.iter().position(|other| *other == op)?;
    Some(functions[at].clone())
}

/// `left + right`, checked.
pub(in crate::functions) fn added(left: Expr, right: Expr) -> Expr {
    ScalarUDF::from(Arithmetic::new(Operator::Plus)).call(vec![left, right])
}

/// The function for unary minus.
pub(super) fn negation() -> Arc<ScalarUDF> {
    static FUNCTION: OnceLock<Arc<ScalarUDF>> = OnceLock::new();
    FUNCTION.get_or_init(|| Arc::new(ScalarUDF::from(Negation::new()))).clone()
}

/// A binary operator as a function. Its columns are named like the operator's.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Arithmetic {
    op: Operator,
    signature: Signature,
}

impl Arithmetic {
    fn new(op: Operator) -> Self {
        Self { op, signature: Signature::user_defined(Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for Arithmetic {
    fn name(&self) -> &str {
        match self.op {
            Operator::Plus => "checked_add",
            Operator::Minus => "checked_subtract",
            Operator::Multiply => "checked_multiply",
            Operator::Divide => "checked_divide",
            _ => "checked_remainder",
        }
    }

    fn display_name(&self, args: &[Expr]) -> Result<String> {
        let [left, right] = args else { return internal_err!("{} takes two operands", self.name()) };
        Ok(format!("({left} {} {right})", sign(self.op)))
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        let [left, right] = args else { return internal_err!("{} takes two operands", self.name()) };
        Ok(format!("{} {} {}", left.schema_name(), sign(self.op), right.schema_name()))
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        let [left, right] = types else { return internal_err!("{} takes two operands", self.name()) };
        let (left, right) = BinaryTypeCoercer::new(left, &self.op, right).get_input_types()?;
        Ok(vec![left, right])
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        let [left, right] = types else { return internal_err!("{} takes two operands", self.name()) };
        BinaryTypeCoercer::new(left, &self.op, right).get_result_type()
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        let types: Vec<DataType> = args.arg_fields.iter().map(|field| field.data_type().clone()).collect();
        let nullable = args.arg_fields.iter().any(|field| field.is_nullable());
        Ok(Arc::new(Field::new(self.name(), self.return_type(&types)?, nullable)))
    }

    fn is_strict(&self) -> bool {
        true
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [left, right] = args.args.as_slice() else {
            return internal_err!("{} takes two operands", self.name());
        };
        let (left_value, right_value) = (datum(left)?, datum(right)?);
        let result = kernels::binary(self.op, left_value.as_ref(), right_value.as_ref())?;
        match (left, right) {
            (ColumnarValue::Scalar(_), ColumnarValue::Scalar(_)) => {
                Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&result, 0)?))
            }
            _ => Ok(ColumnarValue::Array(result)),
        }
    }
}

fn datum(value: &ColumnarValue) -> Result<Box<dyn Datum>> {
    Ok(match value {
        ColumnarValue::Array(array) => Box::new(array.clone()),
        ColumnarValue::Scalar(scalar) => Box::new(scalar.to_scalar()?),
    })
}

/// Unary minus as a function.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Negation {
    signature: Signature,
}

impl Negation {
    fn new() -> Self {
        Self { signature: Signature::any(1, Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for Negation {
    fn name(&self) -> &str {
        "checked_negate"
    }

    fn display_name(&self, args: &[Expr]) -> Result<String> {
        let operand = unary::operand(self.name(), args)?;
        Ok(format!("(- {operand})"))
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        let operand = unary::operand(self.name(), args)?;
        Ok(format!("(- {})", operand.schema_name()))
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        let operand = unary::operand(self.name(), types)?;
        Ok(operand.clone())
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        let operand = unary::operand(self.name(), args.arg_fields)?;
        Ok(Arc::new(Field::new(self.name(), operand.data_type().clone(), operand.is_nullable())))
    }

    fn is_strict(&self) -> bool {
        true
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        unary::apply(self.name(), &args.args, |array| kernels::negate(array))
    }
}
