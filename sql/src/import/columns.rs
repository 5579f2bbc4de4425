//! Which column of the table an input column is.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use kalamdb_engine::{DELETED, SEQ, Table, UPDATED};

use super::sink::{Batch, Sink};
use crate::dml::convert::assign;
use crate::error::{Error, ErrorCode, Result};
use crate::names;
use crate::provider::USER;

/// What an input column is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Use {
    /// The table's column, by position.
    pub(super) column: Option<usize>,
    /// Whether it says whose the row is.
    pub(super) owner: bool,
}

/// What the input columns of these names are for.
///
/// # Errors
/// [`ErrorCode::ColumnNotFound`] for an unknown name; [`ErrorCode::InvalidParameter`] for one that comes twice, or if the
/// column that says whose the rows are is missing.
pub(super) fn uses(table: &Table, user_column: Option<&str>, names: &[String]) -> Result<Vec<Use>> {
    let mut uses: Vec<Use> = Vec::with_capacity(names.len());
    for name in names {
        let usage = usage(table, user_column, name)?;
        if uses.iter().any(|other| {
            (other.column.is_some() && other.column == usage.column) || (other.owner && usage.owner)
        }) {
            return Err(Error::new(ErrorCode::InvalidParameter, format!("column {name} comes twice")));
        }
        uses.push(usage);
    }
    if let Some(user_column) = user_column
        && !uses.iter().any(|usage| usage.owner)
    {
        return Err(Error::new(ErrorCode::ColumnNotFound, format!("the input has no column {user_column}")));
    }
    Ok(uses)
}

/// What one input column is for.
///
/// # Errors
/// As [`uses`].
pub(super) fn usage(table: &Table, user_column: Option<&str>, name: &str) -> Result<Use> {
    let owner = user_column.is_some_and(|user_column| user_column.eq_ignore_ascii_case(name));
    let columns = table.schema.columns();
    let exact = columns.iter().position(|column| column.name == name);
    let column = exact.or_else(|| columns.iter().position(|column| column.name.eq_ignore_ascii_case(name)));
    let column = column.filter(|index| !columns[*index].secret);
    if column.is_some() || owner {
        return Ok(Use { column, owner });
    }
    if matches!(name, SEQ | UPDATED | DELETED | USER) {
        let message = format!("system column {name} cannot be written");
        let error = Error::new(ErrorCode::InvalidParameter, message);
        return Err(if name == USER {
            error.with_hint("name the column that says whose a row is")
        } else {
            error
        });
    }
    let known = columns.iter().filter(|column| !column.secret).map(|column| column.name.as_str());
    Err(names::column_not_found(&table.qualified_name(), name, known, None))
}

/// A batch of Arrow columns as the table's.
///
/// # Errors
/// As [`uses`]; errors of conversion.
pub(super) fn from_batch(sink: &Sink, batch: &RecordBatch) -> Result<Batch> {
    let table = sink.table();
    let names: Vec<String> = batch.schema().fields().iter().map(|field| field.name().clone()).collect();
    let uses = uses(table, sink.user_column(), &names)?;
    let mut columns: Vec<Option<ArrayRef>> = vec![None; table.schema.columns().len()];
    let mut owners = None;
    for (usage, values) in uses.iter().zip(batch.columns()) {
        if let Some(index) = usage.column {
            columns[index] = Some(assign(values, &table.schema.columns()[index])?);
        }
        if usage.owner {
            owners = Some(values.clone());
        }
    }
    let first = sink.rows_taken() + 1;
    let rows = batch.num_rows();
    Ok(Batch { columns, owners, rows, place: Arc::new(move |row| format!("row {}", first + row as u64)) })
}
