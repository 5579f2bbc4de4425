//! `system.users`: who can log in, and with what role.
//!
//! Rows are written here and nowhere else, so a directory of all accounts is kept in memory: a login costs no scan.
//! Identity is the user id; `CREATE USER` makes it the username too, and a login takes either.

mod changes;
mod directory;
mod rows;
mod statements;

use kalamdb_engine::UserId;

use crate::auth::Role;
use crate::error::{Error, ErrorCode, Result};

pub(crate) use changes::{changed, check_changes};
pub(crate) use directory::Directory;
pub(crate) use statements::{alter, create, create_first, drop, note_login};

/// The user that exists from the first start on.
pub(crate) const ROOT: &str = "root";

/// One row of `system.users`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) user_id: UserId,
    pub(crate) username: String,
    pub(crate) role: Role,
    pub(crate) metadata: Option<String>,
    /// Microseconds since the epoch, as the two below.
    pub(crate) created_at: i64,
    pub(crate) updated_at: i64,
    pub(crate) last_login: Option<i64>,
    pub(crate) password_hash: Option<String>,
}

fn not_found(user: &str) -> Error {
    let shown: String = user.chars().take(80).collect();
    Error::new(ErrorCode::UserNotFound, format!("user {shown} does not exist"))
}

/// A session may give and take no role above its own.
fn check_role(own: Role, other: Role) -> Result<()> {
    if other <= own {
        return Ok(());
    }
    Err(Error::new(
        ErrorCode::PermissionDenied,
        format!("the role {own} may not manage users of role {other}"),
    ))
}
