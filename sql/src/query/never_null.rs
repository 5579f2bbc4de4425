//! Columns of a result that cannot be NULL though their type says so.
//!
//! A column that became NOT NULL after rows were written stays nullable in what is stored: old versions of rows and deleted
//! ones may hold NULL. Those that a statement sees do not, as far as the column comes straight from the table.

use std::any::Any;

use datafusion::datasource::source_as_provider;
use datafusion::logical_expr::{Distinct, Expr, JoinType, LogicalPlan, TableScan};

use crate::provider::{EngineTable, Reference, Unbound};

/// For every column of a plan's result, whether it is one that became NOT NULL.
pub(super) fn columns(plan: &LogicalPlan) -> Vec<bool> {
    (0..plan.schema().fields().len()).map(|at| is_never_null(plan, at)).collect()
}

fn is_never_null(plan: &LogicalPlan, at: usize) -> bool {
    match plan {
        LogicalPlan::Projection(projection) => {
            projection.expr.get(at).is_some_and(|expr| is_column(expr, &projection.input))
        }
        LogicalPlan::Aggregate(aggregate) => {
            let grouped = aggregate.group_expr.get(at);
            grouped.is_some_and(|expr| is_column(expr, &aggregate.input))
        }
        LogicalPlan::Join(join) if join.join_type == JoinType::Inner => {
            match at.checked_sub(join.left.schema().fields().len()) {
                None => is_never_null(&join.left, at),
                Some(at) => is_never_null(&join.right, at),
            }
        }
        LogicalPlan::Filter(filter) => is_never_null(&filter.input, at),
        LogicalPlan::Sort(sort) => is_never_null(&sort.input, at),
        LogicalPlan::Limit(limit) => is_never_null(&limit.input, at),
        LogicalPlan::SubqueryAlias(alias) => is_never_null(&alias.input, at),
        LogicalPlan::Distinct(Distinct::All(input)) => is_never_null(input, at),
        LogicalPlan::TableScan(scan) => {
            let name = scan.projected_schema.field(at).name();
            became_not_null(scan, name).unwrap_or(false)
        }
        _ => false,
    }
}

fn is_column(expr: &Expr, input: &LogicalPlan) -> bool {
    match expr {
        Expr::Alias(alias) => is_column(&alias.expr, input),
        Expr::Column(column) => {
            input.schema().maybe_index_of_column(column).is_some_and(|at| is_never_null(input, at))
        }
        _ => false,
    }
}

/// `None` if it is not a column of a table of ours.
fn became_not_null(scan: &TableScan, name: &str) -> Option<bool> {
    let provider = source_as_provider(&scan.source).ok()?;
    let provider: &dyn Any = provider.as_ref();
    let reference: &Reference = match provider.downcast_ref::<EngineTable>() {
        Some(table) => table.reference(),
        None => &provider.downcast_ref::<Unbound>()?.0,
    };
    let schema = &reference.table.schema;
    let column = &schema.columns()[schema.index_of(name)?];
    Some(column.held_nulls && !column.nullable && !reference.shows_deleted())
}
