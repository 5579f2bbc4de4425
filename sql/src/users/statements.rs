//! `CREATE USER`, `ALTER USER`, `DROP USER`.

use kalamdb_engine::UserId;

use super::{ROOT, User, check_role, not_found, rows};
use crate::auth::{Identity, Role, hash_password};
use crate::dialect::CreateUser;
use crate::error::{Error, ErrorCode, Position, Result};
use crate::instance::Instance;
use crate::session::Outcome;
use crate::statement::StatementContext;

/// A last login younger than this is not written again, in microseconds: Basic may log in with every request.
const LOGIN_NOTED_EVERY: i64 = 60 * 1_000_000;

/// `CREATE USER`.
///
/// # Errors
/// [`ErrorCode::PermissionDenied`], [`ErrorCode::AlreadyExists`], [`ErrorCode::InvalidParameter`] for a bad name or
/// password.
pub(crate) async fn create(ctx: &StatementContext, wanted: &CreateUser) -> Result<Outcome> {
    ctx.require(Role::Dba, "CREATE USER")?;
    check_role(ctx.role(), wanted.role)?;
    let user_id = UserId::new(&wanted.user).map_err(|e| Error::from(e).with_position(wanted.position))?;
    let directory = ctx.instance.users();
    let _writer = directory.writer.lock().await;
    if let Some(known) = directory.find(&wanted.user) {
        if wanted.if_not_exists {
            return Ok(Outcome::message(format!("user {} already exists", known.user_id)));
        }
        return Err(Error::from(known.as_ref()).with_position(wanted.position));
    }
    let user = new_user(&ctx.instance, user_id, wanted.role, wanted.password.clone()).await?;
    rows::insert(ctx.instance.database(), &user).await?;
    let message = format!("user {} created", user.user_id);
    directory.put(user);
    Ok(Outcome::message(message))
}

/// Creates `root` if there is no user at all. True if it was created.
///
/// # Errors
/// What storing it says.
pub(crate) async fn create_first(instance: &Instance, password: String) -> Result<bool> {
    let directory = instance.users();
    let _writer = directory.writer.lock().await;
    if !directory.is_empty() {
        return Ok(false);
    }
    let user = new_user(instance, UserId::new(ROOT)?, Role::System, Some(password)).await?;
    rows::insert(instance.database(), &user).await?;
    directory.put(user);
    Ok(true)
}

/// `ALTER USER`.
///
/// # Errors
/// [`ErrorCode::UserNotFound`]; [`ErrorCode::PermissionDenied`], also for one's own role: nobody is locked out by
/// mistake, and nobody rises.
pub(crate) async fn alter(
    ctx: &StatementContext,
    login: &str,
    password: Option<&str>,
    role: Option<Role>,
    at: Option<Position>,
) -> Result<Outcome> {
    let directory = ctx.instance.users();
    let _writer = directory.writer.lock().await;
    let own = |user: &User| user.user_id == ctx.identity.user;
    let found = directory.find(login);
    // A session without the right to manage users learns nothing about others.
    if !(ctx.is_dba() || role.is_none() && found.as_ref().is_some_and(|user| own(user))) {
        ctx.require(Role::Dba, "ALTER USER of anything but the own password")?;
    }
    let user = found.ok_or_else(|| not_found(login).with_position(at))?;
    check_role(ctx.role(), user.role)?;
    let mut changed = User::clone(&user);
    if let Some(role) = role {
        check_role(ctx.role(), role)?;
        check_not_last_system(ctx, &user, role, at)?;
        changed.role = role;
    }
    if let Some(password) = password {
        changed.password_hash = Some(hash(&ctx.instance, password.to_owned()).await?);
    }
    changed.updated_at = ctx.instance.clock().now_micros();
    rows::update(ctx.instance.database(), &changed).await?;
    directory.put(changed);
    Ok(Outcome::message(format!("user {} changed", user.user_id)))
}

/// `DROP USER`. The user's rows in USER tables stay until they are purged.
///
/// # Errors
/// [`ErrorCode::UserNotFound`], [`ErrorCode::PermissionDenied`], [`ErrorCode::InUse`] for oneself.
pub(crate) async fn drop(
    ctx: &StatementContext,
    login: &str,
    if_exists: bool,
    at: Option<Position>,
) -> Result<Outcome> {
    ctx.require(Role::Dba, "DROP USER")?;
    let directory = ctx.instance.users();
    let _writer = directory.writer.lock().await;
    let Some(user) = directory.find(login) else {
        if if_exists {
            return Ok(Outcome::message(format!("user {login} does not exist")));
        }
        return Err(not_found(login).with_position(at));
    };
    check_role(ctx.role(), user.role)?;
    if user.user_id == ctx.identity.user {
        let message = format!("user {} is in use by this session", user.user_id);
        return Err(Error::new(ErrorCode::InUse, message).with_position(at));
    }
    check_not_last_system(ctx, &user, Role::User, at)?;
    rows::delete(ctx.instance.database(), &user.user_id).await?;
    directory.remove(&user);
    Ok(Outcome::message(format!("user {} dropped", user.user_id)))
}

/// Writes the time of a login, unless one was written just now. A failure does not keep anybody out.
pub(crate) async fn note_login(instance: &Instance, identity: &Identity) {
    let directory = instance.users();
    let _writer = directory.writer.lock().await;
    let Some(user) = directory.find(identity.user.as_str()) else { return };
    let now = instance.clock().now_micros();
    if user.last_login.is_some_and(|last| now - last < LOGIN_NOTED_EVERY) {
        return;
    }
    let changed = User { last_login: Some(now), ..User::clone(&user) };
    match rows::update(instance.database(), &changed).await {
        Ok(_) => directory.put(changed),
        Err(error) => tracing::warn!(user = %identity.user, %error, "the time of a login was not stored"),
    }
}

/// Somebody must be able to do everything.
fn check_not_last_system(
    ctx: &StatementContext,
    user: &User,
    role: Role,
    at: Option<Position>,
) -> Result<()> {
    if user.role == Role::System && role != Role::System && ctx.instance.users().count(Role::System) == 1 {
        let message = format!("user {} is the last of role system", user.user_id);
        return Err(Error::new(ErrorCode::InUse, message).with_position(at));
    }
    Ok(())
}

async fn new_user(
    instance: &Instance,
    user_id: UserId,
    role: Role,
    password: Option<String>,
) -> Result<User> {
    let password_hash = match password {
        Some(password) => Some(hash(instance, password).await?),
        None => None,
    };
    let now = instance.clock().now_micros();
    Ok(User {
        username: user_id.to_string(),
        user_id,
        role,
        metadata: None,
        created_at: now,
        updated_at: now,
        last_login: None,
        password_hash,
    })
}

async fn hash(instance: &Instance, password: String) -> Result<String> {
    let mut salt = [0; 16];
    instance.database().random_bytes(&mut salt);
    hash_password(password, salt).await
}
