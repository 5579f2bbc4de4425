//! The HTTP interface: routes, and the layers around them.

mod aside;
mod auth;
mod body;
mod cors;
mod error;
mod formats;
mod health;
mod import;
mod import_source;
mod live;
mod live_request;
mod login;
mod metrics;
mod panics;
mod produce;
mod query;
mod sql;
mod sse;
mod state;
mod tokens;
mod track;

use axum::Router;
use axum::extract::OriginalUri;
use axum::http::Method;
use axum::routing::{get, post};
use kalamdb_sql::ErrorCode;
use tower::ServiceBuilder;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::compression::CompressionLayer;
use tower_http::request_id::{MakeRequestUuid, PropagateRequestIdLayer, SetRequestIdLayer};

use error::ApiError;

pub(crate) use state::{App, Shared};
pub(crate) use tokens::Tokens;

/// All routes over one server's state.
pub(crate) fn router(app: Shared) -> Router {
    let id_header = axum::http::HeaderName::from_static("x-request-id");
    // The first layer is the outermost one.
    let layers = ServiceBuilder::new()
        .layer(SetRequestIdLayer::new(id_header.clone(), MakeRequestUuid))
        .layer(PropagateRequestIdLayer::new(id_header))
        .layer(axum::middleware::from_fn_with_state(app.clone(), track::track))
        .layer(cors::layer(&app.config.cors_origins))
        .layer(CatchPanicLayer::custom(panics::answer))
        .layer(CompressionLayer::new());
    Router::new()
        .route("/", get(health::index))
        .route("/health", get(health::health))
        .route("/ready", get(health::ready))
        .route("/metrics", get(metrics::metrics))
        .nest("/api", api())
        .nest("/v1", api())
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(layers)
        .with_state(app)
}

fn api() -> Router<Shared> {
    Router::new()
        .route("/sql", post(sql::sql))
        .route("/live", get(live::get).post(live::post))
        .route("/import/{namespace}/{table}", post(import::import))
        .route("/auth/login", post(login::login))
        .route("/auth/refresh", post(login::refresh))
        .route("/auth/logout", post(login::logout))
        .route("/auth/me", get(login::me))
        .route("/openapi.json", get(health::openapi))
        .method_not_allowed_fallback(method_not_allowed)
}

async fn not_found(OriginalUri(uri): OriginalUri) -> ApiError {
    ApiError::new(ErrorCode::NotFound, format!("there is nothing at {}", uri.path()))
        .hint("GET /api/openapi.json lists the endpoints")
}

async fn method_not_allowed(method: Method, OriginalUri(uri): OriginalUri) -> ApiError {
    ApiError::new(ErrorCode::MethodNotAllowed, format!("{} does not take {method}", uri.path()))
        .hint("the Allow header lists what it takes")
}
