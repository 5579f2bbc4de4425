//! Jobs: work that takes its time, as rows of `system.jobs`.
//!
//! A job's row is written before the work begins, kept up to date while it goes on, and says at the end what came of it.
//! The work runs in a task of its own: a statement waits for it or, with NOWAIT, does not, and a client that goes away
//! stops nothing. `KILL JOB` asks the work to stop; it does between two of its steps, or in the middle of a compaction. A job
//! that was running when the server stopped, in whatever way, is `failed` when it is opened again.
//!
//! Compactions that the engine begins by itself are jobs too: see [`background`].

mod background;
mod compact;
mod export;
mod flush;
mod keep;
mod kill;
mod progress;
mod purge;
mod row;
mod targets;

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use kalamdb_engine::system::Cell;
use kalamdb_engine::{DataType, Database};
use parking_lot::Mutex;
use serde_json::Value;

use crate::error::{Error, ErrorCode, Result};
use crate::grid;
use crate::instance::Instance;
use crate::session::Outcome;
use crate::statement::StatementContext;

pub(crate) use background::note_compactions;
pub(crate) use compact::compact;
pub(crate) use export::export;
pub(crate) use flush::flush;
pub(crate) use keep::{fail_interrupted, keep_for_a_while};
pub(crate) use kill::kill;
pub(crate) use progress::Progress;
pub(crate) use purge::purge;
use row::{Job, Status};

/// How often the row of a running job is brought up to date.
const SHOWN_EVERY: Duration = Duration::from_secs(1);

/// The jobs that run now.
#[derive(Debug, Default)]
pub(crate) struct Jobs {
    running: Mutex<HashMap<String, Work>>,
}

/// What a job does, as far as it can be stopped.
#[derive(Debug, Clone)]
enum Work {
    /// The steps of a statement.
    Steps(Arc<Progress>),
    /// A compaction that the engine began, by its number.
    Compaction(u64),
}

impl Work {
    fn cancel(&self, database: &Database) {
        match self {
            Self::Steps(progress) => progress.cancel(database),
            Self::Compaction(id) => drop(database.cancel_compaction(*id)),
        }
    }
}

impl Jobs {
    /// Asks a job to stop. False if it does not run.
    pub(crate) fn cancel(&self, database: &Database, id: &str) -> bool {
        let work = self.running.lock().get(id).cloned();
        work.map(|work| work.cancel(database)).is_some()
    }

    /// Asks all of them to stop: the server does.
    pub(crate) fn cancel_all(&self, database: &Database) {
        self.running.lock().values().for_each(|work| work.cancel(database));
    }

    fn add(&self, id: &str, work: Work) {
        self.running.lock().insert(id.to_owned(), work);
    }

    fn remove(&self, id: &str) {
        self.running.lock().remove(id);
    }
}

/// What a job is about.
#[derive(Debug, Default)]
pub(crate) struct About {
    /// `flush`, `compact`, ...
    pub(crate) kind: &'static str,
    /// The namespace, if it is about one.
    pub(crate) namespace: Option<String>,
    /// The table, if it is about one.
    pub(crate) table: Option<String>,
    /// What else the statement said, a JSON object.
    pub(crate) parameters: Value,
}

/// Starts a job. Waits for its end unless `nowait`, and returns one row with its id and result either way.
///
/// # Errors
/// What the work says; [`ErrorCode::Cancelled`] if the job was killed.
pub(crate) async fn start<F>(
    ctx: &StatementContext,
    about: About,
    nowait: bool,
    work: impl FnOnce(Arc<Progress>) -> F,
) -> Result<Outcome>
where
    F: Future<Output = Result<Value>> + Send + 'static,
{
    let job = Job::new(&ctx.instance, about, ctx.now_micros);
    let progress = job.progress.clone();
    let id = job.id.clone();
    // Whoever sees its row can stop it.
    ctx.instance.jobs().add(&id, Work::Steps(progress.clone()));
    if let Err(error) = job.store(&ctx.instance, Status::Running).await {
        ctx.instance.jobs().remove(&id);
        return Err(error);
    }
    let running = tokio::spawn(run(ctx.instance.clone(), job, work(progress)));
    if nowait {
        return answer(&id, None);
    }
    let result = running.await.unwrap_or_else(|error| Err(Error::internal(error)))?;
    answer(&id, Some(result.to_string()))
}

fn answer(job_id: &str, result: Option<String>) -> Result<Outcome> {
    let schema = grid::schema(&[("job_id", DataType::Text), ("result", DataType::Json)]);
    Ok(Outcome::batch(grid::batch(&schema, &[vec![Cell::from(job_id), Cell::from(result)]])?))
}

/// Runs the work and notes what comes of it.
async fn run(
    instance: Arc<Instance>,
    job: Job,
    work: impl Future<Output = Result<Value>> + Send + 'static,
) -> Result<Value> {
    let progress = job.progress.clone();
    // A task of its own, so that a panic is a failed job too.
    let mut work = tokio::spawn(work);
    let result = loop {
        tokio::select! {
            ended = &mut work => break ended.unwrap_or_else(|error| Err(Error::internal(error))),
            () = tokio::time::sleep(SHOWN_EVERY) => {
                if progress.has_moved()
                    && let Err(error) = job.store(&instance, Status::Running).await
                {
                    tracing::warn!(job = job.id, %error, "the progress of a job was not stored");
                }
            }
        }
    };
    let status = match &result {
        Ok(result) => Status::Completed(result),
        Err(error) if error.code == ErrorCode::Cancelled => Status::Cancelled,
        Err(error) => {
            tracing::warn!(job = job.id, kind = job.about.kind, %error, "a job failed");
            Status::Failed(&error.message)
        }
    };
    let stored = job.store(&instance, status).await;
    instance.jobs().remove(&job.id);
    stored.and(result)
}
