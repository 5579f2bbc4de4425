//! CHECK conditions of a table whose columns change. They are kept as text, so names in them must follow.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{Expr, Ident, VisitMut, VisitorMut, visit_expressions};
use datafusion::sql::sqlparser::keywords::ALL_KEYWORDS;

use crate::dialect;
use crate::error::Result;
use crate::names;

/// True if a condition names a column.
///
/// # Errors
/// Those of the parser; the text was parsed when it was stored.
pub(super) fn mentions(condition: &str, column: &str) -> Result<bool> {
    let condition = dialect::parse_expression(condition)?;
    let found =
        visit_expressions(&condition, |expr| match idents(expr).iter().any(|i| names::fold(i) == column) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        });
    Ok(found.is_break())
}

/// The condition with a column's new name.
///
/// # Errors
/// As [`mentions`].
pub(super) fn rename(condition: &str, column: &str, to: &str) -> Result<String> {
    if !mentions(condition, column)? {
        return Ok(condition.to_owned());
    }
    let mut condition = dialect::parse_expression(condition)?;
    let _ = condition.visit(&mut Rename { column, to: ident(to) });
    Ok(condition.to_string())
}

/// The name as it is written: in quotes if it could mean something else without.
fn ident(name: &str) -> Ident {
    let is_word = name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    let is_keyword = ALL_KEYWORDS.iter().any(|keyword| keyword.eq_ignore_ascii_case(name));
    if is_word && !is_keyword { Ident::new(name) } else { Ident::with_quote('"', name) }
}

fn idents(expr: &Expr) -> &[Ident] {
    match expr {
        Expr::Identifier(ident) => std::slice::from_ref(ident),
        Expr::CompoundIdentifier(idents) => idents,
        _ => &[],
    }
}

struct Rename<'a> {
    column: &'a str,
    to: Ident,
}

impl VisitorMut for Rename<'_> {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        let idents = match expr {
            Expr::Identifier(ident) => std::slice::from_mut(ident),
            Expr::CompoundIdentifier(idents) => idents.as_mut_slice(),
            _ => return ControlFlow::Continue(()),
        };
        for ident in idents.iter_mut().filter(|ident| names::fold(ident) == self.column) {
            *ident = self.to.clone();
        }
        ControlFlow::Continue(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_renamed_column_is_renamed_where_it_is_meant_and_nowhere_else() {
        for (condition, to, expected) in [
            ("score >= 0", "points", "points >= 0"),
            ("Score >= 0 AND other > SCORE", "points", "points >= 0 AND other > points"),
            ("note <> 'score'", "points", "note <> 'score'"),
            ("\"Score\" > 1", "points", "\"Score\" > 1"),
            ("score BETWEEN 0 AND 9", "Points", "\"Points\" BETWEEN 0 AND 9"),
            ("score IN (1, 2)", "select", "\"select\" IN (1, 2)"),
            ("length(score) < 5", "a b", "length(\"a b\") < 5"),
        ] {
            assert_eq!(rename(condition, "score", to).unwrap(), expected);
        }
    }
}
