//! BEGIN, COMMIT and ROLLBACK.

use std::sync::Arc;

use super::ast::{ParsedStatement, Statement};
use super::tokens::Tokens;
use crate::error::{Error, ErrorCode, Result};

/// `BEGIN [TRANSACTION | WORK]`, `START TRANSACTION`.
pub(super) fn begin(tokens: &mut Tokens<'_>) -> Result<Statement> {
    if tokens.take("START") {
        tokens.expect(&["TRANSACTION"])?;
    } else {
        tokens.expect(&["BEGIN"])?;
        noise(tokens);
    }
    if tokens.sees("ISOLATION") || tokens.sees("READ") || tokens.sees("DEFERRABLE") {
        return Err(unsupported("choosing how a transaction is isolated", tokens)
            .with_hint("every transaction is isolated by a snapshot"));
    }
    Ok(Statement::Begin)
}

/// `COMMIT [TRANSACTION | WORK]`, `END`.
pub(super) fn commit(tokens: &mut Tokens<'_>) -> Result<Statement> {
    tokens.parser.advance_token();
    noise(tokens);
    no_chain(tokens)?;
    Ok(Statement::Commit)
}

/// `ROLLBACK [TRANSACTION | WORK]`.
pub(super) fn rollback(tokens: &mut Tokens<'_>) -> Result<Statement> {
    tokens.expect(&["ROLLBACK"])?;
    noise(tokens);
    no_chain(tokens)?;
    match tokens.sees("TO") {
        true => Err(unsupported("savepoints", tokens)),
        false => Ok(Statement::Rollback),
    }
}

fn no_chain(tokens: &Tokens<'_>) -> Result<()> {
    if tokens.sees("AND") { Err(unsupported("AND CHAIN", tokens)) } else { Ok(()) }
}

fn noise(tokens: &mut Tokens<'_>) {
    if !tokens.take("TRANSACTION") {
        tokens.take("WORK");
    }
}

fn unsupported(what: &str, tokens: &Tokens<'_>) -> Error {
    let message = format!("{what}: not supported by this version");
    Error::new(ErrorCode::Unsupported, message).with_position(tokens.here())
}

/// What comes after the last statement of a text that leaves a transaction open.
pub(super) fn left_open(statements: &[ParsedStatement]) -> Option<ParsedStatement> {
    let last = statements
        .iter()
        .rev()
        .find(|s| matches!(*s.statement, Statement::Begin | Statement::Commit | Statement::Rollback))?;
    // A text that cannot be understood to its end says so instead.
    let whole = !matches!(*statements.last()?.statement, Statement::Invalid(_));
    (whole && matches!(*last.statement, Statement::Begin)).then(|| {
        let message = "the request ends inside the transaction that begins here";
        let error = Error::new(ErrorCode::InvalidStatement, message)
            .with_position(Some(last.position))
            .with_hint("end it with COMMIT");
        let statement = Arc::new(Statement::Invalid(error));
        ParsedStatement { statement, text: "".into(), position: last.position }
    })
}
