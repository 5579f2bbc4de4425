//! SET: which columns are assigned, and what they become.

use arrow::array::{ArrayRef, RecordBatch};
use datafusion::scalar::ScalarValue;
use datafusion::sql::sqlparser::ast::{Assignment, AssignmentTarget, Expr};
use kalamdb_engine::Table;
use serde_json::Value;

use super::convert::assign;
use super::rows::assemble;
use super::target::{self, Target, is_default};
use crate::dialect::position;
use crate::error::{Error, ErrorCode, Result};
use crate::functions::evaluate_default;
use crate::params;
use crate::statement::StatementContext;

/// A column's position and what it becomes.
pub(super) type Assigned = (usize, NewValue);

/// Where a column's new values come from.
pub(super) enum NewValue {
    /// A literal, parameter or default.
    Constant(ArrayRef),
    /// One of the computed expressions, by number.
    Computed(usize),
}

/// The assigned columns, and the expressions that have to be computed for them.
///
/// # Errors
/// [`ErrorCode::ColumnNotFound`], [`ErrorCode::InvalidStatement`] for a column that is set twice; what is wrong with a
/// literal or parameter, naming the column.
pub(super) fn assignments(
    ctx: &StatementContext,
    table: &Table,
    written: &[Assignment],
    params: &[Value],
) -> Result<(Vec<Assigned>, Vec<Expr>)> {
    let mut assigned: Vec<Assigned> = Vec::new();
    let mut expressions = Vec::new();
    for assignment in written {
        let AssignmentTarget::ColumnName(name) = &assignment.target else {
            return Err(unsupported("SET (a, b) = ..."));
        };
        let ident = target::last_ident(name)?;
        let index = match target::column(ctx, table, ident)? {
            Target::Column(index) => index,
            Target::User => {
                return Err(unsupported("moving rows to another user").with_position(position(ident.span)));
            }
        };
        if assigned.iter().any(|(other, _)| *other == index) {
            let message = format!("column {} is set twice", ident.value);
            return Err(Error::new(ErrorCode::InvalidStatement, message).with_position(position(ident.span)));
        }
        let column = &table.schema.columns()[index];
        let value = match params::literal(&assignment.value, params, &column.data_type) {
            Ok(Some(value)) => NewValue::Constant(value.to_array()?),
            Ok(None) if is_default(&assignment.value) => {
                NewValue::Constant(evaluate_default(ctx, column, 1)?)
            }
            Ok(None) => {
                expressions.push(assignment.value.clone());
                NewValue::Computed(expressions.len() - 1)
            }
            Err(mut error) => {
                error.message = format!("column {}: {}", column.name, error.message);
                return Err(error);
            }
        };
        assigned.push((index, value));
    }
    Ok((assigned, expressions))
}

/// The old columns with the assigned ones replaced; the computed expressions are columns of `matched` from
/// `first_computed` on.
///
/// # Errors
/// [`ErrorCode::NotNullViolation`], and those of values that do not fit their columns.
pub(super) fn new_rows(
    table: &Table,
    mut columns: Vec<ArrayRef>,
    assigned: &[Assigned],
    first_computed: usize,
    matched: &RecordBatch,
) -> Result<RecordBatch> {
    for (index, value) in assigned {
        columns[*index] = match value {
            NewValue::Constant(one) => {
                ScalarValue::try_from_array(one, 0)?.to_array_of_size(matched.num_rows())?
            }
            NewValue::Computed(number) => {
                assign(matched.column(first_computed + number), &table.schema.columns()[*index])?
            }
        };
    }
    assemble(table, columns)
}

fn unsupported(what: &str) -> Error {
    Error::new(ErrorCode::Unsupported, format!("{what} is not supported"))
}
