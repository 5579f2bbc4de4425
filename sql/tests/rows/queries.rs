use kalamdb_sql::ErrorCode;
use serde_json::json;

use crate::harness::{Layout, Server};

/// Items 1 to 200: some updated, some deleted, some inserted again, in and across the halves.
async fn items(server: &Server, layout: Layout) {
    let mut root = server.root();
    root.run("CREATE TABLE items (id BIGINT PRIMARY KEY, label TEXT, price INT NOT NULL)").await;
    let rows = |from: i64, to: i64| {
        (from..to).map(|id| format!("({id}, 'item {id}', {})", id % 10)).collect::<Vec<_>>().join(", ")
    };
    root.run(&format!("INSERT INTO items VALUES {}", rows(1, 101))).await;
    root.run("UPDATE items SET price = 100 WHERE id % 20 = 0; DELETE FROM items WHERE id IN (1, 2, 3, 50)")
        .await;
    layout.half(&mut root, "items").await;
    root.run(&format!("INSERT INTO items VALUES {}", rows(101, 201))).await;
    root.run("UPDATE items SET price = 200 WHERE id % 50 = 0; DELETE FROM items WHERE id IN (4, 5, 150)")
        .await;
    root.run("INSERT INTO items VALUES (2, 'again', 7)").await;
    root.run("UPDATE items SET label = 'again, updated' WHERE id = 2").await;
    layout.end(&mut root, "items").await;
}

#[tokio::test]
async fn a_query_gives_the_same_answer_whether_rows_are_hot_or_cold() {
    let mut answers = Vec::new();
    for layout in Layout::ALL {
        let server = Server::start().await;
        items(&server, layout).await;
        let mut root = server.root();
        let questions = [
            "SELECT count(*), sum(price), min(id), max(id) FROM items",
            "SELECT * FROM items WHERE id < 8 ORDER BY id",
            "SELECT id FROM items WHERE price >= 100 ORDER BY id",
            "SELECT price, count(*) FROM items GROUP BY price ORDER BY price",
            "SELECT label FROM items WHERE label LIKE 'again%'",
            "SELECT count(*) FROM items WHERE id = 50",
            "SELECT count(*) FROM (SELECT id FROM items WHERE id > 140 AND id < 160 LIMIT 100) q",
            "SELECT a.id, b.label FROM items a JOIN items b ON a.id = b.id + 1 WHERE a.id = 8",
            "SELECT id FROM items ORDER BY price DESC, id DESC LIMIT 4",
        ];
        let mut answer = Vec::new();
        for question in questions {
            answer.push(root.rows(question).await);
        }
        answers.push(answer);
    }
    assert_eq!(answers[0][0], json!([[194, 1692, 2, 200]]));
    assert_eq!(answers[0][1], json!([[2, "again, updated", 7], [6, "item 6", 6], [7, "item 7", 7]]));
    assert_eq!(answers[0][4], json!([["again, updated"]]));
    assert_eq!(answers[0][8], json!([[200], [100], [80], [60]]));
    assert_eq!(answers[0], answers[1], "flushed");
    assert_eq!(answers[0], answers[2], "half and half");
}

#[tokio::test]
async fn no_hidden_row_comes_back_whatever_the_filter_and_the_limit() {
    for layout in Layout::ALL {
        let server = Server::start().await;
        items(&server, layout).await;
        let mut root = server.root();
        for filter in
            ["true", "id <= 5", "id = 3", "label = 'item 50'", "price = 0", "id IN (1, 4, 150)", "id >= 0"]
        {
            let all = root.rows(&format!("SELECT id, price FROM items WHERE {filter} ORDER BY id")).await;
            let expected = all.as_array().unwrap();
            for gone in [1, 3, 4, 5, 50, 150] {
                assert!(!expected.iter().any(|row| row[0] == gone), "{layout:?}: {gone} where {filter}");
            }
            for limit in [1, 2, 3, 10, 500] {
                let some =
                    root.rows(&format!("SELECT id, price FROM items WHERE {filter} LIMIT {limit}")).await;
                let some = some.as_array().unwrap();
                assert_eq!(some.len(), expected.len().min(limit), "{layout:?}: {filter} limit {limit}");
                assert!(some.iter().all(|row| expected.contains(row)), "{layout:?}: {filter} limit {limit}");
            }
            let count = root.rows(&format!("SELECT count(*) FROM items WHERE {filter}")).await;
            assert_eq!(count, json!([[expected.len()]]), "{layout:?}: {filter}");
        }
    }
}

#[tokio::test]
async fn parameters_take_the_type_of_where_they_stand() {
    let server = Server::start().await;
    items(&server, Layout::Hot).await;
    let mut root = server.root();
    let rows = root
        .rows_with("SELECT label FROM items WHERE id = $1 OR price > $2", &[json!("7"), json!(150.5)])
        .await;
    assert_eq!(rows.as_array().unwrap().len(), 3, "{rows}");
    assert_eq!(
        root.rows_with("SELECT id FROM items WHERE id = $1 LIMIT $2", &[json!(8), json!(1)]).await,
        json!([[8]])
    );
    for (params, code) in [
        (vec![], ErrorCode::InvalidParameter),
        (vec![json!(1), json!(2)], ErrorCode::InvalidParameter),
        (vec![json!("seven")], ErrorCode::TypeMismatch),
    ] {
        assert_eq!(
            root.fail_with("SELECT * FROM items WHERE id = $1", &params).await.code,
            code,
            "{params:?}"
        );
    }
}

#[tokio::test]
async fn errors_say_what_is_wrong_where_and_what_might_be_meant() {
    let server = Server::start().await;
    items(&server, Layout::Hot).await;
    let mut root = server.root();
    let error = root.fail("SELECT *\nFROM itmes").await;
    assert_eq!(
        (error.code, error.hint.as_deref()),
        (ErrorCode::TableNotFound, Some("did you mean default.items?"))
    );
    let at = error.position.unwrap();
    assert_eq!((at.line, at.column), (2, 6));
    let error = root.fail("SELECT lable FROM items").await;
    assert_eq!(error.code, ErrorCode::ColumnNotFound, "{error}");
    assert!(error.hint.clone().unwrap().contains("label"), "{error:?}");
    assert!(error.position.is_some(), "{error:?}");
    for (sql, code) in [
        ("SELECT * FROM nowhere.items", ErrorCode::NamespaceNotFound),
        ("SELECT * FROM a.b.items", ErrorCode::TableNotFound),
        ("SELECT id FROM items WHERE label", ErrorCode::InvalidStatement),
        ("SELECT 1 / 0", ErrorCode::DivisionByZero),
        ("SELECT id / (price - price) FROM items", ErrorCode::DivisionByZero),
        ("SELECT CAST('x' AS INT)", ErrorCode::ValueOutOfRange),
        ("SELECT nosuch(id) FROM items", ErrorCode::InvalidStatement),
        ("SELECT id FROM items WHERE id = 1 GROUP BY label", ErrorCode::InvalidStatement),
    ] {
        let error = root.fail(sql).await;
        assert_eq!(error.code, code, "{sql}: {error:?}");
    }
}

#[tokio::test]
async fn a_statement_reads_one_state_while_others_write_and_flush() {
    let server = Server::start().await;
    items(&server, Layout::Mixed).await;
    let mut root = server.root();
    // The result is a stream that has not been read yet.
    let open = root.run("SELECT id FROM items").await;
    let mut other = server.root();
    other
        .run("DELETE FROM items WHERE id > 10; FLUSH TABLE items; INSERT INTO items VALUES (900, 'new', 1)")
        .await;
    let rows = crate::harness::encode(open, kalamdb_sql::RowFormat::Arrays).await;
    assert_eq!(rows.as_array().unwrap().len(), 194);
    assert_eq!(root.rows("SELECT count(*) FROM items").await, json!([[7]]));
}

#[tokio::test]
async fn queries_without_tables_ctes_set_operations_and_windows_work() {
    let server = Server::start().await;
    items(&server, Layout::Mixed).await;
    let mut root = server.root();
    for (sql, expected) in [
        ("SELECT 1 + 1, 'a' || 'b'", json!([[2, "ab"]])),
        ("VALUES (1), (2)", json!([[1], [2]])),
        ("WITH c AS (SELECT id FROM items WHERE id < 8) SELECT count(*) FROM c", json!([[3]])),
        (
            "SELECT id FROM items WHERE id = 6 UNION ALL SELECT id FROM items WHERE id = 7 ORDER BY 1",
            json!([[6], [7]]),
        ),
        (
            "SELECT id, row_number() OVER (ORDER BY id DESC) FROM items WHERE id < 8 ORDER BY id LIMIT 1",
            json!([[2, 3]]),
        ),
        ("SELECT count(*) FROM generate_series(1, 10)", json!([[10]])),
        (
            "WITH RECURSIVE n AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM n WHERE i < 4) SELECT max(i) FROM n",
            json!([[4]]),
        ),
        (
            "SELECT id FROM items i WHERE EXISTS (SELECT 1 FROM items j WHERE j.id = i.id + 1) AND id < 8 ORDER BY 1",
            json!([[6], [7]]),
        ),
    ] {
        assert_eq!(root.rows(sql).await, expected, "{sql}");
    }
}
