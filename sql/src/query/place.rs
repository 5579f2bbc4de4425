//! Where in the text an error about a table is: the planner no longer knows, but the names in the statement do.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{ObjectName, Statement, Visit, Visitor};

use crate::error::{Error, ErrorCode};
use crate::names;
use crate::statement::StatementContext;

/// Adds the place of the table that an error is about.
pub(super) fn find(ctx: &StatementContext, statement: &Statement, error: Error) -> Error {
    let about_a_table = matches!(
        error.code,
        ErrorCode::TableNotFound | ErrorCode::NamespaceNotFound | ErrorCode::PermissionDenied
    );
    if error.position.is_some() || !about_a_table {
        return error;
    }
    match statement.visit(&mut Tables { ctx, message: &error.message }) {
        ControlFlow::Break(found) => found,
        ControlFlow::Continue(()) => error,
    }
}

struct Tables<'a> {
    ctx: &'a StatementContext,
    message: &'a str,
}

impl Visitor for Tables<'_> {
    type Break = Error;

    fn pre_visit_relation(&mut self, relation: &ObjectName) -> ControlFlow<Error> {
        let resolved = names::table_ref(relation).and_then(|written| names::resolve(self.ctx, &written));
        match resolved {
            Err(error) if error.message == self.message => ControlFlow::Break(error),
            _ => ControlFlow::Continue(()),
        }
    }
}
