//! Who may read and write which table.

use kalamdb_engine::{Access, Table, TableKind};

use crate::auth::Role;
use crate::error::{Error, ErrorCode, Result};
use crate::statement::StatementContext;

/// The system table of which everybody sees the own row.
const USERS: &str = "users";

/// What of a table a session may read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Readable {
    /// What its partitioning shows.
    All,
    /// The rows whose `user_id` is the session's user.
    OwnRows,
}

/// Refuses a session that may not read the table.
///
/// # Errors
/// [`ErrorCode::PermissionDenied`].
pub(crate) fn check_read(ctx: &StatementContext, table: &Table) -> Result<Readable> {
    if ctx.role() >= Role::Dba {
        return Ok(Readable::All);
    }
    match table.kind {
        TableKind::System if table.name.as_str() == USERS => Ok(Readable::OwnRows),
        TableKind::System => Err(denied(table, "read")),
        TableKind::Shared | TableKind::Stream if table.options.access == Access::Private => {
            Err(denied(table, "read"))
        }
        _ => Ok(Readable::All),
    }
}

/// Refuses a session that may not change the table's rows with a statement.
///
/// # Errors
/// [`ErrorCode::PermissionDenied`]; [`ErrorCode::Unsupported`] for a table of the system, which has statements of its own.
pub(crate) fn check_write(ctx: &StatementContext, table: &Table) -> Result<()> {
    let refused = match table.kind {
        TableKind::System if ctx.role() >= Role::Dba => {
            let message = format!("table {} is read-only", table.qualified_name());
            return Err(Error::new(ErrorCode::PermissionDenied, message)
                .with_hint("use CREATE USER, ALTER USER, DROP USER and the other statements made for it"));
        }
        TableKind::System => true,
        TableKind::Shared | TableKind::Stream => {
            table.options.access != Access::Public && ctx.role() < Role::Dba
        }
        TableKind::User => false,
    };
    if refused { Err(denied(table, "write")) } else { Ok(()) }
}

fn denied(table: &Table, action: &str) -> Error {
    Error::new(ErrorCode::PermissionDenied, format!("you may not {action} table {}", table.qualified_name()))
}
