//! Errors as clients see them: one shape, everywhere.

use axum::http::header::{RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use kalamdb_sql::{Error, ErrorCode};
use serde_json::{Map, Value, json};

/// Seconds after which a locked user may try again.
const RETRY_LOGIN: &str = "60";
/// Seconds after which a busy server may be asked again.
const RETRY_SOON: &str = "1";

/// An error on its way to a client.
#[derive(Debug, Clone)]
pub(crate) struct ApiError {
    error: Error,
    statement_index: usize,
    /// The results of the statements before, as the inside of a JSON array.
    results: Vec<u8>,
    /// Further members of the answer.
    extra: Map<String, Value>,
}

/// Result of a handler.
pub(crate) type ApiResult<T = Response> = Result<T, ApiError>;

impl ApiError {
    /// An error of the transport.
    pub(crate) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Error::new(code, message).into()
    }

    /// A request that cannot be understood.
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::InvalidParameter, message)
    }

    /// Nobody, or not who they say; never tells which.
    pub(crate) fn unauthenticated(message: &str) -> Self {
        Self::new(ErrorCode::Unauthenticated, message)
    }

    /// The answer to statements that a shutdown cuts short.
    pub(crate) fn shutting_down() -> Self {
        Self::new(ErrorCode::ShuttingDown, "the server is shutting down")
    }

    /// Adds a hint.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.error = self.error.with_hint(hint);
        self
    }

    /// Says which statement failed and what those before it gave (the inside of a JSON array).
    pub(crate) fn at_statement(mut self, index: usize, results: Vec<u8>) -> Self {
        self.statement_index = index;
        self.results = results;
        self
    }

    /// Adds a member to the answer, beside `error`.
    pub(crate) fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.extra.insert(name.into(), value.into());
        self
    }

    /// The error itself.
    pub(crate) fn error(&self) -> &Error {
        &self.error
    }

    /// The HTTP status.
    pub(crate) fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.error.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    fn body(&self) -> Vec<u8> {
        let mut error = json!({
            "code": self.error.code.as_str(),
            "message": self.error.message,
            "statement_index": self.statement_index,
        });
        if let Some(hint) = &self.error.hint {
            error["hint"] = json!(hint);
        }
        if let Some(position) = self.error.position {
            error["position"] = json!({"line": position.line, "column": position.column});
        }
        let mut body = Vec::with_capacity(256 + self.results.len());
        body.extend_from_slice(b"{\"status\":\"error\",\"error\":");
        body.extend_from_slice(error.to_string().as_bytes());
        for (name, value) in &self.extra {
            body.extend_from_slice(format!(",{}:{value}", json!(name)).as_bytes());
        }
        body.extend_from_slice(b",\"results\":[");
        body.extend_from_slice(&self.results);
        body.extend_from_slice(b"]}\n");
        body
    }
}

impl From<Error> for ApiError {
    fn from(error: Error) -> Self {
        Self { error, statement_index: 0, results: Vec::new(), extra: Map::new() }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let json = [("content-type", "application/json")];
        let mut response = (self.status(), json, self.body()).into_response();
        let headers = response.headers_mut();
        match self.error.code {
            ErrorCode::Unauthenticated => {
                headers.insert(
                    WWW_AUTHENTICATE,
                    HeaderValue::from_static(r#"Basic realm="kalamdb", charset="UTF-8""#),
                );
            }
            ErrorCode::RateLimited => {
                headers.insert(RETRY_AFTER, HeaderValue::from_static(RETRY_LOGIN));
            }
            ErrorCode::Overloaded | ErrorCode::ShuttingDown => {
                headers.insert(RETRY_AFTER, HeaderValue::from_static(RETRY_SOON));
            }
            _ => {}
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kalamdb_sql::Position;

    #[test]
    fn the_answer_has_the_shape_of_the_reference() {
        let error = Error::new(ErrorCode::TableNotFound, "table \"a\" does not exist")
            .with_hint("did you mean b?")
            .with_position(Position { line: 2, column: 7 });
        let error = ApiError::from(error).at_statement(1, br#"{"row_count":1}"#.to_vec());
        let body: Value = serde_json::from_slice(&error.body()).unwrap();
        let expected = json!({
            "status": "error",
            "error": {
                "code": "TABLE_NOT_FOUND", "message": "table \"a\" does not exist", "hint": "did you mean b?",
                "position": {"line": 2, "column": 7}, "statement_index": 1,
            },
            "results": [{"row_count": 1}],
        });
        assert_eq!(body, expected);
        assert_eq!(error.status(), StatusCode::NOT_FOUND);
    }

    #[test]
    fn errors_carry_the_headers_that_tell_a_client_what_to_do() {
        let header = |code, name| {
            let response = ApiError::new(code, "x").into_response();
            response.headers().get(name).map(|value| value.to_str().unwrap().to_owned())
        };
        assert!(header(ErrorCode::Unauthenticated, WWW_AUTHENTICATE).unwrap().starts_with("Basic realm="));
        assert_eq!(header(ErrorCode::RateLimited, RETRY_AFTER).as_deref(), Some("60"));
        assert_eq!(header(ErrorCode::Overloaded, RETRY_AFTER).as_deref(), Some("1"));
        assert_eq!(header(ErrorCode::SyntaxError, RETRY_AFTER), None);
    }

    #[test]
    fn every_status_can_be_sent() {
        assert_eq!(ApiError::new(ErrorCode::Cancelled, "x").status().as_u16(), 499);
    }
}
