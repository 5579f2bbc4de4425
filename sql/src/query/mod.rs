//! Reading: from a parsed SELECT or EXPLAIN to a stream of record batches, through DataFusion.
//!
//! One [`QueryEngine`] per instance holds what never changes: functions, rules, configuration, memory pool. A statement
//! costs only its own planning: names are resolved by a light [`Binder`] over the catalog snapshot, then DataFusion's
//! analyser, optimiser and physical planner run.
//!
//! System columns: the identifiers of a statement are looked through first. If none of them is a system column, tables
//! show their declared columns only. Otherwise tables show system columns too, and every wildcard is rewritten to leave
//! them out before planning, see [`system_columns`]; after planning, the references to tables of which `_deleted` is
//! named are found in the plan, see [`deleted`], and show their soft-deleted rows.
//!
//! Forms of PostgreSQL that DataFusion does not know are written as others before planning, see [`forms`].
//!
//! A text that comes again is not planned again: see [`cache`] for which plans are kept, [`prepared`] for what of them, and
//! [`point`] for reading rows by their key.

mod bind;
mod bounding;
mod cache;
mod deleted;
mod duplicates;
mod engine;
mod forms;
mod memory;
mod multisets;
mod never_null;
mod not_in;
mod optimizing;
mod outer_joins;
mod output;
mod place;
mod point;
mod prepared;
mod pushdown;
mod system_columns;
mod types;

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::catalog::TableProvider;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::execution::context::SQLOptions;
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use datafusion::sql::planner::{ParserOptions, SqlToRel};
use datafusion::sql::sqlparser::ast;
use futures::StreamExt;
use kalamdb_engine::{Table, TableId};
use serde_json::Value;

pub(crate) use bind::{count_mismatch, engine_type};
pub(crate) use engine::{QueryEngine, QueryOptions};
pub(crate) use forms::rewrite as rewrite_forms;
pub(crate) use memory::{SpillOptions, exhausted};

use crate::error::{Error, ErrorCode, Result};
use crate::provider::{Binder, ROW_ADDRESS, Scans, Shape};
use crate::session::{ColumnInfo, RowSet};
use crate::statement::StatementContext;

/// Runs a SELECT, VALUES or EXPLAIN [ANALYZE].
///
/// # Errors
/// Planning errors at once; errors of execution as items of the stream.
pub(crate) async fn query(
    ctx: &Arc<StatementContext>,
    statement: &ast::Statement,
    params: &[Value],
) -> Result<RowSet> {
    let plan = Planner::new(ctx).plan(statement, params)?;
    let never_null = never_null::columns(&plan);
    let plan = physical_plan(ctx, plan).await?;
    let stream = execute(ctx, plan.clone())?;
    let shape = RowShape::new(stream.schema(), &never_null);
    Ok(shape.row_set(ctx, stream))
}

/// Runs a SELECT or VALUES, which is `text` parsed, by the plan that was kept of it if there is one.
///
/// # Errors
/// As [`query`].
pub(crate) async fn query_text(
    ctx: &Arc<StatementContext>,
    text: &str,
    statement: &ast::Statement,
    params: &[Value],
) -> Result<RowSet> {
    if let Some(kept) = ctx.instance.queries().plans().plan(ctx, text, statement).await
        && let Some(rows) = kept.run(ctx, params).await?
    {
        return Ok(rows);
    }
    query(ctx, statement, params).await
}

/// The plan of a query with names resolved, types coerced and parameters bound, but not optimised.
///
/// # Errors
/// Planning errors.
pub(crate) fn analysed_plan(
    ctx: &Arc<StatementContext>,
    statement: &ast::Statement,
    params: &[Value],
) -> Result<LogicalPlan> {
    let plan = Planner::new(ctx).plan(statement, params)?;
    ctx.instance.queries().analyse(plan)
}

/// Optimises a plan and makes it executable.
///
/// # Errors
/// Planning errors.
pub(crate) async fn physical_plan(
    ctx: &StatementContext,
    plan: LogicalPlan,
) -> Result<Arc<dyn ExecutionPlan>> {
    ctx.instance.queries().physical_plan(plan, ctx.now_micros).await
}

/// Starts a plan with the statement's memory.
///
/// # Errors
/// Errors of starting; those of running are items of the stream.
pub(crate) fn execute(
    ctx: &StatementContext,
    plan: Arc<dyn ExecutionPlan>,
) -> Result<SendableRecordBatchStream> {
    Ok(execute_stream(plan, ctx.task().clone())?)
}

/// A stream as a result; the statement's snapshot lives as long as it.
pub(crate) fn row_set(ctx: &Arc<StatementContext>, stream: SendableRecordBatchStream) -> RowSet {
    let shape = RowShape::new(stream.schema(), &[]);
    shape.row_set(ctx, stream)
}

/// What a result looks like.
#[derive(Debug)]
struct RowShape {
    schema: SchemaRef,
    /// The same as the plan gives it, if that is not in the database's own types.
    converted: bool,
    columns: Arc<[ColumnInfo]>,
}

impl RowShape {
    /// What a plan gives; `never_null` are columns that are described as that, though the schema does not.
    fn new(given: SchemaRef, never_null: &[bool]) -> Self {
        let signed = output::signed(&given);
        let converted = signed.is_some();
        let schema = signed.unwrap_or(given);
        let mut columns = crate::types::column_infos(&schema).to_vec();
        for (column, never_null) in columns.iter_mut().zip(never_null) {
            column.nullable &= !never_null;
        }
        Self { columns: columns.into(), schema, converted }
    }

    fn row_set(&self, ctx: &Arc<StatementContext>, stream: SendableRecordBatchStream) -> RowSet {
        let ctx = ctx.clone();
        let signed = self.converted.then(|| self.schema.clone());
        let stream = stream.map(move |batch| {
            let _pinned = &ctx;
            match (&signed, batch) {
                (Some(schema), Ok(batch)) => output::convert(&batch, schema),
                (_, batch) => batch.map_err(Error::from),
            }
        });
        RowSet { columns: self.columns.clone(), schema: self.schema.clone(), stream: stream.boxed() }
    }
}

/// True if a statement names `_user`, so that it reaches the rows of everybody.
pub(crate) fn names_user(statement: &ast::Statement) -> bool {
    system_columns::naming(statement).user
}

/// The columns that a table shows to a statement.
pub(crate) fn shape_for(ctx: &StatementContext, table: &Table, statement: &ast::Statement) -> Arc<Shape> {
    let naming = system_columns::naming(statement);
    ctx.instance.queries().shapes().shape(table, naming.extension())
}

/// Plans the queries of one statement; all of them see the same partition views.
pub(crate) struct Planner<'a> {
    ctx: &'a Arc<StatementContext>,
    scans: Arc<Scans>,
    target: Option<TableId>,
    all_params: bool,
    stand_in: Option<(Arc<Table>, Arc<dyn TableProvider>)>,
    named: Vec<(String, Arc<dyn TableProvider>)>,
    inside_views: Vec<TableId>,
}

impl<'a> Planner<'a> {
    /// A planner for a statement that only reads.
    pub(crate) fn new(ctx: &'a Arc<StatementContext>) -> Self {
        Self {
            ctx,
            scans: Arc::default(),
            target: None,
            all_params: true,
            stand_in: None,
            named: Vec::new(),
            inside_views: Vec::new(),
        }
    }

    /// A planner for the text of the last of `views`, each of which led to the next, in a statement that reads `scans`.
    #[must_use]
    pub(crate) fn inside_views(mut self, scans: Arc<Scans>, views: &[TableId]) -> Self {
        self.scans = scans;
        self.inside_views = views.to_vec();
        self
    }

    /// Plans for a statement that changes rows of `table`: the query can name `_row_address`, and soft-deleted rows of
    /// the table never match.
    #[must_use]
    pub(crate) fn with_target(mut self, table: &Table) -> Self {
        self.target = Some(table.id);
        self
    }

    /// Lets the query leave parameters unused: it is a part of a statement.
    #[must_use]
    pub(crate) fn with_some_params(mut self) -> Self {
        self.all_params = false;
        self
    }

    /// Lets a table's name stand for other rows.
    #[must_use]
    pub(crate) fn with_stand_in(mut self, table: &Arc<Table>, rows: Arc<dyn TableProvider>) -> Self {
        self.stand_in = Some((table.clone(), rows));
        self
    }

    /// Gives a name to rows that are no table's.
    #[must_use]
    pub(crate) fn with_named(mut self, name: &str, rows: Arc<dyn TableProvider>) -> Self {
        self.named.push((name.to_owned(), rows));
        self
    }

    /// The views that its plans read.
    pub(crate) fn scans(&self) -> &Arc<Scans> {
        &self.scans
    }

    /// Plans a statement and binds its parameters.
    ///
    /// # Errors
    /// Planning errors; [`ErrorCode::PermissionDenied`] if it names `_user` without the right to.
    pub(crate) fn plan(&self, statement: &ast::Statement, params: &[Value]) -> Result<LogicalPlan> {
        let plan = self.plan_open(statement)?;
        bind::bind(plan, params, self.all_params).map_err(|error| place::find(self.ctx, statement, error))
    }

    /// Plans a statement and leaves its parameters open.
    ///
    /// # Errors
    /// As [`Planner::plan`].
    fn plan_open(&self, statement: &ast::Statement) -> Result<LogicalPlan> {
        self.plan_here(statement).map_err(|error| place::find(self.ctx, statement, error))
    }

    fn plan_here(&self, statement: &ast::Statement) -> Result<LogicalPlan> {
        let naming = system_columns::naming(statement);
        if naming.address && self.target.is_none() {
            return Err(Error::new(
                ErrorCode::ColumnNotFound,
                format!("column {ROW_ADDRESS} does not exist"),
            ));
        }
        if naming.user && !self.ctx.is_dba() {
            return Err(Error::new(ErrorCode::PermissionDenied, "only dba and above can name _user")
                .with_hint("without it, a USER table shows your own rows"));
        }
        let engine = self.ctx.instance.queries();
        let mut binder = Binder::new(self.ctx, engine, naming, self.scans.clone());
        if let Some((table, rows)) = &self.stand_in {
            binder.stand_in(table, rows.clone());
        }
        binder.inside_views(&self.inside_views);
        binder.named(&self.named);
        multisets::refuse(statement)?;
        let planner = SqlToRel::new_with_options(&binder, parser_options());
        let plannable = || -> Result<ast::Statement> {
            let mut plannable = statement.clone();
            forms::rewrite(&mut plannable)?;
            if naming.extends() {
                system_columns::narrow_wildcards(&mut plannable, &binder)?;
            }
            Ok(plannable)
        };
        let plan = match planner.sql_statement_to_plan(plannable()?) {
            // Columns of a view are named by its text, each differently.
            Err(error) if self.inside_views.is_empty() && duplicates::are_refused(&error) => {
                let mut renamed = plannable()?;
                duplicates::name_apart(&mut renamed);
                planner.sql_statement_to_plan(renamed)?
            }
            plan => plan?,
        };
        let only_queries =
            SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
        only_queries.verify_plan(&plan)?;
        if naming.system {
            deleted::show_where_named(&plan, self.target)?;
        }
        Ok(plan)
    }
}

/// Unquoted identifiers fold to lower case; errors know their place.
pub(crate) fn parser_options() -> ParserOptions {
    ParserOptions::new().with_collect_spans(true)
}
