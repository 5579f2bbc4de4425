//! FLUSH, COMPACT, EXPORT, PURGE and KILL.

use super::ast::{Compact, Export, Flush, Purge, Statement};
use super::tokens::Tokens;
use crate::error::Result;

/// `FLUSH TABLE t [FOR USER 'u'] [NOWAIT]`, `FLUSH ALL [TABLES] [NOWAIT]`.
pub(super) fn flush(tokens: &mut Tokens<'_>) -> Result<Statement> {
    tokens.expect(&["FLUSH"])?;
    let (mut table, mut user) = (None, None);
    if tokens.take("TABLE") {
        table = Some(tokens.table()?);
        user = for_user(tokens)?;
    } else if tokens.take("ALL") {
        tokens.take("TABLES");
    } else {
        return Err(tokens.expected("TABLE or ALL"));
    }
    let nowait = tokens.take("NOWAIT");
    Ok(Statement::Flush(Flush { table, user, nowait }))
}

fn for_user(tokens: &mut Tokens<'_>) -> Result<Option<String>> {
    match tokens.take_all(&["FOR", "USER"]) {
        true => Ok(Some(tokens.text_or_name("a user id in quotes")?.0)),
        false => Ok(None),
    }
}

/// `COMPACT TABLE t [FOR USER 'u'] [NOWAIT]`.
pub(super) fn compact(tokens: &mut Tokens<'_>) -> Result<Statement> {
    tokens.expect(&["COMPACT"])?;
    tokens.expect(&["TABLE"])?;
    let table = tokens.table()?;
    let user = for_user(tokens)?;
    let nowait = tokens.take("NOWAIT");
    Ok(Statement::Compact(Compact { table, user, nowait }))
}

/// `PURGE USER 'u' [NOWAIT]`.
pub(super) fn purge(tokens: &mut Tokens<'_>) -> Result<Statement> {
    tokens.expect(&["PURGE"])?;
    tokens.expect(&["USER"])?;
    let (user, position) = tokens.text_or_name("a user id in quotes")?;
    let nowait = tokens.take("NOWAIT");
    Ok(Statement::Purge(Purge { user, position, nowait }))
}

/// `EXPORT USER 'u' TO 'path' [NOWAIT]`.
pub(super) fn export(tokens: &mut Tokens<'_>) -> Result<Statement> {
    tokens.expect(&["EXPORT"])?;
    tokens.expect(&["USER"])?;
    let (user, position) = tokens.text_or_name("a user id in quotes")?;
    tokens.expect(&["TO"])?;
    let (path, path_position) = tokens.text("a path in quotes")?;
    let nowait = tokens.take("NOWAIT");
    Ok(Statement::Export(Export { user, position, path, path_position, nowait }))
}

/// `KILL LIVE QUERY 'id'`, `KILL JOB 'id'`.
pub(super) fn kill(tokens: &mut Tokens<'_>) -> Result<Statement> {
    tokens.expect(&["KILL"])?;
    if tokens.take("JOB") {
        let (job_id, position) = tokens.text("a job id in quotes")?;
        return Ok(Statement::KillJob { job_id, position });
    }
    if !tokens.take_all(&["LIVE", "QUERY"]) {
        return Err(tokens.expected("LIVE QUERY or JOB"));
    }
    let (live_id, _) = tokens.text("a live id in quotes")?;
    Ok(Statement::KillLiveQuery { live_id })
}
