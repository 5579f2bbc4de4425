//! Credentials that were verified a moment ago, so that HTTP Basic does not cost an Argon2 run per request.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;

use parking_lot::Mutex;

/// How long a verified credential is remembered, in microseconds.
const REMEMBERED_MICROS: i64 = 5 * 60 * 1_000_000;
/// The most credentials remembered.
const MOST_REMEMBERED: usize = 10_000;

/// Verified credentials under a 128-bit keyed hash of login and password: neither is kept.
#[derive(Default)]
pub(super) struct Credentials {
    keys: [RandomState; 2],
    verified: Mutex<HashMap<[u64; 2], Verified>>,
}

struct Verified {
    /// The stored hash it matched. If the account's hash is another one now, the entry is worthless.
    hash: Arc<str>,
    until: i64,
}

impl Credentials {
    /// True if this login and password were found to match this stored hash lately.
    pub(super) fn knows(&self, login: &str, password: &str, hash: &Arc<str>, now: i64) -> bool {
        let key = self.key(login, password);
        self.verified.lock().get(&key).is_some_and(|entry| entry.hash == *hash && now < entry.until)
    }

    /// Remembers that they match.
    pub(super) fn remember(&self, login: &str, password: &str, hash: Arc<str>, now: i64) {
        let key = self.key(login, password);
        let mut verified = self.verified.lock();
        if verified.len() >= MOST_REMEMBERED {
            verified.retain(|_, entry| now < entry.until);
        }
        if verified.len() >= MOST_REMEMBERED {
            verified.clear();
        }
        verified.insert(key, Verified { hash, until: now + REMEMBERED_MICROS });
    }

    fn key(&self, login: &str, password: &str) -> [u64; 2] {
        self.keys.each_ref().map(|state| {
            let mut hasher = state.build_hasher();
            hasher.write_usize(login.len());
            hasher.write(login.as_bytes());
            hasher.write(password.as_bytes());
            hasher.finish()
        })
    }
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("verified", &self.verified.lock().len()).finish_non_exhaustive()
    }
}
