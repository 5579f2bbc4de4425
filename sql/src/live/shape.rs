//! Which SELECTs can be live, and how one is rewritten to its newest rows.
//!
//! A live query is a filter and a projection over one table. Everything else is refused here, before planning, in words
//! that name what was found.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Expr, GroupByExpr, Ident, LimitClause, ObjectName, ObjectNamePart, OrderBy, OrderByExpr, OrderByKind,
    OrderByOptions, Query, Select, SetExpr, Statement, TableFactor, Value, Visit, Visitor,
};

use crate::error::{Error, ErrorCode, Result};

/// The FROM clause of a live query.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    /// The table as written.
    pub(crate) name: ObjectName,
    /// How its columns can be qualified.
    qualifier: Vec<Ident>,
}

/// Checks that a statement is a filter and a projection over one table.
///
/// # Errors
/// [`ErrorCode::Unsupported`] naming the first thing that is not possible live; [`ErrorCode::InvalidStatement`] if it is
/// no SELECT.
pub(crate) fn check(statement: &Statement) -> Result<Source> {
    let Statement::Query(query) = statement else {
        return Err(Error::new(ErrorCode::InvalidStatement, "a live query is a SELECT"));
    };
    let select = check_query(query)?;
    check_select(select)?;
    let source = source(select)?;
    if statement.visit(&mut Subqueries { depth: 0 }).is_break() {
        return Err(unsupported("a subquery"));
    }
    Ok(source)
}

/// The same query, its newest `count` rows by commit order only, newest first. `key` breaks ties within a commit.
pub(crate) fn newest(statement: &Statement, source: &Source, key: &[&str], count: u64) -> Statement {
    let mut statement = statement.clone();
    if let Statement::Query(query) = &mut statement {
        let columns = std::iter::once(kalamdb_engine::SEQ).chain(key.iter().copied());
        query.order_by = Some(OrderBy {
            kind: OrderByKind::Expressions(columns.map(|column| descending(source, column)).collect()),
            interpolate: None,
        });
        query.limit_clause = Some(LimitClause::LimitOffset {
            limit: Some(Expr::value(Value::Number(count.to_string(), false))),
            offset: None,
            limit_by: Vec::new(),
        });
    }
    statement
}

fn descending(source: &Source, column: &str) -> OrderByExpr {
    let mut path = source.qualifier.clone();
    path.push(Ident::with_quote('"', column));
    OrderByExpr {
        expr: Expr::CompoundIdentifier(path),
        options: OrderByOptions { asc: Some(false), nulls_first: None },
        with_fill: None,
    }
}

fn unsupported(what: &str) -> Error {
    Error::new(ErrorCode::Unsupported, format!("a live query cannot have {what}"))
        .with_hint("a live query is SELECT expressions FROM one table WHERE any condition")
}

fn check_query(query: &Query) -> Result<&Select> {
    let found = [
        (query.with.is_some(), "WITH"),
        (query.order_by.is_some(), "ORDER BY"),
        (query.limit_clause.is_some() || query.fetch.is_some(), "LIMIT, OFFSET or FETCH"),
        (!query.locks.is_empty(), "FOR UPDATE or FOR SHARE"),
        (!query.pipe_operators.is_empty(), "pipe operators"),
    ];
    refuse(&found)?;
    match query.body.as_ref() {
        SetExpr::Select(select) => Ok(select),
        SetExpr::Query(inner) => check_query(inner),
        SetExpr::SetOperation { op, .. } => Err(unsupported(&op.to_string())),
        SetExpr::Values(_) => Err(unsupported("VALUES")),
        _ => Err(Error::new(ErrorCode::InvalidStatement, "a live query is a SELECT")),
    }
}

fn check_select(select: &Select) -> Result<()> {
    let grouped = match &select.group_by {
        GroupByExpr::All(_) => true,
        GroupByExpr::Expressions(expressions, modifiers) => !expressions.is_empty() || !modifiers.is_empty(),
    };
    refuse(&[
        (select.distinct.is_some(), "DISTINCT"),
        (select.top.is_some(), "TOP"),
        (select.into.is_some(), "INTO"),
        (grouped, "GROUP BY"),
        (select.having.is_some(), "HAVING"),
        (!select.named_window.is_empty() || select.qualify.is_some(), "window functions"),
        (!select.lateral_views.is_empty(), "LATERAL VIEW"),
        (!select.cluster_by.is_empty() || !select.distribute_by.is_empty(), "CLUSTER BY or DISTRIBUTE BY"),
        (!select.sort_by.is_empty(), "SORT BY"),
        (select.prewhere.is_some() || !select.connect_by.is_empty(), "PREWHERE or CONNECT BY"),
    ])
}

fn refuse(found: &[(bool, &str)]) -> Result<()> {
    match found.iter().find(|(present, _)| *present) {
        Some((_, what)) => Err(unsupported(what)),
        None => Ok(()),
    }
}

fn source(select: &Select) -> Result<Source> {
    let [from] = select.from.as_slice() else {
        let what = if select.from.is_empty() { "no table at all: FROM is missing" } else { "several tables" };
        return Err(unsupported(what));
    };
    if !from.joins.is_empty() {
        return Err(unsupported("joins"));
    }
    match &from.relation {
        TableFactor::Table { name, alias, args: None, version: None, sample: None, .. } => {
            let qualifier = match alias {
                Some(alias) => vec![alias.name.clone()],
                None => name.0.iter().filter_map(ObjectNamePart::as_ident).cloned().collect(),
            };
            Ok(Source { name: name.clone(), qualifier })
        }
        TableFactor::Table { .. } => Err(unsupported("a table function, a table version or a sample")),
        TableFactor::Derived { .. } => Err(unsupported("a subquery")),
        _ => Err(unsupported("anything but one plain table in FROM")),
    }
}

/// Finds a query within the query.
struct Subqueries {
    depth: usize,
}

impl Visitor for Subqueries {
    type Break = ();

    fn pre_visit_select(&mut self, _: &Select) -> ControlFlow<()> {
        self.depth += 1;
        if self.depth > 1 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
    use datafusion::sql::sqlparser::parser::Parser;

    use super::*;

    fn parse(sql: &str) -> Statement {
        Parser::parse_sql(&PostgreSqlDialect {}, sql).unwrap().remove(0)
    }

    #[test]
    fn a_filter_and_projection_over_one_table_is_accepted() {
        for sql in [
            "SELECT * FROM t",
            "SELECT t.*, a + 1 AS b FROM app.t",
            "SELECT upper(x.a) FROM app.t x WHERE x.a LIKE 'b%' AND (b IS NULL OR c BETWEEN 1 AND 2) AND d IN (1, 2)",
            "SELECT CASE WHEN a > 1 THEN 'x' ELSE 'y' END FROM t WHERE NOT a = ANY(ARRAY[1,2])",
            "(SELECT 1 FROM t)",
        ] {
            check(&parse(sql)).unwrap_or_else(|e| panic!("{sql}: {e}"));
        }
    }

    #[test]
    fn what_cannot_be_live_is_named() {
        for (sql, what) in [
            ("SELECT * FROM t ORDER BY a", "ORDER BY"),
            ("SELECT * FROM t LIMIT 1", "LIMIT"),
            ("SELECT * FROM t OFFSET 1", "LIMIT"),
            ("SELECT DISTINCT a FROM t", "DISTINCT"),
            ("SELECT a FROM t GROUP BY a", "GROUP BY"),
            ("SELECT a FROM t GROUP BY ALL", "GROUP BY"),
            ("SELECT a FROM t HAVING a > 1", "HAVING"),
            ("SELECT * FROM t, u", "several tables"),
            ("SELECT 1", "FROM is missing"),
            ("SELECT * FROM t JOIN u USING (a)", "joins"),
            ("SELECT * FROM (SELECT * FROM t) x", "subquery"),
            ("SELECT * FROM t WHERE a IN (SELECT a FROM u)", "subquery"),
            ("SELECT (SELECT 1), a FROM t", "subquery"),
            ("SELECT * FROM t WHERE EXISTS (SELECT 1 FROM u)", "subquery"),
            ("WITH x AS (SELECT 1) SELECT * FROM x", "WITH"),
            ("SELECT a FROM t UNION SELECT a FROM u", "UNION"),
            ("VALUES (1)", "VALUES"),
            ("SELECT * FROM generate_series(1, 2)", "table function"),
        ] {
            let error = check(&parse(sql)).unwrap_err();
            assert_eq!(error.code, ErrorCode::Unsupported, "{sql}");
            assert!(error.message.contains(what), "{sql}: {error}");
        }
        assert_eq!(check(&parse("DELETE FROM t")).unwrap_err().code, ErrorCode::InvalidStatement);
    }

    #[test]
    fn the_newest_rows_are_ordered_by_commit_and_then_key() {
        let statement = parse("SELECT a AS _seq FROM app.t AS x WHERE b");
        let source = check(&statement).unwrap();
        assert_eq!(
            newest(&statement, &source, &["Id"], 5).to_string(),
            r#"SELECT a AS _seq FROM app.t AS x WHERE b ORDER BY x."_seq" DESC, x."Id" DESC LIMIT 5"#
        );
    }
}
