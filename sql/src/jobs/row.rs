//! A job as a row of `system.jobs`.

use std::sync::Arc;

use kalamdb_engine::system::{self, Cell};
use serde_json::Value;

use super::{About, Progress};
use crate::error::Result;
use crate::grid;
use crate::instance::Instance;
use crate::system::store;

/// The key of `system.jobs`.
pub(super) const JOB_ID: &str = "job_id";

/// What became of a job.
#[derive(Debug, Clone, Copy)]
pub(super) enum Status<'a> {
    Running,
    Completed(&'a Value),
    Failed(&'a str),
    Cancelled,
}

impl Status<'_> {
    /// As the table says it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Completed(_) => "completed",
            Self::Failed(_) => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// One job.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) id: String,
    pub(super) about: About,
    pub(super) progress: Arc<Progress>,
    created_at: i64,
}

impl Job {
    /// One that begins at `created_at`, microseconds since the epoch.
    pub(super) fn new(instance: &Instance, about: About, created_at: i64) -> Self {
        let id = instance.database().snowflake().to_string();
        Self { id, about, progress: Arc::default(), created_at }
    }

    /// Writes its row, in place of the one before.
    ///
    /// # Errors
    /// What the commit says.
    pub(super) async fn store(&self, instance: &Instance, status: Status<'_>) -> Result<()> {
        store::put(instance.database(), system::JOBS, JOB_ID, &self.id, &self.cells(instance, status)).await
    }

    fn cells(&self, instance: &Instance, status: Status<'_>) -> Vec<Cell> {
        let (progress, result, error, ended) = match status {
            Status::Running => (self.progress.fraction(), None, None, false),
            Status::Completed(result) => (1.0, Some(result.to_string()), None, true),
            Status::Failed(error) => (self.progress.fraction(), None, Some(error.to_owned()), true),
            Status::Cancelled => (self.progress.fraction(), None, None, true),
        };
        vec![
            Cell::from(self.id.as_str()),
            Cell::from(self.about.kind),
            Cell::from(self.about.namespace.clone()),
            Cell::from(self.about.table.clone()),
            Cell::from(status.name()),
            Cell::from(self.about.parameters.to_string()),
            Cell::Double(progress),
            Cell::from(result),
            Cell::from(error),
            Cell::Null,
            Cell::Null,
            Cell::Null,
            grid::count(self.progress.read()),
            grid::count(self.progress.written()),
            Cell::from(instance.database().config().node_id.to_string()),
            Cell::Int(self.created_at),
            Cell::Int(self.created_at),
            if ended { Cell::Int(instance.clock().now_micros()) } else { Cell::Null },
        ]
    }
}
