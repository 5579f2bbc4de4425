//! Compactions that the engine begins by itself, as jobs like those of statements.

use std::collections::HashMap;
use std::sync::Arc;

use kalamdb_engine::{CompactionEnd, CompactionEvent, CompactionOutcome, CompactionStatus, SYSTEM_NAMESPACE};
use serde_json::{Value, json};
use tokio::time::MissedTickBehavior;

use super::row::{Job, Status};
use super::{About, SHOWN_EVERY, Work};
use crate::error::Result;
use crate::instance::Instance;

/// Says in a job's parameters that no statement began it.
pub(super) const BACKGROUND: &str = "background";

/// Notes them for as long as the instance lives. One whose end cannot be noted, because the database closes, has failed when
/// it is opened again.
pub(crate) fn note_compactions(instance: &Arc<Instance>) {
    let mut events = instance.database().watch_compactions();
    let instance = Arc::downgrade(instance);
    tokio::spawn(async move {
        let mut noted = Noted::default();
        let mut ticks = tokio::time::interval(SHOWN_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let event = tokio::select! {
                event = events.recv() => match event {
                    Some(event) => Some(event),
                    None => return,
                },
                _ = ticks.tick() => None,
            };
            let Some(instance) = instance.upgrade() else { return };
            let stored = match event {
                Some(CompactionEvent::Began(status)) => noted.begin(&instance, &status).await,
                Some(CompactionEvent::Ended { id, end }) => noted.end(&instance, id, &end).await,
                None => noted.show(&instance).await,
            };
            if let Err(error) = stored {
                tracing::warn!(%error, "a compaction was not noted in system.jobs");
            }
        }
    });
}

/// The compactions that have a row and no end yet, by the engine's number.
#[derive(Default)]
struct Noted(HashMap<u64, Job>);

impl Noted {
    async fn begin(&mut self, instance: &Instance, status: &CompactionStatus) -> Result<()> {
        let catalog = instance.database().catalog();
        let table = catalog.table_by_id(status.partition.table);
        // Noting those of system.jobs would make more of them.
        let Some(table) = table.filter(|table| table.namespace.as_str() != SYSTEM_NAMESPACE) else {
            return Ok(());
        };
        let user = status.partition.user.as_ref().map(|user| user.as_str());
        let about = About {
            kind: "compact",
            namespace: Some(table.namespace.to_string()),
            table: Some(table.name.to_string()),
            parameters: json!({BACKGROUND: true, "user": user}),
        };
        let job = Job::new(instance, about, status.started_at);
        instance.jobs().add(&job.id, Work::Compaction(status.id));
        let stored = job.store(instance, Status::Running).await;
        self.0.insert(status.id, job);
        stored
    }

    async fn show(&self, instance: &Instance) -> Result<()> {
        for status in instance.database().compactions() {
            let Some(job) = self.0.get(&status.id) else { continue };
            job.progress.set(status.bytes_done, status.bytes_total);
            if job.progress.has_moved() {
                job.store(instance, Status::Running).await?;
            }
        }
        Ok(())
    }

    async fn end(&mut self, instance: &Instance, id: u64, end: &CompactionEnd) -> Result<()> {
        let Some(job) = self.0.remove(&id) else { return Ok(()) };
        let stored = match end {
            CompactionEnd::Completed(outcome) => {
                job.progress.add_read(outcome.bytes_read);
                job.progress.add_written(outcome.bytes_written);
                job.store(instance, Status::Completed(&figures(outcome))).await
            }
            CompactionEnd::Cancelled => job.store(instance, Status::Cancelled).await,
            CompactionEnd::Failed(why) => job.store(instance, Status::Failed(why)).await,
        };
        instance.jobs().remove(&job.id);
        stored
    }
}

/// What compactions did, as the result of a job says it.
pub(super) fn figures(outcome: &CompactionOutcome) -> Value {
    json!({
        "segments_in": outcome.segments_in,
        "segments_out": outcome.segments_out,
        "rows_in": outcome.rows_in,
        "rows_out": outcome.rows_out,
        "bytes_read": outcome.bytes_read,
        "bytes_written": outcome.bytes_written,
    })
}
