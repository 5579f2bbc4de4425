//! `PURGE USER`.

use std::sync::Arc;

use kalamdb_engine::UserId;
use serde_json::json;

use super::{About, start};
use crate::audit;
use crate::auth::Role;
use crate::dialect::Purge;
use crate::error::{Error, Result};
use crate::session::Outcome;
use crate::statement::StatementContext;

/// Removes every byte of a user's rows in all USER tables: from memory, files and log. The account stays.
///
/// # Errors
/// [`crate::ErrorCode::PermissionDenied`]; [`crate::ErrorCode::InvalidParameter`] for an impossible user id; the engine's.
pub(crate) async fn purge(ctx: &Arc<StatementContext>, wanted: &Purge) -> Result<Outcome> {
    ctx.require(Role::Dba, "PURGE")?;
    let user = UserId::new(&wanted.user).map_err(|e| Error::from(e).with_position(wanted.position))?;
    audit::record(&ctx.instance, &ctx.identity, "purge_user", Some(&user), None).await?;
    let about = About { kind: "purge", parameters: json!({"user": user.as_str()}), ..About::default() };
    let instance = ctx.instance.clone();
    start(ctx, about, wanted.nowait, |progress| async move {
        progress.expect(1);
        progress.go_on()?;
        instance.database().purge_user(&user).await.map_err(Error::from)?;
        instance.live().user_purged(&user);
        progress.step()?;
        Ok(json!({"user": user.as_str()}))
    })
    .await
}
