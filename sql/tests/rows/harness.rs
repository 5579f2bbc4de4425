//! A database in a temporary directory and short ways to talk to it.

use std::path::Path;
use std::sync::Arc;

use futures::TryStreamExt;
use kalamdb_sql::engine::UserId;
use kalamdb_sql::{Error, Identity, Instance, Options, Outcome, Role, RowEncoder, RowFormat, Session};
use serde_json::Value;
use tempfile::TempDir;

pub(crate) struct Server {
    pub(crate) instance: Arc<Instance>,
    pub(crate) dir: TempDir,
}

impl Server {
    pub(crate) async fn start() -> Self {
        Self::open(tempfile::tempdir().unwrap()).await
    }

    /// On a directory that may have been used before.
    pub(crate) async fn open(dir: TempDir) -> Self {
        Self::open_with(dir, |_| ()).await
    }

    /// A new one with other options.
    pub(crate) async fn with(change: impl FnOnce(&mut Options)) -> Self {
        Self::open_with(tempfile::tempdir().unwrap(), change).await
    }

    /// On a directory that may have been used before, with other options.
    pub(crate) async fn open_with(dir: TempDir, change: impl FnOnce(&mut Options)) -> Self {
        let mut options = Options::new(dir.path());
        options.query_partitions = 2;
        change(&mut options);
        Self { instance: Instance::open(options).await.unwrap(), dir }
    }

    /// Closes it and opens it again with other options.
    pub(crate) async fn reopen_with(self, change: impl FnOnce(&mut Options)) -> Self {
        self.instance.close().await.unwrap();
        drop(self.instance);
        Self::open_with(self.dir, change).await
    }

    /// The data directory.
    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn session(&self, user: &str, role: Role) -> Client {
        let identity = Identity { user: UserId::new(user).unwrap(), role };
        Client { session: self.instance.session(identity) }
    }

    pub(crate) fn root(&self) -> Client {
        self.session("root", Role::System)
    }

    pub(crate) fn user(&self, user: &str) -> Client {
        self.session(user, Role::User)
    }
}

pub(crate) struct Client {
    pub(crate) session: Session,
}

impl Client {
    /// Runs all statements of a text; the outcome of the last, or the first error.
    pub(crate) async fn try_run(&mut self, sql: &str, params: &[Value]) -> Result<Outcome, Error> {
        let mut last = Outcome::default();
        for statement in self.session.parse(sql)? {
            last = self.session.execute(&statement, params).await?;
        }
        Ok(last)
    }

    pub(crate) async fn run(&mut self, sql: &str) -> Outcome {
        self.run_with(sql, &[]).await
    }

    pub(crate) async fn run_with(&mut self, sql: &str, params: &[Value]) -> Outcome {
        self.try_run(sql, params).await.unwrap_or_else(|e| panic!("{sql}: {} {e}", e.code.as_str()))
    }

    /// The error of a statement, of planning or of running.
    pub(crate) async fn fail(&mut self, sql: &str) -> Error {
        self.fail_with(sql, &[]).await
    }

    pub(crate) async fn fail_with(&mut self, sql: &str, params: &[Value]) -> Error {
        match self.try_run(sql, params).await {
            Err(error) => error,
            Ok(outcome) => match outcome.rows {
                Some(rows) => match rows.stream.try_collect::<Vec<_>>().await {
                    Err(error) => error,
                    Ok(_) => panic!("{sql} gave rows"),
                },
                None => panic!("{sql} did something"),
            },
        }
    }

    /// The rows as a JSON array of arrays.
    pub(crate) async fn rows(&mut self, sql: &str) -> Value {
        encode(self.run(sql).await, RowFormat::Arrays).await
    }

    pub(crate) async fn rows_with(&mut self, sql: &str, params: &[Value]) -> Value {
        encode(self.run_with(sql, params).await, RowFormat::Arrays).await
    }

    /// The names of the result's columns.
    pub(crate) async fn columns(&mut self, sql: &str) -> Vec<String> {
        let rows = self.run(sql).await.rows.unwrap();
        rows.columns.iter().map(|column| column.name.clone()).collect()
    }

    /// The physical plan's text.
    pub(crate) async fn plan(&mut self, sql: &str) -> String {
        let rows = self.rows(&format!("EXPLAIN {sql}")).await;
        let find = |row: &Value| row[0] == "physical_plan";
        let rows =
            rows.as_array().unwrap().iter().find(|row| find(row)).unwrap_or_else(|| panic!("{rows}")).clone();
        rows[1].as_str().unwrap().to_owned()
    }
}

pub(crate) async fn encode(outcome: Outcome, format: RowFormat) -> Value {
    let rows = outcome.rows.expect("the statement gives rows");
    let encoder = RowEncoder::new(&rows.schema, format);
    let batches: Vec<_> = rows.stream.try_collect().await.unwrap_or_else(|e| panic!("{e}"));
    let mut text = vec![b'['];
    for batch in batches.iter().filter(|batch| batch.num_rows() > 0) {
        if text.len() > 1 {
            text.push(b',');
        }
        encoder.encode_rows(batch, &mut text);
    }
    text.push(b']');
    serde_json::from_slice(&text).unwrap()
}

/// Where rows are when they are read.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Layout {
    Hot,
    Flushed,
    Mixed,
}

impl Layout {
    pub(crate) const ALL: [Self; 3] = [Self::Hot, Self::Flushed, Self::Mixed];

    /// Called between the first half of the writes and the second.
    pub(crate) async fn half(self, client: &mut Client, table: &str) {
        if matches!(self, Self::Mixed) {
            client.run(&format!("FLUSH TABLE {table}")).await;
        }
    }

    /// Called after all writes.
    pub(crate) async fn end(self, client: &mut Client, table: &str) {
        if matches!(self, Self::Flushed) {
            client.run(&format!("FLUSH TABLE {table}")).await;
        }
    }
}
