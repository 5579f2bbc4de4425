//! From a running request to an answer: the beginning is held back, so that most failures still get their own status;
//! a longer answer is streamed as the client reads it, and never gathered.
//!
//! The work is driven by whoever polls the answer. When the client goes away the server drops the answer and, with it,
//! the running query.

use std::sync::atomic::Ordering::Relaxed;

use axum::body::Body;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use bytes::Bytes;
use futures::stream;
use kalamdb_sql::Error;
use tokio::sync::OwnedSemaphorePermit;

use super::error::{ApiError, ApiResult};
use super::state::Shared;

/// What is held back before the head of the answer is sent.
const HELD: usize = 1 << 20;
/// What one frame of a streamed answer gathers.
const FRAME: usize = 64 << 10;

/// How far one step came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// In the middle of a result.
    Inside,
    /// One more result is whole.
    Result,
    /// The answer is whole.
    End,
}

/// A statement failed.
#[derive(Debug)]
pub(crate) struct Failure {
    /// Why.
    pub(crate) error: Error,
    /// Which one, from 0.
    pub(crate) index: usize,
}

/// Something that writes an answer piece by piece.
pub(crate) trait Produce: Send + 'static {
    /// The media type of the answer.
    fn content_type(&self) -> &'static str;
    /// What comes before the results.
    fn opening(&self) -> &'static [u8];
    /// True if what was written so far can stand in the `results` of an error.
    fn results_are_json(&self) -> bool;
    /// Does a piece of the work and appends what it gives.
    fn step(&mut self, out: &mut Vec<u8>) -> impl Future<Output = Result<Step, Failure>> + Send;
}

/// Runs the work to the point where the answer can begin, and lets the answer drive the rest.
///
/// # Errors
/// The failure of a statement, if it comes before the answer began.
pub(crate) async fn answer<P: Produce>(app: Shared, mut work: P, turn: OwnedSemaphorePermit) -> ApiResult {
    let mut head = Vec::with_capacity(1024);
    head.extend_from_slice(work.opening());
    let first_result = head.len();
    let mut complete = head.len();
    let content_type = [(CONTENT_TYPE, work.content_type())];
    while head.len() < HELD {
        let step = tokio::select! {
            biased;
            step = work.step(&mut head) => step,
            () = app.shutdown.on_expiry() => return Err(ApiError::shutting_down()),
        };
        match step {
            Ok(Step::Inside) => {}
            Ok(Step::Result) => {
                app.metrics.statements.fetch_add(1, Relaxed);
                complete = head.len();
            }
            Ok(Step::End) => return Ok((content_type, head).into_response()),
            Err(failure) => {
                app.metrics.failures.fetch_add(1, Relaxed);
                let results = match work.results_are_json() {
                    true => head[first_result..complete].to_vec(),
                    false => Vec::new(),
                };
                return Err(ApiError::from(failure.error).at_statement(failure.index, results));
            }
        }
    }
    Ok((content_type, streamed(app, work, head, turn)).into_response())
}

fn streamed<P: Produce>(app: Shared, work: P, head: Vec<u8>, turn: OwnedSemaphorePermit) -> Body {
    let rest = stream::try_unfold(Some((work, turn)), move |state| {
        let app = app.clone();
        async move {
            let Some((mut work, turn)) = state else { return Ok(None) };
            let mut frame = Vec::new();
            while frame.len() < FRAME {
                let step = tokio::select! {
                    biased;
                    step = work.step(&mut frame) => step,
                    () = app.shutdown.on_expiry() => return Err(ApiError::shutting_down().error().clone()),
                };
                match step {
                    Ok(Step::Inside) => {}
                    Ok(Step::Result) => {
                        app.metrics.statements.fetch_add(1, Relaxed);
                    }
                    Ok(Step::End) => return Ok(Some((Bytes::from(frame), None))),
                    Err(failure) => {
                        app.metrics.failures.fetch_add(1, Relaxed);
                        return Err(cut_short(failure));
                    }
                }
            }
            Ok(Some((Bytes::from(frame), Some((work, turn)))))
        }
    });
    use futures::StreamExt;
    Body::from_stream(stream::iter([Ok::<_, Error>(Bytes::from(head))]).chain(rest))
}

/// The status is sent: all that is left is to end the answer so that the client sees it is not whole.
fn cut_short(failure: Failure) -> Error {
    let Failure { error, index } = failure;
    tracing::warn!(code = error.code.as_str(), %error, statement_index = index, "an answer was cut short");
    error
}
