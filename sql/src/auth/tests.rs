use std::sync::atomic::{AtomicI64, Ordering};

use super::*;

#[derive(Debug)]
struct TestClock(AtomicI64);

impl TestClock {
    fn new() -> Self {
        Self(AtomicI64::new(1_800_000_000_000_000))
    }

    fn pass(&self, seconds: i64) {
        self.0.fetch_add(seconds * 1_000_000, Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn now_micros(&self) -> i64 {
        self.0.load(Ordering::SeqCst)
    }
}

async fn account(password: &str) -> Account {
    let hash = hash_password(password.into(), [7; 16]).await.unwrap();
    Account { user: UserId::new("u1").unwrap(), role: Role::User, password_hash: Some(hash.into()) }
}

async fn attempt(
    auth: &Authenticator,
    clock: &TestClock,
    account: &Account,
    login: &str,
    password: &str,
) -> Result<bool> {
    let known = ["u1", "ann"].contains(&login);
    let found = auth.login(clock, login, password, |_| known.then(|| account.clone())).await?;
    Ok(found.checked)
}

#[tokio::test]
async fn a_verified_credential_is_remembered_for_five_minutes() {
    let (auth, clock, account) = (Authenticator::new(), TestClock::new(), account("secret").await);
    assert!(attempt(&auth, &clock, &account, "u1", "secret").await.unwrap());
    assert!(!attempt(&auth, &clock, &account, "u1", "secret").await.unwrap());
    assert_eq!(
        attempt(&auth, &clock, &account, "u1", "other").await.unwrap_err().code,
        ErrorCode::Unauthenticated
    );
    clock.pass(299);
    assert!(!attempt(&auth, &clock, &account, "u1", "secret").await.unwrap());
    clock.pass(1);
    assert!(attempt(&auth, &clock, &account, "u1", "secret").await.unwrap());
}

#[tokio::test]
async fn a_changed_password_and_a_dropped_user_end_a_remembered_credential_at_once() {
    let (auth, clock, old) = (Authenticator::new(), TestClock::new(), account("secret").await);
    attempt(&auth, &clock, &old, "u1", "secret").await.unwrap();
    let new = account("changed").await;
    assert_eq!(
        attempt(&auth, &clock, &new, "u1", "secret").await.unwrap_err().code,
        ErrorCode::Unauthenticated
    );
    assert!(attempt(&auth, &clock, &new, "u1", "changed").await.unwrap());
    let gone = auth.login(&clock, "u1", "changed", |_| None).await;
    assert!(gone.is_err_and(|error| error.code == ErrorCode::Unauthenticated));
}

#[tokio::test]
async fn ten_failures_within_a_minute_lock_the_user_for_a_minute_by_either_name() {
    let (auth, clock, account) = (Authenticator::new(), TestClock::new(), account("secret").await);
    for i in 0..10 {
        let login = if i % 2 == 0 { "u1" } else { "ann" };
        let error = attempt(&auth, &clock, &account, login, "wrong").await.unwrap_err();
        assert_eq!(error.code, ErrorCode::Unauthenticated, "attempt {i}");
        clock.pass(5);
    }
    let error = attempt(&auth, &clock, &account, "ann", "secret").await.unwrap_err();
    assert_eq!((error.code, error.code.status()), (ErrorCode::RateLimited, 429));
    clock.pass(54);
    assert!(attempt(&auth, &clock, &account, "u1", "secret").await.is_err());
    clock.pass(1);
    assert!(attempt(&auth, &clock, &account, "u1", "secret").await.is_ok());
}

#[tokio::test]
async fn failures_that_are_spread_out_or_followed_by_a_success_do_not_lock() {
    let (auth, clock, account) = (Authenticator::new(), TestClock::new(), account("secret").await);
    for _ in 0..9 {
        attempt(&auth, &clock, &account, "u1", "wrong").await.unwrap_err();
    }
    attempt(&auth, &clock, &account, "u1", "secret").await.unwrap();
    for _ in 0..9 {
        attempt(&auth, &clock, &account, "u1", "wrong").await.unwrap_err();
    }
    clock.pass(60);
    attempt(&auth, &clock, &account, "u1", "wrong").await.unwrap_err();
    assert!(attempt(&auth, &clock, &account, "u1", "secret").await.is_ok());
}

#[tokio::test]
async fn an_unknown_user_and_one_without_a_password_get_the_same_answer() {
    let (auth, clock, mut account) = (Authenticator::new(), TestClock::new(), account("secret").await);
    let unknown = attempt(&auth, &clock, &account, "nobody", "x").await.unwrap_err();
    account.password_hash = None;
    let without = attempt(&auth, &clock, &account, "u1", "").await.unwrap_err();
    assert_eq!(unknown, without);
    for _ in 0..9 {
        attempt(&auth, &clock, &account, "nobody", "x").await.unwrap_err();
    }
    let locked = attempt(&auth, &clock, &account, "nobody", "x").await.unwrap_err();
    assert_eq!(locked.code, ErrorCode::RateLimited);
}

#[test]
fn roles_are_ordered_and_read_in_any_case() {
    assert!(Role::User < Role::Service && Role::Service < Role::Dba && Role::Dba < Role::System);
    assert_eq!("DBA".parse::<Role>().unwrap(), Role::Dba);
    let error = "admin".parse::<Role>().unwrap_err();
    assert_eq!(error.code, ErrorCode::InvalidParameter);
    assert!(error.hint.unwrap().contains("service"));
}
