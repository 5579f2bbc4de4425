//! `KILL JOB`.

use kalamdb_engine::system;

use super::row::JOB_ID;
use crate::auth::Role;
use crate::error::{Error, ErrorCode, Position, Result};
use crate::session::Outcome;
use crate::statement::StatementContext;
use crate::system::store;

/// Asks a job to stop, which it does between two of its steps; a compaction of the background does at once.
///
/// # Errors
/// [`ErrorCode::PermissionDenied`]; [`ErrorCode::NotFound`]; [`ErrorCode::InvalidStatement`] for one that has ended.
pub(crate) async fn kill(ctx: &StatementContext, job_id: &str, at: Option<Position>) -> Result<Outcome> {
    ctx.require(Role::Dba, "KILL JOB")?;
    if ctx.instance.jobs().cancel(ctx.instance.database(), job_id) {
        return Ok(Outcome::message(format!("job {job_id} is being stopped")));
    }
    let mut status = None;
    store::each(ctx.instance.database(), system::JOBS, |row| {
        if row.text(JOB_ID)? == Some(job_id) {
            status = row.text("status")?.map(str::to_owned);
        }
        Ok(())
    })
    .await?;
    let error = match status {
        Some(status) => Error::new(ErrorCode::InvalidStatement, format!("job {job_id} is {status}")),
        None => Error::new(ErrorCode::NotFound, format!("job {job_id} does not exist")),
    };
    Err(error.with_position(at))
}
