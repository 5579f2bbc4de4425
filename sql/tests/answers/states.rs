//! Where rows are when they are read. No answer may depend on it.

use std::sync::Arc;

use kalamdb_sql::engine::{Database, Table, TableKind};
use kalamdb_sql::{Error, Outcome, Statement};

use crate::harness::{Client, Server};

/// Where rows are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// All in memory.
    Hot,
    /// All in Parquet: a segment per commit, and deletes as marks on them.
    Flushed,
    /// Those of every other commit in memory.
    Mixed,
    /// All in Parquet, and merged.
    Compacted,
}

/// A session after whose commits rows go where the state wants them, so that its user need not think of it.
pub(crate) struct Stated {
    pub(crate) client: Client,
    database: Arc<Database>,
    state: State,
    commits: usize,
    /// Whether something was flushed since the last compaction.
    uncompacted: bool,
}

impl Stated {
    /// A session of `root`.
    pub(crate) fn new(server: &Server, state: State) -> Self {
        let database = server.instance.database().clone();
        Self { client: server.root(), database, state, commits: 0, uncompacted: false }
    }

    /// Runs all statements of a text; the outcome of the last that gives rows, or else of the last, or the first error.
    pub(crate) async fn run(&mut self, sql: &str) -> Result<Outcome, Error> {
        let mut last = Outcome::default();
        let mut rows = None;
        for statement in self.client.session.parse(sql)? {
            if self.uncompacted && matches!(*statement.statement, Statement::Query(_)) {
                self.compact().await;
            }
            last = self.client.session.execute(&statement, &[]).await?;
            rows = last.rows.take().or(rows);
            if last.seq.is_some() {
                self.committed().await;
            }
        }
        Ok(Outcome { rows, ..last })
    }

    async fn committed(&mut self) {
        self.commits += 1;
        match self.state {
            State::Hot => {}
            State::Mixed if self.commits.is_multiple_of(2) => {}
            State::Mixed | State::Flushed => self.flush().await,
            State::Compacted => {
                self.flush().await;
                self.uncompacted = true;
            }
        }
    }

    async fn flush(&self) {
        for table in self.tables() {
            self.database.flush_table(&table).await.unwrap();
        }
    }

    async fn compact(&mut self) {
        self.uncompacted = false;
        let database = self.database.clone();
        for table in self.tables() {
            let users = match table.kind {
                TableKind::User => database.users_of(&table).await.unwrap().into_iter().map(Some).collect(),
                _ => vec![None],
            };
            for user in users {
                database.compact(&table, user.as_ref()).await.unwrap();
            }
        }
    }

    /// The tables that have files.
    fn tables(&self) -> Vec<Arc<Table>> {
        let catalog = self.database.catalog();
        let stored = |table: &&Arc<Table>| matches!(table.kind, TableKind::User | TableKind::Shared);
        catalog.tables().filter(stored).cloned().collect()
    }
}
