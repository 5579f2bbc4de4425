//! SELECT statements that we make ourselves out of the parts of others.

use datafusion::sql::sqlparser::ast::{
    Expr, Ident, Query, Select, SelectItem, SetExpr, Statement, TableFactor, TableWithJoins,
};
use datafusion::sql::sqlparser::parser::Parser;

use crate::dialect::KalamDialect;
use crate::error::{Error, Result};

/// `SELECT projection FROM from WHERE selection`.
///
/// # Errors
/// None in practice.
pub(super) fn select(
    projection: Vec<SelectItem>,
    from: Vec<TableWithJoins>,
    selection: Option<Expr>,
) -> Result<Statement> {
    // The parser knows the defaults of the many fields of other dialects.
    let mut statements = Parser::parse_sql(&KalamDialect, "SELECT 1").map_err(Error::from)?;
    let statement = statements.pop();
    let Some(Statement::Query(mut query)) = statement else {
        return Err(Error::internal("SELECT 1 is not a query"));
    };
    let Some(select) = body(&mut query) else { return Err(Error::internal("SELECT 1 is not a SELECT")) };
    select.projection = projection;
    select.from = from;
    select.selection = selection;
    Ok(Statement::Query(query))
}

fn body(query: &mut Query) -> Option<&mut Select> {
    match query.body.as_mut() {
        SetExpr::Select(select) => Some(select),
        _ => None,
    }
}

/// `expr AS "c<number>"`: a name that no other column of the list has.
pub(super) fn numbered(expr: Expr, number: usize) -> SelectItem {
    SelectItem::ExprWithAlias { expr, alias: Ident::with_quote('"', format!("c{number}")) }
}

/// How a table in FROM is named by the columns around it.
pub(super) fn qualifier(factor: &TableFactor) -> Option<Vec<Ident>> {
    match factor {
        TableFactor::Table { alias: Some(alias), .. } => Some(vec![alias.name.clone()]),
        TableFactor::Table { name, alias: None, .. } => {
            name.0.iter().map(|part| part.as_ident().cloned()).collect()
        }
        _ => None,
    }
}
