//! A client of the server, over the same HTTP interface as everybody else's.

use std::io::Read;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use serde_json::{Value, json};
use ureq::http::Response;
use ureq::{Agent, Body, SendBody};

use super::error::{CliError, CliResult, ServerError};

const PASSWORD_VARIABLE: &str = "KALAMDB_PASSWORD";

/// Where the server is and who is asking.
#[derive(Args)]
pub(crate) struct ServerArgs {
    /// User to log in as; the password comes from KALAMDB_PASSWORD or is asked for
    #[arg(short, long, env = "KALAMDB_USER", default_value = "root")]
    user: String,
    /// Address of the server
    #[arg(long, env = "KALAMDB_URL", default_value = "http://127.0.0.1:8080")]
    url: String,
}

/// A connection to a server.
#[derive(Clone)]
pub(crate) struct Client {
    agent: Agent,
    url: String,
    authorization: String,
}

impl Client {
    /// A client for these arguments.
    ///
    /// # Errors
    /// If there is no password and nobody to ask for it.
    pub(crate) fn new(args: &ServerArgs) -> CliResult<Self> {
        let password = password(&args.user)?;
        let config = Agent::config_builder().http_status_as_error(false).build();
        Ok(Self {
            agent: config.into(),
            url: args.url.trim_end_matches('/').to_owned(),
            authorization: format!("Basic {}", STANDARD.encode(format!("{}:{password}", args.user))),
        })
    }

    /// Runs SQL and gives the answer's body in the form of `accept`.
    ///
    /// # Errors
    /// The server's error, or that it cannot be reached.
    pub(crate) fn sql(
        &self,
        sql: &str,
        namespace: Option<&str>,
        accept: &str,
        row_format: &str,
    ) -> CliResult<Body> {
        let mut request = json!({"sql": sql, "row_format": row_format});
        if let Some(namespace) = namespace {
            request["namespace"] = json!(namespace);
        }
        self.post_json("/api/sql", &request, accept)
    }

    /// Runs SQL and gives the results, their rows as arrays.
    ///
    /// # Errors
    /// The server's error, or that it cannot be reached.
    pub(crate) fn results(&self, sql: &str, namespace: Option<&str>) -> CliResult<Vec<Value>> {
        let body = self.sql(sql, namespace, "application/json", "arrays")?;
        let mut answer: Value = serde_json::from_reader(reader(body))
            .map_err(|error| CliError::message(format!("the server's answer cannot be read: {error}")))?;
        match answer["results"].take() {
            Value::Array(results) => Ok(results),
            _ => Err(CliError::message("the server's answer has no results")),
        }
    }

    /// Opens a live feed of one query.
    ///
    /// # Errors
    /// The server's error, or that it cannot be reached.
    pub(crate) fn live(&self, sql: &str, namespace: Option<&str>) -> CliResult<Body> {
        let mut request = json!({"subscriptions": [{"id": "live", "sql": sql}]});
        if let Some(namespace) = namespace {
            request["namespace"] = json!(namespace);
        }
        self.post_json("/api/live", &request, "text/event-stream")
    }

    /// Streams rows into a table.
    ///
    /// # Errors
    /// The server's error, or that it cannot be reached.
    pub(crate) fn import(
        &self,
        path: &str,
        options: &[(&str, String)],
        content_type: &str,
        rows: &mut dyn Read,
    ) -> CliResult<Value> {
        let mut request = self.agent.post(format!("{}{path}", self.url));
        for (name, value) in options {
            request = request.query(*name, value);
        }
        let request = request.header("authorization", &self.authorization).content_type(content_type);
        let body =
            checked(request.send(SendBody::from_reader(rows)).map_err(|error| self.unreachable(&error))?)?;
        serde_json::from_reader(reader(body))
            .map_err(|error| CliError::message(format!("the server's answer cannot be read: {error}")))
    }

    fn post_json(&self, path: &str, body: &Value, accept: &str) -> CliResult<Body> {
        let request = self.agent.post(format!("{}{path}", self.url));
        let request = request.header("authorization", &self.authorization).header("accept", accept);
        let sent = request.content_type("application/json").send(body.to_string());
        checked(sent.map_err(|error| self.unreachable(&error))?)
    }

    fn unreachable(&self, error: &ureq::Error) -> CliError {
        CliError::message(format!("the server at {} cannot be reached: {error}", self.url))
    }
}

/// The whole body as it comes, of any length.
pub(crate) fn reader(body: Body) -> impl Read + Send + 'static {
    body.into_with_config().limit(u64::MAX).reader()
}

fn checked(response: Response<Body>) -> CliResult<Body> {
    let status = response.status();
    let mut body = response.into_body();
    if status.is_success() {
        return Ok(body);
    }
    let text = body.read_to_string().unwrap_or_default();
    Err(CliError::Server(ServerError::read(status.as_u16(), &text)))
}

fn password(user: &str) -> CliResult<String> {
    if let Ok(password) = std::env::var(PASSWORD_VARIABLE) {
        return Ok(password);
    }
    let terminal = console::Term::stderr();
    if !terminal.is_term() {
        return Err(CliError::message(format!("there is no password for {user}: set {PASSWORD_VARIABLE}")));
    }
    terminal.write_str(&format!("Password for {user}: "))?;
    Ok(terminal.read_secure_line()?)
}
