//! `/api/auth/...`: passwords are exchanged for tokens here.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::header::{CACHE_CONTROL, SET_COOKIE};
use axum::response::{IntoResponse, Response};
use kalamdb_sql::Identity;
use serde::Deserialize;
use serde_json::{Value, json};

use super::auth::{Caller, TOKEN_COOKIE};
use super::body;
use super::error::{ApiError, ApiResult};
use super::state::{App, Shared};
use super::tokens::{Claims, FEED};

/// The body of a login; nobody's name and password are longer.
const LOGIN_LIMIT: usize = 16 << 10;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Login {
    #[serde(alias = "user", alias = "user_id", alias = "login")]
    username: String,
    password: String,
}

/// `POST /api/auth/login`.
pub(crate) async fn login(State(app): State<Shared>, headers: HeaderMap, body: Body) -> ApiResult {
    let body = body::gather(&headers, body, LOGIN_LIMIT).await?;
    let Login { username, password } = body::parse_json(&body)?;
    let identity = app.instance.login(&username, &password).await?;
    let login = app.instance.random_token(16);
    tracing::info!(user = %identity.user, "login");
    grant(&app, &identity, login)
}

/// `POST /api/auth/refresh`: new tokens for a caller who is who they say.
pub(crate) async fn refresh(State(app): State<Shared>, caller: Caller) -> ApiResult {
    // The same login, so that one logout ends all of its tokens.
    let login = caller.claims.and_then(|claims| claims.jti).unwrap_or_else(|| app.instance.random_token(16));
    grant(&app, &caller.identity, login)
}

/// `POST /api/auth/logout`: the token shown, and every other one of its login, is worthless from now on.
pub(crate) async fn logout(State(app): State<Shared>, caller: Caller) -> Response {
    if let Some(claims) = &caller.claims {
        let now = app.now_seconds();
        app.tokens.revoke(claims, now, now + app.config.auth.token_lifetime.0.as_secs());
    }
    let gone = format!("{TOKEN_COOKIE}=; Path=/; HttpOnly; SameSite=Strict; Max-Age=0");
    ([(SET_COOKIE, gone)], Json(json!({"status": "success"}))).into_response()
}

/// `GET /api/auth/me`.
pub(crate) async fn me(caller: Caller) -> Json<Value> {
    let mut answer = json!({"status": "success", "user": user(&caller.identity)});
    if let Some(claims) = caller.claims {
        answer["expires_at"] = json!(claims.exp);
    }
    Json(answer)
}

fn user(identity: &Identity) -> Value {
    json!({"user_id": identity.user.as_str(), "role": identity.role.to_string()})
}

fn grant(app: &App, identity: &Identity, login: String) -> ApiResult {
    let now = app.now_seconds();
    let auth = &app.config.auth;
    let lifetime = auth.token_lifetime.0.as_secs().max(1);
    let feed_lifetime = auth.feed_token_lifetime.0.as_secs().clamp(1, lifetime);
    let claims = Claims {
        sub: identity.user.as_str().to_owned(),
        role: Some(identity.role.to_string()),
        exp: now + lifetime,
        nbf: None,
        iat: Some(now),
        jti: Some(login),
        purpose: None,
    };
    let feed_claims = Claims { exp: now + feed_lifetime, purpose: Some(FEED.into()), ..claims.clone() };
    let sign =
        |claims| app.tokens.sign(claims).map_err(|error| ApiError::from(kalamdb_sql::Error::internal(error)));
    let token = sign(&claims)?;
    let answer = json!({
        "status": "success",
        "token": token,
        "token_type": "Bearer",
        "expires_in": lifetime,
        "feed_token": sign(&feed_claims)?,
        "feed_token_expires_in": feed_lifetime,
        "user": user(identity),
    });
    let cookie = format!("{TOKEN_COOKIE}={token}; Path=/; HttpOnly; SameSite=Strict; Max-Age={lifetime}");
    Ok(([(SET_COOKIE, cookie), (CACHE_CONTROL, "no-store".into())], Json(answer)).into_response())
}
