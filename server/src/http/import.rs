//! `POST /api/import/{namespace}/{table}`: rows in bulk, committed in batches while the body still comes in.

use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Uri};
use axum::response::IntoResponse;
use http_body_util::BodyExt;
use kalamdb_sql::{ImportOptions, ImportReport, Importer};
use serde_json::json;

use super::auth::Caller;
use super::body;
use super::error::{ApiError, ApiResult};
use super::import_source::{Encoding, Kind, Source};
use super::query::Pairs;
use super::state::Shared;

const DEFAULT_BATCH_ROWS: u64 = 10_000;
const MAX_BATCH_ROWS: u64 = 1_000_000;

/// How long the rest of a refused import is read and forgotten, so that its sender gets to see why.
const DRAIN_TIME: Duration = Duration::from_secs(30);

/// `POST /api/import/{namespace}/{table}`.
pub(crate) async fn import(
    State(app): State<Shared>,
    caller: Caller,
    path: Result<Path<(String, String)>, PathRejection>,
    uri: Uri,
    headers: HeaderMap,
    mut body: Body,
) -> ApiResult {
    let Path((namespace, table)) = path.map_err(|error| ApiError::invalid(error.body_text()))?;
    let started = Instant::now();
    let outcome = run(&app, caller, (&namespace, &table), &uri, &headers, &mut body).await;
    let report = match outcome {
        Ok(report) => report,
        Err(failed) => {
            body::drain(body, usize::MAX, DRAIN_TIME).await;
            return Err(failed);
        }
    };
    app.metrics.imported_rows.fetch_add(report.rows, Relaxed);
    tracing::info!(table = format!("{namespace}.{table}"), rows = report.rows, took = ?started.elapsed(), "import");
    let answer = json!({
        "status": "success",
        "rows": report.rows,
        "seq": report.seq,
        "execution_time_ms": started.elapsed().as_micros() as f64 / 1000.0,
    });
    Ok(Json(answer).into_response())
}

async fn run(
    app: &Shared,
    caller: Caller,
    (namespace, table): (&str, &str),
    uri: &Uri,
    headers: &HeaderMap,
    body: &mut Body,
) -> ApiResult<ImportReport> {
    let kind = Kind::of(&body::media_type(headers))?;
    let encoding = Encoding::of(headers)?;
    let options = options(&Pairs::of(uri))?;
    let _turn = app.turn().await?;
    let session = app.instance.session(caller.identity);
    let mut importer = session.importer(namespace, table, options).await?;
    let mut source = Source::new(kind, encoding, &app.config.data)?;
    let fed = tokio::select! {
        fed = feed(&mut importer, &mut source, body) => fed,
        () = app.shutdown.on_expiry() => Err(ApiError::shutting_down()),
    };
    let outcome = match fed {
        Ok(()) => importer.finish().await.map_err(ApiError::from),
        Err(failed) => Err(failed),
    };
    outcome.map_err(|failed| {
        let rows = importer.committed_rows();
        app.metrics.imported_rows.fetch_add(rows, Relaxed);
        failed.with("rows", rows)
    })
}

async fn feed(importer: &mut Importer, source: &mut Source, body: &mut Body) -> ApiResult<()> {
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.map_err(|error| body::broken(&error))?.into_data() {
            source.push(data, importer).await?;
        }
    }
    source.end(importer).await
}

fn options(pairs: &Pairs) -> ApiResult<ImportOptions> {
    pairs.only(&["null", "batch_rows", "user_column"])?;
    let batch_rows = pairs.number("batch_rows")?.unwrap_or(DEFAULT_BATCH_ROWS);
    if !(1..=MAX_BATCH_ROWS).contains(&batch_rows) {
        return Err(ApiError::invalid(format!("batch_rows must be between 1 and {MAX_BATCH_ROWS}")));
    }
    Ok(ImportOptions {
        null: pairs.last("null").map(Into::into),
        batch_rows: batch_rows as usize,
        user_column: pairs.last("user_column").map(Into::into),
    })
}
