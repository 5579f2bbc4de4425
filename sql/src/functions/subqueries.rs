//! Subqueries that DataFusion would plan wrongly.
//!
//! - A scalar subquery without a row is NULL, even over a column that never is. DataFusion takes its nullability from the
//!   column, so without a row `(SELECT name FROM t WHERE id = 5)` failed, and `IS NULL` was folded to false. Such
//!   subqueries are put into a function that gives what it gets and says that it may be NULL.
//! - `x < ANY (SELECT ...)` and `ALL` become joins in which DataFusion tells the columns of the two sides apart by their names
//!   alone: `v >= ALL (SELECT v FROM t)` over `t` itself compared every value with itself. These subqueries get a name of
//!   their own.

use std::sync::Arc;

use arrow::datatypes::{DataType, FieldRef};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, Result, internal_err};
use datafusion::logical_expr::expr::SetComparison;
use datafusion::logical_expr::expr_rewriter::FunctionRewrite;
use datafusion::logical_expr::{
    ColumnarValue, Expr, LogicalPlan, LogicalPlanBuilder, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF,
    ScalarUDFImpl, Signature, Subquery, Volatility,
};

/// What subqueries of ANY and ALL are called; no table can be.
const COMPARED: &str = "__compared";

/// Puts subqueries right.
#[derive(Debug)]
pub(crate) struct RightSubqueries;

impl FunctionRewrite for RightSubqueries {
    fn name(&self) -> &str {
        "right_subqueries"
    }

    fn rewrite(&self, expr: Expr, _: &DFSchema, _: &ConfigOptions) -> Result<Transformed<Expr>> {
        match expr {
            Expr::ScalarSubquery(subquery) if may_be_empty(&subquery) => {
                let function =
                    ScalarUDF::from(Nullable { signature: Signature::any(1, Volatility::Immutable) });
                Ok(Transformed::yes(function.call(vec![Expr::ScalarSubquery(subquery)])))
            }
            Expr::SetComparison(comparison) => {
                let inner = comparison.subquery.subquery.as_ref().clone();
                let inner = LogicalPlanBuilder::from(inner).alias(COMPARED)?.build()?;
                let subquery = comparison.subquery.with_plan(Arc::new(inner));
                Ok(Transformed::yes(Expr::SetComparison(SetComparison { subquery, ..comparison })))
            }
            expr => Ok(Transformed::no(expr)),
        }
    }
}

/// A subquery that is taken for never NULL and may have no row.
fn may_be_empty(subquery: &Subquery) -> bool {
    !subquery.subquery.schema().field(0).is_nullable() && !always_has_a_row(&subquery.subquery)
}

/// An aggregate without groups has a row, whatever it reads.
fn always_has_a_row(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Projection(projection) => always_has_a_row(&projection.input),
        LogicalPlan::SubqueryAlias(alias) => always_has_a_row(&alias.input),
        LogicalPlan::Aggregate(aggregate) => aggregate.group_expr.is_empty(),
        LogicalPlan::EmptyRelation(empty) => empty.produce_one_row,
        _ => false,
    }
}

/// Gives what it gets, and may be NULL.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Nullable {
    signature: Signature,
}

impl ScalarUDFImpl for Nullable {
    fn name(&self) -> &str {
        "nullable"
    }

    fn display_name(&self, args: &[Expr]) -> Result<String> {
        let [operand] = args else { return internal_err!("nullable takes one operand") };
        Ok(operand.to_string())
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        let [operand] = args else { return internal_err!("nullable takes one operand") };
        Ok(operand.schema_name().to_string())
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        let [operand] = types else { return internal_err!("nullable takes one operand") };
        Ok(operand.clone())
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        let [operand] = args.arg_fields else { return internal_err!("nullable takes one operand") };
        Ok(Arc::new(operand.as_ref().clone().with_nullable(true)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let Ok([operand]) = <[ColumnarValue; 1]>::try_from(args.args) else {
            return internal_err!("nullable takes one operand");
        };
        Ok(operand)
    }
}
