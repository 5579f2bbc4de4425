//! Ten failed logins of a user within a minute lock that user for a minute.

use std::collections::{HashMap, VecDeque};

use parking_lot::Mutex;

use crate::error::{Error, ErrorCode, Result};

const MINUTE_MICROS: i64 = 60 * 1_000_000;
const MOST_FAILURES: usize = 10;
/// The most users whose failures are kept: guessing with ever new names must not fill the memory.
const MOST_USERS: usize = 10_000;

/// Failures of the last minute per user.
#[derive(Debug, Default)]
pub(super) struct Lockout {
    users: Mutex<HashMap<String, Failures>>,
}

#[derive(Debug, Default)]
struct Failures {
    times: VecDeque<i64>,
    locked_until: i64,
}

impl Lockout {
    /// Refuses a user that is locked.
    pub(super) fn check(&self, user: &str, now: i64) -> Result<()> {
        let until = self.users.lock().get(user).map_or(0, |failures| failures.locked_until);
        if now >= until {
            return Ok(());
        }
        let seconds = (until - now + 999_999) / 1_000_000;
        Err(Error::new(ErrorCode::RateLimited, "too many failed logins of this user")
            .with_hint(format!("try again in {seconds} seconds")))
    }

    /// Counts a failure.
    pub(super) fn failed(&self, user: &str, now: i64) {
        let mut users = self.users.lock();
        if users.len() >= MOST_USERS && !users.contains_key(user) {
            users.retain(|_, failures| failures.matters(now));
            if users.len() >= MOST_USERS {
                users.clear();
            }
        }
        let failures = users.entry(user.to_owned()).or_default();
        failures.times.retain(|time| now - time < MINUTE_MICROS);
        failures.times.push_back(now);
        if failures.times.len() >= MOST_FAILURES {
            failures.times.clear();
            failures.locked_until = now + MINUTE_MICROS;
        }
    }

    /// Forgets the failures of a user that has just proved itself.
    pub(super) fn succeeded(&self, user: &str) {
        self.users.lock().remove(user);
    }
}

impl Failures {
    fn matters(&self, now: i64) -> bool {
        now < self.locked_until || self.times.back().is_some_and(|last| now - last < MINUTE_MICROS)
    }
}
