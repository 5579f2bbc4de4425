//! An instance with tables of rows of about 200 bytes, and plain DataFusion beside it, for the comparisons of SQL.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use datafusion::prelude::{ParquetReadOptions, SessionConfig, SessionContext};
use futures::TryStreamExt;
use kalamdb_engine::arrow::array::RecordBatch;
use kalamdb_engine::{ChunkView, CompactionConfig, Config, Table, UserId};
use kalamdb_sql::{Identity, Instance, Options, Role, Session};
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::measure::{median, micros};
use crate::place::Place;
use crate::report::Outcome;
use crate::table::insertion;

/// Partitions that both sides cut a query into.
pub const PARTITIONS: usize = 2;
/// Rows of one commit when a table is filled.
const BATCH: i64 = 10_000;

/// An instance on threads of its own; nothing is flushed or compacted but by command.
pub struct SqlFixture {
    /// Where both sides run.
    pub runtime: Runtime,
    /// The instance.
    pub instance: Arc<Instance>,
}

impl SqlFixture {
    /// Opens an instance in `dir`.
    ///
    /// # Errors
    /// From the database.
    pub fn open(place: &Place, dir: &Path) -> Outcome<Self> {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(PARTITIONS).enable_all().build()?;
        let compaction = CompactionConfig { workers: 0, bytes_per_second: 0, ..CompactionConfig::default() };
        let config = Config { disk: place.disk(), flush_rows: u64::MAX, compaction, ..Config::new(dir) };
        let options = Options { engine: config, query_partitions: PARTITIONS, ..Options::new(dir) };
        let instance = runtime.block_on(Instance::open(options))?;
        let fixture = Self { runtime, instance };
        fixture.run("CREATE TABLE rows (id BIGINT PRIMARY KEY, name TEXT, body TEXT, score INT)", &[])?;
        Ok(fixture)
    }

    /// A session of role `system`.
    ///
    /// # Errors
    /// None in practice.
    pub fn session(&self) -> Outcome<Session> {
        Ok(self.instance.session(Identity { user: UserId::new("root")?, role: Role::System }))
    }

    /// Runs statements to their end; the rows of the last.
    ///
    /// # Errors
    /// From a statement.
    pub fn run(&self, sql: &str, params: &[Value]) -> Outcome<Vec<RecordBatch>> {
        let mut session = self.session()?;
        self.runtime.block_on(run_in(&mut session, sql, params))
    }

    /// The table that is filled.
    ///
    /// # Errors
    /// If it is gone.
    pub fn table(&self) -> Outcome<Arc<Table>> {
        Ok(self.instance.database().catalog().table("default", "rows").cloned().ok_or("no table")?)
    }

    /// Inserts rows with these keys.
    ///
    /// # Errors
    /// From the database.
    pub fn fill(&self, ids: Range<i64>) -> Outcome<()> {
        let table = self.table()?;
        let mut from = ids.start;
        while from < ids.end {
            let to = ids.end.min(from + BATCH);
            self.runtime.block_on(self.instance.database().commit(vec![insertion(&table, from..to)?]))?;
            from = to;
        }
        Ok(())
    }

    /// The Parquet files and the rows in memory of the table.
    ///
    /// # Errors
    /// From the database.
    pub fn chunks(&self) -> Outcome<(Vec<PathBuf>, Vec<RecordBatch>)> {
        let database = self.instance.database();
        let (snapshot, table) = (database.snapshot(), self.table()?);
        let view = self.runtime.block_on(database.view(&snapshot, &table, None))?;
        let (mut files, mut hot) = (Vec::new(), Vec::new());
        for chunk in &view.chunks {
            match chunk {
                ChunkView::Segment(chunk) => files.push(chunk.segment.path().to_owned()),
                ChunkView::Rows(chunk) if !chunk.tombstones => hot.push(chunk.batch()),
                ChunkView::Rows(_) => {}
            }
        }
        Ok((files, hot))
    }

    /// Plain DataFusion with the table's Parquet files as `rows`.
    ///
    /// # Errors
    /// From DataFusion.
    pub fn over_parquet(&self) -> Outcome<SessionContext> {
        let context = plain();
        let (files, _) = self.chunks()?;
        let files: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
        let read = self.runtime.block_on(context.read_parquet(files, ParquetReadOptions::default()))?;
        context.register_table("rows", read.into_view())?;
        Ok(context)
    }

    /// The median time of a query on our side and on that of plain DataFusion, in microseconds, by turns.
    ///
    /// # Errors
    /// From either side.
    pub fn beside(&self, context: &SessionContext, sql: &str, turns: usize) -> Outcome<(f64, f64)> {
        let mut session = self.session()?;
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        // The first turn warms up.
        for turn in 0..=turns {
            let time = self.time(run_in(&mut session, sql, &[]))?;
            let other = self.time(async { Ok(context.sql(sql).await?.collect().await?) })?;
            if turn > 0 {
                ours.push(micros(time));
                theirs.push(micros(other));
            }
        }
        Ok((median(ours), median(theirs)))
    }

    /// The median times of two statements of ours, in microseconds, by turns.
    ///
    /// # Errors
    /// From a statement.
    pub fn two(&self, one: &str, other: &str, turns: usize) -> Outcome<(f64, f64)> {
        let mut session = self.session()?;
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for turn in 0..turns + 3 {
            let time = self.time(run_in(&mut session, one, &[]))?;
            let beside = self.time(run_in(&mut session, other, &[]))?;
            if turn >= 3 {
                ours.push(micros(time));
                theirs.push(micros(beside));
            }
        }
        Ok((median(ours), median(theirs)))
    }

    fn time(&self, work: impl Future<Output = Outcome<Vec<RecordBatch>>>) -> Outcome<Duration> {
        let begun = Instant::now();
        self.runtime.block_on(work)?;
        Ok(begun.elapsed())
    }

    /// Closes the instance.
    ///
    /// # Errors
    /// From the database.
    pub fn close(self) -> Outcome<()> {
        Ok(self.runtime.block_on(self.instance.close())?)
    }
}

/// DataFusion as it comes, with as many partitions as ours has.
pub fn plain() -> SessionContext {
    SessionContext::new_with_config(SessionConfig::new().with_target_partitions(PARTITIONS))
}

/// Runs statements in a session to their end; the rows of the last.
///
/// # Errors
/// From a statement.
pub async fn run_in(session: &mut Session, sql: &str, params: &[Value]) -> Outcome<Vec<RecordBatch>> {
    let mut last = Vec::new();
    for statement in session.parse(sql)? {
        let outcome = session.execute(&statement, params).await?;
        if let Some(rows) = outcome.rows {
            last = rows.stream.try_collect().await?;
        }
    }
    Ok(last)
}
