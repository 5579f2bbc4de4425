//! Somebody who sends SQL over HTTP.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use ureq::http::{HeaderMap, Response};
use ureq::{Agent, Body};

use crate::PATIENCE;

/// A user at a server. Every call panics if there is no answer at all.
#[derive(Debug, Clone)]
pub struct Client {
    agent: Agent,
    url: String,
    authorization: Option<String>,
}

/// Any answer.
#[derive(Debug)]
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// Headers.
    pub headers: HeaderMap,
    /// Body.
    pub text: String,
}

/// An error answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Refusal {
    /// HTTP status.
    pub status: u16,
    /// `error.code`.
    pub code: String,
    /// The whole answer.
    pub answer: Value,
}

impl Client {
    /// A client with Basic credentials.
    pub fn new(url: &str, user: &str, password: &str) -> Self {
        let authorization = format!("Basic {}", STANDARD.encode(format!("{user}:{password}")));
        Self::with_authorization(url, Some(authorization))
    }

    /// A client that sends this header, or none.
    pub fn with_authorization(url: &str, authorization: Option<String>) -> Self {
        let config =
            Agent::config_builder().http_status_as_error(false).timeout_global(Some(2 * PATIENCE)).build();
        Self { agent: config.into(), url: url.to_owned(), authorization }
    }

    /// The same server, without credentials.
    #[must_use]
    pub fn anonymous(&self) -> Self {
        Self::with_authorization(&self.url, None)
    }

    /// The same server, with a token.
    #[must_use]
    pub fn bearer(&self, token: &str) -> Self {
        Self::with_authorization(&self.url, Some(format!("Bearer {token}")))
    }

    /// `http://host:port`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The value of the `Authorization` header.
    pub fn authorization(&self) -> Option<&str> {
        self.authorization.as_deref()
    }

    /// `GET`.
    pub fn get(&self, path: &str) -> Reply {
        let mut request = self.agent.get(format!("{}{path}", self.url));
        if let Some(value) = &self.authorization {
            request = request.header("authorization", value);
        }
        Reply::of(request.call())
    }

    /// `POST` with these headers.
    pub fn post(&self, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
        match self.try_post(path, headers, body) {
            Ok(reply) => reply,
            Err(error) => panic!("POST {path}: {error}"),
        }
    }

    /// `POST` to a server that may not be there any more.
    ///
    /// # Errors
    /// If there is no whole answer.
    pub fn try_post(&self, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Result<Reply, String> {
        let mut request = self.agent.post(format!("{}{path}", self.url));
        if let Some(value) = &self.authorization {
            request = request.header("authorization", value);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.send(body).map_err(|error| error.to_string()).and_then(Reply::read)
    }

    /// `POST` of a body whose length is not known beforehand.
    pub fn post_stream(&self, path: &str, content_type: &str, body: &mut dyn std::io::Read) -> Reply {
        let mut request = self.agent.post(format!("{}{path}", self.url)).content_type(content_type);
        if let Some(value) = &self.authorization {
            request = request.header("authorization", value);
        }
        Reply::of(request.send(ureq::SendBody::from_reader(body)))
    }

    /// `POST /api/sql` with a JSON body.
    pub fn request(&self, body: &Value) -> Reply {
        self.post("/api/sql", &[("content-type", "application/json")], body.to_string().as_bytes())
    }

    /// Runs SQL if the server is there: the answer, or what kept it from being one.
    ///
    /// # Errors
    /// A text: of the connection, or the error answer.
    pub fn try_sql(&self, sql: &str) -> Result<Value, String> {
        let body = json!({"sql": sql}).to_string();
        let reply = self.try_post("/api/sql", &[("content-type", "application/json")], body.as_bytes())?;
        if reply.status == 200 { Ok(reply.json()) } else { Err(reply.text) }
    }

    /// Runs SQL; all results.
    pub fn sql(&self, sql: &str) -> Vec<Value> {
        self.sql_with(sql, json!([]))
    }

    /// Runs a statement with parameters; all results.
    pub fn sql_with(&self, sql: &str, params: Value) -> Vec<Value> {
        let reply = self.request(&json!({"sql": sql, "params": params}));
        assert_eq!(reply.status, 200, "{sql}: {}", reply.text);
        let answer = reply.json();
        assert_eq!(answer["status"], "success", "{sql}");
        answer["results"].as_array().expect("results").clone()
    }

    /// Runs SQL; the last result.
    pub fn last(&self, sql: &str) -> Value {
        self.sql(sql).pop().expect("a result")
    }

    /// Runs SQL; the rows of the last result.
    pub fn rows(&self, sql: &str) -> Vec<Value> {
        self.last(sql)["rows"].as_array().expect("rows").clone()
    }

    /// Runs SQL; the rows of the last result as arrays of values.
    pub fn grid(&self, sql: &str) -> Vec<Vec<Value>> {
        let reply = self.request(&json!({"sql": sql, "row_format": "arrays"}));
        assert_eq!(reply.status, 200, "{sql}: {}", reply.text);
        let mut answer = reply.json();
        let result = answer["results"].as_array_mut().and_then(Vec::pop).expect("a result");
        let rows = result["rows"].as_array().expect("rows").iter();
        rows.map(|row| row.as_array().expect("a row is an array").clone()).collect()
    }

    /// Runs SQL; the only value of the only row of the last result.
    pub fn value(&self, sql: &str) -> Value {
        let mut rows = self.grid(sql);
        assert!(rows.len() == 1 && rows[0].len() == 1, "{sql}: {rows:?}");
        rows.remove(0).remove(0)
    }

    /// Runs SQL; the only value as a number.
    pub fn number(&self, sql: &str) -> i64 {
        number(&self.value(sql)).unwrap_or_else(|| panic!("{sql}: not a number"))
    }

    /// Runs a statement that writes; the sequence of its commit.
    pub fn seq(&self, sql: &str) -> u64 {
        let result = self.last(sql);
        result["seq"].as_u64().unwrap_or_else(|| panic!("{sql} has no seq: {result}"))
    }

    /// Runs SQL that must be refused with this status and code.
    pub fn refused(&self, sql: &str, status: u16, code: &str) -> Refusal {
        let refusal = self.request(&json!({"sql": sql})).refusal();
        assert_eq!((refusal.status, refusal.code.as_str()), (status, code), "{sql}: {}", refusal.answer);
        refusal
    }
}

/// A number as the server writes them: large ones are texts.
pub(crate) fn number(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| value.as_str()?.parse().ok())
}

impl Reply {
    fn of(response: Result<Response<Body>, ureq::Error>) -> Self {
        match response.map_err(|error| error.to_string()).and_then(Self::read) {
            Ok(reply) => reply,
            Err(error) => panic!("no answer: {error}"),
        }
    }

    fn read(response: Response<Body>) -> Result<Self, String> {
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let body = response.into_body().into_with_config().limit(u64::MAX).read_to_vec();
        let text = String::from_utf8_lossy(&body.map_err(|error| error.to_string())?).into_owned();
        Ok(Self { status, headers, text })
    }

    /// A header's value; empty if there is none.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The body, which must be JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {:?}", self.text))
    }

    /// The answer as an error, which must have the shape that all of them have.
    pub fn refusal(&self) -> Refusal {
        let answer = self.json();
        assert_eq!(answer["status"], "error", "{answer}");
        let error = &answer["error"];
        assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()), "{answer}");
        assert!(error["statement_index"].is_u64() && answer["results"].is_array(), "{answer}");
        let code = error["code"].as_str().expect("a code").to_owned();
        assert_ne!(code, "INTERNAL", "{answer}");
        Refusal { status: self.status, code, answer }
    }
}

impl Refusal {
    /// The message in words.
    pub fn message(&self) -> &str {
        self.answer["error"]["message"].as_str().unwrap_or_default()
    }

    /// The hint; empty if there is none.
    pub fn hint(&self) -> &str {
        self.answer["error"]["hint"].as_str().unwrap_or_default()
    }
}

/// A text as part of an address.
pub fn encode(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        match byte {
            b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b'-' | b'_' | b'.' | b'~' => {
                encoded.push(char::from(byte))
            }
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}
