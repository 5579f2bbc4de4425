//! Who is asking: identities, roles, and the check of a login.
//!
//! A password is checked with Argon2id on a blocking thread, at most a few at a time. A login that was verified is
//! remembered for a while under a keyed hash together with the stored hash it was verified against, so that a changed
//! password or a dropped user ends it at once without anybody having to remember to. Unknown users cost the same time
//! as known ones and give the same answer.

mod credentials;
mod lockout;
mod password;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use kalamdb_engine::{Clock, UserId};
use tokio::sync::Semaphore;

use crate::error::{Error, ErrorCode, Result};
use credentials::Credentials;
use lockout::Lockout;

pub(crate) use password::hash_password;

/// How many passwords are checked at once; each check takes 19 MiB for its time.
const CONCURRENT_CHECKS: usize = 4;

/// What a session may do; every role may do what those before it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Its own partitions, and shared tables as far as their access says.
    User,
    /// Also `EXECUTE AS USER`.
    Service,
    /// Also DDL, users and jobs.
    Dba,
    /// Everything.
    System,
}

impl Role {
    /// All roles, lowest first.
    pub(crate) const ALL: [Self; 4] = [Self::User, Self::Service, Self::Dba, Self::System];

    /// The name of the role.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Service => "service",
            Self::Dba => "dba",
            Self::System => "system",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|role| role.as_str().eq_ignore_ascii_case(text));
        found.ok_or_else(|| {
            let shown: String = text.chars().take(40).collect();
            Error::new(ErrorCode::InvalidParameter, format!("there is no role {shown:?}"))
                .with_hint("the roles are user, service, dba and system")
        })
    }
}

/// Who a session acts for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The owner of partitions, and what `CURRENT_USER` says.
    pub user: UserId,
    /// What it may do.
    pub role: Role,
}

/// What is stored about somebody who can log in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Account {
    /// The user id.
    pub(crate) user: UserId,
    /// The stored role.
    pub(crate) role: Role,
    /// The password's Argon2id hash; nobody logs in with a password without one.
    pub(crate) password_hash: Option<Arc<str>>,
}

/// Checks logins.
#[derive(Debug)]
pub(crate) struct Authenticator {
    credentials: Credentials,
    lockout: Lockout,
    checks: Arc<Semaphore>,
}

/// A login that was accepted.
pub(crate) struct Accepted {
    /// Who it is.
    pub(crate) identity: Identity,
    /// False if the credential was remembered from an earlier check.
    pub(crate) checked: bool,
}

impl Authenticator {
    pub(crate) fn new() -> Self {
        Self {
            credentials: Credentials::default(),
            lockout: Lockout::default(),
            checks: Arc::new(Semaphore::new(CONCURRENT_CHECKS)),
        }
    }

    /// Checks a login against the account that `find` gives for it, which is asked again after waiting.
    ///
    /// # Errors
    /// [`ErrorCode::Unauthenticated`], always in the same words; [`ErrorCode::RateLimited`] after too many failures.
    pub(crate) async fn login(
        &self,
        clock: &dyn Clock,
        login: &str,
        password: &str,
        find: impl Fn(&str) -> Option<Account>,
    ) -> Result<Accepted> {
        let account = find(login);
        // Known users are locked under their id, so that their id and their username are one lock.
        let subject = account.as_ref().map_or(login, |account| account.user.as_str()).to_owned();
        self.lockout.check(&subject, clock.now_micros())?;
        if let Some(identity) = self.remembered(clock, login, password, account.as_ref()) {
            return Ok(Accepted { identity, checked: false });
        }
        let permit = Arc::clone(&self.checks).acquire_owned().await;
        let _permit =
            permit.map_err(|_| Error::new(ErrorCode::ShuttingDown, "the server is shutting down"))?;
        // While this one waited, somebody may have verified the same credential, failed too often, or changed it.
        self.lockout.check(&subject, clock.now_micros())?;
        let account = find(login);
        if let Some(identity) = self.remembered(clock, login, password, account.as_ref()) {
            return Ok(Accepted { identity, checked: false });
        }
        let hash = account.as_ref().and_then(|account| account.password_hash.clone());
        let matches = password::verify(password.to_owned(), hash).await?;
        match account {
            Some(account) if matches => {
                self.lockout.succeeded(&subject);
                let Account { user, role, password_hash } = account;
                if let Some(hash) = password_hash {
                    self.credentials.remember(login, password, hash, clock.now_micros());
                }
                Ok(Accepted { identity: Identity { user, role }, checked: true })
            }
            _ => {
                self.lockout.failed(&subject, clock.now_micros());
                Err(Error::new(ErrorCode::Unauthenticated, "the user or the password is wrong"))
            }
        }
    }

    fn remembered(
        &self,
        clock: &dyn Clock,
        login: &str,
        password: &str,
        account: Option<&Account>,
    ) -> Option<Identity> {
        let account = account?;
        let hash = account.password_hash.as_ref()?;
        let known = self.credentials.knows(login, password, hash, clock.now_micros());
        known.then(|| Identity { user: account.user.clone(), role: account.role })
    }
}

#[cfg(test)]
mod tests;
