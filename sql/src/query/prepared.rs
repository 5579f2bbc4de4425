//! [`Prepared`]: a plan that can be run again, by anybody with the same role.
//!
//! It is the optimised logical plan with its parameters open and its tables [`Unbound`]; running it puts in values and a
//! session, and makes it executable. Leaves are made anew each time, because they pin what they read.
//!
//! A plan is kept only if nothing in it depends on who asks or when: all its tables are the engine's own, read with the
//! rights of the role, and all its functions give the same for the same arguments (`NOW()`, `CURRENT_USER` and ids do not;
//! the optimiser would put their values into the plan).

use std::sync::Arc;

use datafusion::common::ParamValues;
use datafusion::common::metadata::ScalarAndMetadata;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{DataFusionError, ScalarValue};
use datafusion::datasource::{provider_as_source, source_as_provider};
use datafusion::logical_expr::{Expr, LogicalPlan, TableScan, TableSource, Volatility};
use datafusion::sql::sqlparser::ast;
use kalamdb_engine::{DataType, TableKind};
use serde_json::Value;

use super::point::Point;
use super::{Planner, RowShape, bind, execute, never_null};
use crate::error::Result;
use crate::provider::{EngineTable, Reference, Scans, Unbound};
use crate::session::RowSet;
use crate::statement::StatementContext;

/// A plan that is kept.
#[derive(Debug)]
pub(super) struct Prepared {
    /// The types of `$1`, `$2`, ...
    types: Vec<DataType>,
    plan: LogicalPlan,
    /// See [`never_null::columns`].
    never_null: Vec<bool>,
    point: Option<Point>,
}

impl Prepared {
    /// Plans a statement so that it can be run again; `None` if it has to be planned anew each time.
    ///
    /// # Errors
    /// Planning errors.
    pub(super) async fn new(ctx: &Arc<StatementContext>, statement: &ast::Statement) -> Result<Option<Self>> {
        let queries = ctx.instance.queries();
        let plan = Planner::new(ctx).plan_open(statement)?;
        let Some(types) = bind::types(&plan)? else { return Ok(None) };
        let plan = queries.analyse(plan)?;
        if !can_be_kept(ctx, &plan)? {
            return Ok(None);
        }
        let plan = unbound(queries.optimise(plan, ctx.now_micros)?)?;
        let never_null = never_null::columns(&plan);
        let point = Point::new(queries, &plan, &never_null).await?;
        Ok(Some(Self { types, plan, never_null, point }))
    }

    /// True if it reads a row by its key.
    pub(super) fn is_a_lookup(&self) -> bool {
        self.point.is_some()
    }

    /// Runs it with these values; `None` if one of them has another type than the statement gives it, so that the
    /// statement has to be planned with it.
    ///
    /// # Errors
    /// As [`super::query`].
    pub(super) async fn run(&self, ctx: &Arc<StatementContext>, params: &[Value]) -> Result<Option<RowSet>> {
        let Some(values) = bind::values(params, &self.types) else { return Ok(None) };
        if let Some(point) = &self.point
            && let Some(rows) = point.run(ctx, &values).await?
        {
            ctx.instance.queries().plans().count_lookup();
            return Ok(Some(rows));
        }
        let plan = bound(ctx, with_values(self.plan.clone(), values)?)?;
        let plan = ctx.instance.queries().executable(&plan).await?;
        let shape = RowShape::new(plan.schema(), &self.never_null);
        Ok(Some(shape.row_set(ctx, execute(ctx, plan)?)))
    }
}

fn with_values(plan: LogicalPlan, values: Vec<ScalarValue>) -> Result<LogicalPlan> {
    if values.is_empty() {
        return Ok(plan);
    }
    let values = values.into_iter().map(ScalarAndMetadata::from).collect();
    Ok(plan.with_param_values(ParamValues::List(values))?)
}

/// True if an analysed plan means the same whoever runs it with the role of `ctx`, and whenever.
fn can_be_kept(ctx: &StatementContext, plan: &LogicalPlan) -> Result<bool> {
    let mut kept = true;
    plan.apply_with_subqueries(|node| {
        kept &= match node {
            LogicalPlan::TableScan(scan) => is_the_same_for_all(ctx, scan)?,
            LogicalPlan::Explain(_) | LogicalPlan::Analyze(_) | LogicalPlan::Extension(_) => false,
            _ => true,
        };
        node.apply_expressions(|expr| {
            expr.apply(|expr| {
                kept &= always_gives_the_same(expr);
                Ok(if kept { TreeNodeRecursion::Continue } else { TreeNodeRecursion::Stop })
            })
        })?;
        Ok(if kept { TreeNodeRecursion::Continue } else { TreeNodeRecursion::Stop })
    })?;
    Ok(kept)
}

fn is_the_same_for_all(ctx: &StatementContext, scan: &TableScan) -> Result<bool, DataFusionError> {
    let provider = source_as_provider(&scan.source)?;
    let provider: &dyn std::any::Any = provider.as_ref();
    // Of a table of the system, some see their own rows alone.
    let table = provider.downcast_ref::<EngineTable>().map(|table| &table.reference().table);
    Ok(table.is_some_and(|table| table.kind != TableKind::System || ctx.is_dba()))
}

fn always_gives_the_same(expr: &Expr) -> bool {
    match expr {
        Expr::ScalarFunction(call) => call.func.signature().volatility == Volatility::Immutable,
        Expr::ScalarVariable(..) | Expr::HigherOrderFunction(_) => false,
        _ => true,
    }
}

/// The same plan with every table as `replace` has it.
fn with_tables(
    plan: LogicalPlan,
    replace: impl Fn(&TableScan) -> Result<Arc<dyn TableSource>, DataFusionError>,
) -> Result<LogicalPlan> {
    let replaced = plan.transform_down_with_subqueries(|node| match node {
        LogicalPlan::TableScan(scan) => {
            let source = replace(&scan)?;
            Ok(Transformed::yes(LogicalPlan::TableScan(TableScan { source, ..scan })))
        }
        other => Ok(Transformed::no(other)),
    })?;
    Ok(replaced.data)
}

fn unbound(plan: LogicalPlan) -> Result<LogicalPlan> {
    with_tables(plan, |scan| {
        let provider = source_as_provider(&scan.source)?;
        let provider: &dyn std::any::Any = provider.as_ref();
        let table = provider.downcast_ref::<EngineTable>().ok_or_else(|| foreign(scan))?;
        Ok(provider_as_source(Arc::new(Unbound(table.reference().clone()))))
    })
}

/// All references see the same partition views.
fn bound(ctx: &Arc<StatementContext>, plan: LogicalPlan) -> Result<LogicalPlan> {
    let scans: Arc<Scans> = Arc::default();
    with_tables(plan, |scan| {
        let reference = reference(scan)?;
        Ok(provider_as_source(Arc::new(EngineTable::bound(ctx.clone(), scans.clone(), reference))))
    })
}

/// The table of a kept plan that a scan reads.
///
/// # Errors
/// If the plan is not a kept one.
pub(super) fn reference(scan: &TableScan) -> Result<Arc<Reference>, DataFusionError> {
    let provider = source_as_provider(&scan.source)?;
    let provider: &dyn std::any::Any = provider.as_ref();
    provider.downcast_ref::<Unbound>().map(|unbound| unbound.0.clone()).ok_or_else(|| foreign(scan))
}

fn foreign(scan: &TableScan) -> DataFusionError {
    DataFusionError::Internal(format!("table {} cannot be in a kept plan", scan.table_name))
}
