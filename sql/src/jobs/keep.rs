//! What is kept of jobs and of the audit log.

use std::sync::{Arc, Weak};
use std::time::Duration;

use kalamdb_engine::Database;
use kalamdb_engine::system::{self, Cell, Row};
use serde_json::Value;

use super::background::BACKGROUND;
use super::row::{JOB_ID, Status};
use crate::error::Result;
use crate::instance::Instance;
use crate::system::store;

/// How long the rows of ended jobs and of the audit log are kept, in microseconds: 30 days.
const KEPT: i64 = 30 * 24 * 3_600 * 1_000_000;
/// The same for compactions that the background completed: there can be many.
const KEPT_OF_BACKGROUND: i64 = 24 * 3_600 * 1_000_000;
/// How often old rows are looked for.
const EVERY: Duration = Duration::from_secs(3_600);
const INTERRUPTED: &str = "the server stopped while the job was running";

/// Ends the jobs that were running when the server stopped: nothing runs yet.
///
/// # Errors
/// What the commits say.
pub(crate) async fn fail_interrupted(database: &Database, now: i64) -> Result<()> {
    let table = store::table(database, system::JOBS)?;
    let mut interrupted: Vec<(String, Vec<Cell>)> = Vec::new();
    store::each(database, system::JOBS, |row| {
        if matches!(row.text("status")?, Some("running" | "queued")) {
            let cells = table.schema.columns().iter().map(|column| failed(row, &column.name, now));
            interrupted.push((row.required_text(JOB_ID)?.to_owned(), cells.collect::<Result<_>>()?));
        }
        Ok(())
    })
    .await?;
    for (id, cells) in interrupted {
        tracing::warn!(job = id, "{INTERRUPTED}");
        store::put(database, system::JOBS, JOB_ID, &id, &cells).await?;
    }
    Ok(())
}

/// A column of a job's row, as it is when the job has failed.
fn failed(row: Row<'_>, column: &str, now: i64) -> Result<Cell> {
    Ok(match column {
        "status" => Cell::from(Status::Failed(INTERRUPTED).name()),
        "error_message" => Cell::from(INTERRUPTED),
        "finished_at" => Cell::Int(now),
        other => row.cell(other)?,
    })
}

/// Removes old rows now and then, for as long as the instance lives.
pub(crate) fn keep_for_a_while(instance: &Arc<Instance>) {
    let instance = Arc::downgrade(instance);
    tokio::spawn(async move {
        while let Some(()) = expire(&instance).await {
            tokio::time::sleep(EVERY).await;
        }
    });
}

/// `None` once the instance is gone.
async fn expire(instance: &Weak<Instance>) -> Option<()> {
    let instance = instance.upgrade()?;
    let now = instance.clock().now_micros();
    let before = now - KEPT;
    let database = instance.database();
    let ended = |row: Row<'_>| {
        let finished = row.int("finished_at")?;
        let background = row.text("status")? == Some(Status::Completed(&Value::Null).name())
            && row.text("parameters")?.is_some_and(|text| text.contains(BACKGROUND));
        let before = if background { now - KEPT_OF_BACKGROUND } else { before };
        Ok(finished != 0 && finished < before)
    };
    let jobs = store::remove(database, system::JOBS, ended).await;
    let audit = store::remove(database, system::AUDIT_LOG, |row| Ok(row.int("time")? < before)).await;
    if let Err(error) = jobs.and(audit) {
        tracing::warn!(%error, "old rows of system.jobs and system.audit_log were not removed");
    }
    Some(())
}
