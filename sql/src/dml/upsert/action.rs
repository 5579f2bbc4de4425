//! What DO says: nothing, or the assignments and the condition of an update.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{Expr, Ident, OnConflict, OnConflictAction, VisitMut, VisitorMut};
use kalamdb_engine::Table;
use serde_json::Value;

use super::super::assign::{self, Assigned};
use super::proposed::hidden_name;
use super::{EXCLUDED, quoted};
use crate::dialect::position;
use crate::error::{Error, Result};
use crate::names;
use crate::statement::StatementContext;

/// What becomes of rows whose key is there.
pub(super) enum Action {
    Nothing,
    Update { assigned: Vec<Assigned>, expressions: Vec<Expr>, condition: Option<Box<Expr>> },
}

impl Action {
    pub(super) fn new(
        ctx: &StatementContext,
        table: &Table,
        conflict: &OnConflict,
        params: &[Value],
    ) -> Result<Self> {
        let OnConflictAction::DoUpdate(update) = &conflict.action else { return Ok(Self::Nothing) };
        let (assigned, mut expressions) = assign::assignments(ctx, table, &update.assignments, params)?;
        let mut condition = update.selection.clone();
        let mut rename = RenameExcluded { table };
        for expression in expressions.iter_mut().chain(&mut condition) {
            if let ControlFlow::Break(error) = expression.visit(&mut rename) {
                return Err(*error);
            }
        }
        Ok(Self::Update { assigned, expressions, condition: condition.map(Box::new) })
    }
}

/// `EXCLUDED.c` becomes the name that `c` has among the proposed rows, `namespace.table.c` becomes `table.c`.
struct RenameExcluded<'a> {
    table: &'a Table,
}

impl VisitorMut for RenameExcluded<'_> {
    type Break = Box<Error>;

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Box<Error>> {
        let Expr::CompoundIdentifier(parts) = expr else { return ControlFlow::Continue(()) };
        if let [namespace, table, _] = parts.as_slice()
            && names::fold(namespace) == self.table.namespace.as_str()
            && names::fold(table) == self.table.name.as_str()
        {
            parts.remove(0);
        }
        let [relation, column] = parts.as_mut_slice() else { return ControlFlow::Continue(()) };
        if names::fold(relation) != EXCLUDED {
            return ControlFlow::Continue(());
        }
        let name = names::fold(column);
        let declared = self.table.schema.columns().iter().map(|column| column.name.as_str());
        if !declared.clone().any(|known| known == name) {
            let at = position(column.span);
            return ControlFlow::Break(Box::new(names::column_not_found(EXCLUDED, &name, declared, at)));
        }
        *relation = Ident { span: relation.span, ..quoted(EXCLUDED) };
        *column = Ident { span: column.span, ..quoted(&hidden_name(&name)) };
        ControlFlow::Continue(())
    }
}
