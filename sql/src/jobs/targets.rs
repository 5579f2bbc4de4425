//! The partitions that a statement about storage means.

use std::sync::Arc;

use kalamdb_engine::{Table, TableKind, UserId};

use crate::dialect::TableRef;
use crate::error::{Error, ErrorCode, Result};
use crate::names;
use crate::statement::StatementContext;

/// A partition.
pub(super) type Target = (Arc<Table>, Option<UserId>);

/// The partitions of a table, or of all tables; of a USER table one user's only, if one is named, and otherwise all of
/// them as one.
///
/// # Errors
/// [`ErrorCode::TableNotFound`]; [`ErrorCode::InvalidStatement`] for a table without such partitions.
pub(super) fn targets(
    ctx: &StatementContext,
    written: Option<&TableRef>,
    user: Option<&str>,
) -> Result<Vec<Target>> {
    let user = user.map(UserId::new).transpose()?;
    let tables = match written {
        Some(written) => vec![names::engine_table(ctx, written)?],
        None => ctx.catalog.tables().cloned().collect(),
    };
    let mut targets = Vec::new();
    for table in tables {
        match (table.kind, &user) {
            (TableKind::Stream, _) if written.is_some() => {
                let message = format!("STREAM table {} is never written to disk", table.qualified_name());
                return Err(Error::new(ErrorCode::InvalidStatement, message));
            }
            (TableKind::Stream, _) => {}
            (TableKind::User, Some(user)) => targets.push((table, Some(user.clone()))),
            (TableKind::Shared | TableKind::System, Some(_)) => {
                let message = format!("table {} has no partition of a user", table.qualified_name());
                return Err(Error::new(ErrorCode::InvalidStatement, message));
            }
            (TableKind::User | TableKind::Shared | TableKind::System, None) => targets.push((table, None)),
        }
    }
    Ok(targets)
}
