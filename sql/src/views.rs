//! Views: `CREATE VIEW`, `DROP VIEW`, and what a view's name stands for in a query.
//!
//! A view is stored as the text of its query and planned anew wherever it is used, as if it were written there, with two
//! differences: unqualified names are looked up in the view's namespace, and the system columns that the text names are
//! its own. Rights are those of whoever asks: a view shows nobody more than its query written out would.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::common::Column;
use datafusion::datasource::ViewTable;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder};
use datafusion::sql::sqlparser::ast;
use kalamdb_engine::{Ddl, NamespaceId, NewView, SYSTEM_NAMESPACE, TableId, TableName, View, ViewDefinition};

use crate::auth::Role;
use crate::ddl::reserved;
use crate::dialect::{self, CreateView, TableRef};
use crate::error::{Error, ErrorCode, Result};
use crate::names::{self, Resolved};
use crate::provider::Scans;
use crate::query::Planner;
use crate::session::Outcome;
use crate::statement::StatementContext;
use crate::system::INFORMATION_SCHEMA;

/// How many views may refer to one another in a row.
const MAX_DEPTH: usize = 16;
/// Stands for a view that has no id yet.
const NEW_VIEW: TableId = TableId(u64::MAX);
/// Bytes of stack that planning a view may need.
const STACK_LEFT: usize = 512 << 10;
/// Bytes of stack that are added where fewer are left.
const STACK_MORE: usize = 2 << 20;

/// `CREATE VIEW`: the query is checked, with the rights of the session.
///
/// # Errors
/// [`ErrorCode::PermissionDenied`], [`ErrorCode::AlreadyExists`], [`ErrorCode::NamespaceNotFound`], and whatever is wrong
/// with the query.
pub(crate) async fn create(ctx: &Arc<StatementContext>, wanted: &CreateView) -> Result<Outcome> {
    ctx.require(Role::Dba, "CREATE VIEW")?;
    let at = wanted.view.position;
    let namespace = wanted.view.namespace.as_deref().unwrap_or(&ctx.namespace);
    if [SYSTEM_NAMESPACE, INFORMATION_SCHEMA].contains(&namespace) {
        return Err(reserved(namespace, at));
    }
    let Some(known) = ctx.catalog.namespace(namespace) else {
        return Err(names::namespace_not_found(ctx, namespace, at));
    };
    let old = ctx.catalog.view(namespace, &wanted.view.name);
    let full_name = format!("{namespace}.{}", wanted.view.name);
    if wanted.if_not_exists && old.is_some() {
        return Ok(Outcome::message(format!("view {full_name} already exists")));
    }
    // One level for the view itself, so that what can be created can be used.
    let inside = [old.map_or(NEW_VIEW, |view| view.id)];
    let statement = ast::Statement::Query(wanted.query.clone());
    let plan = plan_query(ctx, &Arc::default(), &known.id, &statement, &inside)?;
    let plan = renamed(plan, &wanted.columns).map_err(|error| error.with_position(at))?;
    check_columns(&plan).map_err(|error| error.with_position(at))?;
    ctx.instance.queries().analyse(plan)?;
    let view = NewView {
        namespace: known.id.clone(),
        name: TableName::new(&wanted.view.name).map_err(|e| Error::from(e).with_position(at))?,
        definition: ViewDefinition { query: wanted.query.to_string(), columns: wanted.columns.clone() },
        replace: wanted.replace,
    };
    let changed = ctx.instance.database().ddl(Ddl::CreateView(Box::new(view))).await;
    changed.map_err(|error| Error::from(error).with_position(at))?;
    let done = if old.is_some() { "replaced" } else { "created" };
    Ok(Outcome::message(format!("view {full_name} {done}")))
}

/// `DROP VIEW`.
///
/// # Errors
/// [`ErrorCode::TableNotFound`]; [`ErrorCode::InvalidStatement`] for a table.
pub(crate) async fn drop(ctx: &StatementContext, written: &TableRef, if_exists: bool) -> Result<Outcome> {
    ctx.require(Role::Dba, "DROP VIEW")?;
    let view = match names::resolve(ctx, written) {
        Ok(Resolved::View(view)) => view,
        Ok(_) => {
            let message = format!("{} is not a view", written.name);
            return Err(Error::new(ErrorCode::InvalidStatement, message).with_position(written.position));
        }
        Err(error)
            if if_exists && matches!(error.code, ErrorCode::TableNotFound | ErrorCode::NamespaceNotFound) =>
        {
            return Ok(Outcome::message(format!("view {} does not exist", written.name)));
        }
        Err(error) => return Err(error),
    };
    let gone = Ddl::DropView { namespace: view.namespace.clone(), name: view.name.clone() };
    ctx.instance.database().ddl(gone).await?;
    Ok(Outcome::message(format!("view {} dropped", view.qualified_name())))
}

/// What a view's name stands for in a statement; `inside` are the views that led here.
///
/// # Errors
/// What is wrong with the view now, naming it: [`ErrorCode::TableNotFound`], [`ErrorCode::ColumnNotFound`], ...
pub(crate) fn table(
    ctx: &Arc<StatementContext>,
    scans: &Arc<Scans>,
    view: &View,
    inside: &[TableId],
) -> Result<Arc<ViewTable>> {
    let plan = plan(ctx, scans, view, inside)?;
    Ok(Arc::new(ViewTable::new(plan, Some(view.definition.query.clone()))))
}

/// The columns of a view as the session sees it.
///
/// # Errors
/// As [`table`].
pub(crate) fn schema(ctx: &StatementContext, view: &View) -> Result<SchemaRef> {
    let ctx = Arc::new(ctx.clone());
    let plan = plan(&ctx, &Arc::default(), view, &[])?;
    let plan = ctx.instance.queries().analyse(plan).map_err(|error| about(view, error))?;
    Ok(plan.schema().inner().clone())
}

/// True if the session may know of the view: it may read what the view shows.
pub(crate) fn visible(ctx: &StatementContext, view: &View) -> bool {
    ctx.is_dba() || schema(ctx, view).is_ok()
}

fn plan(
    ctx: &Arc<StatementContext>,
    scans: &Arc<Scans>,
    view: &View,
    inside: &[TableId],
) -> Result<LogicalPlan> {
    let refuse = |what: &str| {
        Err(Error::new(ErrorCode::InvalidStatement, format!("view {} {what}", view.qualified_name())))
    };
    if inside.contains(&view.id) {
        return refuse("refers to itself");
    }
    if inside.len() >= MAX_DEPTH {
        return refuse("refers to views that refer to views too deeply");
    }
    let inside: Vec<TableId> = inside.iter().copied().chain([view.id]).collect();
    // Views are planned within views, and the planner's frames are large.
    let planned = stacker::maybe_grow(STACK_LEFT, STACK_MORE, || {
        dialect::parse_query(&view.definition.query)
            .and_then(|statement| plan_query(ctx, scans, &view.namespace, &statement, &inside))
            .and_then(|plan| renamed(plan, &view.definition.columns))
    });
    planned.map_err(|error| about(view, error))
}

/// An error within a view's text, which is not the text that was sent.
fn about(view: &View, mut error: Error) -> Error {
    error.message = format!("view {}: {}", view.qualified_name(), error.message);
    error.position = None;
    error
}

fn plan_query(
    ctx: &Arc<StatementContext>,
    scans: &Arc<Scans>,
    namespace: &NamespaceId,
    statement: &ast::Statement,
    inside: &[TableId],
) -> Result<LogicalPlan> {
    let ctx = Arc::new(StatementContext { namespace: namespace.to_string(), ..StatementContext::clone(ctx) });
    Planner::new(&ctx).inside_views(scans.clone(), inside).plan(statement, &[])
}

/// The plan with the names that `CREATE VIEW v (a, b)` gives to its columns.
fn renamed(plan: LogicalPlan, names: &[String]) -> Result<LogicalPlan> {
    if names.is_empty() {
        return Ok(plan);
    }
    let columns = plan.schema().columns();
    if columns.len() != names.len() {
        let message = format!("the query has {} columns, but {} names are given", columns.len(), names.len());
        return Err(Error::new(ErrorCode::InvalidStatement, message));
    }
    let columns: Vec<Expr> =
        columns.into_iter().zip(names).map(|(column, name)| Expr::Column(column).alias(name)).collect();
    Ok(LogicalPlanBuilder::from(plan).project(columns)?.build()?)
}

/// Columns of a view are known by their names alone.
fn check_columns(plan: &LogicalPlan) -> Result<()> {
    let mut seen = HashSet::new();
    match plan.schema().columns().into_iter().find(|Column { name, .. }| !seen.insert(name.clone())) {
        None => Ok(()),
        Some(Column { name, .. }) => {
            let message = format!("the view would have two columns named {name}");
            Err(Error::new(ErrorCode::InvalidStatement, message)
                .with_hint("give one of them another name with AS"))
        }
    }
}
