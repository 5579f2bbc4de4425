//! `NOT IN` with a subquery, where DataFusion forgets about NULL.
//!
//! A condition that stands by itself, or beside others with AND, becomes a join that knows NULL. Elsewhere (`x NOT IN (SELECT
//! ...) OR y`) it becomes a join that only marks whether there is an equal value: a NULL on either side then counts as
//! different, and rows were found that SQL does not find. [`ExactNotIn`] writes out what such a condition means. A plain
//! `IN` needs it only below NOT: otherwise it does not matter whether it is false or NULL.
//!
//! In a list of SELECT, where DataFusion knows neither, `IN` is written out too, and `EXISTS` is a count of rows.

use std::sync::Arc;

use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, DFSchema, ExprSchema, Result, ScalarValue, Spans};
use datafusion::functions::expr_fn::coalesce;
use datafusion::functions_aggregate::expr_fn::count;
use datafusion::logical_expr::expr::{Exists, InSubquery};
use datafusion::logical_expr::utils::{conjunction, split_conjunction_owned};
use datafusion::logical_expr::{
    BinaryExpr, Expr, Filter, LogicalPlan, LogicalPlanBuilder, Operator, Projection, Subquery, col, lit, when,
};
use datafusion::optimizer::AnalyzerRule;

/// What the subquery is called; no table can be.
const MEMBERS: &str = "__members";

/// Gives such conditions all three of their values.
#[derive(Debug)]
pub(super) struct ExactNotIn;

impl AnalyzerRule for ExactNotIn {
    fn name(&self) -> &str {
        "exact_not_in"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        let exact = plan.transform_up_with_subqueries(|plan| match plan {
            LogicalPlan::Filter(filter) if filter.predicate.exists(|e| Ok(is_membership(e)))? => {
                let schema = filter.input.schema().clone();
                let conditions = split_conjunction_owned(filter.predicate);
                let exact = conditions.into_iter().map(|condition| match condition {
                    alone @ Expr::InSubquery(_) => Ok(alone),
                    Expr::Not(inner) if is_membership(&inner) => Ok(Expr::Not(inner)),
                    other => exact(other, &schema, true),
                });
                let predicate = conjunction(exact.collect::<Result<Vec<_>>>()?).unwrap_or_else(|| lit(true));
                Ok(Transformed::yes(LogicalPlan::Filter(Filter::try_new(predicate, filter.input)?)))
            }
            LogicalPlan::Projection(list) if any(&list.expr, is_question)? => {
                let schema = list.input.schema().clone();
                let computed = list.expr.into_iter().map(|expr| computed(expr, &schema));
                let list = Projection::try_new(computed.collect::<Result<_>>()?, list.input)?;
                Ok(Transformed::yes(LogicalPlan::Projection(list)))
            }
            plan => Ok(Transformed::no(plan)),
        });
        Ok(exact?.data)
    }
}

fn is_question(expr: &Expr) -> bool {
    matches!(expr, Expr::InSubquery(_) | Expr::Exists(_))
}

fn any(list: &[Expr], wanted: fn(&Expr) -> bool) -> Result<bool> {
    list.iter().try_fold(false, |found, expr| Ok(found || expr.exists(|e| Ok(wanted(e)))?))
}

/// An expression of a list with its questions as values, under the same name.
fn computed(expr: Expr, schema: &DFSchema) -> Result<Expr> {
    if !any(std::slice::from_ref(&expr), is_question)? {
        return Ok(expr);
    }
    let name = expr.schema_name().to_string();
    let named = matches!(expr, Expr::Alias(_));
    let without_in = expr.transform_up(|expr| match expr {
        Expr::InSubquery(membership) => Ok(Transformed::yes(written_out(membership, schema)?)),
        expr => Ok(Transformed::no(expr)),
    })?;
    let computed = without_in.data.transform_up(|expr| match expr {
        Expr::Exists(exists) => Ok(Transformed::yes(has_rows(exists)?)),
        expr => Ok(Transformed::no(expr)),
    })?;
    Ok(if named { computed.data } else { computed.data.alias(name) })
}

/// Whether a subquery has rows, as a value.
fn has_rows(exists: Exists) -> Result<Expr> {
    let Exists { subquery, negated } = exists;
    let rows = LogicalPlanBuilder::from(subquery.subquery.as_ref().clone())
        .aggregate(Vec::<Expr>::new(), vec![count(lit(1)).alias("rows")])?;
    let question = if negated { col("rows").eq(lit(0_i64)) } else { col("rows").gt(lit(0_i64)) };
    let question = Expr::ScalarSubquery(as_subquery(rows.project(vec![question])?.build()?));
    // A subquery that became a join has no row where there is none to count.
    Ok(coalesce(vec![question, lit(negated)]))
}

fn is_membership(expr: &Expr) -> bool {
    matches!(expr, Expr::InSubquery(_))
}

/// Writes out the memberships in a condition of which it matters whether they are false or NULL. `positive` says that it
/// matters only whether the condition is true, otherwise it does only whether it is false.
fn exact(expr: Expr, schema: &DFSchema, positive: bool) -> Result<Expr> {
    match expr {
        Expr::BinaryExpr(BinaryExpr { left, op: op @ (Operator::And | Operator::Or), right }) => {
            let (left, right) = (exact(*left, schema, positive)?, exact(*right, schema, positive)?);
            Ok(Expr::BinaryExpr(BinaryExpr::new(Box::new(left), op, Box::new(right))))
        }
        Expr::Not(inner) => Ok(Expr::Not(Box::new(exact(*inner, schema, !positive)?))),
        Expr::InSubquery(membership) if membership.negated != positive => Ok(Expr::InSubquery(membership)),
        other => {
            let written_out = other.transform_up(|expr| match expr {
                Expr::InSubquery(membership) => Ok(Transformed::yes(written_out(membership, schema)?)),
                expr => Ok(Transformed::no(expr)),
            });
            Ok(written_out?.data)
        }
    }
}

/// `CASE WHEN a member is equal THEN true WHEN there are no members THEN false WHEN x or a member is NULL THEN NULL ELSE
/// false END`, or the opposite.
fn written_out(membership: InSubquery, schema: &DFSchema) -> Result<Expr> {
    let InSubquery { expr, subquery, negated } = membership;
    let members = LogicalPlanBuilder::from(subquery.subquery.as_ref().clone()).alias(MEMBERS)?.build()?;
    let member = Expr::Column(Column::from(members.schema().qualified_field(0)));
    let equal = member.clone().eq(outer(expr.as_ref().clone(), schema)?);
    let equal = as_subquery(LogicalPlanBuilder::from(members.clone()).filter(equal)?.build()?);
    let counts = vec![count(lit(1)).alias("rows"), count(member).alias("values")];
    let counted = |question: Expr| -> Result<Expr> {
        let counts =
            LogicalPlanBuilder::from(members.clone()).aggregate(Vec::<Expr>::new(), counts.clone())?;
        Ok(Expr::ScalarSubquery(as_subquery(counts.project(vec![question])?.build()?)))
    };
    let unknown = expr.is_null().or(counted(col("rows").gt(col("values")))?);
    when(Expr::Exists(Exists { subquery: equal, negated: false }), lit(!negated))
        .when(counted(col("rows").eq(lit(0_i64)))?, lit(negated))
        .when(unknown, Expr::Literal(ScalarValue::Boolean(None), None))
        .otherwise(lit(negated))
}

fn as_subquery(plan: LogicalPlan) -> Subquery {
    let outer_ref_columns = plan.all_out_ref_exprs();
    Subquery { subquery: Arc::new(plan), outer_ref_columns, spans: Spans::new() }
}

/// An expression as a subquery names it.
fn outer(expr: Expr, schema: &DFSchema) -> Result<Expr> {
    let outer = expr.transform_up(|expr| match expr {
        Expr::Column(column) => {
            let field = schema.field_from_column(&column)?.clone();
            Ok(Transformed::yes(Expr::OuterReferenceColumn(field, column)))
        }
        expr => Ok(Transformed::no(expr)),
    });
    Ok(outer?.data)
}
