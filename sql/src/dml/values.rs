//! `VALUES (...), (...)` as columns, without the planner for literals, parameters and DEFAULT. Other cells are computed
//! together by one planned SELECT.

use std::sync::Arc;

use arrow::array::ArrayRef;
use datafusion::physical_plan::common::collect;
use datafusion::scalar::ScalarValue;
use datafusion::sql::sqlparser::ast::{Expr, Spanned, Values};
use kalamdb_engine::{Column, DataType, Table};
use serde_json::Value;

use super::convert::assign;
use super::select::{numbered, select};
use super::target::{Target, is_default};
use crate::dialect::position;
use crate::error::{Error, ErrorCode, Result};
use crate::functions::evaluate_default;
use crate::params;
use crate::query::{self, Planner};
use crate::statement::StatementContext;

/// One column's cells.
enum Cell {
    Known(ScalarValue),
    Default,
    /// The number of the cell among those that are planned.
    Planned(usize),
}

/// The columns that `targets` name, from the rows of a VALUES list.
///
/// # Errors
/// [`ErrorCode::InvalidStatement`] for a row of another length, with its place; errors of literals and expressions.
pub(super) async fn columns(
    ctx: &Arc<StatementContext>,
    table: &Table,
    targets: &[Target],
    values: &Values,
    params: &[Value],
) -> Result<Vec<ArrayRef>> {
    check_lengths(targets.len(), values)?;
    let mut planned: Vec<(&Expr, Column)> = Vec::new();
    let mut cells = Vec::with_capacity(targets.len());
    for (at, target) in targets.iter().enumerate() {
        let column = column_of(table, *target);
        let mut column_cells = Vec::with_capacity(values.rows.len());
        for row in &values.rows {
            let expr = &row.content[at];
            let known = params::literal(expr, params, &column.data_type);
            column_cells.push(match known.map_err(|error| named(error, &column, expr))? {
                Some(value) => Cell::Known(value),
                None if is_default(expr) => Cell::Default,
                None => {
                    planned.push((expr, column.clone()));
                    Cell::Planned(planned.len() - 1)
                }
            });
        }
        cells.push((column, column_cells));
    }
    let planned = evaluate(ctx, &planned, params).await?;
    cells.into_iter().map(|(column, cells)| array(ctx, &column, cells, &planned)).collect()
}

/// The column that a target means; `_user` is like a column of text.
fn column_of(table: &Table, target: Target) -> Column {
    match target {
        Target::Column(index) => table.schema.columns()[index].clone(),
        Target::User => {
            let id = kalamdb_engine::ColumnId(u32::MAX);
            Column { nullable: false, ..Column::new(id, crate::provider::USER, DataType::Text) }
        }
    }
}

fn check_lengths(expected: usize, values: &Values) -> Result<()> {
    for row in &values.rows {
        if row.content.len() != expected {
            let message =
                format!("a row has {} values where {expected} columns are written", row.content.len());
            let at = row.content.first().map_or(row.opening_token.0.span, Expr::span);
            return Err(Error::new(ErrorCode::InvalidStatement, message).with_position(position(at)));
        }
    }
    Ok(())
}

fn named(mut error: Error, column: &Column, expr: &Expr) -> Error {
    if matches!(error.code, ErrorCode::TypeMismatch | ErrorCode::ValueOutOfRange) {
        error.message = format!("column {}: {}", column.name, error.message);
    }
    error.with_position(position(expr.span()))
}

/// The values of expressions that are not literals, each as its column's type.
async fn evaluate(
    ctx: &Arc<StatementContext>,
    cells: &[(&Expr, Column)],
    params: &[Value],
) -> Result<Vec<ScalarValue>> {
    if cells.is_empty() {
        return Ok(Vec::new());
    }
    let list = cells.iter().enumerate().map(|(at, (expr, _))| numbered((*expr).clone(), at)).collect();
    let plan = Planner::new(ctx).with_some_params().plan(&select(list, Vec::new(), None)?, params)?;
    let plan = query::physical_plan(ctx, plan).await?;
    let batches = collect(query::execute(ctx, plan)?).await?;
    let row = batches.iter().find(|batch| batch.num_rows() == 1);
    let row = row.ok_or_else(|| Error::internal("a row of VALUES did not give one row"))?;
    let value = |(array, (_, column)): (&ArrayRef, &(&Expr, Column))| {
        Ok(ScalarValue::try_from_array(&assign(array, column)?, 0)?)
    };
    row.columns().iter().zip(cells).map(value).collect()
}

fn array(
    ctx: &StatementContext,
    column: &Column,
    cells: Vec<Cell>,
    planned: &[ScalarValue],
) -> Result<ArrayRef> {
    let defaults = cells.iter().filter(|cell| matches!(cell, Cell::Default)).count();
    if column.id.0 == u32::MAX && defaults > 0 {
        return Err(Error::new(ErrorCode::InvalidStatement, "_user has no default"));
    }
    if cells.is_empty() || defaults == cells.len() {
        return evaluate_default(ctx, column, cells.len());
    }
    let defaults = if defaults > 0 { Some(evaluate_default(ctx, column, defaults)?) } else { None };
    let mut next = 0;
    let scalars = cells.into_iter().map(|cell| match (cell, &defaults) {
        (Cell::Known(value), _) => Ok(value),
        (Cell::Planned(at), _) => Ok(planned[at].clone()),
        (Cell::Default, Some(defaults)) => {
            next += 1;
            ScalarValue::try_from_array(defaults, next - 1)
        }
        (Cell::Default, None) => params::null(&column.data_type).map_err(Error::into_datafusion),
    });
    let scalars = scalars.collect::<Result<Vec<_>, _>>()?;
    Ok(ScalarValue::iter_to_array(scalars)?)
}
