//! `kalamdb sql`: one-shot, or the shell.

use std::io::{self, IsTerminal, Read};
use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::client::{self, Client, ServerArgs};
use super::error::{CliError, CliResult, print};
use super::{live, shell, table};

/// Arguments of `kalamdb sql`.
#[derive(Args)]
pub(crate) struct SqlArgs {
    #[command(flatten)]
    server: ServerArgs,
    /// Run this SQL and stop
    #[arg(short = 'c', long = "command", value_name = "SQL", conflicts_with = "file")]
    command: Option<String>,
    /// Run the SQL of this file (- for standard input) and stop
    #[arg(short = 'f', long = "file", value_name = "FILE")]
    file: Option<PathBuf>,
    /// How results are written
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    format: Output,
    /// Namespace in which unqualified names are looked up
    #[arg(short, long, value_name = "NAME")]
    namespace: Option<String>,
}

/// How results are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// Aligned columns
    Table,
    /// The server's whole answer
    Json,
    /// Rows as CSV
    Csv,
    /// Rows as JSON objects, one a line
    Ndjson,
}

/// Runs `kalamdb sql`.
///
/// # Errors
/// What the server says, or why it cannot be asked.
pub(crate) fn run(args: SqlArgs) -> CliResult {
    let given = given_sql(&args)?;
    let client = Client::new(&args.server)?;
    match given {
        Some(sql) => one_shot(&client, &sql, args.namespace.as_deref(), args.format),
        None => shell::run(client, args.namespace, args.format),
    }
}

fn given_sql(args: &SqlArgs) -> CliResult<Option<String>> {
    if let Some(sql) = &args.command {
        return Ok(Some(sql.clone()));
    }
    match &args.file {
        Some(path) if path.as_os_str() != "-" => std::fs::read_to_string(path)
            .map(Some)
            .map_err(|error| CliError::message(format!("{} cannot be read: {error}", path.display()))),
        None if io::stdin().is_terminal() => Ok(None),
        _ => {
            let mut sql = String::new();
            io::stdin().read_to_string(&mut sql)?;
            Ok(Some(sql))
        }
    }
}

/// The statement that a command of ours stands for.
pub(crate) fn meaning(entered: &str) -> Option<String> {
    match entered.trim().strip_prefix("\\d")?.trim_end_matches(';') {
        "" => Some("SHOW TABLES".into()),
        table => {
            table.strip_prefix(char::is_whitespace).map(|table| format!("DESCRIBE TABLE {}", table.trim()))
        }
    }
}

fn one_shot(client: &Client, sql: &str, namespace: Option<&str>, format: Output) -> CliResult {
    if let Some(query) = live::asked(sql) {
        return live::follow(client, query, namespace);
    }
    let meaning = meaning(sql);
    let sql = meaning.as_deref().unwrap_or(sql);
    show(client, sql, namespace, format).map_err(|error| match error {
        CliError::Server(_) => CliError::Message(error.describe(Some(sql))),
        other => other,
    })
}

/// Runs SQL and writes its results.
///
/// # Errors
/// What the server says, or why it cannot be asked.
pub(crate) fn show(client: &Client, sql: &str, namespace: Option<&str>, format: Output) -> CliResult {
    let accept = match format {
        Output::Table => {
            let outcome = client.results(sql, namespace);
            let results = match &outcome {
                Ok(results) => results.as_slice(),
                Err(CliError::Server(error)) => error.results(),
                Err(_) => &[],
            };
            print(&results.iter().map(table::render).collect::<Vec<_>>().join("\n"))?;
            return outcome.map(drop);
        }
        Output::Json => "application/json",
        Output::Csv => "text/csv",
        Output::Ndjson => "application/x-ndjson",
    };
    let mut body = client::reader(client.sql(sql, namespace, accept, "objects")?);
    let mut stdout = io::stdout().lock();
    io::copy(&mut body, &mut stdout).map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => CliError::Unread,
        _ => CliError::message(format!("the answer ended early: {error}")),
    })?;
    Ok(())
}
