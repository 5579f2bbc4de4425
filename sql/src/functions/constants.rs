//! Constants become what they are compared with or computed with, where DataFusion would take the other side for less than
//! it is.
//!
//! - A number with a point is a DOUBLE, but beside a DECIMAL it is that decimal, digit by digit: `price = 0.1` and
//!   `price * 1.1` are exact. Up to 15 digits a DOUBLE still tells which decimal was written; longer ones are DECIMAL from
//!   the start, see [`crate::query`].
//! - A text beside a UUID is that UUID, however it is written: UUIDs are stored as text in their canonical form.
//! - A text beside a TIMESTAMP or BYTES is read as one in a VALUES list is.
//! - JSON is text too, but neither a number nor a truth value: comparing it with one would compare texts, and is an error.
//! - What chooses among UUIDs, or among JSON values, as `coalesce` and CASE do, is one.
//! - What is looked for in a list with a zero has one zero: DataFusion looks values up by their bits, and `-0.0` has others.

use arrow::datatypes::{DECIMAL128_MAX_PRECISION, DataType as ArrowType};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, DataFusionError, Result, ScalarValue};
use datafusion::logical_expr::expr::InList;
use datafusion::logical_expr::expr_rewriter::FunctionRewrite;
use datafusion::logical_expr::{Expr, ExprSchemable, Operator};
use kalamdb_engine::{DataType, TYPE_METADATA_KEY};

use super::checked::{added, is_checked, is_exact};
use super::texts;
use crate::error::{Error, ErrorCode};
use crate::params;

/// Gives constants the type of what is beside them.
#[derive(Debug)]
pub(crate) struct FittingConstants;

impl FunctionRewrite for FittingConstants {
    fn name(&self) -> &str {
        "fitting_constants"
    }

    fn rewrite(&self, mut expr: Expr, schema: &DFSchema, _: &ConfigOptions) -> Result<Transformed<Expr>> {
        let changed = match &mut expr {
            Expr::BinaryExpr(binary) => {
                let compared = compares(binary.op);
                if !compared && !is_checked(binary.op) {
                    return Ok(Transformed::no(expr));
                }
                fit(vec![&mut binary.left, &mut binary.right], compared, schema)?
            }
            Expr::Between(between) => {
                fit(vec![&mut between.expr, &mut between.low, &mut between.high], true, schema)?
            }
            Expr::InList(list) => {
                let operands = std::iter::once(&mut *list.expr).chain(&mut list.list);
                fit(operands.collect(), true, schema)? | with_one_zero(list)
            }
            Expr::Case(case) => {
                let (whens, thens): (Vec<&mut Expr>, Vec<&mut Expr>) =
                    case.when_then_expr.iter_mut().map(|(when, then)| (&mut **when, &mut **then)).unzip();
                let base = case.expr.as_deref_mut();
                let compared = match base {
                    Some(base) => fit(std::iter::once(base).chain(whens).collect(), true, schema)?,
                    None => false,
                };
                let results: Vec<&mut Expr> =
                    thens.into_iter().chain(case.else_expr.as_deref_mut()).collect();
                let chosen = chosen(results.iter().map(|result| &**result), schema);
                let changed = fit(results, false, schema)? | compared;
                return Ok(as_chosen(expr, chosen, changed));
            }
            Expr::ScalarFunction(call) if chooses(call.func.name()) => {
                let chosen = chosen(call.args.iter(), schema);
                let changed = fit(call.args.iter_mut().collect(), false, schema)?;
                return Ok(as_chosen(expr, chosen, changed));
            }
            Expr::ScalarFunction(call) if call.func.name() == "array_has" => match call.args.as_mut_slice() {
                [Expr::ScalarFunction(array), member] if array.func.name() == "make_array" => {
                    fit(array.args.iter_mut().chain([member]).collect(), true, schema)?
                }
                _ => false,
            },
            _ => false,
        };
        Ok(if changed { Transformed::yes(expr) } else { Transformed::no(expr) })
    }
}

fn compares(op: Operator) -> bool {
    use Operator::{Eq, Gt, GtEq, IsDistinctFrom, IsNotDistinctFrom, Lt, LtEq, NotEq};
    matches!(op, Eq | NotEq | Lt | LtEq | Gt | GtEq | IsDistinctFrom | IsNotDistinctFrom)
}

/// Functions that give one of their operands.
fn chooses(name: &str) -> bool {
    matches!(name, "coalesce" | "nullif" | "greatest" | "least" | "nvl" | "nvl2")
}

/// What decides what constants beside it become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Decimal,
    Uuid,
    Json,
    Timestamp,
    Bytes,
    /// Text, or what may yet be.
    Text,
    Other,
}

fn kind(expr: &Expr, schema: &DFSchema) -> Kind {
    let Ok((_, field)) = expr.to_field(schema) else { return Kind::Text };
    match (field.metadata().get(TYPE_METADATA_KEY).map(String::as_str), field.data_type()) {
        (Some("UUID"), _) => Kind::Uuid,
        (Some("JSON"), _) => Kind::Json,
        (_, ArrowType::Decimal128(..)) => Kind::Decimal,
        (_, ArrowType::Timestamp(..)) => Kind::Timestamp,
        (_, ArrowType::BinaryView) => Kind::Bytes,
        (_, ArrowType::Utf8 | ArrowType::LargeUtf8 | ArrowType::Utf8View | ArrowType::Null) => Kind::Text,
        _ => Kind::Other,
    }
}

/// The type of what is chosen among values all of which are UUIDs, or JSON, but for constants; `None` if it is another.
fn chosen<'a>(values: impl Iterator<Item = &'a Expr>, schema: &DFSchema) -> Option<DataType> {
    let mut kinds =
        values.filter(|value| !matches!(value, Expr::Literal(..))).map(|value| kind(value, schema));
    let first = kinds.next()?;
    let data_type = match first {
        Kind::Uuid => DataType::Uuid,
        Kind::Json => DataType::Json,
        _ => return None,
    };
    kinds.all(|kind| kind == first).then_some(data_type)
}

fn as_chosen(expr: Expr, chosen: Option<DataType>, changed: bool) -> Transformed<Expr> {
    match chosen {
        Some(data_type) => Transformed::yes(texts::as_type(expr, data_type)),
        None if changed => Transformed::yes(expr),
        None => Transformed::no(expr),
    }
}

/// `0.0` or `-0.0`, as they are before constants are folded.
fn is_zero(expr: &Expr) -> bool {
    match expr {
        Expr::Literal(ScalarValue::Float64(Some(value)), _) => *value == 0.0,
        Expr::ScalarFunction(call) if call.func.name() == "checked_negate" => call.args.iter().all(is_zero),
        _ => false,
    }
}

/// `x IN (-0.0, a)` as `x + 0.0 IN (0.0, a)`; whether there was such a zero.
fn with_one_zero(list: &mut InList) -> bool {
    let zero = || Expr::Literal(ScalarValue::Float64(Some(0.0)), None);
    let zeros: Vec<&mut Expr> = list.list.iter_mut().filter(|value| is_zero(value)).collect();
    if zeros.is_empty() {
        return false;
    }
    zeros.into_iter().for_each(|value| *value = zero());
    let expr = std::mem::take(&mut *list.expr);
    *list.expr = added(expr, zero());
    true
}

/// Makes constants among some operands of one kind with the others; whether any is another now.
fn fit(operands: Vec<&mut Expr>, compared: bool, schema: &DFSchema) -> Result<bool> {
    let kinds: Vec<Kind> = operands.iter().map(|operand| kind(operand, schema)).collect();
    if compared
        && kinds.contains(&Kind::Json)
        && !kinds.iter().all(|kind| matches!(kind, Kind::Json | Kind::Text | Kind::Uuid))
    {
        let message = "JSON can be compared with JSON and TEXT only";
        let error = Error::new(ErrorCode::TypeMismatch, message);
        return Err(error
            .with_hint("take a value out of it: json_get_int(j, 'key') or (j ->> 'key')::INT")
            .into_datafusion());
    }
    let mut changed = false;
    let mut put = |operand: &mut Expr, value: Option<Expr>| {
        if let Some(value) = value {
            *operand = value;
            changed = true;
        }
    };
    if kinds.contains(&Kind::Decimal) {
        operands.into_iter().for_each(|operand| put(operand, exact(operand)));
    } else if kinds.contains(&Kind::Uuid) {
        for operand in operands {
            put(operand, uuid(operand)?);
        }
    } else if kinds.contains(&Kind::Timestamp) {
        operands.into_iter().for_each(|operand| put(operand, read(operand, &DataType::Timestamp)));
    } else if kinds.contains(&Kind::Bytes) {
        operands.into_iter().for_each(|operand| put(operand, read(operand, &DataType::Bytes)));
    }
    Ok(changed)
}

/// A constant DOUBLE as the decimal that was written, and what is added up or multiplied of such; `None` for anything else.
fn exact(expr: &Expr) -> Option<Expr> {
    match expr {
        Expr::Literal(ScalarValue::Float64(Some(value)), _) => {
            decimal(*value).map(|value| Expr::Literal(value, None))
        }
        Expr::ScalarFunction(call) if is_exact(call.func.name()) => {
            let arg = |arg: &Expr| match arg {
                Expr::Literal(ScalarValue::Int64(Some(_)), _) => Some(arg.clone()),
                arg => exact(arg),
            };
            Some(call.func.call(call.args.iter().map(arg).collect::<Option<_>>()?))
        }
        _ => None,
    }
}

/// The shortest decimal that reads as this number; `None` if it has more digits than a DECIMAL.
fn decimal(value: f64) -> Option<ScalarValue> {
    let text = value.is_finite().then(|| value.to_string())?;
    let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
    let scale = i8::try_from(fraction.len()).ok()?;
    let digits: i128 = format!("{whole}{fraction}").parse().ok()?;
    let length = digits.unsigned_abs().checked_ilog10().map_or(1, |log| log + 1);
    let precision = u8::try_from(length).ok()?.max(scale.unsigned_abs());
    (precision <= DECIMAL128_MAX_PRECISION).then_some(ScalarValue::Decimal128(Some(digits), precision, scale))
}

/// A constant text as the UUID that it is; `None` for anything else.
///
/// # Errors
/// As a cast: for a text that is no UUID.
fn uuid(expr: &Expr) -> Result<Option<Expr>, DataFusionError> {
    let Expr::Literal(value, metadata) = expr else { return Ok(None) };
    let Some(Some(text)) = value.try_as_str() else { return Ok(None) };
    let canonical = params::from_text(text, &DataType::Uuid).map_err(Error::into_datafusion)?;
    Ok(Some(Expr::Literal(canonical, metadata.clone())))
}

/// A constant text as a value of a type; `None` for anything else, and for what only DataFusion may know to read.
fn read(expr: &Expr, data_type: &DataType) -> Option<Expr> {
    let Expr::Literal(value, _) = expr else { return None };
    let value = params::from_literal(value.try_as_str()??, data_type).ok()?;
    Some(Expr::Literal(value, None))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_double_tells_the_decimal_that_was_written() {
        for (value, digits, precision, scale) in [
            (0.1, 1, 1, 1),
            (-2.50, -25, 2, 1),
            (0.001, 1, 3, 3),
            (123_456_789.012_345, 123_456_789_012_345, 15, 6),
            (1e10, 10_000_000_000, 11, 0),
            (0.0, 0, 1, 0),
        ] {
            assert_eq!(
                decimal(value),
                Some(ScalarValue::Decimal128(Some(digits), precision, scale)),
                "{value}"
            );
        }
        for value in [1e40, 1e-40, f64::NAN, f64::INFINITY] {
            assert_eq!(decimal(value), None, "{value}");
        }
    }
}
