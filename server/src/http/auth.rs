//! Who is asking: Basic, Bearer, the cookie of a login, or (feeds only) a token in the address.

use axum::extract::FromRequestParts;
use axum::http::HeaderMap;
use axum::http::header::{AUTHORIZATION, COOKIE};
use axum::http::request::Parts;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use kalamdb_sql::{ErrorCode, Identity};

use super::error::{ApiError, ApiResult};
use super::query::Pairs;
use super::state::{App, Shared};
use super::tokens::Claims;

/// The cookie that login sets.
pub(crate) const TOKEN_COOKIE: &str = "kalamdb_token";

const WRONG: &str = "the user, the password or the token is wrong";
const MISSING: &str = "this needs a user: send Basic credentials or a Bearer token";

/// An authenticated request.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    /// Who asks, and the role they have.
    pub(crate) identity: Identity,
    /// The token they showed, if it was one.
    pub(crate) claims: Option<Claims>,
}

/// The same for feeds, which browsers open without headers of their own.
#[derive(Debug, Clone)]
pub(crate) struct FeedCaller(pub(crate) Caller);

/// What a request shows.
#[derive(Debug, PartialEq, Eq)]
enum Credential {
    Password { login: String, password: String },
    Token(String),
}

impl FromRequestParts<Shared> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &Shared) -> ApiResult<Self> {
        let credential = presented(&parts.headers)?.ok_or_else(|| ApiError::unauthenticated(MISSING))?;
        let caller = authenticate(app, credential).await?;
        match &caller.claims {
            Some(claims) if claims.feeds_only() => {
                Err(ApiError::unauthenticated("this token opens live feeds only"))
            }
            _ => Ok(caller),
        }
    }
}

impl FromRequestParts<Shared> for FeedCaller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &Shared) -> ApiResult<Self> {
        let in_address = || {
            let pairs = Pairs::of(&parts.uri);
            pairs.last("token").map(|token| Credential::Token(token.to_owned()))
        };
        let credential = match presented(&parts.headers)? {
            Some(credential) => credential,
            None => in_address().ok_or_else(|| ApiError::unauthenticated(MISSING))?,
        };
        authenticate(app, credential).await.map(Self)
    }
}

async fn authenticate(app: &App, credential: Credential) -> ApiResult<Caller> {
    match credential {
        Credential::Password { login, password } => {
            let identity = app.instance.login(&login, &password).await?;
            Ok(Caller { identity, claims: None })
        }
        Credential::Token(token) => {
            let claims = app.tokens.verify(&token, app.now_seconds());
            let claims = claims.ok_or_else(|| ApiError::unauthenticated(WRONG))?;
            let identity = app.instance.identify(&claims.sub, claims.role.as_deref()).await;
            // A genuine token of another issuer may still name a user or a role that cannot be.
            let identity = identity.map_err(|error| match error.code {
                ErrorCode::InvalidParameter => ApiError::unauthenticated(WRONG),
                _ => error.into(),
            })?;
            Ok(Caller { identity, claims: Some(claims) })
        }
    }
}

/// The credential in the headers. One in `Authorization` counts alone: a wrong one is not made good by a cookie.
fn presented(headers: &HeaderMap) -> ApiResult<Option<Credential>> {
    let Some(value) = headers.get(AUTHORIZATION) else {
        return Ok(cookie(headers).map(|token| Credential::Token(token.to_owned())));
    };
    let wrong = || ApiError::unauthenticated("the Authorization header is neither Basic nor Bearer");
    let (scheme, rest) =
        value.to_str().ok().and_then(|text| text.trim().split_once(' ')).ok_or_else(wrong)?;
    match scheme.to_ascii_lowercase().as_str() {
        "bearer" => Ok(Some(Credential::Token(rest.trim().to_owned()))),
        "basic" => basic(rest.trim()).map(Some).ok_or_else(wrong),
        _ => Err(wrong()),
    }
}

fn basic(encoded: &str) -> Option<Credential> {
    let text = String::from_utf8(STANDARD.decode(encoded).ok()?).ok()?;
    let (login, password) = text.split_once(':')?;
    Some(Credential::Password { login: login.into(), password: password.into() })
}

fn cookie(headers: &HeaderMap) -> Option<&str> {
    let texts = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
    let pairs = texts.flat_map(|text| text.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.filter(|(name, value)| *name == TOKEN_COOKIE && !value.is_empty()).map(|(_, value)| value).next()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        let parse = |(name, value): &(&str, &str)| (name.parse().unwrap(), value.parse().unwrap());
        pairs
            .iter()
            .map(parse)
            .collect::<Vec<(axum::http::HeaderName, axum::http::HeaderValue)>>()
            .into_iter()
            .collect()
    }

    #[test]
    fn credentials_are_found_in_their_places() {
        let token = |text: &str| Some(Credential::Token(text.into()));
        let password = Some(Credential::Password { login: "ann".into(), password: "a:b".into() });
        let cases = [
            (vec![], None),
            (vec![("authorization", "Basic YW5uOmE6Yg==")], password),
            (vec![("authorization", "bearer abc")], token("abc")),
            (vec![("cookie", "x=1; kalamdb_token=abc; y=2")], token("abc")),
            (vec![("cookie", "kalamdb_token=old"), ("authorization", "Bearer new")], token("new")),
            (vec![("cookie", "kalamdb_token=")], None),
        ];
        for (pairs, expected) in cases {
            assert_eq!(presented(&headers(&pairs)).unwrap(), expected, "{pairs:?}");
        }
    }

    #[test]
    fn a_malformed_header_is_refused_even_beside_a_good_cookie() {
        for value in ["Basic", "Basic !!!", "Basic YW5u", "Digest x", ""] {
            let headers = headers(&[("authorization", value), ("cookie", "kalamdb_token=abc")]);
            assert!(presented(&headers).is_err(), "{value:?}");
        }
    }
}
