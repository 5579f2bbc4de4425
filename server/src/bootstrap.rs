//! What a new data directory gets: the user `root`, and a key for tokens.

use std::path::Path;

use kalamdb_sql::Instance;
use parking_lot::Mutex;

use crate::config::{Config, LogFormat};
use crate::http::Tokens;
use crate::logging::announce;
use crate::private_file;

/// Holds the first password of `root`, when nobody chose one.
const PASSWORD_FILE: &str = "root.password";
/// Holds the key of tokens, when none is configured.
const SECRET_FILE: &str = "jwt.secret";
/// The environment variable in which somebody can choose the first password.
pub(crate) const PASSWORD_VARIABLE: &str = "KALAMDB_ROOT_PASSWORD";

/// Makes sure that there is a user `root`. A new one gets the password `chosen`, or a random one that is written to
/// a file before the user exists, so that there is no moment at which nobody could know it.
///
/// # Errors
/// A message for the person who started the server.
pub(crate) async fn root(
    instance: &Instance,
    data: &Path,
    chosen: Option<String>,
    format: LogFormat,
) -> Result<(), String> {
    let path = data.join(PASSWORD_FILE);
    let failure = Mutex::new(None);
    let password = || match &chosen {
        Some(password) => password.clone(),
        None => {
            let password = instance.random_token(18);
            match private_file::write(&path, &format!("{password}\n")) {
                Ok(()) => password,
                Err(error) => {
                    // An empty password is refused, so the user is not created.
                    *failure.lock() = Some(format!("cannot write {}: {error}", path.display()));
                    String::new()
                }
            }
        }
    };
    let created = instance.ensure_root(&password).await;
    if let Some(failure) = failure.into_inner() {
        return Err(failure);
    }
    match created.map_err(|error| format!("the user root cannot be created: {error}"))? {
        true if chosen.is_some() => {
            announce(format, &format!("created user root, password from {PASSWORD_VARIABLE}"))
        }
        true => announce(format, &format!("created user root, its password is in {}", path.display())),
        false => {}
    }
    Ok(())
}

/// The maker of tokens, with the configured key or the one kept in the data directory, and the public keys of others.
///
/// # Errors
/// A message for the person who started the server.
pub(crate) fn tokens(instance: &Instance, config: &Config) -> Result<Tokens, String> {
    let mut tokens = Tokens::new(&secret(instance, config)?);
    for path in &config.auth.jwt_public_keys {
        let pem = std::fs::read(path).map_err(|error| format!("cannot read {path}: {error}"))?;
        tokens.trust(&pem).map_err(|reason| format!("{path} (auth.jwt_public_keys): {reason}"))?;
    }
    Ok(tokens)
}

fn secret(instance: &Instance, config: &Config) -> Result<Vec<u8>, String> {
    if !config.auth.jwt_secret.is_empty() {
        return Ok(config.auth.jwt_secret.clone().into_bytes());
    }
    let path = config.data.join(SECRET_FILE);
    let kept =
        private_file::read(&path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    let secret = match kept.filter(|secret| !secret.is_empty()) {
        Some(secret) => secret,
        None => {
            let secret = instance.random_token(32);
            private_file::write(&path, &format!("{secret}\n"))
                .map_err(|error| format!("cannot write {}: {error}", path.display()))?;
            secret
        }
    };
    Ok(secret.into_bytes())
}
