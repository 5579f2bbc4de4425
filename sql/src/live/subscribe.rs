//! From a request to compiled subscriptions.

use std::collections::HashSet;
use std::sync::{Arc, OnceLock};

use chrono::DateTime;
use kalamdb_engine::{PartitionId, Table, TableKind};
use serde_json::Value;

use crate::dialect::{self, Statement};
use crate::error::{Error, ErrorCode, Result};
use crate::live::SubscriptionRequest;
use crate::live::compile::{Subject, compile};
use crate::live::entry::{Counters, Subscription};
use crate::live::program::Program;
use crate::live::queries::Queries;
use crate::live::shape::{self, Source};
use crate::live::snapshot::Asked;
use crate::live::stream;
use crate::names;
use crate::statement::StatementContext;

/// The most subscriptions on one connection.
const MAX_SUBSCRIPTIONS: usize = 1_000;
/// The longest name of a subscription, in bytes.
const MAX_NAME_BYTES: usize = 200;
/// The most rows a snapshot limited by `last_rows` can have: they are gathered before the first is sent.
const MAX_LAST_ROWS: u64 = 100_000;

/// Checks and compiles all subscriptions of a request.
///
/// # Errors
/// What is wrong with the first that cannot be.
pub(crate) fn all(
    context: &Arc<StatementContext>,
    queries: &Queries,
    requests: Vec<SubscriptionRequest>,
    connection_id: &str,
) -> Result<Vec<Subscription>> {
    if requests.is_empty() || requests.len() > MAX_SUBSCRIPTIONS {
        let message =
            format!("a live feed has 1 to {MAX_SUBSCRIPTIONS} subscriptions, not {}", requests.len());
        return Err(invalid(message));
    }
    let mut names = HashSet::new();
    let mut subscriptions = Vec::with_capacity(requests.len());
    for (index, request) in requests.into_iter().enumerate() {
        let name = request.id.clone().unwrap_or_else(|| format!("q{}", index + 1));
        if name.is_empty() || name.len() > MAX_NAME_BYTES {
            return Err(invalid(format!("the id of a subscription has 1 to {MAX_NAME_BYTES} bytes")));
        }
        if !names.insert(name.clone()) {
            return Err(invalid(format!("two subscriptions have the id {name:?}")));
        }
        let live_id = format!("{connection_id}-{}", index + 1);
        subscriptions.push(one(context, queries, request, &name, live_id)?);
    }
    Ok(subscriptions)
}

/// Which subscriptions begin with a snapshot.
pub(crate) fn wanting_snapshots(subscriptions: &[Subscription]) -> Vec<usize> {
    subscriptions.iter().enumerate().filter(|(_, s)| s.snapshot).map(|(index, _)| index).collect()
}

fn invalid(message: String) -> Error {
    Error::new(ErrorCode::InvalidParameter, message)
}

fn one(
    context: &Arc<StatementContext>,
    queries: &Queries,
    request: SubscriptionRequest,
    name: &str,
    live_id: String,
) -> Result<Subscription> {
    if request.last_rows.is_some_and(|rows| rows > MAX_LAST_ROWS) {
        return Err(invalid(format!("last_rows is at most {MAX_LAST_ROWS}"))
            .with_hint("leave it out to get all rows"));
    }
    let statement = select(&request.sql)?;
    let source = shape::check(&statement)?;
    let table = table(context, &source)?;
    let program = program(context, &statement, &request.params, &table)?;
    let user = (table.kind == TableKind::User).then(|| context.identity.user.clone());
    // A USER table is the session's own partition, whatever the text says.
    let query = queries.query(name, PartitionId { table: table.id, user }, program);
    let stream = match table.kind {
        TableKind::Stream => Some(stream::Source::new(context.instance.database().stream(&table)?)),
        _ => None,
    };
    Ok(Subscription {
        query,
        live_id,
        text: request.sql.into(),
        params: request.params.into(),
        last_rows: request.last_rows,
        snapshot: request.snapshot,
        table,
        stream,
        end: OnceLock::new(),
        counters: Counters::default(),
    })
}

/// The SELECT of a subscription, for its snapshot. Not kept, because most feeds need it once.
///
/// # Errors
/// None that [`all`] did not have.
pub(crate) fn asked(subscription: &Subscription) -> Result<Asked> {
    let statement = select(&subscription.text)?;
    let source = shape::check(&statement)?;
    let schema = &subscription.table.schema;
    let key = schema.key_indices().iter().map(|&i| schema.columns()[i].name.clone()).collect();
    Ok(Asked {
        statement: Arc::new(statement),
        source,
        params: subscription.params.clone(),
        last_rows: subscription.last_rows,
        key,
    })
}

/// The one SELECT that a text must be.
fn select(sql: &str) -> Result<datafusion::sql::sqlparser::ast::Statement> {
    let mut statements = dialect::parse(sql);
    // A syntax error anywhere is last.
    if let Some(Statement::Invalid(error)) = statements.last().map(|s| &*s.statement) {
        return Err(error.clone());
    }
    let one = if statements.len() == 1 { statements.pop() } else { None };
    match one.map(|s| Arc::unwrap_or_clone(s.statement)) {
        Some(Statement::Query(statement)) => Ok(*statement),
        _ => Err(Error::new(ErrorCode::InvalidStatement, "a live query is one SELECT")),
    }
}

fn table(context: &StatementContext, source: &Source) -> Result<Arc<Table>> {
    let written = names::table_ref(&source.name)?;
    let table = match names::resolve(context, &written)? {
        names::Resolved::Table(table) => table,
        names::Resolved::View(view) => {
            let message = format!("a live query on view {} is not supported", view.qualified_name());
            return Err(Error::new(ErrorCode::Unsupported, message)
                .with_hint("write the view's query out")
                .with_position(written.position));
        }
        names::Resolved::Computed(table) => {
            let message = format!(
                "{}.{} is computed when it is read and has no changes",
                table.namespace(),
                table.name()
            );
            return Err(Error::new(ErrorCode::Unsupported, message).with_position(written.position));
        }
    };
    // Other roles see only some rows of some of them, which a live query's filter does not know.
    if table.kind == TableKind::System && !context.is_dba() {
        let message = format!("a live query on table {} needs the role dba or above", table.qualified_name());
        return Err(Error::new(ErrorCode::PermissionDenied, message).with_position(written.position));
    }
    Ok(table)
}

fn program(
    context: &Arc<StatementContext>,
    statement: &datafusion::sql::sqlparser::ast::Statement,
    params: &[Value],
    table: &Arc<Table>,
) -> Result<Program> {
    let plan = crate::query::analysed_plan(context, statement, params)?;
    let now = DateTime::from_timestamp_micros(context.now_micros).unwrap_or_default();
    let queries = context.instance.queries();
    let subject = Subject {
        schema: &table.schema,
        user: &context.identity.user,
        now,
        config: queries.config(),
        properties: queries.state().execution_props(),
    };
    compile(&plan, &subject)
}
