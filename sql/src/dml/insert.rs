//! INSERT.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::execution::memory_pool::MemoryReservation;
use datafusion::sql::sqlparser::ast::{
    Insert, ObjectName, OnInsert, Query, SetExpr, Statement, TableObject, TableWithJoins, Values,
};
use kalamdb_engine::{Error as EngineError, Table, TableKind};
use serde_json::Value;

use super::checks::Checks;
use super::convert::assign;
use super::gather::{Gathered, gather};
use super::retry::{Applied, Tries, commit};
use super::returning::{Returning, Written};
use super::rows::{assemble, inserts, own_partition};
use super::system;
use super::target::{self, Target};
use super::upsert::upsert;
use super::values;
use crate::dialect::{self, position};
use crate::error::{Error, ErrorCode, Result};
use crate::functions::evaluate_default;
use crate::query::{self, Planner};
use crate::session::Outcome;
use crate::statement::StatementContext;

/// The longest text of a statement that is short work, in bytes.
const QUICK: usize = 16 << 10;

/// True if the text of an INSERT has a few values and nothing to be read.
pub(crate) fn is_quick(text: &str) -> bool {
    // The word inside a value costs nothing but that the work is handed over.
    text.len() <= QUICK && !text.as_bytes().windows(6).any(|word| word.eq_ignore_ascii_case(b"select"))
}

/// Runs an INSERT; `ctx` is at the newest applied state.
///
/// # Errors
/// As the contract says; nothing is inserted then.
pub(crate) async fn insert(
    mut ctx: Arc<StatementContext>,
    statement: &Insert,
    params: &[Value],
) -> Result<Outcome> {
    check_supported(statement)?;
    target::check_text(statement, params)?;
    let TableObject::TableName(name) = &statement.table else {
        return Err(Error::new(ErrorCode::Unsupported, "INSERT INTO a function or a query is not supported"));
    };
    if let Some(id) = system::editable(&ctx, name)? {
        return Box::pin(system::insert(&ctx, id, statement, params)).await;
    }
    if let Some(OnInsert::OnConflict(conflict)) = &statement.on {
        return Box::pin(upsert(ctx, statement, name, conflict, params)).await;
    }
    let mut tries = Tries::new(target::table(&ctx, name)?.id);
    loop {
        // Names are resolved anew: the table may have changed, which is one of the reasons for a conflict.
        let mut table = target::table(&ctx, name)?;
        if table.kind == TableKind::Stream {
            if ctx.transaction.is_some() {
                let message =
                    format!("STREAM table {} cannot be written in a transaction", table.qualified_name());
                return Err(Error::new(ErrorCode::Unsupported, message)
                    .with_hint("what is inserted into a stream is told at once: insert it after COMMIT"));
            }
            // Its rows are told at once: what they were read from must be durable already.
            ctx = ctx.durable();
            table = target::table(&ctx, name)?;
        }
        let returning = Returning::new(&ctx, &table, from(statement, name), statement.returning.as_deref())?;
        let source = match rows(&ctx, &table, statement, params).await {
            Ok(source) => source,
            // A conflict: a table that it reads was altered since the statement took its catalog.
            Err(error) => {
                ctx = tries.again(&ctx, error)?;
                continue;
            }
        };
        Checks::new(&ctx, &table)?.check(&source.rows)?;
        let count = source.rows.num_rows();
        if count == 0 {
            ctx.instance.database().until_visible(ctx.snapshot.seq()).await?;
            return returning.outcome(&ctx, Written::nothing(&table)?, None).await;
        }
        let written = returning.wanted().then(|| Written {
            rows: source.rows.clone(),
            owners: source.owners.clone(),
            user: own_partition(&ctx, &table),
            deleted: false,
        });
        let applied = match table.kind {
            TableKind::Stream => append(&ctx, &table, source.rows),
            _ => commit(&ctx, inserts(&ctx, &table, source.rows, source.owners.as_ref())?, &mut None).await,
        };
        match applied {
            Ok(applied) => {
                let mut outcome = match written {
                    Some(written) => returning.outcome(&ctx, written, Some(applied.versions)).await?,
                    None => Outcome::default(),
                };
                (outcome.affected_rows, outcome.seq) = (Some(count as u64), applied.seq);
                return Ok(outcome);
            }
            Err(error) => ctx = tries.again(&ctx, error.into())?,
        }
    }
}

/// Appends rows to a stream and wakes those who listen.
fn append(ctx: &StatementContext, table: &Table, rows: RecordBatch) -> Result<Applied, EngineError> {
    let versions = ctx.instance.database().insert_into_stream(table, rows)?;
    ctx.instance.live().stream_grew(table.id);
    Ok(Applied { versions, seq: Some(versions.seq) })
}

/// The table as RETURNING sees it.
pub(super) fn from(statement: &Insert, name: &ObjectName) -> TableWithJoins {
    let alias = statement.table_alias.as_ref().map(|alias| alias.alias.clone());
    let relation = dialect::plain_table(name.clone(), alias);
    TableWithJoins { relation, joins: Vec::new() }
}

fn check_supported(statement: &Insert) -> Result<()> {
    let unsupported =
        |what: &str| Err(Error::new(ErrorCode::Unsupported, format!("{what} is not supported")));
    if matches!(statement.on, Some(OnInsert::DuplicateKeyUpdate(_))) {
        return unsupported("ON DUPLICATE KEY UPDATE (write ON CONFLICT)");
    }
    if statement.or.is_some() || statement.ignore || statement.replace_into || statement.overwrite {
        return unsupported("INSERT OR ..., INSERT IGNORE, REPLACE and INSERT OVERWRITE");
    }
    if !statement.assignments.is_empty()
        || statement.partitioned.is_some()
        || !statement.after_columns.is_empty()
    {
        return unsupported("this form of INSERT");
    }
    Ok(())
}

/// New rows, and whose they are if the statement says so.
pub(super) struct Source {
    pub(super) rows: RecordBatch,
    pub(super) owners: Option<ArrayRef>,
    /// What the rows of a query were promised; held until they are committed.
    pub(super) _memory: Option<MemoryReservation>,
}

/// The columns that a statement gives values for.
pub(super) struct Given {
    pub(super) targets: Vec<Target>,
    /// Their values, in the same order.
    pub(super) columns: Vec<ArrayRef>,
    /// The number of rows.
    pub(super) count: usize,
    memory: Option<MemoryReservation>,
}

impl Given {
    fn new(targets: Vec<Target>, columns: Vec<ArrayRef>, count: usize) -> Self {
        Self { targets, columns, count, memory: None }
    }
}

/// The new rows that a statement gives.
///
/// # Errors
/// What is wrong with its values or its query.
pub(super) async fn rows(
    ctx: &Arc<StatementContext>,
    table: &Arc<Table>,
    statement: &Insert,
    params: &[Value],
) -> Result<Source> {
    place(ctx, table, written(ctx, table, statement, params).await?)
}

/// The columns that a statement gives, and the number of its rows.
///
/// # Errors
/// As [`rows`].
pub(super) async fn written(
    ctx: &Arc<StatementContext>,
    table: &Arc<Table>,
    statement: &Insert,
    params: &[Value],
) -> Result<Given> {
    Ok(match &statement.source {
        None => Given::new(Vec::new(), Vec::new(), 1),
        Some(query) => match plain_values(query) {
            Some(list) => {
                let width = list.rows.first().map_or(0, |row| row.content.len());
                let targets = targets(ctx, table, statement, width)?;
                let columns = values::columns(ctx, table, &targets, list, params).await?;
                Given::new(targets, columns, list.rows.len())
            }
            None => selected(ctx, table, statement, query, params).await?,
        },
    })
}

/// The VALUES list of a source that is nothing else.
fn plain_values(query: &Query) -> Option<&Values> {
    match query.body.as_ref() {
        SetExpr::Values(values)
            if query.with.is_none()
                && query.order_by.is_none()
                && query.limit_clause.is_none()
                && query.fetch.is_none()
                && !values.rows.is_empty() =>
        {
            Some(values)
        }
        _ => None,
    }
}

/// The columns that the statement writes: those it names, else the first `width` in declaration order.
fn targets(ctx: &StatementContext, table: &Table, statement: &Insert, width: usize) -> Result<Vec<Target>> {
    if statement.columns.is_empty() {
        let declared = table.schema.columns().iter().enumerate().filter(|(_, column)| !column.secret);
        let targets: Vec<Target> = declared.map(|(at, _)| Target::Column(at)).collect();
        if width > targets.len() {
            let message =
                format!("{width} values, but table {} has {} columns", table.qualified_name(), targets.len());
            return Err(Error::new(ErrorCode::InvalidStatement, message)
                .with_position(position(statement.insert_token.0.span)));
        }
        return Ok(targets.into_iter().take(width).collect());
    }
    let mut targets: Vec<Target> = Vec::with_capacity(statement.columns.len());
    for name in &statement.columns {
        let ident = target::last_ident(name)?;
        let target = target::column(ctx, table, ident)?;
        if targets.contains(&target) {
            return Err(Error::new(
                ErrorCode::InvalidStatement,
                format!("column {} is written twice", ident.value),
            )
            .with_position(position(ident.span)));
        }
        targets.push(target);
    }
    Ok(targets)
}

/// The columns of an `INSERT ... SELECT`.
async fn selected(
    ctx: &Arc<StatementContext>,
    table: &Arc<Table>,
    statement: &Insert,
    query: &Query,
    params: &[Value],
) -> Result<Given> {
    let plan = Planner::new(ctx).plan(&Statement::Query(Box::new(query.clone())), params)?;
    let plan = query::physical_plan(ctx, plan).await?;
    let width = plan.schema().fields().len();
    let targets = targets(ctx, table, statement, width)?;
    if targets.len() != width {
        let message = format!("the query gives {width} columns where {} are written", targets.len());
        return Err(Error::new(ErrorCode::InvalidStatement, message)
            .with_position(position(statement.insert_token.0.span)));
    }
    let schema = converted(table, &targets, &plan.schema());
    let rows = gather(ctx, query::execute(ctx, plan)?, |batch| {
        let columns = targets.iter().zip(batch.columns()).map(|(target, values)| match target {
            Target::Column(at) => assign(values, &table.schema.columns()[*at]),
            Target::User => Ok(values.clone()),
        });
        Ok(RecordBatch::try_new(schema.clone(), columns.collect::<Result<_>>()?)?)
    });
    let Gathered { batches, memory } = rows.await?;
    let whole = concat_batches(&schema, &batches)?;
    let (columns, count) = (whole.columns().to_vec(), whole.num_rows());
    Ok(Given { targets, columns, count, memory: Some(memory) })
}

/// The rows of a query as the columns that they are written to.
fn converted(table: &Table, targets: &[Target], given: &Schema) -> SchemaRef {
    let fields = targets.iter().zip(given.fields()).map(|(target, field)| {
        let data_type = match target {
            Target::Column(at) => table.schema.rows().field(*at).data_type(),
            Target::User => field.data_type(),
        };
        Field::new(field.name(), data_type.clone(), true)
    });
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// Puts the written columns where they belong and defaults everywhere else.
fn place(ctx: &StatementContext, table: &Arc<Table>, given: Given) -> Result<Source> {
    let Given { targets, columns: written, count, memory } = given;
    let mut columns: Vec<Option<ArrayRef>> = vec![None; table.schema.columns().len()];
    let mut owners = None;
    for (target, values) in targets.iter().zip(written) {
        match target {
            Target::Column(index) => columns[*index] = Some(values),
            Target::User => owners = Some(values),
        }
    }
    let filled = columns.into_iter().zip(table.schema.columns()).map(|(values, column)| match values {
        Some(values) => Ok(values),
        None => evaluate_default(ctx, column, count),
    });
    Ok(Source { rows: assemble(table, filled.collect::<Result<_>>()?)?, owners, _memory: memory })
}
