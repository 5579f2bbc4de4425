//! `INSERT ... ON CONFLICT`: rows whose key is there already are left alone or updated.
//!
//! The rows that are there are found by key, without a scan where the key index knows. What is to become of them is
//! computed by a SELECT that joins them with the proposed rows, which it sees as a table named `excluded`. A bare name
//! means the row that is there, because the columns of `excluded` have other names in that SELECT. Both parts are one
//! commit. If somebody else inserts one of the keys in between, the statement is run again and finds it.

mod action;
mod matched;
mod proposed;

use std::collections::HashSet;
use std::sync::Arc;

use datafusion::sql::sqlparser::ast::{
    ConflictTarget, Ident, Insert, ObjectName, OnConflict, OnConflictAction,
};
use kalamdb_engine::Table;
use serde_json::Value;

use self::action::Action;
use self::matched::{Outcomes, Upsert};
use self::proposed::Proposed;
use super::checks::Checks;
use super::insert::{from, rows};
use super::retry::{Tries, commit};
use super::returning::{Returning, Written};
use super::target;
use crate::dialect::position;
use crate::error::{Error, ErrorCode, Result};
use crate::names;
use crate::session::Outcome;
use crate::statement::StatementContext;

/// What the proposed rows are called.
const EXCLUDED: &str = "excluded";

/// Runs an INSERT with ON CONFLICT; `ctx` is at the newest applied state.
///
/// # Errors
/// As the contract says; nothing is written then.
pub(super) async fn upsert(
    mut ctx: Arc<StatementContext>,
    statement: &Insert,
    name: &ObjectName,
    conflict: &OnConflict,
    params: &[Value],
) -> Result<Outcome> {
    let mut tries = Tries::new(target::changeable(&ctx, name)?.id);
    let mut turn = None;
    loop {
        ctx = tries.begin(ctx, &mut turn).await;
        let table = target::changeable(&ctx, name)?;
        let returning = Returning::new(&ctx, &table, from(statement, name), statement.returning.as_deref())?;
        let Outcomes { writes, written, changes_keys } =
            match outcomes(&ctx, &table, statement, conflict, params).await {
                Ok(outcomes) => outcomes,
                // A conflict: a table that it reads was altered since the statement took its catalog.
                Err(error) => {
                    ctx = tries.again(&ctx, error)?;
                    continue;
                }
            };
        let count = written.rows.num_rows();
        if count == 0 {
            drop(turn);
            // What the statement saw must be durable before a client hears of it.
            ctx.instance.database().until_visible(ctx.snapshot.seq()).await?;
            return returning.outcome(&ctx, Written::nothing(&table)?, None).await;
        }
        match commit(&ctx, writes, &mut turn).await {
            Ok(applied) => {
                let mut outcome = returning.outcome(&ctx, written, Some(applied.versions)).await?;
                (outcome.affected_rows, outcome.seq) = (Some(count as u64), applied.seq);
                return Ok(outcome);
            }
            Err(error) => {
                let mut error = Error::from(error);
                // A key that was free a moment ago: the next try finds who has it.
                if error.code == ErrorCode::UniqueViolation && !changes_keys {
                    error.code = ErrorCode::Conflict;
                }
                ctx = tries.again(&ctx, error)?;
            }
        }
    }
}

/// What one try of the statement wants to commit.
async fn outcomes(
    ctx: &Arc<StatementContext>,
    table: &Arc<Table>,
    statement: &Insert,
    conflict: &OnConflict,
    params: &[Value],
) -> Result<Outcomes> {
    check_target(ctx, table, conflict)?;
    let alias = statement.table_alias.as_ref().map(|alias| alias.alias.clone());
    let alias = alias.unwrap_or_else(|| quoted(table.name.as_str()));
    if names::fold(&alias) == EXCLUDED {
        let message = "excluded is what ON CONFLICT calls the new rows";
        return Err(Error::new(ErrorCode::InvalidStatement, message)
            .with_hint("give the table another name: INSERT INTO excluded AS t ..."));
    }
    let source = rows(ctx, table, statement, params).await?;
    Checks::new(ctx, table)?.check(&source.rows)?;
    let proposed = Proposed::new(ctx, table, source)?;
    let action = Action::new(ctx, table, conflict, params)?;
    if matches!(action, Action::Update { .. }) {
        proposed.check_no_key_twice(table)?;
    }
    Upsert { ctx, table, alias, proposed, action, params }.run().await
}

/// The only thing that is unique is the primary key.
fn check_target(ctx: &StatementContext, table: &Table, conflict: &OnConflict) -> Result<()> {
    let key: HashSet<usize> = table.schema.key_indices().iter().copied().collect();
    let refuse = |at| {
        let names: Vec<&str> =
            table.schema.key_indices().iter().map(|at| table.schema.columns()[*at].name.as_str()).collect();
        let message = format!("ON CONFLICT is for the primary key of table {}", table.qualified_name());
        Err(Error::new(ErrorCode::InvalidStatement, message)
            .with_hint(format!("write ON CONFLICT ({})", names.join(", ")))
            .with_position(at))
    };
    match &conflict.conflict_target {
        None if matches!(conflict.action, OnConflictAction::DoNothing) => Ok(()),
        None => refuse(None),
        Some(ConflictTarget::OnConstraint(name)) => {
            refuse(target::last_ident(name).ok().and_then(|ident| position(ident.span)))
        }
        Some(ConflictTarget::Columns(columns)) => {
            let mut named = HashSet::new();
            for ident in columns {
                match target::column(ctx, table, ident)? {
                    target::Target::Column(at) => named.insert(at),
                    target::Target::User => return refuse(position(ident.span)),
                };
            }
            if named == key { Ok(()) } else { refuse(columns.first().and_then(|ident| position(ident.span))) }
        }
    }
}

fn quoted(name: &str) -> Ident {
    Ident::with_quote('"', name)
}
