//! INSERT, UPDATE and DELETE on `system.users`, by the rules of `CREATE USER`, `ALTER USER` and `DROP USER`.

use std::collections::HashSet;

use kalamdb_engine::UserId;
use kalamdb_engine::system::Cell;

use super::{User, check_role};
use crate::auth::Role;
use crate::dml::{Change, Record, check_kept, required, text};
use crate::error::{Error, ErrorCode, Result};
use crate::statement::StatementContext;

/// Columns that only the database sets.
const KEPT: [&str; 3] = ["user_id", "created_at", "last_login"];

/// Checks the changes of a statement and completes the new rows. A user made this way has no password until
/// `ALTER USER` gives it one.
///
/// # Errors
/// [`ErrorCode::PermissionDenied`], [`ErrorCode::AlreadyExists`], [`ErrorCode::InUse`], [`ErrorCode::InvalidParameter`],
/// [`ErrorCode::NotNullViolation`].
pub(crate) fn check_changes(ctx: &StatementContext, changes: &mut [Change]) -> Result<()> {
    let directory = ctx.instance.users();
    let mut taken = HashSet::new();
    let mut systems = directory.count(Role::System) as i64;
    for change in changes {
        check_kept(change, &KEPT)?;
        let old = change.old.as_ref().map(|old| required(old, "user_id")).transpose()?.map(str::to_owned);
        let before = old.as_deref().and_then(|id| directory.find(id));
        if let Some(user) = &before {
            check_role(ctx.role(), user.role)?;
            systems -= i64::from(user.role == Role::System);
        }
        let Some(new) = &mut change.new else {
            if before.is_some_and(|user| user.user_id == ctx.identity.user) {
                return Err(Error::new(ErrorCode::InUse, "this session's own user is in use"));
            }
            continue;
        };
        complete(ctx, new, old.is_none())?;
        let role: Role = required(new, "role")?.parse()?;
        check_role(ctx.role(), role)?;
        systems += i64::from(role == Role::System);
        for column in ["user_id", "username"] {
            let name = required(new, column)?;
            let user = directory.find(name);
            let other = user.as_ref().filter(|user| Some(user.user_id.as_str()) != old.as_deref());
            if let Some(other) = other {
                return Err(Error::from(other.as_ref()));
            }
        }
        let (id, name) = (required(new, "user_id")?.to_owned(), required(new, "username")?.to_owned());
        let fresh = taken.insert(id.clone()) & (name == id || taken.insert(name.clone()));
        if !fresh {
            return Err(Error::new(ErrorCode::AlreadyExists, format!("user {name} is there twice")));
        }
    }
    // Somebody must be able to do everything.
    if systems < 1 && directory.count(Role::System) > 0 {
        return Err(Error::new(ErrorCode::InUse, "the last user of role system is in use"));
    }
    Ok(())
}

fn complete(ctx: &StatementContext, new: &mut Record, is_new: bool) -> Result<()> {
    let id = UserId::new(required(new, "user_id")?)?;
    let username = text(new, "username").unwrap_or(id.as_str()).to_owned();
    UserId::new(&username)?;
    let role: Role = text(new, "role").map_or(Ok(Role::User), str::parse)?;
    new.insert("username".into(), Cell::from(username));
    new.insert("role".into(), Cell::from(role.as_str()));
    new.insert("updated_at".into(), Cell::Int(ctx.now_micros));
    if is_new {
        new.insert("created_at".into(), Cell::Int(ctx.now_micros));
        new.insert("last_login".into(), Cell::Null);
    }
    Ok(())
}

/// Brings the directory up to date with changes that are durable.
///
/// # Errors
/// None: the changes were checked.
pub(crate) fn changed(ctx: &StatementContext, changes: &[Change]) -> Result<()> {
    let directory = ctx.instance.users();
    for change in changes {
        let id = |record: &Record| required(record, "user_id").map(str::to_owned);
        let old = change.old.as_ref().map(id).transpose()?.and_then(|id| directory.find(&id));
        match &change.new {
            Some(new) => directory.put(user(new, old.as_deref())?),
            None => old.iter().for_each(|user| directory.remove(user)),
        }
    }
    Ok(())
}

fn user(new: &Record, old: Option<&User>) -> Result<User> {
    let int = |column: &str| if let Some(Cell::Int(value)) = new.get(column) { *value } else { 0 };
    Ok(User {
        user_id: UserId::new(required(new, "user_id")?)?,
        username: required(new, "username")?.to_owned(),
        role: required(new, "role")?.parse()?,
        metadata: text(new, "metadata").map(str::to_owned),
        created_at: int("created_at"),
        updated_at: int("updated_at"),
        last_login: old.and_then(|old| old.last_login),
        password_hash: old.and_then(|old| old.password_hash.clone()),
    })
}
