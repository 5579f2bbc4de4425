//! Overflow, division by zero and bad casts are errors wherever an expression can stand.

use kalamdb_sql::ErrorCode::{DivisionByZero, ValueOutOfRange};
use serde_json::json;

use crate::harness::{Client, Layout, Server};

const MAX: i64 = i64::MAX;

async fn table(root: &mut Client) {
    root.run(
        "CREATE TABLE n (id BIGINT PRIMARY KEY, big BIGINT, small INT, d DECIMAL(38,2), f DOUBLE, t TEXT)",
    )
    .await;
    root.run(&format!(
        "INSERT INTO n VALUES (1, {MAX}, 2147483647, 999999999999999999999999999999999999.99, 1e308, 'x'), \
         (2, {MAX}, 1, 999999999999999999999999999999999999.99, 2.5, '7'), (3, -{MAX}, 0, 1, 0.0, NULL)"
    ))
    .await;
}

#[tokio::test]
async fn expressions_that_overflow_or_divide_by_zero_fail() {
    let server = Server::start().await;
    let mut root = server.root();
    table(&mut root).await;
    for (expression, code) in [
        ("big + id", ValueOutOfRange),
        ("id + big", ValueOutOfRange),
        ("big + big", ValueOutOfRange),
        ("-big - id", ValueOutOfRange),
        ("5 - (-big)", ValueOutOfRange),
        ("big * 2", ValueOutOfRange),
        ("-(big * -1 - 1)", ValueOutOfRange),
        ("(-big - 1) / -1", ValueOutOfRange),
        ("9223372036854775807 + 1", ValueOutOfRange),
        ("small + CAST(1 AS INT)", ValueOutOfRange),
        ("abs(-big - 1)", ValueOutOfRange),
        ("d + d", ValueOutOfRange),
        ("d * d", ValueOutOfRange),
        ("f * 10", ValueOutOfRange),
        ("CAST(big AS INT)", ValueOutOfRange),
        ("CAST(f AS BIGINT)", ValueOutOfRange),
        ("CAST(t AS INT)", ValueOutOfRange),
        ("CAST(big AS DECIMAL(4,1))", ValueOutOfRange),
        ("sum(big)", ValueOutOfRange),
        ("sum(big) FILTER (WHERE id < 3)", ValueOutOfRange),
        ("sum(DISTINCT big + id - id)", ValueOutOfRange),
        ("sum(d)", ValueOutOfRange),
        ("sum(big) OVER (ORDER BY id ROWS 1 PRECEDING)", ValueOutOfRange),
        ("id / (id - id)", DivisionByZero),
        ("id % (id - id)", DivisionByZero),
        ("1 / 0", DivisionByZero),
        ("CAST(id AS DECIMAL(6,2)) / (id - id)", DivisionByZero),
        ("f / (f - f)", DivisionByZero),
        ("1.5 / 0", DivisionByZero),
        ("f % -0.0", DivisionByZero),
    ] {
        let error = root.fail(&format!("SELECT {expression} FROM n WHERE id < 3")).await;
        assert_eq!(error.code, code, "{expression}: {error}");
    }
    for (statement, code) in [
        ("SELECT id FROM n WHERE big + id > 0", ValueOutOfRange),
        ("SELECT id FROM n ORDER BY big + id", ValueOutOfRange),
        ("SELECT count(*) FROM n GROUP BY big + id", ValueOutOfRange),
        ("SELECT a.id FROM n a JOIN n b ON a.big + b.id = 1", ValueOutOfRange),
        ("SELECT (SELECT max(big + id) FROM n)", ValueOutOfRange),
    ] {
        let error = root.fail(statement).await;
        assert_eq!(error.code, code, "{statement}: {error}");
    }
    // The whole fits, though parts of it do not.
    assert_eq!(root.rows("SELECT sum(big) FROM n").await, json!([[MAX.to_string()]]));
}

#[tokio::test]
async fn values_at_the_edge_are_right_in_every_layout() {
    for layout in Layout::ALL {
        let server = Server::start().await;
        let mut root = server.root();
        table(&mut root).await;
        layout.half(&mut root, "n").await;
        root.run("INSERT INTO n (id, big, f) VALUES (4, NULL, NULL)").await;
        layout.end(&mut root, "n").await;
        let rows =
            root.rows("SELECT id, big - 1 + 1, small - 1, d - 1, -big FROM n ORDER BY id LIMIT 3").await;
        let (max, min) = (MAX.to_string(), (-MAX).to_string());
        let wide = "999999999999999999999999999999999998.99";
        assert_eq!(
            rows,
            json!([[1, max, 2_147_483_646, wide, min], [2, max, 0, wide, min], [3, min, -1, "0.00", max],]),
            "{layout:?}"
        );
        // The last row has NULL where others overflow.
        assert_eq!(root.rows("SELECT big + 1, f / 0 FROM n WHERE id = 4").await, json!([[null, null]]));
        let sums = "SELECT sum(big), sum(small), sum(DISTINCT small), sum(d) FILTER (WHERE id > 1), \
                    avg(id), sum(id) OVER () FROM n GROUP BY id % 1, id ORDER BY id";
        assert_eq!(root.rows(sums).await[2], json!([min, 0, 0, "1.00", 3.0, 10]), "{layout:?}");
        let window = "SELECT sum(id) OVER (ORDER BY id ROWS 1 PRECEDING), \
                      sum(DISTINCT id) OVER (ORDER BY id ROWS 1 PRECEDING) FROM n ORDER BY id";
        assert_eq!(root.rows(window).await, json!([[1, 1], [3, 3], [5, 5], [7, 7]]));
        assert_eq!(root.rows("SELECT sum(big) FROM n WHERE id > 9").await, json!([[null]]));
    }
}

#[tokio::test]
async fn statements_that_write_are_checked_like_those_that_read() {
    let server = Server::start().await;
    let mut root = server.root();
    root.run("CREATE TABLE w (id BIGINT PRIMARY KEY, n BIGINT, CHECK (n + 10 > 0))").await;
    root.run(&format!("INSERT INTO w VALUES (1, {})", MAX - 10)).await;
    for statement in [
        "UPDATE w SET n = n + 100",
        "UPDATE w SET n = n + 1 RETURNING n * 2",
        "INSERT INTO w VALUES (2, 9223372036854775807 + 1)",
        "INSERT INTO w SELECT id + 1, n * 2 FROM w",
        "INSERT INTO w VALUES (2, 9223372036854775800)",
        "DELETE FROM w WHERE n * 3 > 0",
        "CREATE TABLE x (id BIGINT PRIMARY KEY, n BIGINT DEFAULT 9223372036854775807 + 1)",
    ] {
        let error = root.fail(statement).await;
        assert_eq!(error.code, ValueOutOfRange, "{statement}: {error}");
    }
    assert_eq!(root.rows("SELECT id FROM w").await, json!([[1]]));
}

#[tokio::test]
async fn checked_expressions_keep_the_names_and_types_of_their_operators() {
    let server = Server::start().await;
    let mut root = server.root();
    table(&mut root).await;
    let outcome = root.run("SELECT id + 1, id * 2.5, -id, small / 2, id + NULL FROM n").await;
    let columns = outcome.rows.unwrap().columns;
    let described: Vec<_> = columns.iter().map(|c| (c.type_name.as_str(), c.nullable)).collect();
    let expected =
        [("BIGINT", false), ("DOUBLE", false), ("BIGINT", false), ("BIGINT", true), ("BIGINT", true)];
    assert_eq!(described, expected);
    assert_eq!(columns[0].name, "n.id + Int64(1)");
    assert_eq!(
        root.rows("SELECT TIMESTAMP '2024-01-31T00:00:00Z' + INTERVAL '1 month'").await,
        json!([["2024-02-29T00:00:00.000000Z"]])
    );
}
