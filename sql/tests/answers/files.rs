//! The files under `tests/slt`, each in every state.
//!
//! A file says statements and answers and nothing about where rows are; the states see to that after every commit, so
//! rows are best loaded in more than one statement. Every file begins with an empty database and the session of `root`.
//!
//! Column types: `B` BOOLEAN, `I` whole numbers, `R` FLOAT, DOUBLE and DECIMAL, `T` TEXT, `D` DATE, `P` TIMESTAMP, `?` anything else. Values
//! are as in JSON, strings without quotes; NULL is `NULL`, an empty text `(empty)`. Errors are told by their code:
//! `statement error UNIQUE_VIOLATION`.
//!
//! `KALAMDB_SLT=joins` runs the files whose names contain that. `KALAMDB_SLT_UPDATE=1` writes the answers of rows in
//! memory into the files; read the difference before you believe it.

use std::fmt;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use futures::{FutureExt, TryStreamExt};
use kalamdb_sql::{Error, ErrorCode, RowEncoder, RowFormat, RowSet};
use serde_json::Value;
use sqllogictest::{
    AsyncDB, ColumnType, DBOutput, Record, Runner, default_normalizer, default_validator,
    strict_column_validator,
};

use crate::harness::Server;
use crate::states::{State, Stated};

#[derive(Debug, Clone, PartialEq, Eq)]
struct Kind(char);

impl ColumnType for Kind {
    fn from_char(value: char) -> Option<Self> {
        "BIRTDP?".contains(value).then_some(Self(value))
    }

    fn to_char(&self) -> char {
        self.0
    }
}

impl Kind {
    fn of(type_name: &str) -> Self {
        Self(match type_name {
            "BOOLEAN" => 'B',
            "SMALLINT" | "INT" | "BIGINT" => 'I',
            "FLOAT" | "DOUBLE" => 'R',
            "TEXT" => 'T',
            "DATE" => 'D',
            "TIMESTAMP" => 'P',
            decimal if decimal.starts_with("DECIMAL") && !decimal.ends_with("[]") => 'R',
            _ => '?',
        })
    }
}

/// An error, its code first.
#[derive(Debug)]
struct Failed(Error);

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.code.as_str(), self.0.message)
    }
}

impl std::error::Error for Failed {}

struct Database {
    session: Stated,
    /// Deleted with it.
    _server: Server,
}

#[async_trait]
impl AsyncDB for Database {
    type Error = Failed;
    type ColumnType = Kind;

    async fn run(&mut self, sql: &str) -> Result<DBOutput<Kind>, Failed> {
        // A panic of one statement must not hide what the others do.
        let answer = AssertUnwindSafe(answer(&mut self.session, sql)).catch_unwind().await;
        answer.unwrap_or_else(|_| Err(Error::new(ErrorCode::Internal, "it panicked"))).map_err(Failed)
    }

    async fn shutdown(&mut self) {}
}

async fn answer(session: &mut Stated, sql: &str) -> Result<DBOutput<Kind>, Error> {
    let outcome = session.run(sql).await?;
    let Some(rows) = outcome.rows else {
        return Ok(DBOutput::StatementComplete(outcome.affected_rows.unwrap_or(0)));
    };
    let types = rows.columns.iter().map(|column| Kind::of(&column.type_name)).collect();
    Ok(DBOutput::Rows { types, rows: grid(rows).await? })
}

async fn grid(rows: RowSet) -> Result<Vec<Vec<String>>, Error> {
    let encoder = RowEncoder::new(&rows.schema, RowFormat::Arrays);
    let batches: Vec<_> = rows.stream.try_collect().await?;
    let mut grid = Vec::new();
    for batch in batches.iter().filter(|batch| batch.num_rows() > 0) {
        let mut text = vec![b'['];
        encoder.encode_rows(batch, &mut text);
        text.push(b']');
        let rows: Vec<Vec<Value>> = serde_json::from_slice(&text).unwrap();
        grid.extend(rows.into_iter().map(|row| row.into_iter().map(show).collect::<Vec<_>>()));
    }
    Ok(grid)
}

fn show(value: Value) -> String {
    match value {
        Value::Null => "NULL".into(),
        Value::String(text) if text.is_empty() => "(empty)".into(),
        Value::String(text) => text,
        other => other.to_string(),
    }
}

fn files() -> Vec<PathBuf> {
    let wanted = std::env::var("KALAMDB_SLT").unwrap_or_default();
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/slt");
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let chosen = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy();
        name.ends_with(".slt") && name.contains(&wanted)
    };
    let mut files: Vec<_> = entries.filter(chosen).collect();
    files.sort();
    assert!(!files.is_empty(), "there are no files like {wanted:?}");
    files
}

async fn open(state: State) -> Result<Database, Failed> {
    let server = Server::start().await;
    Ok(Database { session: Stated::new(&server, state), _server: server })
}

/// Runs a file to its end; every record that fails.
async fn failures(path: &Path, state: State) -> Vec<String> {
    let mut runner = Runner::new(move || open(state));
    runner.with_column_validator(strict_column_validator);
    let mut failures = Vec::new();
    for record in sqllogictest::parse_file(path).unwrap() {
        if let Record::Halt { .. } = record {
            break;
        }
        if let Err(error) = runner.run_async(record).await {
            failures.push(format!("{state:?}: {}", error.display(false)));
        }
    }
    failures
}

async fn check(state: State) {
    let mut all = Vec::new();
    for path in files() {
        all.extend(failures(&path, state).await);
    }
    assert!(all.is_empty(), "{} failed\n\n{}", all.len(), all.join("\n"));
}

async fn update() {
    for path in files() {
        let mut runner = Runner::new(|| open(State::Hot));
        runner
            .update_test_file(&path, " ", default_validator, default_normalizer, strict_column_validator)
            .await
            .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_are_answered_as_they_say_from_memory_alone() {
    if std::env::var_os("KALAMDB_SLT_UPDATE").is_some() {
        update().await;
    }
    check(State::Hot).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_are_answered_as_they_say_from_parquet_alone() {
    check(State::Flushed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_are_answered_as_they_say_from_memory_and_parquet_together() {
    check(State::Mixed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_are_answered_as_they_say_after_compaction() {
    check(State::Compacted).await;
}
