//! Where imported batches go: defaults, checks, and one commit in flight.

use std::fmt;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef};
use kalamdb_engine::{Committed, Error as EngineError, Table, TableKind};
use tokio::task::JoinHandle;

use super::ImportReport;
use crate::auth::Identity;
use crate::dialect::TableRef;
use crate::dml::Checks;
use crate::dml::rows::{assemble, inserts};
use crate::error::{Error, ErrorCode, Result};
use crate::functions::evaluate_default;
use crate::instance::Instance;
use crate::names;
use crate::provider::check_write;
use crate::statement::StatementContext;

/// Converted rows that are to be committed together.
pub(super) struct Batch {
    /// The table's columns that the input has.
    pub(super) columns: Vec<Option<ArrayRef>>,
    /// Whose the rows are, if the input says so.
    pub(super) owners: Option<ArrayRef>,
    /// How many rows.
    pub(super) rows: usize,
    /// Where in the input a row is.
    pub(super) place: Arc<dyn Fn(usize) -> String + Send + Sync>,
}

/// Commits batches one after the other, each while the next is parsed.
pub(super) struct Sink {
    instance: Arc<Instance>,
    identity: Identity,
    namespace: String,
    table: Arc<Table>,
    user_column: Option<String>,
    in_flight: Option<InFlight>,
    taken: u64,
    report: ImportReport,
}

struct InFlight {
    rows: u64,
    place: String,
    commit: JoinHandle<Result<Committed, EngineError>>,
}

impl fmt::Debug for Sink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sink").field("table", &self.table.qualified_name()).finish_non_exhaustive()
    }
}

impl Sink {
    pub(super) fn new(
        ctx: &StatementContext,
        namespace: &str,
        table: &str,
        user_column: Option<String>,
    ) -> Result<Self> {
        let written = TableRef { namespace: Some(namespace.into()), name: table.into(), position: None };
        let table = names::engine_table(ctx, &written)?;
        check_write(ctx, &table)?;
        if table.kind == TableKind::Stream {
            return Err(Error::new(ErrorCode::Unsupported, "STREAM tables cannot be imported into"));
        }
        if user_column.is_some() {
            ctx.require(crate::auth::Role::Dba, "importing rows of other users")?;
            if table.kind != TableKind::User {
                let message =
                    format!("table {} is not a USER table: its rows have no owner", table.qualified_name());
                return Err(Error::new(ErrorCode::InvalidParameter, message));
            }
        }
        Ok(Self {
            instance: ctx.instance.clone(),
            identity: ctx.identity.clone(),
            namespace: ctx.namespace.clone(),
            table,
            user_column,
            in_flight: None,
            taken: 0,
            report: ImportReport { rows: 0, seq: None },
        })
    }

    /// The table, as it was when the import began; a change of it ends the import.
    pub(super) fn table(&self) -> &Arc<Table> {
        &self.table
    }

    /// The column that says whose a row is.
    pub(super) fn user_column(&self) -> Option<&str> {
        self.user_column.as_deref()
    }

    /// Rows taken so far, committed or not.
    pub(super) fn rows_taken(&self) -> u64 {
        self.taken
    }

    /// What is committed.
    pub(super) fn report(&self) -> ImportReport {
        self.report
    }

    /// A statement of now: an import can be long, and must not hold back what is old.
    pub(super) fn context(&self) -> Arc<StatementContext> {
        StatementContext::write(&self.instance, self.identity.clone(), self.namespace.clone())
    }

    /// Starts to commit a batch, once the one before is durable.
    pub(super) async fn write(&mut self, batch: Batch) -> Result<()> {
        let ctx = self.context();
        let filled =
            batch.columns.into_iter().zip(self.table.schema.columns()).map(|(values, column)| match values {
                Some(values) => Ok(values),
                None => evaluate_default(&ctx, column, batch.rows),
            });
        let columns = filled.collect::<Result<Vec<_>>>()?;
        let rows = assemble(&self.table, columns.clone())
            .map_err(|error| self.with_null_row(error, &columns, &*batch.place));
        let rows = rows?;
        let span = format!("{} to {}", (batch.place)(0), (batch.place)(batch.rows - 1));
        Checks::new(&ctx, &self.table)?.check(&rows).map_err(|error| prefixed(&span, error))?;
        let writes = inserts(&ctx, &self.table, rows, batch.owners.as_ref())
            .map_err(|error| prefixed(&span, error))?;
        drop(ctx);
        self.settle().await?;
        let database = self.instance.database().clone();
        let commit = tokio::spawn(async move { database.commit(writes).await });
        self.taken += batch.rows as u64;
        self.in_flight = Some(InFlight { rows: batch.rows as u64, place: span, commit });
        Ok(())
    }

    /// Waits for the commit in flight.
    pub(super) async fn settle(&mut self) -> Result<()> {
        let Some(in_flight) = self.in_flight.take() else { return Ok(()) };
        let committed = in_flight.commit.await.map_err(Error::internal)?;
        let committed = committed.map_err(|error| prefixed(&in_flight.place, self.explained(error)))?;
        self.report.rows += in_flight.rows;
        self.report.seq = Some(committed.seq);
        Ok(())
    }

    fn explained(&self, error: EngineError) -> Error {
        match error {
            EngineError::Conflict => {
                let message = format!("table {} was changed during the import", self.table.qualified_name());
                Error::new(ErrorCode::Conflict, message).with_hint("import the remaining rows again")
            }
            other => other.into(),
        }
    }

    /// Says which row has the NULL that an error is about.
    fn with_null_row(&self, error: Error, columns: &[ArrayRef], place: &dyn Fn(usize) -> String) -> Error {
        let required = self.table.schema.columns().iter().zip(columns).filter(|(column, _)| !column.nullable);
        let row =
            required.filter_map(|(_, values)| (0..values.len()).find(|row| values.is_null(*row))).next();
        match row {
            Some(row) => prefixed(&place(row), error),
            None => error,
        }
    }
}

fn prefixed(place: &str, mut error: Error) -> Error {
    error.message = format!("{place}: {}", error.message);
    error
}
