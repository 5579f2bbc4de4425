//! For those who watch the server: is it alive, does it serve, what is it.

use axum::Json;
use axum::extract::State;
use axum::http::header::{ACCEPT, CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::state::Shared;

/// The console is one file and talks to its own server only.
const CONSOLE_POLICY: &str = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; \
     form-action 'none'; frame-ancestors 'none'; base-uri 'none'";

/// `GET /health`: the process answers.
pub(crate) async fn health() -> Json<Value> {
    Json(json!({"status": "ok"}))
}

/// `GET /ready`: the database is open and takes statements.
pub(crate) async fn ready(State(app): State<Shared>) -> Response {
    if app.shutdown.begun() {
        let answer = Json(json!({"status": "shutting_down"}));
        return (StatusCode::SERVICE_UNAVAILABLE, answer).into_response();
    }
    Json(json!({"status": "ready", "version": env!("CARGO_PKG_VERSION")})).into_response()
}

/// `GET /api/openapi.json`: this interface, described for programs.
pub(crate) async fn openapi() -> Response {
    ([("content-type", "application/json")], include_str!("openapi.json")).into_response()
}

/// `GET /`: the console for browsers, a pointer for programs.
pub(crate) async fn index(headers: HeaderMap) -> Response {
    let accept = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if accept.contains("text/html") {
        let headers = [(CONTENT_TYPE, "text/html; charset=utf-8"), (CONTENT_SECURITY_POLICY, CONSOLE_POLICY)];
        return (headers, include_str!("console.html")).into_response();
    }
    let answer = json!({
        "name": "kalamdb",
        "version": env!("CARGO_PKG_VERSION"),
        "sql": "POST /api/sql",
        "live": "GET /api/live?sql=...",
        "description": "/api/openapi.json",
    });
    Json(answer).into_response()
}
