//! Pushing filters, limits and bounds down to where rows are is legal only if no row that was deleted or superseded comes
//! back and none is lost. Random tables, wherever their rows are, against a plain map.
//!
//! `KALAMDB_SEED=17` repeats a run.

use std::collections::{BTreeMap, BTreeSet};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use crate::harness::{Client, Server};

const SEEDS: u64 = 3;
const IDS: i64 = 2_000;

type Model = BTreeMap<i64, i64>;
type Filter = (String, Box<dyn Fn(i64, i64) -> bool>);

/// Inserts, updates, deletes, flushes and compacts at random.
async fn fill(root: &mut Client, random: &mut StdRng) -> Model {
    root.run("CREATE TABLE t (id BIGINT PRIMARY KEY, n BIGINT); CREATE TABLE w (id BIGINT PRIMARY KEY)")
        .await;
    let mut model = Model::new();
    for _ in 0..14 {
        let (from, rows) = (random.random_range(0..IDS), random.random_range(1..800));
        let (divisor, new) = (random.random_range(1..9), random.random_range(-500..500));
        match random.random_range(0..10) {
            0..=3 => {
                let sql = "INSERT INTO t SELECT value, (value * 7919) % 1009 FROM generate_series";
                root.run(&format!("{sql}({from}, {}) ON CONFLICT (id) DO NOTHING", from + rows)).await;
                for id in from..=from + rows {
                    model.entry(id).or_insert((id * 7919) % 1009);
                }
            }
            4..=5 => {
                root.run(&format!("UPDATE t SET n = {new} WHERE id % {divisor} = 0 AND id < {from}")).await;
                let hit = |id: &i64| id % divisor == 0 && *id < from;
                model.iter_mut().filter(|(id, _)| hit(id)).for_each(|(_, n)| *n = new);
            }
            6 => {
                root.run(&format!("DELETE FROM t WHERE id % {divisor} = 1 AND id > {from}")).await;
                model.retain(|id, _| !(id % divisor == 1 && *id > from));
            }
            7..=8 => drop(root.run("FLUSH TABLE t").await),
            _ => drop(root.run("COMPACT TABLE t").await),
        }
    }
    model
}

fn filter(random: &mut StdRng) -> Filter {
    let (a, b) = (random.random_range(-600..1_100), random.random_range(0..IDS));
    match random.random_range(0..6) {
        0 => ("true".into(), Box::new(|_, _| true)),
        1 => (format!("n > {a}"), Box::new(move |_, n| n > a)),
        2 => (format!("id < {b}"), Box::new(move |id, _| id < b)),
        3 => (format!("id = {b}"), Box::new(move |id, _| id == b)),
        4 => (
            format!("n = {a} OR id BETWEEN {b} AND {b} + 50"),
            Box::new(move |id, n| n == a || (b..=b + 50).contains(&id)),
        ),
        _ => (format!("n + id > {b} AND id % 3 = 0"), Box::new(move |id, n| n + id > b && id % 3 == 0)),
    }
}

fn rows(model: &[(i64, i64)]) -> Value {
    model.iter().map(|(id, n)| json!([id, n])).collect()
}

async fn check(root: &mut Client, random: &mut StdRng, model: &Model, wanted: &BTreeSet<i64>) {
    let (sql, passes) = filter(random);
    let mut all: Vec<(i64, i64)> =
        model.iter().map(|(id, n)| (*id, *n)).filter(|(id, n)| passes(*id, *n)).collect();
    let mut joined: Vec<(i64, i64)> = all.iter().copied().filter(|(id, _)| wanted.contains(id)).collect();
    let limit = random.random_range(1..40);
    let ask = async |root: &mut Client, sql: String, expected: Value| {
        assert_eq!(root.rows(&sql).await, expected, "{sql}");
    };
    ask(root, format!("SELECT id, n FROM t WHERE {sql} ORDER BY id"), rows(&all)).await;
    ask(
        root,
        format!("SELECT count(*), max(n) FROM t WHERE {sql}"),
        json!([[all.len(), all.iter().map(|(_, n)| n).max()]]),
    )
    .await;
    let join = "SELECT t.id, t.n FROM t JOIN w ON t.id = w.id";
    ask(root, format!("{join} WHERE {} ORDER BY t.id", sql.replace("id", "t.id")), rows(&joined)).await;
    for (order, descending) in [("n, id", false), ("n DESC, id DESC", true)] {
        for part in [&mut all, &mut joined] {
            part.sort_by_key(|(id, n)| (*n, *id));
            if descending {
                part.reverse();
            }
        }
        let first = |part: &[(i64, i64)]| rows(&part[..part.len().min(limit)]);
        ask(root, format!("SELECT id, n FROM t WHERE {sql} ORDER BY {order} LIMIT {limit}"), first(&all))
            .await;
        let joined_sql =
            format!("SELECT id, n FROM ({join}) AS j WHERE {sql} ORDER BY {order} LIMIT {limit}");
        ask(root, joined_sql, first(&joined)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_pushed_down_no_hidden_row_comes_back_and_none_is_lost() {
    let given = std::env::var("KALAMDB_SEED").ok().and_then(|seed| seed.parse().ok());
    for seed in given.map_or(0..SEEDS, |seed: u64| seed..seed + 1) {
        println!("KALAMDB_SEED={seed}");
        // Batches are small then, so that bounds are there before most rows are read.
        let server = Server::with(|options| options.statement_memory = 4 << 20).await;
        let (mut root, mut random) = (server.root(), StdRng::seed_from_u64(seed));
        let model = fill(&mut root, &mut random).await;
        let wanted: BTreeSet<i64> = (0..200).map(|_| random.random_range(0..IDS)).collect();
        let values: Vec<String> = wanted.iter().map(|id| format!("({id})")).collect();
        root.run(&format!("INSERT INTO w VALUES {}", values.join(", "))).await;
        for _ in 0..12 {
            check(&mut root, &mut random, &model, &wanted).await;
        }
    }
}

#[tokio::test]
async fn rows_in_memory_are_left_out_by_bounds_and_keys_that_come_up_while_they_are_read() {
    let server = Server::with(|options| options.statement_memory = 4 << 20).await;
    let mut root = server.root();
    root.run("CREATE TABLE t (id BIGINT PRIMARY KEY, n BIGINT); CREATE TABLE w (id BIGINT PRIMARY KEY)")
        .await;
    root.run("INSERT INTO t SELECT value, 10000 - value FROM generate_series(1, 10000)").await;
    root.run("INSERT INTO w VALUES (17), (18)").await;
    for (sql, expected) in [
        ("SELECT id FROM t ORDER BY n DESC LIMIT 2", json!([[1], [2]])),
        ("SELECT t.id FROM t JOIN w ON t.id = w.id ORDER BY t.id", json!([[17], [18]])),
    ] {
        assert_eq!(root.rows(sql).await, expected);
        let analyzed = root.rows(&format!("EXPLAIN ANALYZE {sql}")).await;
        let text = analyzed[0][1].as_str().unwrap();
        let pruned = text.split("dynamic_filter_rows_pruned=").skip(1);
        let pruned = pruned.map(|rest| rest.split([',', ']']).next().unwrap().trim().to_owned());
        // Large numbers are rounded for the eye: `9.80 K`.
        assert!(
            pruned.clone().any(|count| count.ends_with('K')),
            "{sql}: {:?}\n{text}",
            pruned.collect::<Vec<_>>()
        );
    }
}
