//! Which web pages may call the server from a browser: its own (which needs no permission), those served from this
//! machine, and those of the configured origins.

use axum::http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderName, HeaderValue, Method};
use std::time::Duration;
use tower_http::cors::{AllowOrigin, CorsLayer};

/// How long a browser may remember the answer.
const MAX_AGE: Duration = Duration::from_secs(600);

/// The layer that answers browsers' questions.
pub(crate) fn layer(origins: &[String]) -> CorsLayer {
    let origins = origins.to_vec();
    let name = HeaderName::from_static;
    CorsLayer::new()
        .allow_origin(AllowOrigin::predicate(move |origin, _| is_allowed(&origins, origin)))
        .allow_credentials(true)
        .allow_methods([Method::GET, Method::POST])
        .allow_headers([
            ACCEPT,
            AUTHORIZATION,
            CONTENT_TYPE,
            name("last-event-id"),
            name("x-request-id"),
            name("x-requested-with"),
        ])
        .expose_headers([RETRY_AFTER, name("x-request-id")])
        .max_age(MAX_AGE)
}

fn is_allowed(origins: &[String], origin: &HeaderValue) -> bool {
    let Ok(origin) = origin.to_str() else { return false };
    origins.iter().any(|allowed| allowed.trim_end_matches('/') == origin) || is_local(origin)
}

/// True for pages served from this machine, on any port.
fn is_local(origin: &str) -> bool {
    let Some((_, host)) = origin.split_once("://") else { return false };
    let name = match host.rsplit_once(':') {
        Some((name, port)) if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    matches!(name, "localhost" | "127.0.0.1" | "[::1]")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_of_this_machine_and_of_configured_origins_may_call() {
        let origins = ["https://app.example.com/".to_owned()];
        let allowed = |origin: &str| is_allowed(&origins, &origin.parse().unwrap());
        for origin in [
            "http://localhost",
            "http://localhost:3000",
            "http://127.0.0.1:5173",
            "http://[::1]:80",
            "https://app.example.com",
        ] {
            assert!(allowed(origin), "{origin}");
        }
        for origin in [
            "null",
            "https://example.com",
            "http://localhost.evil.com",
            "http://127.0.0.1.evil.com:80",
            "http://evil.com:localhost",
            "https://app.example.com.evil.com",
            "http://evil.com/localhost",
        ] {
            assert!(!allowed(origin), "{origin}");
        }
    }
}
