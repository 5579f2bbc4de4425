//! `FLUSH TABLE` and `FLUSH ALL`, and their rows in `system.jobs`.

use std::sync::Arc;

use kalamdb_engine::system::{self, Cell};
use kalamdb_engine::{
    Changed, DataType, Error as EngineError, FlushOutcome, PartitionWrite, Table, TableKind, UserId, read,
};
use serde_json::json;

use crate::auth::Role;
use crate::dialect::Flush;
use crate::error::{Error, ErrorCode, Result};
use crate::instance::Instance;
use crate::session::Outcome;
use crate::statement::StatementContext;
use crate::{grid, names};

/// How often a job's row is tried to be changed when a flush of the table came between.
const RETRIES: usize = 20;

/// Flushes what the statement names. Waits for it unless the statement says NOWAIT, and returns one row with job id and
/// result either way.
///
/// # Errors
/// [`ErrorCode::PermissionDenied`], [`ErrorCode::TableNotFound`]; the engine's if a partition cannot be flushed.
pub(crate) async fn flush(ctx: &Arc<StatementContext>, flush: &Flush) -> Result<Outcome> {
    ctx.require(Role::Dba, "FLUSH")?;
    let work = targets(ctx, flush).await?;
    let job = Job::new(ctx, flush, &work);
    job.store(&ctx.instance, "running", None, None).await?;
    let instance = ctx.instance.clone();
    if flush.nowait {
        let id = job.id.clone();
        tokio::spawn(async move {
            if let Err(error) = job.run(&instance, work).await {
                tracing::warn!(job = job.id, %error, "a flush failed");
            }
        });
        return answer(&id, None);
    }
    let result = job.run(&instance, work).await?;
    answer(&job.id, Some(result.to_string()))
}

fn answer(job_id: &str, result: Option<String>) -> Result<Outcome> {
    let schema = grid::schema(&[("job_id", DataType::Text), ("result", DataType::Json)]);
    Ok(Outcome::batch(grid::batch(&schema, &[vec![Cell::from(job_id), Cell::from(result)]])?))
}

type Target = (Arc<Table>, Option<UserId>);

/// The partitions to flush.
async fn targets(ctx: &StatementContext, flush: &Flush) -> Result<Vec<Target>> {
    let user = flush.user.as_deref().map(UserId::new).transpose()?;
    let tables = match &flush.table {
        Some(written) => vec![names::engine_table(ctx, written)?],
        None => ctx.catalog.tables().cloned().collect(),
    };
    if let (Some(_), [table]) = (&user, tables.as_slice())
        && table.kind != TableKind::User
    {
        let message = format!("table {} has no partition of a user", table.qualified_name());
        return Err(Error::new(ErrorCode::InvalidStatement, message));
    }
    let mut targets = Vec::new();
    for table in tables {
        match (table.kind, &user) {
            (TableKind::Stream, _) if flush.table.is_some() => {
                let message = format!("STREAM table {} is never written to disk", table.qualified_name());
                return Err(Error::new(ErrorCode::InvalidStatement, message));
            }
            (TableKind::Stream, _) => {}
            (TableKind::User, Some(user)) => targets.push((table, Some(user.clone()))),
            // All partitions of it, whoever owns them.
            (TableKind::User | TableKind::Shared | TableKind::System, _) => targets.push((table, None)),
        }
    }
    Ok(targets)
}

/// A row of `system.jobs`.
struct Job {
    id: String,
    namespace: Option<String>,
    table: Option<String>,
    parameters: String,
    created_at: i64,
    node: u16,
}

impl Job {
    fn new(ctx: &StatementContext, flush: &Flush, targets: &[Target]) -> Self {
        let one = flush.table.as_ref().and_then(|written| names::engine_table(ctx, written).ok());
        Self {
            id: ctx.instance.database().snowflake().to_string(),
            namespace: one.as_ref().map(|table| table.namespace.to_string()),
            table: one.as_ref().map(|table| table.name.to_string()),
            parameters: json!({"user": flush.user, "partitions": targets.len()}).to_string(),
            created_at: ctx.now_micros,
            node: ctx.instance.database().config().node_id,
        }
    }

    /// Flushes and notes the outcome.
    async fn run(&self, instance: &Instance, targets: Vec<Target>) -> Result<serde_json::Value> {
        let flushed = flush_all(instance, targets).await;
        match flushed {
            Ok(outcome) => {
                let result = json!({
                    "partitions": outcome.partitions,
                    "rows": outcome.rows,
                    "bytes": outcome.bytes,
                    "segments": outcome.segments,
                    "flushed_seq": outcome.flushed_seq,
                });
                self.store(instance, "completed", Some(&result), None).await?;
                Ok(result)
            }
            Err(error) => {
                let error = Error::from(error);
                self.store(instance, "failed", None, Some(&error.message)).await?;
                Err(error)
            }
        }
    }

    fn cells(
        &self,
        now: i64,
        status: &str,
        result: Option<&serde_json::Value>,
        error: Option<&str>,
    ) -> Vec<Cell> {
        let done = status != "running";
        let bytes = result.and_then(|result| result["bytes"].as_u64());
        vec![
            Cell::from(self.id.as_str()),
            Cell::from("flush"),
            Cell::from(self.namespace.clone()),
            Cell::from(self.table.clone()),
            Cell::from(status),
            Cell::from(self.parameters.as_str()),
            Cell::Double(if status == "completed" { 1.0 } else { 0.0 }),
            Cell::from(result.map(ToString::to_string)),
            Cell::from(error.map(str::to_owned)),
            Cell::Null,
            Cell::Null,
            Cell::Null,
            Cell::Null,
            bytes.map_or(Cell::Null, grid::count),
            Cell::from(self.node.to_string()),
            Cell::Int(self.created_at),
            Cell::Int(self.created_at),
            if done { Cell::Int(now) } else { Cell::Null },
        ]
    }

    /// Writes the job's row, in place of the one before.
    async fn store(
        &self,
        instance: &Instance,
        status: &str,
        result: Option<&serde_json::Value>,
        error: Option<&str>,
    ) -> Result<()> {
        let database = instance.database();
        let cells = self.cells(instance.clock().now_micros(), status, result, error);
        for _ in 0..RETRIES {
            let table = database.catalog().table_by_id(system::JOBS).cloned();
            let table = table.ok_or_else(|| Error::internal("system.jobs is not in the catalog"))?;
            let row = system::batch(&table.schema, std::slice::from_ref(&cells))?;
            let view = Arc::new(database.view(&database.write_snapshot(), &table, None).await?);
            let mut write = PartitionWrite::new(table, None);
            match read::live_rows(&view)?.iter().find_map(|part| find(part, &self.id)) {
                Some((address, old)) => {
                    write.update = Some(Changed { addresses: vec![address], old, new: row });
                    write.view = Some(view);
                }
                None => write.insert = Some(row),
            }
            match database.commit(vec![write]).await {
                Err(EngineError::Conflict) => {}
                other => return other.map(drop).map_err(Error::from),
            }
        }
        Err(Error::from(EngineError::Conflict))
    }
}

fn find(part: &read::Located, job_id: &str) -> Option<(u64, kalamdb_engine::OldRows)> {
    let is_job = |row: &usize| {
        system::Row::new(&part.rows.rows, *row).text("job_id").is_ok_and(|id| id == Some(job_id))
    };
    let row = (0..part.addresses.len()).find(is_job)?;
    let old = kalamdb_engine::OldRows {
        rows: part.rows.rows.slice(row, 1),
        seqs: part.rows.seqs.slice(row, 1),
        updated: part.rows.updated.slice(row, 1),
    };
    Some((part.addresses[row], old))
}

async fn flush_all(instance: &Instance, targets: Vec<Target>) -> Result<FlushOutcome, EngineError> {
    let mut total = FlushOutcome::default();
    for (table, user) in targets {
        total.add(match user {
            Some(user) => instance.database().flush(&table, Some(&user)).await?,
            None => instance.database().flush_table(&table).await?,
        });
    }
    Ok(total)
}
