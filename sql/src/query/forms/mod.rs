//! Forms of PostgreSQL that the planner does not know, written as those that it does.
//!
//! - `FETCH FIRST n ROWS ONLY` is `LIMIT n`.
//! - A number of more than 15 digits that is no BIGINT is a DECIMAL: a DOUBLE would lose digits of it.
//! - Functions and operators with other names ([`calls`]), LIKE with another escape character and templates of dates
//!   ([`patterns`]), columns that a join with USING makes one of two ([`joins`]).
//! - `SELECT DISTINCT` may be ordered by what it selects, however that is written ([`distinct`]).
//!
//! What would be ignored in silence (TABLESAMPLE, FOR UPDATE) is refused.

mod calls;
mod distinct;
mod joins;
mod numbers;
mod patterns;

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Expr, Fetch, LimitClause, Query, Select, TableFactor, Value, VisitMut, VisitorMut,
};

use crate::error::{Error, ErrorCode, Result};

/// Rewrites a statement, or an expression, in place.
///
/// # Errors
/// [`ErrorCode::Unsupported`] for forms that have no other.
pub(crate) fn rewrite(parsed: &mut impl VisitMut) -> Result<()> {
    match parsed.visit(&mut Forms) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(error) => Err(*error),
    }
}

struct Forms;

fn flow(result: Result<()>) -> ControlFlow<Box<Error>> {
    match result {
        Ok(()) => ControlFlow::Continue(()),
        Err(error) => ControlFlow::Break(Box::new(error)),
    }
}

impl VisitorMut for Forms {
    type Break = Box<Error>;

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<Box<Error>> {
        distinct::rewrite(query);
        flow(check(query).and_then(|()| match query.fetch.take() {
            Some(fetch) => limit(fetch, query),
            None => Ok(()),
        }))
    }

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<Box<Error>> {
        joins::rewrite(select);
        calls::rewrite_series(select);
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, table: &mut TableFactor) -> ControlFlow<Box<Error>> {
        flow(match table {
            TableFactor::Table { sample: Some(_), .. } => {
                Err(unsupported("TABLESAMPLE").with_hint("WHERE random() < 0.1 gives about one row of ten"))
            }
            _ => Ok(()),
        })
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Box<Error>> {
        numbers::rewrite(expr);
        calls::rewrite(expr);
        flow(patterns::rewrite(expr))
    }
}

fn unsupported(what: &str) -> Error {
    Error::new(ErrorCode::Unsupported, format!("{what} is not available"))
}

fn check(query: &Query) -> Result<()> {
    if query.locks.is_empty() {
        return Ok(());
    }
    Err(unsupported("FOR UPDATE or FOR SHARE").with_hint(
        "of two transactions that change a row the first to commit wins, and the other gets CONFLICT",
    ))
}

fn limit(fetch: Fetch, query: &mut Query) -> Result<()> {
    if fetch.with_ties {
        return Err(unsupported("FETCH WITH TIES"));
    }
    if fetch.percent {
        return Err(unsupported("FETCH PERCENT"));
    }
    let rows = fetch.quantity.unwrap_or_else(|| Expr::value(Value::Number("1".into(), false)));
    match &mut query.limit_clause {
        Some(LimitClause::LimitOffset { limit: limit @ None, .. }) => *limit = Some(rows),
        None => {
            query.limit_clause =
                Some(LimitClause::LimitOffset { limit: Some(rows), offset: None, limit_by: Vec::new() });
        }
        Some(_) => {
            let message = "a query has either LIMIT or FETCH, not both";
            return Err(Error::new(ErrorCode::SyntaxError, message));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect;

    fn rewritten(text: &str) -> String {
        let mut parsed = dialect::parse_query(text).unwrap();
        rewrite(&mut parsed).unwrap();
        parsed.to_string()
    }

    #[test]
    fn long_numbers_are_decimals_and_others_stay() {
        for same in [
            "1",
            "0.1",
            "123456789012345",
            "9223372036854775807",
            "0.000000000000000001",
            "1e20",
            "1.5000000000000001e3",
        ] {
            assert_eq!(rewritten(&format!("SELECT {same}")), format!("SELECT {same}"));
        }
        for (long, precision, scale) in [
            ("9223372036854775808", 19, 0),
            ("12345678901234567890123", 23, 0),
            ("0.1234567890123456", 16, 16),
            ("1234567890.1234567", 17, 7),
        ] {
            let expected = format!("SELECT CAST('{long}' AS DECIMAL({precision},{scale}))");
            assert_eq!(rewritten(&format!("SELECT {long}")), expected);
        }
        assert_eq!(rewritten("SELECT -9223372036854775808"), "SELECT -9223372036854775808");
    }

    #[test]
    fn fetch_is_limit() {
        for (fetch, limit) in [
            ("SELECT 1 FETCH FIRST 3 ROWS ONLY", "SELECT 1 LIMIT 3"),
            ("SELECT 1 FETCH NEXT ROW ONLY", "SELECT 1 LIMIT 1"),
            ("SELECT 1 OFFSET 2 FETCH FIRST 3 ROWS ONLY", "SELECT 1 LIMIT 3 OFFSET 2"),
            ("SELECT * FROM (SELECT 1 FETCH FIRST 1 ROW ONLY) AS x", "SELECT * FROM (SELECT 1 LIMIT 1) AS x"),
        ] {
            assert_eq!(rewritten(fetch), limit);
        }
        for refused in ["SELECT 1 FETCH FIRST 3 ROWS WITH TIES", "SELECT 1 LIMIT 2 FETCH FIRST 3 ROWS ONLY"] {
            assert!(rewrite(&mut dialect::parse_query(refused).unwrap()).is_err(), "{refused}");
        }
    }
}
