//! The table and columns that a statement writes.

use std::ops::ControlFlow;
use std::sync::Arc;

use datafusion::sql::sqlparser::ast::{Ident, ObjectName, Value as SqlValue, ValueWithSpan, Visit, Visitor};
use kalamdb_engine::{DELETED, SEQ, TS, Table, TableKind, UPDATED};
use serde_json::Value;

use crate::dialect::position;
use crate::error::{Error, ErrorCode, Position, Result};
use crate::names;
use crate::provider::{ROW_ADDRESS, USER, check_write};
use crate::statement::StatementContext;

/// Finds a table to insert into.
///
/// # Errors
/// [`ErrorCode::TableNotFound`] and the like; [`ErrorCode::PermissionDenied`].
pub(super) fn table(ctx: &StatementContext, name: &ObjectName) -> Result<Arc<Table>> {
    let written = names::table_ref(name)?;
    let table = names::engine_table(ctx, &written)?;
    check_write(ctx, &table).map_err(|error| error.with_position(written.position))?;
    Ok(table)
}

/// Finds a table of which rows are to be changed or deleted.
///
/// # Errors
/// As [`table`]; [`ErrorCode::InvalidStatement`] for a STREAM table.
pub(super) fn changeable(ctx: &StatementContext, name: &ObjectName) -> Result<Arc<Table>> {
    let table = table(ctx, name)?;
    if table.kind != TableKind::Stream {
        return Ok(table);
    }
    let message = format!("rows of STREAM table {} cannot be changed or deleted", table.qualified_name());
    Err(Error::new(ErrorCode::InvalidStatement, message)
        .with_hint("they are events: they leave by themselves, see the options retention and max_buffer")
        .with_position(names::table_ref(name)?.position))
}

/// What a written column name means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    /// A declared column, by position.
    Column(usize),
    /// `_user`: which partition the row goes to.
    User,
}

/// Finds a column to write to.
///
/// # Errors
/// [`ErrorCode::ColumnNotFound`] with the nearest name; [`ErrorCode::InvalidStatement`] for a system column.
pub(super) fn column(ctx: &StatementContext, table: &Table, ident: &Ident) -> Result<Target> {
    let name = names::fold(ident);
    let at: Option<Position> = position(ident.span);
    let columns = table.schema.columns();
    match table.schema.index_of(&name).filter(|index| !columns[*index].secret) {
        Some(index) => return Ok(Target::Column(index)),
        None if name == USER && table.kind == TableKind::User => {
            if ctx.is_dba() {
                return Ok(Target::User);
            }
            let message = "only dba and above can say whose rows they write";
            return Err(Error::new(ErrorCode::PermissionDenied, message).with_position(at));
        }
        None => {}
    }
    if matches!(name.as_str(), SEQ | UPDATED | DELETED | TS | USER) {
        let message = format!("system column {name} cannot be written");
        return Err(Error::new(ErrorCode::InvalidStatement, message).with_position(at));
    }
    let known = columns.iter().filter(|column| !column.secret).map(|column| column.name.as_str());
    Err(names::column_not_found(&table.qualified_name(), &name, known, at))
}

/// The last part of a possibly qualified column name.
pub(super) fn last_ident(name: &ObjectName) -> Result<&Ident> {
    name.0
        .last()
        .and_then(|part| part.as_ident())
        .ok_or_else(|| Error::new(ErrorCode::InvalidStatement, format!("{name} is not a column name")))
}

/// True for the keyword DEFAULT where a value stands.
pub(super) fn is_default(expr: &datafusion::sql::sqlparser::ast::Expr) -> bool {
    use datafusion::sql::sqlparser::ast::Expr;
    matches!(expr, Expr::Identifier(ident) if ident.quote_style.is_none() && ident.value.eq_ignore_ascii_case("default"))
}

/// Refuses a statement that uses fewer parameters than were given, or more, or names a column that is ours alone.
///
/// # Errors
/// [`ErrorCode::InvalidParameter`], [`ErrorCode::ColumnNotFound`].
pub(super) fn check_text(statement: &impl Visit, params: &[Value]) -> Result<()> {
    let mut seen = Seen { most: 0, address: None };
    let _ = statement.visit(&mut seen);
    if let Some(ident) = seen.address {
        let message = format!("column {ROW_ADDRESS} does not exist");
        return Err(Error::new(ErrorCode::ColumnNotFound, message).with_position(position(ident.span)));
    }
    match seen.most == params.len() {
        true => Ok(()),
        false => Err(crate::query::count_mismatch(seen.most, params.len())),
    }
}

struct Seen {
    most: usize,
    address: Option<Ident>,
}

impl Visitor for Seen {
    type Break = ();

    fn pre_visit_value(&mut self, value: &ValueWithSpan) -> ControlFlow<()> {
        if let SqlValue::Placeholder(name) = &value.value {
            let number = name.strip_prefix('$').and_then(|digits| digits.parse().ok());
            self.most = self.most.max(number.unwrap_or(0));
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &datafusion::sql::sqlparser::ast::Expr) -> ControlFlow<()> {
        use datafusion::sql::sqlparser::ast::Expr;
        let ident = match expr {
            Expr::Identifier(ident) => Some(ident),
            Expr::CompoundIdentifier(parts) => parts.last(),
            _ => None,
        };
        if let Some(ident) = ident.filter(|ident| names::fold(ident) == ROW_ADDRESS) {
            self.address.get_or_insert_with(|| ident.clone());
        }
        ControlFlow::Continue(())
    }
}
