//! Arithmetic that fails instead of wrapping around.
//!
//! DataFusion's `+ - *`, unary minus and `sum` wrap integers and decimals silently, and let fractions become infinite.
//! [`CheckedOperators`] is the one place where that is changed: it replaces those operators, and `/` and `%`, by functions
//! that give the same values under the same names, or an error. DataFusion applies it to every plan before types are
//! coerced and constants folded, and to every expression that is compiled by itself (CHECK, DEFAULT). It does the same
//! for casts to floating-point numbers. [`ExactSum`] and [`CheckedAvg`] take the place of `sum` and `avg`, over groups
//! and windows alike.

mod arithmetic;
mod casts;
mod finite;
mod groups;
mod kernels;
mod sum;

use arrow::datatypes::DataType;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, Result};
use datafusion::logical_expr::expr_rewriter::FunctionRewrite;
use datafusion::logical_expr::type_coercion::is_signed_numeric;
use datafusion::logical_expr::{BinaryExpr, Cast, Expr, ExprSchemable, Operator};

pub(super) use arithmetic::{added, is_checked, is_exact};
pub(crate) use finite::CheckedAvg;
pub(crate) use sum::ExactSum;

/// Replaces arithmetic operators over numbers by functions that check.
#[derive(Debug)]
pub(crate) struct CheckedOperators;

impl FunctionRewrite for CheckedOperators {
    fn name(&self) -> &str {
        "checked_operators"
    }

    fn rewrite(&self, expr: Expr, schema: &DFSchema, _: &ConfigOptions) -> Result<Transformed<Expr>> {
        Ok(match expr {
            Expr::BinaryExpr(BinaryExpr { left, op, right }) if arithmetic::is_checked(op) => {
                let (left_type, right_type) = (left.get_type(schema)?, right.get_type(schema)?);
                match arithmetic::binary(op, &left_type, &right_type) {
                    Some(function) => Transformed::yes(function.call(vec![*left, *right])),
                    None => Transformed::no(Expr::BinaryExpr(BinaryExpr { left, op, right })),
                }
            }
            Expr::Negative(operand) => match operand.get_type(schema)? {
                found if is_checkable(&found) && is_signed_numeric(&found) => {
                    Transformed::yes(arithmetic::negation().call(vec![*operand]))
                }
                _ => Transformed::no(Expr::Negative(operand)),
            },
            Expr::Cast(Cast { expr, field }) => {
                match casts::function(&expr.get_type(schema)?, field.data_type()) {
                    Some(function) => Transformed::yes(function.call(vec![*expr])),
                    None => Transformed::no(Expr::Cast(Cast { expr, field })),
                }
            }
            other => Transformed::no(other),
        })
    }
}

/// Numbers whose arithmetic is checked here; moments and intervals are checked by Arrow.
fn is_checkable(found: &DataType) -> bool {
    found.is_integer() || found.is_floating() || found.is_decimal()
}

/// The sign of an operator as SQL writes it.
fn sign(op: Operator) -> &'static str {
    match op {
        Operator::Plus => "+",
        Operator::Minus => "-",
        Operator::Multiply => "*",
        Operator::Divide => "/",
        _ => "%",
    }
}
