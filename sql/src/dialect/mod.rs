//! The text of a request becomes statements.
//!
//! sqlparser's tokenizer and parser do the work; our own statements are parsed on top of the same parser by looking at
//! its tokens. [`parse`] never fails: a statement that cannot be understood becomes [`Statement::Invalid`] and is the
//! last one, so that those before it still run. Work and memory are bounded before parsing begins: text, nesting and
//! the length of operator chains have limits, because trees are walked and dropped recursively later.

mod alter;
mod ast;
mod columns;
mod elsewhere;
mod grammar;
mod jobs;
mod limits;
mod manage;
mod options;
mod split;
mod statements;
mod table;
mod texts;
mod tokens;
mod transaction;
mod view;

use std::sync::Arc;

use datafusion::sql::sqlparser::ast as sql;
use datafusion::sql::sqlparser::parser::ParserError;
use datafusion::sql::sqlparser::tokenizer::{Location, Span};

use crate::error::{Error, ErrorCode, Position, Result};

pub(crate) use ast::{AlterTable, Alteration, ColumnDef, Named};
pub use ast::{
    Compact, CreateNamespace, CreateTable, CreateUser, CreateView, Export, Flush, ParsedStatement, Purge,
    Statement, TableRef,
};
pub(crate) use grammar::{KalamDialect, call};
pub(crate) use options::alter as alter_option;
pub(crate) use texts::Texts;

/// All statements of a text, in order. One that leaves a transaction open ends with a statement that fails.
pub(crate) fn parse(text: &str) -> Vec<ParsedStatement> {
    let mut statements = Vec::new();
    for piece in split::split(text) {
        let (position, text): (_, Arc<str>) = (piece.position, piece.text.into());
        let end = piece.end;
        let parsed = piece.tokens.and_then(|tokens| match limits::check(&tokens)? {
            0..=limits::ORDINARY_NESTING => statements::parse(tokens),
            _ => on_a_large_stack(|| statements::parse(tokens)),
        });
        let failed = parsed.is_err();
        let statement = parsed.unwrap_or_else(|error| Statement::Invalid(error.with_position(end)));
        statements.push(ParsedStatement { statement: Arc::new(statement), text, position });
        if failed {
            break;
        }
    }
    statements.extend(transaction::left_open(&statements));
    statements
}

/// Runs a parse on a thread of its own and waits for it.
fn on_a_large_stack(parse: impl FnOnce() -> Result<Statement> + Send) -> Result<Statement> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(limits::LARGE_STACK).spawn_scoped(scope, parse);
        let thread =
            thread.map_err(|_| Error::new(ErrorCode::Overloaded, "the server has no thread to spare"))?;
        thread.join().unwrap_or_else(|_| Err(Error::internal("a deep statement made the parser panic")))
    })
}

/// A parsed expression, for text that was stored (defaults and checks).
///
/// # Errors
/// [`ErrorCode::SyntaxError`] if it is not one expression.
pub(crate) fn parse_expression(text: &str) -> Result<sql::Expr> {
    let piece = split::split(text).next();
    let piece = piece.ok_or_else(|| Error::new(ErrorCode::SyntaxError, "expected an expression"))?;
    let tokens = piece.tokens?;
    limits::check(&tokens)?;
    let dialect = grammar::BoundedDialect::for_tokens(tokens.len());
    let mut parser = tokens::Tokens::new(&dialect, tokens);
    let expression = parser.parser.parse_expr()?;
    parser.expect_end()?;
    Ok(expression)
}

/// A parsed query, for text that was stored (views).
///
/// # Errors
/// [`ErrorCode::SyntaxError`] if it is not one query.
pub(crate) fn parse_query(text: &str) -> Result<sql::Statement> {
    match parse(text).pop().map(|parsed| Arc::unwrap_or_clone(parsed.statement)) {
        Some(Statement::Query(query)) => Ok(*query),
        Some(Statement::Invalid(error)) => Err(error),
        _ => Err(Error::new(ErrorCode::SyntaxError, "expected a query")),
    }
}

/// A table in FROM, with nothing but its name and an alias.
pub(crate) fn plain_table(name: sql::ObjectName, alias: Option<sql::Ident>) -> sql::TableFactor {
    let alias = alias.map(|name| sql::TableAlias { explicit: true, name, columns: Vec::new(), at: None });
    sql::TableFactor::Table {
        name,
        alias,
        args: None,
        with_hints: Vec::new(),
        version: None,
        with_ordinality: false,
        partitions: Vec::new(),
        json_path: None,
        sample: None,
        index_hints: Vec::new(),
    }
}

/// The start of a span; `None` for made-up tokens.
pub(crate) fn position(span: Span) -> Option<Position> {
    from_location(span.start)
}

fn from_location(at: Location) -> Option<Position> {
    (at.line > 0).then_some(Position { line: at.line, column: at.column })
}

impl From<ParserError> for Error {
    fn from(error: ParserError) -> Self {
        syntax_error(&error)
    }
}

/// sqlparser writes positions at the end of its messages; here they become fields.
pub(crate) fn syntax_error(error: &ParserError) -> Error {
    let text = match error {
        ParserError::RecursionLimitExceeded => return limits::too_deep(),
        ParserError::TokenizerError(text) | ParserError::ParserError(text) => text,
    };
    let (text, position) = match text.rsplit_once(" at Line: ") {
        Some((message, place)) => (message, place_of(place)),
        None => (text.as_str(), None),
    };
    let text =
        text.replace("Expected: ", "expected ").replace("found: EOF", "found the end of the statement");
    Error::new(ErrorCode::SyntaxError, text.replace(", found: ", ", found ")).with_position(position)
}

fn place_of(text: &str) -> Option<Position> {
    let (line, column) = text.split_once(", Column: ")?;
    Some(Position { line: line.parse().ok()?, column: column.parse().ok()? })
}

#[cfg(test)]
mod tests;
