//! Around every request: its time is counted, and it is logged.

use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::http::header::WWW_AUTHENTICATE;
use axum::middleware::Next;
use axum::response::Response;
use tower_http::request_id::RequestId;

use super::state::Shared;

/// Marks a request made by a script: browsers then leave asking for a password to the page.
const REQUESTED_WITH: &str = "x-requested-with";

/// Counts and logs a request. Neither the query part of the address nor any header is logged: they may hold secrets.
pub(crate) async fn track(State(app): State<Shared>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let id = request.extensions().get::<RequestId>().cloned();
    let route = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let scripted = request.headers().contains_key(REQUESTED_WITH);
    let mut response = next.run(request).await;
    if scripted {
        response.headers_mut().remove(WWW_AUTHENTICATE);
    }
    let took = started.elapsed();
    let status = response.status().as_u16();
    app.metrics.request(route.as_deref().unwrap_or("(none)"), status, took);
    let id = id.as_ref().and_then(|id| id.header_value().to_str().ok()).unwrap_or_default();
    if status >= 500 {
        tracing::warn!(request_id = id, %method, path, status, ?took, "request");
    } else {
        tracing::debug!(request_id = id, %method, path, status, ?took, "request");
    }
    response
}
