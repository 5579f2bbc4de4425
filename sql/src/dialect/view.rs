//! `CREATE VIEW` and `DROP VIEW`.

use datafusion::sql::sqlparser::tokenizer::Token;

use super::ast::{CreateView, Statement};
use super::statements::check_read_only;
use super::tokens::Tokens;
use crate::error::Result;

/// True for `CREATE [OR REPLACE] VIEW`.
pub(super) fn is_create(tokens: &Tokens<'_>) -> bool {
    tokens.sees_all(&["CREATE", "VIEW"]) || tokens.sees_all(&["CREATE", "OR", "REPLACE", "VIEW"])
}

/// `CREATE [OR REPLACE] VIEW [IF NOT EXISTS] v [(a, b)] AS SELECT ...`.
pub(super) fn create(tokens: &mut Tokens<'_>) -> Result<Statement> {
    tokens.expect(&["CREATE"])?;
    let replace = tokens.take_all(&["OR", "REPLACE"]);
    tokens.expect(&["VIEW"])?;
    let if_not_exists = tokens.take_all(&["IF", "NOT", "EXISTS"]);
    let view = tokens.table()?;
    let mut columns = Vec::new();
    if tokens.take_sign(&Token::LParen) {
        columns.push(tokens.name("the name of a column")?.0);
        while tokens.take_sign(&Token::Comma) {
            columns.push(tokens.name("the name of a column")?.0);
        }
        tokens.expect_sign(&Token::RParen)?;
    }
    tokens.expect(&["AS"])?;
    let at = tokens.here();
    // sqlparser takes these for queries, which they are after WITH only.
    if ["DELETE", "INSERT", "MERGE", "UPDATE"].iter().any(|writes| tokens.sees_all(&[writes])) {
        return Err(tokens.expected("SELECT"));
    }
    let query = tokens.parser.parse_query()?;
    check_read_only(&query.body, at)?;
    Ok(Statement::CreateView(Box::new(CreateView { view, replace, if_not_exists, columns, query })))
}

/// `DROP VIEW [IF EXISTS] v [CASCADE|RESTRICT]`.
pub(super) fn drop(tokens: &mut Tokens<'_>) -> Result<Statement> {
    tokens.expect(&["DROP", "VIEW"])?;
    let if_exists = tokens.take_all(&["IF", "EXISTS"]);
    let view = tokens.table()?;
    if !tokens.take("CASCADE") {
        tokens.take("RESTRICT");
    }
    Ok(Statement::DropView { view, if_exists })
}
