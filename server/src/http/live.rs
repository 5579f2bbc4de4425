//! `GET` and `POST /api/live`: opens a live feed.

use axum::body::Body;
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderName, Uri};
use axum::response::{IntoResponse, Response};
use std::time::Duration;

use super::auth::{Caller, FeedCaller};
use super::body;
use super::error::{ApiError, ApiResult};
use super::live_request::{self, FeedRequest};
use super::query::Pairs;
use super::sse::{Ending, SseFeed};
use super::state::Shared;

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
const ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// `GET /api/live`.
pub(crate) async fn get(
    State(app): State<Shared>,
    FeedCaller(caller): FeedCaller,
    uri: Uri,
    headers: HeaderMap,
) -> ApiResult {
    let request = live_request::from_pairs(&Pairs::of(&uri))?;
    open(app, caller, &headers, request).await
}

/// `POST /api/live`.
pub(crate) async fn post(
    State(app): State<Shared>,
    FeedCaller(caller): FeedCaller,
    headers: HeaderMap,
    body: Body,
) -> ApiResult {
    let body = body::gather(&headers, body, app.config.limits.body.bytes()).await?;
    let media_type = body::media_type(&headers);
    if !matches!(media_type.as_str(), "" | "application/json") {
        return Err(ApiError::invalid(format!("a body of type {media_type:?} cannot describe a feed"))
            .hint("send application/json"));
    }
    let request = live_request::from_json(&body)?;
    open(app, caller, &headers, request).await
}

async fn open(app: Shared, caller: Caller, headers: &HeaderMap, mut request: FeedRequest) -> ApiResult {
    if app.shutdown.begun() {
        return Err(ApiError::shutting_down());
    }
    // A browser that reconnects sends what it saw last, while its address still holds where it once began.
    if let Some(seen) = headers.get(LAST_EVENT_ID) {
        // What is not even text is no id of ours either, and must be refused like any other.
        let seen = String::from_utf8_lossy(seen.as_bytes()).trim().to_owned();
        request.live.last_event_id = Some(seen).filter(|seen| !seen.is_empty());
    }
    let ids = request.live.subscriptions.iter().filter_map(|s| s.id.clone()).collect();
    let mut session = app.instance.session(caller.identity.clone());
    if let Some(namespace) = &request.namespace {
        session.use_namespace(namespace)?;
    }
    let events = session.live(request.live).await?;
    let ending = ending(&app, &caller);
    let feed = SseFeed::new(app, events, ids, ending);
    Ok(answer(Body::from_stream(feed)))
}

fn answer(body: Body) -> Response {
    let headers = [
        (CONTENT_TYPE, "text/event-stream; charset=utf-8"),
        (CACHE_CONTROL, "no-store"),
        (ACCEL_BUFFERING, "no"),
    ];
    (headers, body).into_response()
}

/// What ends a feed from outside: the server's end, or that of the token it was opened with.
fn ending(app: &Shared, caller: &Caller) -> impl Future<Output = Ending> + Send + 'static {
    let shutdown = app.shutdown.on_begin();
    let left = caller
        .claims
        .as_ref()
        .map(|claims| Duration::from_secs(claims.exp.saturating_sub(app.now_seconds())));
    async move {
        let expiry = async {
            match left {
                Some(left) => tokio::time::sleep(left).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = shutdown => Ending::Shutdown,
            () = expiry => Ending::TokenExpired,
        }
    }
}
