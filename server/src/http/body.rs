//! Request bodies: what they are, and how much of them is taken.

use std::time::Duration;

use axum::body::Body;
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, EXPECT};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use kalamdb_sql::{Error, ErrorCode, Position};
use serde::de::DeserializeOwned;

use super::error::{ApiError, ApiResult};

/// What is still read of a body that is refused, so that a client that writes before it reads gets to see the answer.
const DRAIN_BYTES: usize = 64 << 20;
const DRAIN_TIME: Duration = Duration::from_secs(5);

/// The media type without its parameters, in lower case; empty if there is none.
pub(crate) fn media_type(headers: &HeaderMap) -> String {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// Gathers a body of at most `limit` bytes.
///
/// # Errors
/// `TOO_LARGE`, also for a body of unknown length as soon as it passes the limit; `INVALID_PARAMETER` for an encoded
/// body or one that ends early.
pub(crate) async fn gather(headers: &HeaderMap, mut body: Body, limit: usize) -> ApiResult<Bytes> {
    if headers.get(CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity") {
        return Err(ApiError::invalid("compressed request bodies are accepted by imports only"));
    }
    let announced = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|length| length > limit) {
        // A client that asked whether to send the body is answered before it does.
        if !headers.contains_key(EXPECT) {
            drain(body, DRAIN_BYTES, DRAIN_TIME).await;
        }
        return Err(too_large(limit));
    }
    let mut first = Bytes::new();
    let mut gathered = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|error| broken(&error))?.into_data() else { continue };
        if first.len() + gathered.len() + data.len() > limit {
            drain(body, DRAIN_BYTES, DRAIN_TIME).await;
            return Err(too_large(limit));
        }
        // Most bodies are one frame: that one is kept as it is.
        if first.is_empty() && gathered.is_empty() {
            first = data;
            continue;
        }
        if gathered.is_empty() {
            gathered.reserve(announced.unwrap_or(first.len() + data.len()));
            gathered.extend_from_slice(&std::mem::take(&mut first));
        }
        gathered.extend_from_slice(&data);
    }
    Ok(if gathered.is_empty() { first } else { gathered.freeze() })
}

/// Reads and forgets the rest of a body, up to a limit.
pub(crate) async fn drain(mut body: Body, bytes: usize, time: Duration) {
    let reading = async {
        let mut seen = 0;
        while let Some(Ok(frame)) = body.frame().await {
            seen += frame.data_ref().map_or(0, Bytes::len);
            if seen > bytes {
                break;
            }
        }
    };
    // Out of time: the connection is closed with the body unread.
    drop(tokio::time::timeout(time, reading).await);
}

/// The error for a request whose body did not arrive whole.
pub(crate) fn broken(error: &axum::Error) -> ApiError {
    ApiError::invalid(format!("the request's body cannot be read: {error}"))
}

fn too_large(limit: usize) -> ApiError {
    ApiError::new(ErrorCode::TooLarge, format!("the request's body is larger than {limit} bytes"))
        .hint("POST /api/import/{namespace}/{table} takes rows of any number")
}

/// A body that must be a JSON object of a known shape.
///
/// # Errors
/// `SYNTAX_ERROR` with the position for text that is not JSON; `INVALID_PARAMETER` for JSON of another shape.
pub(crate) fn parse_json<T: DeserializeOwned>(body: &[u8]) -> ApiResult<T> {
    // Serde would read a list as the members in their order.
    if body.trim_ascii_start().starts_with(b"[") {
        return Err(ApiError::invalid("the request's body must be a JSON object"));
    }
    serde_json::from_slice(body).map_err(|error| {
        let code = if error.is_data() { ErrorCode::InvalidParameter } else { ErrorCode::SyntaxError };
        let what = if error.is_data() { "the request's body" } else { "the request's body is not JSON" };
        // serde_json ends its messages with the position, which has a place of its own here.
        let text = error.to_string();
        let reason = text.rsplit_once(" at line ").map_or(text.as_str(), |(reason, _)| reason);
        let position = (error.line() > 0)
            .then(|| Position { line: error.line() as u64, column: (error.column() as u64).max(1) });
        Error::new(code, format!("{what}: {reason}")).with_position(position).into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::stream;

    fn chunks(sizes: &[usize]) -> Body {
        let chunks: Vec<Result<Bytes, std::io::Error>> =
            sizes.iter().map(|n| Ok(vec![b'x'; *n].into())).collect();
        Body::from_stream(stream::iter(chunks))
    }

    #[tokio::test]
    async fn a_body_of_unknown_length_is_cut_off_at_the_limit() {
        let headers = HeaderMap::new();
        assert_eq!(gather(&headers, chunks(&[4, 3, 3]), 10).await.unwrap().len(), 10);
        assert_eq!(gather(&headers, chunks(&[]), 10).await.unwrap().len(), 0);
        let error = gather(&headers, chunks(&[4, 3, 4]), 10).await.unwrap_err();
        assert_eq!(error.error().code, ErrorCode::TooLarge);
    }

    #[tokio::test]
    async fn an_announced_length_over_the_limit_is_refused() {
        let headers = HeaderMap::from_iter([(CONTENT_LENGTH, "11".parse().unwrap())]);
        let error = gather(&headers, chunks(&[11]), 10).await.unwrap_err();
        assert_eq!(error.error().code, ErrorCode::TooLarge);
    }

    #[test]
    fn broken_json_is_told_with_its_position_and_json_of_another_shape_is_not_called_broken() {
        #[derive(Debug, serde::Deserialize)]
        struct Shape {
            #[expect(dead_code, reason = "only its type matters")]
            sql: String,
        }
        let error = parse_json::<Shape>(b"{\n \"sql\": }").unwrap_err();
        assert_eq!(error.error().code, ErrorCode::SyntaxError);
        assert_eq!(error.error().position, Some(Position { line: 2, column: 9 }));
        assert!(!error.error().message.contains(" at line "), "{error:?}");
        assert_eq!(
            parse_json::<Shape>(b"{\"sql\": 1}").unwrap_err().error().code,
            ErrorCode::InvalidParameter
        );
        assert_eq!(parse_json::<Shape>(b"").unwrap_err().error().code, ErrorCode::SyntaxError);
        assert_eq!(parse_json::<Shape>(b"[\"x\"]").unwrap_err().error().code, ErrorCode::InvalidParameter);
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(parse_json::<serde_json::Value>(deep.as_bytes()).is_err());
    }

    #[test]
    fn media_types_are_compared_without_parameters_and_case() {
        let headers =
            HeaderMap::from_iter([(CONTENT_TYPE, "Application/JSON; charset=utf-8".parse().unwrap())]);
        assert_eq!(media_type(&headers), "application/json");
        assert_eq!(media_type(&HeaderMap::new()), "");
    }
}
