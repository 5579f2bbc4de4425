//! What went wrong in a client command, and showing it: the code and message, the line of SQL with a caret, the hint.

use std::fmt::Write as _;
use std::io::{self, ErrorKind, Write as _};
use std::process::ExitCode;

use serde_json::Value;

/// Why a command ends.
#[derive(Debug)]
pub(crate) enum CliError {
    /// The server said no.
    Server(ServerError),
    /// Anything else, in words.
    Message(String),
    /// Whoever read our output has read enough.
    Unread,
}

/// An error answer of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServerError {
    code: String,
    message: String,
    hint: Option<String>,
    position: Option<(usize, usize)>,
    /// Rows that are in, for an import.
    rows: Option<u64>,
    /// Results of the statements before the one that failed.
    results: Vec<Value>,
}

/// Result of a command.
pub(crate) type CliResult<T = ()> = Result<T, CliError>;

impl CliError {
    /// Anything that can be said in words.
    pub(crate) fn message(text: impl Into<String>) -> Self {
        Self::Message(text.into())
    }

    /// The error in words, with the place in the SQL it is about.
    pub(crate) fn describe(&self, sql: Option<&str>) -> String {
        match self {
            Self::Server(error) => error.describe(sql),
            Self::Message(message) => message.clone(),
            Self::Unread => String::new(),
        }
    }
}

impl From<io::Error> for CliError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::BrokenPipe => Self::Unread,
            _ => Self::Message(error.to_string()),
        }
    }
}

impl ServerError {
    /// Reads an error answer; one that is not ours (a proxy's) is shown as far as it goes.
    pub(crate) fn read(status: u16, body: &str) -> Self {
        let answer: Value = serde_json::from_str(body).unwrap_or_default();
        let error = &answer["error"];
        let text = |name: &str| error[name].as_str().map(str::to_owned);
        let number = |name: &str| error["position"][name].as_u64().and_then(|n| usize::try_from(n).ok());
        Self {
            code: text("code").unwrap_or_else(|| format!("HTTP {status}")),
            message: text("message").unwrap_or_else(|| body.chars().take(200).collect()),
            hint: text("hint"),
            position: number("line").zip(number("column")),
            rows: answer["rows"].as_u64(),
            results: answer["results"].as_array().cloned().unwrap_or_default(),
        }
    }

    /// Results of the statements before the one that failed.
    pub(crate) fn results(&self) -> &[Value] {
        &self.results
    }

    fn describe(&self, sql: Option<&str>) -> String {
        let mut text = format!("{}: {}", self.code, self.message);
        // Writing to a String cannot fail.
        if let Some((line, column)) = self.position
            && let Some(source) = sql.and_then(|sql| sql.lines().nth(line.saturating_sub(1)))
        {
            let before: String = source.chars().take(column.saturating_sub(1)).collect();
            let indent = " ".repeat(console::measure_text_width(&before.replace('\t', " ")));
            let _ = write!(text, "\n  {}\n  {indent}^", source.replace('\t', " "));
        }
        if let Some(hint) = &self.hint {
            let _ = write!(text, "\nhint: {hint}");
        }
        if let Some(rows) = self.rows {
            let _ = write!(text, "\n{rows} rows were committed before");
        }
        text
    }
}

/// Writes to standard output.
///
/// # Errors
/// [`CliError::Unread`] if nobody reads on.
pub(crate) fn print(text: &str) -> CliResult {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    Ok(stdout.flush()?)
}

/// The exit code of a command, after showing why it failed.
pub(crate) fn shown(result: CliResult) -> ExitCode {
    match result {
        Ok(()) | Err(CliError::Unread) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", error.describe(None));
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_caret_stands_under_the_place() {
        let body = r#"{"status":"error","error":{"code":"TABLE_NOT_FOUND","message":"no table x","hint":"did you mean y?",
                       "position":{"line":2,"column":6},"statement_index":0},"results":[]}"#;
        let error = ServerError::read(404, body);
        let expected = "TABLE_NOT_FOUND: no table x\n  FROM x\n       ^\nhint: did you mean y?";
        assert_eq!(error.describe(Some("SELECT 1\nFROM x")), expected);
        assert_eq!(error.describe(None), "TABLE_NOT_FOUND: no table x\nhint: did you mean y?");
    }

    #[test]
    fn an_answer_that_is_not_ours_is_shown_as_it_is() {
        assert_eq!(ServerError::read(502, "Bad Gateway").describe(None), "HTTP 502: Bad Gateway");
    }
}
