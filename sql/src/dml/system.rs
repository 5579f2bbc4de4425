//! INSERT, UPDATE and DELETE on `system.users` and `system.storage_locations`: what they hold is checked as the
//! statements made for it would check it. All rows of a statement are one commit.
//!
//! Writers of a table come one after the other: each looks at the rows, decides and commits under the table's lock, so
//! that what was checked still holds when it is written.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::{Field, Schema};
use datafusion::physical_plan::common::collect;
use datafusion::sql::sqlparser::ast::{
    self, Delete, Expr, FromTable, Ident, Insert, ObjectName, SelectItem, TableFactor, TableWithJoins, Update,
};
use kalamdb_engine::system::{Cell, Row};
use kalamdb_engine::{SYSTEM_NAMESPACE, Table, TableId, system};
use serde_json::Value;
use tokio::sync::MutexGuard;

use super::assign::{self, Assigned, NewValue};
use super::convert;
use super::insert::{Given, written};
use super::select::{numbered, select};
use super::target::Target;
use crate::auth::Role;
use crate::error::{Error, ErrorCode, Result};
use crate::names;
use crate::query::{self, Planner};
use crate::session::Outcome;
use crate::statement::StatementContext;
use crate::system::store::{self, Edit};
use crate::{locations, users};

/// A row, by column name.
pub(crate) type Record = HashMap<String, Cell>;

/// One row that a statement writes.
#[derive(Debug)]
pub(crate) struct Change {
    /// The row as it was; `None` for a new one.
    pub(crate) old: Option<Record>,
    /// The row as it shall be; `None` for one that goes.
    pub(crate) new: Option<Record>,
}

/// The system table that a statement may write, if its target is one and the session may.
pub(super) fn editable(ctx: &StatementContext, name: &ObjectName) -> Result<Option<TableId>> {
    let written = names::table_ref(name)?;
    let namespace = written.namespace.as_deref().unwrap_or(&ctx.namespace);
    if namespace != SYSTEM_NAMESPACE || ctx.role() < Role::Dba {
        return Ok(None);
    }
    let id = match written.name.as_str() {
        "users" => system::USERS,
        "storage_locations" => system::STORAGE_LOCATIONS,
        _ => return Ok(None),
    };
    if ctx.transaction.is_some() {
        let message = format!("changes of {namespace}.{} are not part of a transaction", written.name);
        return Err(Error::new(ErrorCode::Unsupported, message)
            .with_hint("they commit by themselves: send them before BEGIN or after COMMIT")
            .with_position(written.position));
    }
    Ok(Some(id))
}

/// INSERT.
///
/// # Errors
/// What is wrong with a row; nothing is written then.
pub(super) async fn insert(
    ctx: &Arc<StatementContext>,
    id: TableId,
    statement: &Insert,
    params: &[Value],
) -> Result<Outcome> {
    if statement.on.is_some() || statement.returning.is_some() {
        return Err(unsupported("ON CONFLICT and RETURNING"));
    }
    let Begun { ctx, table, .. } = &begin(ctx, id).await?;
    let Given { targets, columns, count, .. } = written(ctx, table, statement, params).await?;
    let mut names = Vec::with_capacity(targets.len());
    for target in targets {
        match target {
            Target::Column(at) => names.push(table.schema.columns()[at].name.clone()),
            Target::User => return Err(unsupported("_user")),
        }
    }
    let values = batch(&names, columns, count)?;
    let changes = (0..count).map(|row| Ok(Change { old: None, new: Some(record(&names, &values, row)?) }));
    apply(ctx, id, table, changes.collect::<Result<_>>()?).await
}

/// UPDATE.
///
/// # Errors
/// As [`insert`].
pub(super) async fn update(
    ctx: &Arc<StatementContext>,
    id: TableId,
    statement: &Update,
    params: &[Value],
) -> Result<Outcome> {
    if statement.from.is_some() || statement.returning.is_some() {
        return Err(unsupported("FROM and RETURNING"));
    }
    let Begun { ctx, table, .. } = &begin(ctx, id).await?;
    let (assigned, expressions) = assign::assignments(ctx, table, &statement.assignments, params)?;
    let matched =
        matched(ctx, table, &statement.table, statement.selection.clone(), &expressions, params).await?;
    let names: Vec<String> =
        assigned.iter().map(|(at, _)| table.schema.columns()[*at].name.clone()).collect();
    let values = new_values(table, &assigned, &matched)?;
    let values = batch(&names, values, matched.num_rows())?;
    let changes = changes(ctx, table, &matched, |old, row| {
        let mut new = old.clone();
        new.extend(record(&names, &values, row)?);
        Ok(Some(new))
    });
    apply(ctx, id, table, changes.await?).await
}

/// DELETE.
///
/// # Errors
/// As [`insert`].
pub(super) async fn delete(
    ctx: &Arc<StatementContext>,
    id: TableId,
    statement: &Delete,
    params: &[Value],
) -> Result<Outcome> {
    if statement.using.is_some() || statement.returning.is_some() {
        return Err(unsupported("USING and RETURNING"));
    }
    let Begun { ctx, table, .. } = &begin(ctx, id).await?;
    let (FromTable::WithFromKeyword(from) | FromTable::WithoutKeyword(from)) = &statement.from;
    let Some(from) = from.first() else { return Err(unsupported("DELETE of no table")) };
    let matched = matched(ctx, table, from, statement.selection.clone(), &[], params).await?;
    let changes = changes(ctx, table, &matched, |_, _| Ok(None)).await?;
    apply(ctx, id, table, changes).await
}

fn unsupported(what: &str) -> Error {
    Error::new(ErrorCode::Unsupported, format!("{what} on a table of the system are not supported"))
}

/// A statement whose turn it is.
struct Begun<'a> {
    /// Keeps others from writing.
    _writer: MutexGuard<'a, ()>,
    /// The statement at what the writer before it left.
    ctx: Arc<StatementContext>,
    table: Arc<Table>,
}

/// Waits until the statement is the only writer of the table.
async fn begin(ctx: &StatementContext, id: TableId) -> Result<Begun<'_>> {
    let writer = match id {
        system::USERS => ctx.instance.users().writer.lock().await,
        _ => ctx.instance.locations().lock().await,
    };
    let table = store::table(ctx.instance.database(), id)?;
    Ok(Begun { _writer: writer, ctx: ctx.renewed(), table })
}

/// The key and the computed expressions of the rows that match.
async fn matched(
    ctx: &Arc<StatementContext>,
    table: &Table,
    from: &TableWithJoins,
    selection: Option<Expr>,
    expressions: &[Expr],
    params: &[Value],
) -> Result<RecordBatch> {
    if !matches!(from.relation, TableFactor::Table { .. }) || !from.joins.is_empty() {
        return Err(unsupported("joins"));
    }
    let key = Expr::Identifier(Ident::with_quote('"', key(table)));
    let list: Vec<SelectItem> = [key]
        .into_iter()
        .chain(expressions.iter().cloned())
        .enumerate()
        .map(|(at, expr)| numbered(expr, at))
        .collect();
    let statement: ast::Statement = select(list, vec![from.clone()], selection)?;
    let plan = Planner::new(ctx).with_some_params().plan(&statement, params)?;
    let plan = query::physical_plan(ctx, plan).await?;
    let schema = plan.schema();
    Ok(concat_batches(&schema, &collect(query::execute(ctx, plan)?).await?)?)
}

/// The only key column of these tables.
fn key(table: &Table) -> &str {
    &table.schema.columns()[table.schema.key_indices()[0]].name
}

fn new_values(
    table: &Table,
    assigned: &[Assigned],
    matched: &RecordBatch,
) -> Result<Vec<arrow::array::ArrayRef>> {
    let value = |(at, value): &Assigned| match value {
        NewValue::Constant(one) => {
            let one = datafusion::scalar::ScalarValue::try_from_array(one, 0)?;
            Ok(one.to_array_of_size(matched.num_rows())?)
        }
        NewValue::Computed(number) => {
            convert::assign(matched.column(1 + number), &table.schema.columns()[*at])
        }
    };
    assigned.iter().map(value).collect()
}

fn batch(names: &[String], columns: Vec<arrow::array::ArrayRef>, rows: usize) -> Result<RecordBatch> {
    let fields: Vec<Field> =
        names.iter().zip(&columns).map(|(name, c)| Field::new(name, c.data_type().clone(), true)).collect();
    let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(rows));
    Ok(RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns, &options)?)
}

fn record(names: &[String], values: &RecordBatch, row: usize) -> Result<Record> {
    let row = Row::new(values, row);
    names.iter().map(|name| Ok((name.clone(), row.cell(name)?))).collect()
}

/// The stored rows whose keys are in `matched`, with what they become.
async fn changes(
    ctx: &StatementContext,
    table: &Table,
    matched: &RecordBatch,
    new: impl Fn(&Record, usize) -> Result<Option<Record>>,
) -> Result<Vec<Change>> {
    let keys = arrow::compute::cast(matched.column(0), &arrow::datatypes::DataType::Utf8View)?;
    let keys: HashMap<&str, usize> =
        keys.as_string_view().iter().enumerate().filter_map(|(row, key)| Some((key?, row))).collect();
    let names: Vec<String> = table.schema.columns().iter().map(|column| column.name.clone()).collect();
    let mut changes = Vec::new();
    store::each(ctx.instance.database(), table.id, |row| {
        if let Some(at) = row.text(key(table))?.and_then(|key| keys.get(key)) {
            let old: Record =
                names.iter().map(|name| Ok((name.clone(), row.cell(name)?))).collect::<Result<_>>()?;
            changes.push(Change { new: new(&old, *at)?, old: Some(old) });
        }
        Ok(())
    })
    .await?;
    Ok(changes)
}

/// Checks the changes, completes the new rows and commits.
async fn apply(
    ctx: &StatementContext,
    id: TableId,
    table: &Table,
    mut changes: Vec<Change>,
) -> Result<Outcome> {
    match id {
        system::USERS => users::check_changes(ctx, &mut changes)?,
        _ => locations::check_changes(ctx, &mut changes).await?,
    }
    if changes.is_empty() {
        return Ok(Outcome::affected(0, None));
    }
    let cells = |record: &Record| -> Vec<Cell> {
        let cell = |name: &String| record.get(name).cloned().unwrap_or(Cell::Null);
        table.schema.columns().iter().map(|column| cell(&column.name)).collect()
    };
    let name = key(table);
    let text = |record: &Record| match record.get(name) {
        Some(Cell::Text(text)) => text.clone(),
        _ => String::new(),
    };
    let edits: HashMap<String, Edit> = changes
        .iter()
        .filter_map(|change| {
            let edit = change.new.as_ref().map_or(Edit::Remove, |new| Edit::Replace(cells(new)));
            Some((text(change.old.as_ref()?), edit))
        })
        .collect();
    let inserted: Vec<Vec<Cell>> = changes
        .iter()
        .filter(|change| change.old.is_none())
        .filter_map(|change| change.new.as_ref().map(cells))
        .collect();
    let edit =
        |row: Row<'_>| Ok(row.text(name)?.and_then(|key| edits.get(key)).cloned().unwrap_or(Edit::Keep));
    let seq = store::edit(ctx.instance.database(), id, edit, &inserted).await?;
    if id == system::USERS {
        users::changed(ctx, &changes)?;
    }
    Ok(Outcome::affected(changes.len() as u64, seq))
}

/// Refuses a column that the database keeps by itself.
pub(crate) fn check_kept(change: &Change, columns: &[&str]) -> Result<()> {
    let (Some(old), Some(new)) = (&change.old, &change.new) else { return Ok(()) };
    match columns.iter().find(|column| old.get(**column) != new.get(**column)) {
        Some(column) => {
            let message = format!("column {column} cannot be set");
            Err(Error::new(ErrorCode::InvalidStatement, message))
        }
        None => Ok(()),
    }
}

/// A text of a row; `None` for NULL and for a column that was not written.
pub(crate) fn text<'a>(record: &'a Record, column: &str) -> Option<&'a str> {
    match record.get(column) {
        Some(Cell::Text(text)) => Some(text),
        _ => None,
    }
}

/// A text that must be there.
///
/// # Errors
/// [`ErrorCode::NotNullViolation`].
pub(crate) fn required<'a>(record: &'a Record, column: &str) -> Result<&'a str> {
    text(record, column)
        .ok_or_else(|| Error::new(ErrorCode::NotNullViolation, format!("column {column} must not be NULL")))
}
