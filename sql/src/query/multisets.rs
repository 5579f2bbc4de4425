//! `INTERSECT ALL` and `EXCEPT ALL` are refused: DataFusion plans them as joins that lose how often a row is there.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{self, Query, SetExpr, SetOperator, SetQuantifier, Visit, Visitor};

use crate::error::{Error, ErrorCode, Result};

/// Refuses a statement that has them anywhere.
///
/// # Errors
/// [`ErrorCode::Unsupported`].
pub(super) fn refuse(statement: &ast::Statement) -> Result<()> {
    match statement.visit(&mut Refusal) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(op) => {
            let message = format!("{op} ALL is not supported");
            Err(Error::new(ErrorCode::Unsupported, message).with_hint(format!("{op} without ALL is")))
        }
    }
}

struct Refusal;

impl Visitor for Refusal {
    type Break = SetOperator;

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<SetOperator> {
        refuse_in(&query.body)
    }
}

fn refuse_in(body: &SetExpr) -> ControlFlow<SetOperator> {
    let SetExpr::SetOperation { op, set_quantifier, left, right } = body else {
        return ControlFlow::Continue(());
    };
    let all = matches!(set_quantifier, SetQuantifier::All | SetQuantifier::AllByName);
    if all && *op != SetOperator::Union {
        return ControlFlow::Break(*op);
    }
    refuse_in(left)?;
    refuse_in(right)
}
