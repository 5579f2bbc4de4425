//! The interactive shell: statements up to their semicolon, a few commands of its own, a history.

use std::path::PathBuf;

use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;

use super::client::Client;
use super::error::{CliError, CliResult};
use super::live;
use super::sql::{Output, meaning, show};

const HISTORY_VARIABLE: &str = "KALAMDB_HISTORY";

const HELP: &str = "\
A statement ends with a semicolon and may have many lines.
  \\d               list the tables
  \\d TABLE         describe a table
  \\live SELECT ... follow a live query, until Ctrl-C
  \\format FORMAT   table, json, csv or ndjson
  \\?               this help
  \\q               leave (also Ctrl-D)";

struct Shell {
    client: Client,
    namespace: Option<String>,
    format: Output,
}

/// Runs the shell until its user leaves.
///
/// # Errors
/// If the terminal cannot be used.
pub(crate) fn run(client: Client, namespace: Option<String>, format: Output) -> CliResult {
    let mut editor = DefaultEditor::new().map_err(terminal)?;
    let history = history_file();
    if let Some(path) = &history {
        // There is none yet the first time.
        drop(editor.load_history(path));
    }
    eprintln!("kalamdb {}. \\? for help.", env!("CARGO_PKG_VERSION"));
    let mut shell = Shell { client, namespace, format };
    let mut text = String::new();
    loop {
        let prompt = if text.is_empty() { "kalamdb> " } else { "      -> " };
        match editor.readline(prompt) {
            Ok(line) => {
                if !text.is_empty() {
                    text.push('\n');
                }
                text.push_str(&line);
            }
            Err(ReadlineError::Interrupted) => {
                text.clear();
                continue;
            }
            Err(ReadlineError::Eof) => return Ok(()),
            Err(error) => return Err(terminal(error)),
        }
        let entered = text.trim();
        if entered.is_empty() {
            text.clear();
        } else if entered.starts_with('\\') || is_complete(entered) {
            drop(editor.add_history_entry(entered));
            if let Some(path) = &history {
                drop(editor.append_history(path));
            }
            let entered = std::mem::take(&mut text);
            if !shell.enter(entered.trim()) {
                return Ok(());
            }
        }
    }
}

fn terminal(error: ReadlineError) -> CliError {
    CliError::message(format!("the terminal cannot be used: {error}"))
}

fn history_file() -> Option<PathBuf> {
    let chosen = std::env::var_os(HISTORY_VARIABLE).map(PathBuf::from);
    chosen.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".kalamdb_history")))
}

impl Shell {
    /// Runs what was entered; false to leave.
    fn enter(&mut self, entered: &str) -> bool {
        let (command, rest) = entered.split_once(char::is_whitespace).unwrap_or((entered, ""));
        let rest = rest.trim().trim_end_matches(';').trim();
        let outcome = match command {
            "\\q" => return false,
            "\\?" => {
                println!("{HELP}");
                Ok(())
            }
            "\\live" => live::follow(&self.client, rest, self.namespace.as_deref()),
            "\\format" => self.set_format(rest),
            _ if command.starts_with('\\') && meaning(entered).is_none() => {
                Err(CliError::message(format!("there is no command {command}; try \\?")))
            }
            _ => self.run(&meaning(entered).unwrap_or_else(|| entered.to_owned())),
        };
        if let Err(error) = outcome {
            eprintln!("{}", error.describe(Some(entered)));
        }
        true
    }

    fn run(&mut self, sql: &str) -> CliResult {
        show(&self.client, sql, self.namespace.as_deref(), self.format)?;
        // Every request stands alone on the server: the shell remembers where its user is.
        if let Some(namespace) = used_namespace(sql) {
            self.namespace = Some(namespace);
        }
        Ok(())
    }

    fn set_format(&mut self, name: &str) -> CliResult {
        use clap::ValueEnum;
        self.format = Output::from_str(name, true).map_err(CliError::Message)?;
        Ok(())
    }
}

/// The namespace that a lone `USE name` goes to.
fn used_namespace(sql: &str) -> Option<String> {
    let mut words = sql.trim_end_matches(|c: char| c == ';' || c.is_whitespace()).split_whitespace();
    let (first, name) = (words.next()?, words.next()?);
    if !first.eq_ignore_ascii_case("use") || words.next().is_some() {
        return None;
    }
    match name.strip_prefix('"').and_then(|name| name.strip_suffix('"')) {
        Some(quoted) => Some(quoted.to_owned()),
        None => Some(name.to_lowercase()),
    }
}

/// True if the text ends with a semicolon that is not inside quotes or a comment.
fn is_complete(text: &str) -> bool {
    let mut rest = text;
    let mut ended = false;
    while let Some(c) = rest.chars().next() {
        let skipped = match c {
            '\'' | '"' => end_of(&rest[1..], &rest[..1]).map(|end| end + 1),
            '-' if rest.starts_with("--") => Some(rest.find('\n').unwrap_or(rest.len())),
            '/' if rest.starts_with("/*") => end_of(&rest[2..], "*/").map(|end| end + 2),
            _ => Some(c.len_utf8()),
        };
        let Some(skipped) = skipped else { return false };
        match c {
            ';' => ended = true,
            c if c.is_whitespace() => {}
            _ if rest.starts_with("--") || rest.starts_with("/*") => {}
            _ => ended = false,
        }
        rest = &rest[skipped..];
    }
    ended
}

fn end_of(text: &str, mark: &str) -> Option<usize> {
    text.find(mark).map(|at| at + mark.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_is_complete_at_a_semicolon_of_its_own() {
        for text in
            ["SELECT 1;", "SELECT ';';", "SELECT 'it''s';", "a; -- done", "a; /* ; */ ", "SELECT \";\";\n"]
        {
            assert!(is_complete(text), "{text}");
        }
        for text in
            ["", "SELECT 1", "SELECT ';", "SELECT 1 -- ;", "SELECT 1 /* ;", "a; b", "SELECT \"a;", "ä"]
        {
            assert!(!is_complete(text), "{text}");
        }
    }

    #[test]
    fn use_is_remembered() {
        assert_eq!(used_namespace("USE App;").as_deref(), Some("app"));
        assert_eq!(used_namespace("use \"App\" ;\n").as_deref(), Some("App"));
        assert_eq!(used_namespace("SELECT 1"), None);
        assert_eq!(used_namespace("USE a; SELECT 1"), None);
    }
}
