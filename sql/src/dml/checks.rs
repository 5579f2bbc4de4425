//! CHECK constraints over new rows.

use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use datafusion::common::DFSchema;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::sql::planner::{PlannerContext, SqlToRel};
use kalamdb_engine::Table;

use crate::dialect;
use crate::error::{Error, ErrorCode, Result};
use crate::functions;
use crate::provider::{Binder, Naming};
use crate::query::{parser_options, rewrite_forms};
use crate::statement::StatementContext;

/// A table's conditions, compiled for one statement.
pub(crate) struct Checks {
    table: String,
    checks: Vec<(String, Arc<dyn PhysicalExpr>)>,
}

impl Checks {
    /// Compiles the conditions of a table; costs nothing if it has none.
    ///
    /// # Errors
    /// Planning errors; they would mean that the stored condition no longer fits the table.
    pub(crate) fn new(ctx: &Arc<StatementContext>, table: &Table) -> Result<Self> {
        let texts = &table.schema.def().checks;
        let mut checks = Vec::with_capacity(texts.len());
        if !texts.is_empty() {
            let engine = ctx.instance.queries();
            let schema = DFSchema::try_from(table.schema.rows().clone())?;
            let binder = Binder::new(ctx, engine, Naming::default(), Arc::default());
            let planner = SqlToRel::new_with_options(&binder, parser_options());
            for text in texts {
                let mut expr = dialect::parse_expression(text)?;
                rewrite_forms(&mut expr)?;
                let expr = planner.sql_to_expr(expr, &schema, &mut PlannerContext::new())?;
                let expr = functions::rewritten(engine.state(), expr, &schema)?;
                checks.push((text.clone(), engine.state().create_physical_expr(expr, &schema)?));
            }
        }
        Ok(Self { table: table.qualified_name(), checks })
    }

    /// Refuses rows for which a condition is false; one that is NULL holds.
    ///
    /// # Errors
    /// [`ErrorCode::CheckViolation`] with the condition's text.
    pub(crate) fn check(&self, rows: &RecordBatch) -> Result<()> {
        for (text, condition) in &self.checks {
            let held = condition.evaluate(rows)?.into_array(rows.num_rows())?;
            let held = held.as_boolean();
            if (0..held.len()).any(|row| held.is_valid(row) && !held.value(row)) {
                let message = format!("a row of table {} does not satisfy CHECK ({text})", self.table);
                return Err(Error::new(ErrorCode::CheckViolation, message));
            }
        }
        Ok(())
    }
}
