//! A panic while a request is handled costs that request an `INTERNAL` error, and nobody else anything.

use std::any::Any;

use axum::body::Body;
use axum::http::Response;
use axum::response::IntoResponse;
use kalamdb_sql::Error;

use super::error::ApiError;

/// The answer instead of the one that will not come: an id, under which the log has the reason.
pub(crate) fn answer(panic: Box<dyn Any + Send + 'static>) -> Response<Body> {
    let reason = panic
        .downcast_ref::<&'static str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a panic without a message");
    ApiError::from(Error::internal(format_args!("panic: {reason}"))).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::StatusCode;

    #[tokio::test]
    async fn the_reason_of_a_panic_is_not_shown() {
        let response = answer(Box::new("secret detail"));
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        let body = axum::body::to_bytes(response.into_body(), 10_000).await.unwrap();
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(body["error"]["code"], "INTERNAL");
        assert!(!body.to_string().contains("secret"));
    }
}
