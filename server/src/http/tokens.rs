//! Signed tokens (JWT): made at login (HS256) or by somebody else whose public key is configured (RS256, ES256), presented
//! instead of a password, revoked at logout.
//!
//! A token says who somebody is and until when. What they may do is looked up when it is used, so a token never grants
//! more than the stored role. Revocations are kept in memory until the token would have ended anyway; they do not
//! outlive the process.

use std::collections::HashMap;

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

/// What a token of ours says. Of tokens made elsewhere `sub` and `exp` are needed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Claims {
    /// User id.
    pub(crate) sub: String,
    /// Role asked for; the stored one is the limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) role: Option<String>,
    /// End, in seconds since 1970.
    pub(crate) exp: u64,
    /// Not before, in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) nbf: Option<u64>,
    /// Made at, in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) iat: Option<u64>,
    /// The login it belongs to; what logout revokes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) jti: Option<String>,
    /// `"feed"` for a token that opens feeds and nothing else.
    #[serde(default, rename = "use", skip_serializing_if = "Option::is_none")]
    pub(crate) purpose: Option<String>,
}

impl Claims {
    /// True for a token that opens feeds and nothing else.
    pub(crate) fn feeds_only(&self) -> bool {
        self.purpose.as_deref() == Some(FEED)
    }
}

/// The purpose of a feed token.
pub(crate) const FEED: &str = "feed";

/// Clock difference that is forgiven to tokens made elsewhere, in seconds.
const LEEWAY: u64 = 5;

/// A key whose signatures are believed, for its one algorithm: which one to use is never the token's choice.
struct Trusted {
    key: DecodingKey,
    validation: Validation,
}

impl Trusted {
    fn new(algorithm: Algorithm, key: DecodingKey) -> Self {
        let mut validation = Validation::new(algorithm);
        // Times are checked below, against the database's clock.
        validation.validate_exp = false;
        validation.validate_aud = false;
        validation.required_spec_claims.clear();
        Self { key, validation }
    }
}

/// Makes, checks and revokes tokens.
pub(crate) struct Tokens {
    encoding: EncodingKey,
    /// Our own key first, then those of others.
    trusted: Vec<Trusted>,
    /// Revoked logins and when their tokens end.
    revoked: Mutex<HashMap<String, u64>>,
}

impl Tokens {
    /// Tokens signed with a secret.
    pub(crate) fn new(secret: &[u8]) -> Self {
        Self {
            encoding: EncodingKey::from_secret(secret),
            trusted: vec![Trusted::new(Algorithm::HS256, DecodingKey::from_secret(secret))],
            revoked: Mutex::default(),
        }
    }

    /// Believes the tokens that the holder of a key signs, too. `pem` is an RSA public key (RS256) or one of the curve
    /// P-256 (ES256).
    ///
    /// # Errors
    /// In words, if it is neither.
    pub(crate) fn trust(&mut self, pem: &[u8]) -> Result<(), String> {
        let trusted = DecodingKey::from_rsa_pem(pem)
            .map(|key| Trusted::new(Algorithm::RS256, key))
            .or_else(|_| DecodingKey::from_ec_pem(pem).map(|key| Trusted::new(Algorithm::ES256, key)))
            .map_err(|_| "it is not the PEM file of an RSA or P-256 public key")?;
        self.trusted.push(trusted);
        Ok(())
    }

    /// The signed text of a token.
    ///
    /// # Errors
    /// If the claims cannot be written, which would be a bug.
    pub(crate) fn sign(&self, claims: &Claims) -> Result<String, jsonwebtoken::errors::Error> {
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), claims, &self.encoding)
    }

    /// The claims of a token that is genuine, in its time and not revoked; `now` in seconds since 1970.
    pub(crate) fn verify(&self, token: &str, now: u64) -> Option<Claims> {
        let genuine =
            |trusted: &Trusted| jsonwebtoken::decode::<Claims>(token, &trusted.key, &trusted.validation).ok();
        let claims = self.trusted.iter().find_map(genuine)?.claims;
        let begun = claims.nbf.is_none_or(|nbf| nbf <= now + LEEWAY);
        let revoked = claims.jti.as_ref().is_some_and(|jti| self.revoked.lock().contains_key(jti));
        (now < claims.exp && begun && !revoked).then_some(claims)
    }

    /// Makes all tokens of a login worthless, also refreshed ones; none of them is good after `end`.
    pub(crate) fn revoke(&self, claims: &Claims, now: u64, end: u64) {
        let Some(jti) = &claims.jti else { return };
        let mut revoked = self.revoked.lock();
        revoked.retain(|_, end| *end > now);
        revoked.insert(jti.clone(), end.max(claims.exp));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";

    fn claims() -> Claims {
        let jti = Some("login-1".into());
        Claims { sub: "ann".into(), role: None, exp: 1000, nbf: None, iat: None, jti, purpose: None }
    }

    #[test]
    fn a_token_is_good_until_its_end_and_with_its_key_only() {
        let tokens = Tokens::new(SECRET);
        let token = tokens.sign(&claims()).unwrap();
        assert_eq!(tokens.verify(&token, 999), Some(claims()));
        assert_eq!(tokens.verify(&token, 1000), None);
        assert_eq!(Tokens::new(b"another key of thirty-two bytes!").verify(&token, 1), None);
        let mut forged = token.into_bytes();
        let last = forged.len() - 2;
        forged[last] = if forged[last] == b'A' { b'B' } else { b'A' };
        assert_eq!(tokens.verify(std::str::from_utf8(&forged).unwrap(), 1), None);
    }

    #[test]
    fn an_unsigned_or_endless_token_is_refused() {
        use base64::Engine;
        let encode = |text: &str| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(text);
        let tokens = Tokens::new(SECRET);
        let unsigned = format!("{}.{}.", encode(r#"{"alg":"none"}"#), encode(r#"{"sub":"root","exp":9999}"#));
        assert_eq!(tokens.verify(&unsigned, 1), None);
        let endless = serde_json::json!({"sub": "root"});
        let endless =
            jsonwebtoken::encode(&Header::new(Algorithm::HS256), &endless, &tokens.encoding).unwrap();
        assert_eq!(tokens.verify(&endless, 1), None);
        assert_eq!(tokens.verify("", 1), None);
    }

    #[test]
    fn tokens_of_others_are_good_with_a_trusted_key_and_its_algorithm_only() {
        let (rsa, ec) = (include_bytes!("testdata/rsa.pem"), include_bytes!("testdata/ec.pem"));
        let (rsa_public, ec_public) =
            (include_bytes!("testdata/rsa.public.pem"), include_bytes!("testdata/ec.public.pem"));
        let signed = |algorithm, key: &EncodingKey| {
            jsonwebtoken::encode(&Header::new(algorithm), &claims(), key).unwrap()
        };
        let by_rsa = signed(Algorithm::RS256, &EncodingKey::from_rsa_pem(rsa).unwrap());
        let by_ec = signed(Algorithm::ES256, &EncodingKey::from_ec_pem(ec).unwrap());
        let mut tokens = Tokens::new(SECRET);
        assert_eq!((tokens.verify(&by_rsa, 1), tokens.verify(&by_ec, 1)), (None, None));
        tokens.trust(rsa_public).unwrap();
        assert_eq!((tokens.verify(&by_rsa, 1), tokens.verify(&by_ec, 1)), (Some(claims()), None));
        tokens.trust(ec_public).unwrap();
        assert_eq!(tokens.verify(&by_ec, 1), Some(claims()));
        // A public key is no secret: signing with it as if it were one must not help.
        let confused = signed(Algorithm::HS256, &EncodingKey::from_secret(rsa_public));
        assert_eq!(tokens.verify(&confused, 1), None);
        assert!(tokens.trust(b"-----BEGIN NONSENSE-----").is_err());
        assert!(tokens.verify(&tokens.sign(&claims()).unwrap(), 1).is_some(), "our own still are");
    }

    #[test]
    fn logout_revokes_every_token_of_the_login() {
        let tokens = Tokens::new(SECRET);
        let feed = tokens.sign(&Claims { purpose: Some(FEED.into()), exp: 500, ..claims() }).unwrap();
        let other = tokens.sign(&Claims { jti: Some("login-2".into()), ..claims() }).unwrap();
        assert!(tokens.verify(&feed, 1).unwrap().feeds_only());
        tokens.revoke(&claims(), 1, 1000);
        assert_eq!(tokens.verify(&feed, 1), None);
        assert!(tokens.verify(&other, 1).is_some());
        tokens.revoke(&Claims { jti: Some("late".into()), ..claims() }, 2000, 3000);
        assert_eq!(tokens.revoked.lock().len(), 1, "ended ones are forgotten");
    }
}
