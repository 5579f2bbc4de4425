//! Which references to tables show soft-deleted rows: those whose `_deleted` the statement names.
//!
//! Decided on the plan as the SQL planner made it, where every column knows the reference it belongs to and nothing has
//! been optimised away, by following each reference upwards for as long as its columns are in scope.

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, Result, TableReference};
use datafusion::datasource::source_as_provider;
use datafusion::logical_expr::expr::Expr;
use datafusion::logical_expr::{LogicalPlan, Subquery, TableScan};
use kalamdb_engine::{DELETED, TableId};

use crate::error::Result as SqlResult;
use crate::provider::EngineTable;

/// Tells every reference of which `_deleted` is named to show soft-deleted rows, except those to `target`, whose rows the
/// statement changes: a soft-deleted row cannot be changed.
///
/// # Errors
/// None in practice: the walk itself cannot fail.
pub(super) fn show_where_named(plan: &LogicalPlan, target: Option<TableId>) -> SqlResult<()> {
    Ok(Walk { target }.walk(plan).map(|_| ())?)
}

/// A reference to a table whose columns are in scope, under the name it has there.
#[derive(Clone)]
struct InScope<'a> {
    name: TableReference,
    scan: &'a TableScan,
}

impl InScope<'_> {
    fn is_meant_by(&self, column: &Column) -> bool {
        column.name == DELETED
            && column.relation.as_ref().is_none_or(|relation| relation.resolved_eq(&self.name))
    }

    fn show_deleted(&self, target: Option<TableId>) -> Result<()> {
        let provider = source_as_provider(&self.scan.source)?;
        let provider: &dyn std::any::Any = provider.as_ref();
        if let Some(table) = provider.downcast_ref::<EngineTable>()
            && Some(table.id()) != target
        {
            table.show_deleted();
        }
        Ok(())
    }
}

struct Walk {
    target: Option<TableId>,
}

impl Walk {
    /// Handles a plan and what is below it; returns the references whose columns are in scope above it.
    fn walk<'p>(&self, plan: &'p LogicalPlan) -> Result<Vec<InScope<'p>>> {
        if let LogicalPlan::TableScan(scan) = plan {
            return Ok(vec![InScope { name: scan.table_name.clone(), scan }]);
        }
        let mut below = Vec::new();
        for input in plan.inputs() {
            below.extend(self.walk(input)?);
        }
        plan.apply_expressions(|expr| self.mark(expr, &below))?;
        Ok(match plan {
            LogicalPlan::SubqueryAlias(alias) => below
                .into_iter()
                .map(|reference| InScope { name: alias.alias.clone(), ..reference })
                .collect(),
            // What these let through they name themselves.
            LogicalPlan::Projection(_)
            | LogicalPlan::Aggregate(_)
            | LogicalPlan::Union(_)
            | LogicalPlan::Values(_) => Vec::new(),
            _ => below,
        })
    }

    /// Marks the references that an expression names, also from within its subqueries.
    fn mark(&self, expr: &Expr, scope: &[InScope<'_>]) -> Result<TreeNodeRecursion> {
        expr.apply(|expr| {
            match expr {
                Expr::Column(column) | Expr::OuterReferenceColumn(_, column) => {
                    self.mark_column(column, scope)?
                }
                Expr::ScalarSubquery(subquery) => self.mark_subquery(subquery, scope)?,
                Expr::Exists(exists) => self.mark_subquery(&exists.subquery, scope)?,
                Expr::InSubquery(within) => self.mark_subquery(&within.subquery, scope)?,
                Expr::SetComparison(comparison) => self.mark_subquery(&comparison.subquery, scope)?,
                _ => {}
            }
            Ok(TreeNodeRecursion::Continue)
        })
    }

    fn mark_subquery(&self, subquery: &Subquery, scope: &[InScope<'_>]) -> Result<()> {
        self.walk(&subquery.subquery)?;
        for outer in &subquery.outer_ref_columns {
            self.mark(outer, scope)?;
        }
        Ok(())
    }

    fn mark_column(&self, column: &Column, scope: &[InScope<'_>]) -> Result<()> {
        scope
            .iter()
            .filter(|reference| reference.is_meant_by(column))
            .try_for_each(|reference| reference.show_deleted(self.target))
    }
}
