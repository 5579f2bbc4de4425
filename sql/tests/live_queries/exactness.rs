//! Replaying a feed onto its snapshot gives what running the SELECT again gives, whatever happens to the table.

use kalamdb_sql::{LiveRequest, SubscriptionRequest};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::harness::{Db, Event, Replay, request};

const QUERIES: [&str; 8] = [
    "SELECT * FROM app.t",
    "SELECT id, n FROM app.t WHERE n > 5",
    "SELECT id FROM app.t WHERE NOT (n > 5)",
    "SELECT id, upper(s) AS u FROM app.t WHERE s IS NULL OR s LIKE 'a%'",
    "SELECT id, n * 2 AS twice, _seq FROM app.t WHERE coalesce(n, 0) % 2 = 0",
    "SELECT id, _deleted, _seq FROM app.t WHERE n IS NOT NULL AND _deleted IN (true, false)",
    "SELECT x.s FROM app.t AS x WHERE x.n BETWEEN 2 AND 7 OR x.s NOT IN ('a', NULL)",
    "SELECT 1 AS one FROM app.t WHERE CASE WHEN n IS NULL THEN s = 'b' ELSE n < 4 END",
];

/// A statement that changes some rows of `app.t`. Keys of deleted rows are used again now and then.
fn change(random: &mut StdRng, next_id: &mut i64) -> String {
    let number = |random: &mut StdRng| match random.random_range(0..12) {
        10 | 11 => "NULL".to_owned(),
        n => n.to_string(),
    };
    let text = |random: &mut StdRng| ["'a'", "'ab'", "'b'", "'c'", "NULL"][random.random_range(0..5)];
    match random.random_range(0..12) {
        10.. => {
            let first = random.random_range(0..=*next_id);
            let last = (first + 4).min(*next_id);
            format!(
                "INSERT INTO app.t (id, n, s) SELECT value, {}, {} FROM generate_series({first}, {last})
                 WHERE value NOT IN (SELECT id FROM app.t)",
                number(random),
                text(random)
            )
        }
        0..4 => {
            let rows: Vec<String> = (0..random.random_range(1..6))
                .map(|_| {
                    *next_id += 1;
                    format!("({next_id}, {}, {})", number(random), text(random))
                })
                .collect();
            format!("INSERT INTO app.t (id, n, s) VALUES {}", rows.join(", "))
        }
        4..6 => {
            format!("UPDATE app.t SET n = {} WHERE id % 7 = {}", number(random), random.random_range(0..7))
        }
        6 => format!("UPDATE app.t SET s = {}, n = n WHERE n = {}", text(random), random.random_range(0..10)),
        7 => "UPDATE app.t SET n = (n + 1) % 10 WHERE s = 'a'".into(),
        8 => format!("DELETE FROM app.t WHERE id = {}", random.random_range(0..=*next_id)),
        _ if random.random_range(0..3) == 0 => "FLUSH TABLE app.t".into(),
        _ => format!("DELETE FROM app.t WHERE n = {} AND id % 3 = 0", random.random_range(0..10)),
    }
}

async fn table(db: &Db) {
    db.run("CREATE NAMESPACE app; CREATE SHARED TABLE app.t (id BIGINT PRIMARY KEY, n INT, s TEXT)").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replaying_a_feed_onto_its_snapshot_equals_running_the_select_again() {
    let seed: u64 = std::env::var("SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(20_261_121);
    println!("seed {seed} (set SEED to repeat another)");
    let mut random = StdRng::seed_from_u64(seed);
    let db = Db::open().await;
    table(&db).await;
    let mut next_id = 0;
    let mut feeds = Vec::new();
    let mut last = 0;
    for step in 0..120 {
        if step % 15 == 0 {
            feeds
                .push((db.request(request(&QUERIES)).await.unwrap(), vec![Replay::default(); QUERIES.len()]));
        }
        last = db.run(&change(&mut random, &mut next_id)).await.seq.unwrap_or(last);
        if step % 30 == 29 {
            for (feed, replays) in &mut feeds {
                for event in feed.until(last).await {
                    apply(replays, &event);
                }
                check(&db, replays, seed, step).await;
            }
        }
    }
}

fn apply(replays: &mut [Replay], event: &Event) {
    if let Some(name) = event.data["subscription"].as_str() {
        let place: usize = name[1..].parse().unwrap();
        replays[place - 1].apply(event);
    }
}

async fn check(db: &Db, replays: &[Replay], seed: u64, step: usize) {
    for (query, replay) in QUERIES.iter().zip(replays) {
        let rows = db.run(query).await.rows;
        assert_eq!(*replay, Replay::of(&rows), "{query}, seed {seed}, step {step}");
    }
}

#[tokio::test]
async fn within_a_commit_events_come_in_the_order_of_the_request_and_of_delete_update_insert() {
    let db = Db::open().await;
    table(&db).await;
    db.run("INSERT INTO app.t (id, n, s) VALUES (1, 1, 'a'), (2, 2, 'a'), (3, 3, 'a')").await;
    let queries = ["SELECT id, n FROM app.t WHERE n BETWEEN 2 AND 4", "SELECT id, n FROM app.t"];
    let mut feed = db.request(request(&queries)).await.unwrap();
    feed.expect("ready").await;
    feed.expect("snapshot").await;
    feed.expect("snapshot").await;
    // 1 enters, 2 stays, 3 leaves the first result; all stay in the second.
    let seq = db.run("UPDATE app.t SET n = CASE id WHEN 1 THEN 4 WHEN 2 THEN 3 ELSE 9 END").await.seq();
    let mut got = Vec::new();
    for event in feed.until(seq).await {
        got.push((event.id.unwrap(), event.event, event.data["subscription"].as_str().unwrap().to_owned()));
        assert_eq!(event.data["seq"], seq);
    }
    let expected = [
        (format!("{seq}.1"), "delete", "q1".to_owned()),
        (format!("{seq}.2"), "update", "q1".to_owned()),
        (format!("{seq}.3"), "insert", "q1".to_owned()),
        (format!("{seq}"), "update", "q2".to_owned()),
    ];
    assert_eq!(got, expected);
}

#[tokio::test]
async fn a_delete_carries_the_row_as_the_subscriber_last_saw_it() {
    let db = Db::open().await;
    table(&db).await;
    let mut feed = db.feed("SELECT id, n, s FROM app.t WHERE n < 10").await;
    feed.expect("ready").await;
    feed.expect("snapshot").await;
    db.run("INSERT INTO app.t (id, n, s) VALUES (1, 1, 'a')").await;
    assert_eq!(feed.expect("insert").await.data["rows"], serde_json::json!([{"id": 1, "n": 1, "s": "a"}]));
    db.run("UPDATE app.t SET n = 50, s = 'z'").await;
    assert_eq!(feed.expect("delete").await.data["rows"], serde_json::json!([{"id": 1, "n": 1, "s": "a"}]));
}

#[tokio::test]
async fn an_update_that_changes_no_selected_column_is_not_told() {
    let db = Db::open().await;
    table(&db).await;
    db.run("INSERT INTO app.t (id, n, s) VALUES (1, 1, 'a'), (2, 2, 'b')").await;
    let mut feed = db.feed("SELECT id, s FROM app.t").await;
    feed.expect("ready").await;
    feed.expect("snapshot").await;
    db.run("UPDATE app.t SET n = n + 1").await;
    db.run("UPDATE app.t SET n = 7, s = CASE id WHEN 2 THEN 'c' ELSE s END").await;
    let event = feed.expect("update").await;
    assert_eq!(event.data["rows"], serde_json::json!([{"id": 2, "s": "c"}]));
    assert_eq!(event.data["old_rows"], serde_json::json!([{"id": 2, "s": "b"}]));
}

#[tokio::test]
async fn last_rows_are_the_newest_by_commit_oldest_first() {
    let db = Db::open().await;
    table(&db).await;
    for id in [5, 3, 9, 1] {
        db.run(&format!("INSERT INTO app.t (id, n, s) VALUES ({id}, 1, 'a')")).await;
    }
    db.run("INSERT INTO app.t (id, n, s) VALUES (100, 2, 'a'), (101, 2, 'a')").await;
    db.run("UPDATE app.t SET s = 'b' WHERE id = 3").await;
    for (query, expected) in [
        ("SELECT id FROM app.t", serde_json::json!([{"id": 1}, {"id": 100}, {"id": 101}, {"id": 3}])),
        (
            "SELECT x.id FROM app.t AS x WHERE n = 1",
            serde_json::json!([{"id": 5}, {"id": 9}, {"id": 1}, {"id": 3}]),
        ),
    ] {
        let subscription = SubscriptionRequest { last_rows: Some(4), ..SubscriptionRequest::new(query) };
        let request = LiveRequest { subscriptions: vec![subscription], last_event_id: None };
        let mut feed = db.request(request).await.unwrap();
        feed.expect("ready").await;
        assert_eq!(feed.expect("snapshot").await.data["rows"], expected, "{query}");
    }
}

#[tokio::test]
async fn a_large_snapshot_comes_in_batches_of_which_only_the_very_last_has_an_id() {
    let db = Db::open().await;
    table(&db).await;
    for start in 0..5 {
        let rows: Vec<String> = (0..500).map(|i| format!("({}, 1, 'a')", start * 500 + i)).collect();
        db.run(&format!("INSERT INTO app.t (id, n, s) VALUES {}", rows.join(","))).await;
    }
    let mut feed =
        db.request(request(&["SELECT id FROM app.t", "SELECT id FROM app.t WHERE n > 1"])).await.unwrap();
    let ready = feed.expect("ready").await;
    assert_eq!(ready.id, None);
    let mut counts = Vec::new();
    for (name, first, last, id) in [
        ("q1", true, false, false),
        ("q1", false, false, false),
        ("q1", false, true, false),
        ("q2", true, true, true),
    ] {
        let event = feed.expect("snapshot").await;
        assert_eq!(event.data["subscription"], name);
        assert_eq!((&event.data["first"], &event.data["last"]), (&first.into(), &last.into()), "{name}");
        assert_eq!(event.id.is_some(), id);
        assert_eq!(event.data["seq"], ready.data["seq"]);
        counts.push(event.data["rows"].as_array().unwrap().len());
    }
    assert_eq!(counts, [1_000, 1_000, 500, 0]);
}
