//! What a feed promises, tried at random: every operator, function and type, many partitions, cursors of all kinds.

use std::sync::Arc;
use std::time::Duration;

use kalamdb_sql::Role;
use kalamdb_sql::engine::Retain;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::json;

use crate::harness::{Db, Feed, Replay, request, resume};

const COLUMNS: &str = "id BIGINT PRIMARY KEY, i INT, d DOUBLE, x DECIMAL(10,2), s TEXT, b BOOLEAN, at TIMESTAMP, \
                       day DATE, tm TIME, u UUID, y BYTES, arr INT[]";

const USERS: [&str; 3] = ["ann", "bob", "cy"];

/// Conditions of every class; `#` stands for a small number and `@` for a comparison.
const CONDITIONS: [&str; 52] = [
    "i @ #",
    "i IN (1, #, 5)",
    "i NOT IN (1, #, NULL)",
    "i BETWEEN 1 AND #",
    "i % 3 = 1",
    "abs(i) > #",
    "-i < #",
    "i IS NULL",
    "i IS DISTINCT FROM #",
    "i IS NOT DISTINCT FROM NULL",
    "nullif(i, #) IS NULL",
    "coalesce(i, #) @ 3",
    "CASE WHEN i > # THEN s = 'ab' WHEN i IS NULL THEN true ELSE b END",
    "d @ 1.5",
    "round(d) = #",
    "d + i @ #",
    "floor(d) @ i",
    "x @ 2.50",
    "x * 2 @ #",
    "x = #",
    "CAST(x AS INT) = #",
    "s LIKE 'a%'",
    "s NOT LIKE '%b'",
    "s ILIKE 'A_'",
    "s ~ '^a.*c$'",
    "s !~* 'B'",
    "s @ 'b'",
    "s IN ('a', 'abc', NULL)",
    "length(s) @ 2",
    "upper(s) = 'AB'",
    "substr(s, 1, 1) = 'a'",
    "s || 'x' = 'abx'",
    "starts_with(s, 'ab')",
    "coalesce(s, 'none') = 'none'",
    "CAST(i AS TEXT) = '#'",
    "b",
    "NOT b",
    "b IS TRUE",
    "b IS NOT FALSE",
    "b IS UNKNOWN",
    "b = (i > #)",
    "at @ TIMESTAMP '2026-01-02T00:00:00Z'",
    "at < NOW()",
    "extract(day FROM at) = #",
    "date_trunc('day', at) = TIMESTAMP '2026-01-02T00:00:00Z'",
    "at + INTERVAL '1 day' @ TIMESTAMP '2026-01-03T12:00:00Z'",
    "day @ DATE '2026-01-02'",
    "tm @ TIME '12:00:00'",
    "u = '00000000-0000-0000-0000-000000000001'",
    "y IS NOT NULL",
    "array_has(arr, #)",
    "array_length(arr) @ 2",
];

const RESULTS: [&str; 6] = [
    "*",
    "id, i",
    "id, upper(s) AS u, _seq",
    "s",
    "id, CASE WHEN b THEN x ELSE d END AS e",
    "id, at, day, tm",
];

fn condition(random: &mut StdRng, depth: u32) -> String {
    if depth == 0 || random.random_range(0..4) == 0 {
        let atom = CONDITIONS.choose(random).unwrap();
        let number = random.random_range(0..7).to_string();
        let comparison = ["=", "<>", "<", "<=", ">", ">="].choose(random).unwrap();
        return atom.replace('#', &number).replace('@', comparison);
    }
    let mut part = || condition(random, depth - 1);
    let (a, b) = (part(), part());
    match random.random_range(0..6) {
        0 | 1 => format!("({a}) AND ({b})"),
        2 | 3 => format!("({a}) OR ({b})"),
        4 => format!("NOT ({a})"),
        _ => format!("({a}) IS NOT TRUE"),
    }
}

/// A value for each column but the key; any of them may be NULL.
fn values(random: &mut StdRng) -> Vec<String> {
    let n = random.random_range(-3..8);
    let of_all = [
        n.to_string(),
        ["0.5", "1.5", "-2.25", "4", "6.75"].choose(random).unwrap().to_string(),
        ["0.00", "2.50", "3.00", "-1.25"].choose(random).unwrap().to_string(),
        ["''", "'a'", "'ab'", "'abc'", "'B'", "'äb'"].choose(random).unwrap().to_string(),
        ["true", "false"].choose(random).unwrap().to_string(),
        ["'2026-01-01T23:59:59.999999Z'", "'2026-01-02T00:00:00Z'", "'2026-01-03T12:00:00Z'"]
            .choose(random)
            .unwrap()
            .to_string(),
        format!("'2026-01-0{}'", random.random_range(1..4)),
        ["'11:59:59'", "'12:00:00'", "'23:00:00'"].choose(random).unwrap().to_string(),
        format!("'00000000-0000-0000-0000-00000000000{}'", random.random_range(0..3)),
        "'\\x00ff'".to_owned(),
        ["ARRAY[1, 2]", "ARRAY[3]", "ARRAY[2, NULL, 5]"].choose(random).unwrap().to_string(),
    ];
    of_all.map(|value| if random.random_range(0..4) == 0 { "NULL".to_owned() } else { value }).to_vec()
}

/// A statement that changes some rows of `app.t`; keys are not used again.
fn change(random: &mut StdRng, next: &mut i64) -> String {
    let names = ["i", "d", "x", "s", "b", "at", "day", "tm", "u", "y", "arr"];
    match random.random_range(0..8) {
        0..3 => {
            let mut row = || {
                *next += 1;
                format!("({next}, {})", values(random).join(", "))
            };
            let rows: Vec<String> = (0..4).map(|_| row()).collect();
            format!("INSERT INTO app.t VALUES {}", rows.join(", "))
        }
        3..6 => {
            let values = values(random);
            let mut set: Vec<String> =
                names.iter().zip(&values).map(|(name, value)| format!("{name} = {value}")).collect();
            set.retain(|_| random.random_range(0..3) == 0);
            set.push("i = i".into());
            format!("UPDATE app.t SET {} WHERE id % 5 = {}", dedup(set).join(", "), random.random_range(0..5))
        }
        6 => format!("DELETE FROM app.t WHERE id % 11 = {}", random.random_range(0..11)),
        _ => format!("UPDATE app.t SET i = i + 1 WHERE {}", condition(random, 1)),
    }
}

/// The assignments without a second one to the same column.
fn dedup(set: Vec<String>) -> Vec<String> {
    let mut seen = std::collections::HashSet::new();
    set.into_iter().filter(|part| seen.insert(part.split(' ').next().unwrap_or("").to_owned())).collect()
}

fn seed() -> u64 {
    let seed = std::env::var("SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(20_261_122);
    println!("seed {seed} (set SEED to repeat another)");
    seed
}

/// Random queries that the planner takes.
async fn queries(db: &Db, random: &mut StdRng, count: usize) -> Vec<String> {
    let mut queries = Vec::new();
    let mut tried = 0;
    while queries.len() < count {
        tried += 1;
        let result = RESULTS.choose(random).unwrap();
        let query = format!("SELECT {result} FROM app.t WHERE {}", condition(random, 2));
        if db.run_as("ann", Role::User, &query).await.is_ok() {
            queries.push(query);
        }
    }
    assert!(tried < count * 3, "most conditions can be planned: {count} of {tried}");
    queries
}

struct Follower {
    user: &'static str,
    feed: Feed,
    replays: Vec<Replay>,
}

impl Follower {
    async fn start(db: &Db, user: &'static str, queries: &[&str]) -> Self {
        let feed = db.request_as(user, Role::User, request(queries)).await.unwrap();
        Self { user, feed, replays: vec![Replay::default(); queries.len()] }
    }

    /// Reads up to a commit and compares every result with what the query gives now.
    async fn check(&mut self, db: &Db, queries: &[&str], last: u64, what: &str) {
        for event in self.feed.until(last).await {
            if let Some(name) = event.data["subscription"].as_str() {
                self.replays[name[1..].parse::<usize>().unwrap() - 1].apply(&event);
            }
        }
        for (query, replay) in queries.iter().zip(&self.replays) {
            let rows = db.run_as(self.user, Role::User, query).await.unwrap().rows;
            assert_eq!(*replay, Replay::of(&rows), "{}: {query}; {what}", self.user);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_condition_over_any_type_replays_to_what_the_select_gives() {
    let seed = seed();
    let mut random = StdRng::seed_from_u64(seed);
    let db = Db::open().await;
    db.run(&format!("CREATE NAMESPACE app; CREATE SHARED TABLE app.t ({COLUMNS})")).await;
    let queries = queries(&db, &mut random, 40).await;
    let queries: Vec<&str> = queries.iter().map(String::as_str).collect();
    let (mut next, mut last) = (0, 0);
    let mut followers = vec![Follower::start(&db, "ann", &queries).await];
    for step in 0..40 {
        let statement = change(&mut random, &mut next);
        last = db.run(&statement).await.seq.unwrap_or(last);
        if step == 12 {
            db.run("FLUSH TABLE app.t").await;
            followers.push(Follower::start(&db, "bob", &queries).await);
        }
        if step % 10 == 9 {
            for follower in &mut followers {
                follower.check(&db, &queries, last, &format!("seed {seed}, step {step}")).await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_partition_has_its_own_feed_and_tells_nothing_of_the_others() {
    let seed = seed();
    let mut random = StdRng::seed_from_u64(seed);
    let db = Db::open().await;
    db.run(&format!("CREATE NAMESPACE app; CREATE USER TABLE app.t ({COLUMNS})")).await;
    let queries = queries(&db, &mut random, 8).await;
    let queries: Vec<&str> = queries.iter().map(String::as_str).collect();
    let mut followers = Vec::new();
    for user in USERS {
        followers.push(Follower::start(&db, user, &queries).await);
    }
    let (mut next, mut last) = (0, 0);
    for step in 0..45 {
        let user = USERS[random.random_range(0..USERS.len())];
        let done = db.run_as(user, Role::User, &change(&mut random, &mut next)).await.unwrap();
        last = done.seq.unwrap_or(last);
        if step % 15 == 14 {
            for follower in &mut followers {
                follower.check(&db, &queries, last, &format!("seed {seed}, step {step}")).await;
            }
        }
    }
}

#[tokio::test]
async fn a_cursor_is_a_place_and_gives_nothing_of_other_users() {
    let db = Db::open().await;
    db.run("CREATE NAMESPACE app; CREATE USER TABLE app.t (id BIGINT PRIMARY KEY, s TEXT)").await;
    let query = ["SELECT id, s FROM app.t"];
    let mut bob = db.request_as("bob", Role::User, request(&query)).await.unwrap();
    bob.expect("ready").await;
    bob.expect("snapshot").await;
    let of_bob = bob.last_id.clone().unwrap();
    db.run_as("bob", Role::User, "INSERT INTO app.t VALUES (1, 'of bob'), (2, 'of bob')").await.unwrap();
    db.run_as("bob", Role::User, "UPDATE app.t SET s = 'still of bob'; DELETE FROM app.t WHERE id = 1")
        .await
        .unwrap();
    let last = db.run_as("ann", Role::User, "INSERT INTO app.t VALUES (7, 'of ann')").await.unwrap().seq();
    for cursor in [of_bob.clone(), format!("{}.1", of_bob.parse::<u64>().unwrap() + 1)] {
        let mut ann = db.request_as("ann", Role::User, resume(&query, &cursor)).await.unwrap();
        ann.expect("ready").await;
        let events = ann.until(last).await;
        assert_eq!(events.len(), 1, "{events:?}");
        assert_eq!(events[0].data["rows"], json!([{"id": 7, "s": "of ann"}]));
    }
}

#[tokio::test]
async fn a_cursor_that_the_log_no_longer_holds_resets_and_begins_again() {
    let db = Db::open_with(|options| {
        options.engine.log_segment_bytes = 64 << 10;
        options.engine.retain = Retain { bytes: 0, age: Duration::ZERO };
    })
    .await;
    db.run("CREATE NAMESPACE app; CREATE SHARED TABLE app.t (id BIGINT PRIMARY KEY, s TEXT)").await;
    let query = ["SELECT id FROM app.t WHERE id % 2 = 0"];
    let mut feed = db.request(request(&query)).await.unwrap();
    feed.expect("ready").await;
    feed.expect("snapshot").await;
    let old = feed.last_id.clone().unwrap();
    drop(feed);
    let body = "x".repeat(20_000);
    for id in 0..20 {
        db.run(&format!("INSERT INTO app.t VALUES ({id}, '{body}')")).await;
    }
    db.run("DELETE FROM app.t WHERE id = 4; FLUSH ALL; FLUSH ALL").await;
    let mut feed = db.request(resume(&query, &old)).await.unwrap();
    assert_eq!(feed.expect("ready").await.id, Some(old));
    let reset = feed.expect("reset").await;
    assert_eq!((&reset.data["reason"], &reset.id), (&json!("cursor_expired"), &None));
    let snapshot = feed.expect("snapshot").await;
    assert_eq!(snapshot.data["rows"].as_array().unwrap().len(), 9);
    let id = snapshot.id.expect("a place to resume from");
    let seq = db.run("INSERT INTO app.t VALUES (100, 'x')").await.seq();
    assert_eq!(feed.expect("insert").await.data["rows"], json!([{"id": 100}]));
    let mut feed = db.request(resume(&query, &id)).await.unwrap();
    feed.expect("ready").await;
    assert_eq!(feed.until(seq).await.len(), 1, "the new place is good");
}

#[tokio::test]
async fn subscriptions_that_come_and_go_leave_nothing_behind() {
    let db = Db::open().await;
    db.run(
        "CREATE NAMESPACE app; CREATE USER TABLE app.t (id BIGINT PRIMARY KEY); \
         CREATE STREAM TABLE app.s (id BIGINT PRIMARY KEY) WITH (ephemeral = true)",
    )
    .await;
    let owners = Arc::strong_count(&db.instance);
    // Ten thousand.
    for round in 0..100 {
        let queries: Vec<String> = (0..100)
            .map(|n| format!("SELECT id FROM app.{} WHERE id > {n}", if n % 2 == 0 { "t" } else { "s" }))
            .collect();
        let queries: Vec<&str> = queries.iter().map(String::as_str).collect();
        let user = USERS[round % USERS.len()];
        let mut feed = db.request_as(user, Role::User, request(&queries)).await.unwrap();
        // Dropped before the first event, within the snapshots, or when it is live.
        for _ in 0..(round % 3) * 50 {
            feed.next().await;
        }
        db.run_as(user, Role::User, "INSERT INTO app.s VALUES (1000)").await.unwrap();
        drop(feed);
    }
    assert_eq!(db.run("SELECT count(*) AS n FROM system.live_queries").await.rows, [json!({"n": 0})]);
    let streams = db.instance.database().streams().stats();
    assert_eq!((streams.listeners, streams.bytes), (0, 0));
    assert_eq!(Arc::strong_count(&db.instance), owners, "no feed holds on to the database");
}
