//! Argon2id, away from the threads that serve requests.

use std::sync::Arc;

use argon2::Argon2;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};

use crate::error::{Error, ErrorCode, Result};

/// The longest password accepted.
const MAX_PASSWORD_BYTES: usize = 1_024;

/// A hash that no password is known for, with the parameters of real ones: what an unknown user's password is checked
/// against, so that the answer takes as long as for a known one.
const NOBODY: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// The PHC string of a password.
///
/// # Errors
/// [`ErrorCode::InvalidParameter`] for an empty or overlong password.
pub(crate) async fn hash_password(password: String, salt: [u8; 16]) -> Result<String> {
    if password.is_empty() || password.len() > MAX_PASSWORD_BYTES {
        let message = format!("a password has 1 to {MAX_PASSWORD_BYTES} bytes");
        return Err(Error::new(ErrorCode::InvalidParameter, message));
    }
    let hash = tokio::task::spawn_blocking(move || {
        Argon2::default().hash_password_with_salt(password.as_bytes(), &salt).map(|hash| hash.to_string())
    });
    hash.await.map_err(Error::internal)?.map_err(Error::internal)
}

/// True if the password matches the hash; without a hash it never does, but takes as long.
pub(super) async fn verify(password: String, hash: Option<Arc<str>>) -> Result<bool> {
    let known = hash.is_some() && password.len() <= MAX_PASSWORD_BYTES;
    let matches = tokio::task::spawn_blocking(move || {
        let password = if known { password } else { String::new() };
        let text = hash.as_deref().filter(|_| known).unwrap_or(NOBODY);
        let parsed = PasswordHash::new(text).map_err(Error::internal)?;
        Ok::<_, Error>(Argon2::default().verify_password(password.as_bytes(), &parsed).is_ok())
    });
    Ok(matches.await.map_err(Error::internal)?? && known)
}
