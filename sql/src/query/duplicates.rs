//! Columns of one SELECT that would have the same name.
//!
//! `SELECT 1, 1`, `SELECT a, a` and `INSERT INTO t SELECT i, i % 10, i` are ordinary SQL, but DataFusion's plans want every
//! column to have a name of its own, and none that a column with a table's name before it has. A statement that is
//! refused for it is planned again with other names: a column that comes again is `a:1`, then `a:2`.

use std::collections::HashSet;
use std::ops::ControlFlow;

use datafusion::common::DataFusionError;
use datafusion::sql::sqlparser::ast::{self, Expr, Ident, Select, SelectItem, VisitMut, VisitorMut};

use super::system_columns::normal;

/// Whether a statement was refused for columns of one name.
pub(super) fn are_refused(error: &DataFusionError) -> bool {
    let message = error.strip_backtrace();
    message.contains("Projections require unique expression names")
        || message.contains("which would be ambiguous")
}

/// Gives every column of a SELECT a name of its own.
pub(super) fn name_apart(statement: &mut ast::Statement) {
    let _ = statement.visit(&mut Names);
}

struct Names;

impl VisitorMut for Names {
    type Break = ();

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<()> {
        // What a wildcard lists is not known here: a column beside it might be one of its columns.
        let wildcard =
            |item: &SelectItem| matches!(item, SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..));
        let beside_wildcard = select.projection.iter().any(wildcard);
        let alias = |item: &SelectItem| match item {
            SelectItem::ExprWithAlias { alias, .. } => Some(normal(alias)),
            _ => None,
        };
        let mut taken: HashSet<String> = select.projection.iter().filter_map(alias).collect();
        let mut columns = HashSet::new();
        for item in &mut select.projection {
            let SelectItem::UnnamedExpr(expr) = item else { continue };
            let column = column(expr);
            if column.is_some() && !beside_wildcard && columns.insert(expr.to_string()) {
                continue;
            }
            // Expressions are all named: two that are written differently may be alike to DataFusion.
            let first = u64::from(column.is_some());
            let name = numbered(&column.unwrap_or_else(|| expr.to_string()), first, &taken);
            taken.insert(name.clone());
            let alias = Ident::with_quote('"', name);
            *item = SelectItem::ExprWithAlias { expr: expr.clone(), alias };
        }
        ControlFlow::Continue(())
    }
}

/// The name of a column that an expression is.
fn column(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Identifier(name) => Some(normal(name)),
        Expr::CompoundIdentifier(parts) => parts.last().map(normal),
        _ => None,
    }
}

/// The first of `name`, `name:1`, `name:2` and so on that is not taken, counted from `first`.
fn numbered(name: &str, first: u64, taken: &HashSet<String>) -> String {
    let mut count = first;
    loop {
        let numbered = if count == 0 { name.to_owned() } else { format!("{name}:{count}") };
        if !taken.contains(&numbered) {
            return numbered;
        }
        count += 1;
    }
}
