//! Bad input gets the documented error, and the server goes on.

use std::io::Read;

use kalamdb_tests::{Client, Reply, Server};
use serde_json::{Value, json};

const MIB: usize = 1 << 20;

fn prepared() -> (Server, Client) {
    let server = Server::start();
    let root = server.root();
    root.sql(
        "CREATE NAMESPACE app; \
         CREATE SHARED TABLE app.messages (id BIGINT PRIMARY KEY, body TEXT NOT NULL, score INT DEFAULT 0 CHECK (score >= 0)); \
         CREATE USER TABLE app.mine (a INT, b TEXT, PRIMARY KEY (a, b)); \
         INSERT INTO app.messages (id, body) VALUES (1, 'one')",
    );
    (server, root)
}

/// The server answers, and what was refused has changed nothing.
fn still_well(client: &Client, after: &str) {
    let found = client.grid("SELECT id, body, score FROM app.messages ORDER BY id");
    assert_eq!(found, [[json!(1), json!("one"), json!(0)]], "after {after}");
}

#[test]
fn wrong_statements_have_their_code_and_change_nothing() {
    let (_server, root) = prepared();
    for (sql, status, code) in [
        ("SELEC 1", 400, "SYNTAX_ERROR"),
        ("SELECT * FROM", 400, "SYNTAX_ERROR"),
        ("SELECT 'open", 400, "SYNTAX_ERROR"),
        ("", 400, "INVALID_STATEMENT"),
        (" ; ; -- nothing\n", 400, "INVALID_STATEMENT"),
        ("SELECT * FROM app.mesages", 404, "TABLE_NOT_FOUND"),
        ("SELECT * FROM ap.messages", 404, "NAMESPACE_NOT_FOUND"),
        ("SELECT bdy FROM app.messages", 404, "COLUMN_NOT_FOUND"),
        ("UPDATE app.messages SET bdy = 'x'", 404, "COLUMN_NOT_FOUND"),
        ("INSERT INTO app.messages (id, bdy) VALUES (2, 'x')", 404, "COLUMN_NOT_FOUND"),
        ("INSERT INTO app.nothing VALUES (1)", 404, "TABLE_NOT_FOUND"),
        ("DELETE FROM app.nothing", 404, "TABLE_NOT_FOUND"),
        ("FLUSH TABLE app.nothing", 404, "TABLE_NOT_FOUND"),
        ("DESCRIBE app.nothing", 404, "TABLE_NOT_FOUND"),
        ("SHOW TABLES IN nowhere", 404, "NAMESPACE_NOT_FOUND"),
        ("DROP NAMESPACE nowhere", 404, "NAMESPACE_NOT_FOUND"),
        ("DROP TABLE app.nothing", 404, "TABLE_NOT_FOUND"),
        ("DROP USER 'nobody'", 404, "USER_NOT_FOUND"),
        ("INSERT INTO app.messages (id, body) VALUES (1, 'again')", 409, "UNIQUE_VIOLATION"),
        ("INSERT INTO app.messages (id, body) VALUES (2, 'a'), (3, 'b'), (2, 'c')", 409, "UNIQUE_VIOLATION"),
        ("INSERT INTO app.messages (id, body) VALUES (2, 'a'), (1, 'b')", 409, "UNIQUE_VIOLATION"),
        ("CREATE NAMESPACE app", 409, "ALREADY_EXISTS"),
        ("CREATE SHARED TABLE app.messages (id BIGINT PRIMARY KEY)", 409, "ALREADY_EXISTS"),
        ("CREATE USER 'root' WITH PASSWORD 'long enough' ROLE user", 409, "ALREADY_EXISTS"),
        ("DROP NAMESPACE app", 409, "IN_USE"),
        ("INSERT INTO app.messages (id) VALUES (2)", 422, "NOT_NULL_VIOLATION"),
        ("INSERT INTO app.messages (id, body) VALUES (2, NULL)", 422, "NOT_NULL_VIOLATION"),
        ("INSERT INTO app.messages (id, body) VALUES (NULL, 'x')", 422, "NOT_NULL_VIOLATION"),
        ("UPDATE app.messages SET body = NULL", 422, "NOT_NULL_VIOLATION"),
        ("INSERT INTO app.messages (id, body, score) VALUES (2, 'x', -1)", 422, "CHECK_VIOLATION"),
        ("UPDATE app.messages SET score = -1", 422, "CHECK_VIOLATION"),
        ("UPDATE app.messages SET score = 10 / 0", 422, "DIVISION_BY_ZERO"),
        ("SELECT 1 / (id - id) FROM app.messages", 422, "DIVISION_BY_ZERO"),
        ("INSERT INTO app.messages (id, body, score) VALUES (2, 'x', 3000000000)", 422, "VALUE_OUT_OF_RANGE"),
        ("SELECT CAST(body AS INT) FROM app.messages", 422, "VALUE_OUT_OF_RANGE"),
        ("INSERT INTO app.messages (id, body) VALUES (2, 'a', 3)", 400, "INVALID_STATEMENT"),
        ("CREATE SHARED TABLE app.x (id BIGINT PRIMARY KEY, id INT)", 400, "INVALID_STATEMENT"),
        ("CREATE SHARED TABLE app.x (id BIGINT PRIMARY KEY) WITH (acces = 'read')", 400, "INVALID_PARAMETER"),
        (
            "CREATE SHARED TABLE app.x (id BIGINT PRIMARY KEY) WITH (access = 'everyone')",
            400,
            "INVALID_PARAMETER",
        ),
        ("CREATE USER 'x' WITH PASSWORD 'long enough' ROLE king", 400, "INVALID_PARAMETER"),
    ] {
        let refusal = root.refused(sql, status, code);
        assert_eq!(refusal.answer["error"]["statement_index"], 0, "{sql}");
        still_well(&root, sql);
    }
}

#[test]
fn arithmetic_that_overflows_is_an_error() {
    let (_server, root) = prepared();
    for sql in [
        "SELECT 9223372036854775807 + id FROM app.messages",
        "SELECT -9223372036854775807 - 2 * id FROM app.messages",
        "SELECT 9223372036854775807 * (id + 1) FROM app.messages",
        "SELECT sum(n) FROM (VALUES (9223372036854775807), (1)) AS t (n)",
    ] {
        root.refused(sql, 422, "VALUE_OUT_OF_RANGE");
    }
}

#[test]
fn a_value_of_the_wrong_type_is_refused_as_such() {
    let (_server, root) = prepared();
    for sql in [
        "INSERT INTO app.messages (id, body) VALUES ('one', 'x')",
        "INSERT INTO app.messages (id, body) VALUES (true, 'x')",
        "UPDATE app.messages SET score = 'many'",
    ] {
        let refusal = root.request(&json!({"sql": sql})).refusal();
        let accepted = [(400, "TYPE_MISMATCH"), (422, "VALUE_OUT_OF_RANGE")];
        assert!(accepted.contains(&(refusal.status, refusal.code.as_str())), "{sql}: {}", refusal.answer);
        still_well(&root, sql);
    }
}

#[test]
fn errors_say_where_and_hint_at_the_nearest_name() {
    let (_server, root) = prepared();
    let refusal = root.refused("SELECT 1;\nSELECT *\n  FROM app.mesages", 404, "TABLE_NOT_FOUND");
    let error = &refusal.answer["error"];
    assert!(refusal.hint().contains("app.messages"), "{error}");
    assert_eq!(error["position"], json!({"line": 3, "column": 8}));
    assert_eq!(error["statement_index"], 1);
    assert!(root.refused("SELECT scor FROM app.messages", 404, "COLUMN_NOT_FOUND").hint().contains("score"));
    assert!(root.refused("SHOW TABLES IN ap", 404, "NAMESPACE_NOT_FOUND").hint().contains("app"));
    let mistyped = root.refused("CREATE TABLE app.numbers (id BIGINTT PRIMARY KEY)", 400, "UNSUPPORTED");
    assert!(mistyped.hint().contains("did you mean BIGINT?"));
    let refusal = root.refused("SELECT 1 +\n* 2", 400, "SYNTAX_ERROR");
    assert_eq!(refusal.answer["error"]["position"]["line"], 2, "{}", refusal.answer);
    let refusal = root.refused("DROP NAMESPACE app", 409, "IN_USE");
    assert!(refusal.message().contains("app.messages") && refusal.message().contains("app.mine"));
}

#[test]
fn statements_stop_at_the_first_error_and_the_results_before_are_told() {
    let (_server, root) = prepared();
    let sql = "SELECT 1 AS n; INSERT INTO app.messages (id, body) VALUES (2, 'two'); \
               INSERT INTO app.messages (id, body) VALUES (1, 'one'); DELETE FROM app.messages";
    let refusal = root.refused(sql, 409, "UNIQUE_VIOLATION");
    assert_eq!(refusal.answer["error"]["statement_index"], 2);
    let results = refusal.answer["results"].as_array().unwrap();
    assert_eq!(results.len(), 2, "{results:?}");
    assert_eq!(results[0]["rows"], json!([{"n": 1}]));
    assert_eq!(results[1]["affected_rows"], 1);
    assert_eq!(root.number("SELECT count(*) FROM app.messages"), 2, "what was before the error stays");
    // A statement that cannot be understood is no exception.
    let sql = "DELETE FROM app.messages WHERE id = 2; SELEC 1; DELETE FROM app.messages";
    let refusal = root.refused(sql, 400, "SYNTAX_ERROR");
    assert_eq!(refusal.answer["error"]["statement_index"], 1);
    assert_eq!(refusal.answer["results"][0]["affected_rows"], 1);
    still_well(&root, "a statement that cannot be understood");
}

#[test]
fn wrong_parameters_are_refused() {
    let (_server, root) = prepared();
    let insert = "INSERT INTO app.messages (id, body) VALUES ($1, $2)";
    for (body, status, code) in [
        (json!({"sql": insert}), 400, "INVALID_PARAMETER"),
        (json!({"sql": insert, "params": [2]}), 400, "INVALID_PARAMETER"),
        (json!({"sql": insert, "params": [2, "x", 3]}), 400, "INVALID_PARAMETER"),
        (json!({"sql": insert, "params": {"1": 2}}), 400, "INVALID_PARAMETER"),
        (json!({"sql": "SELECT $1; SELECT $1", "params": [2]}), 400, "INVALID_PARAMETER"),
        (json!({"sql": insert, "params": [1, "x"]}), 409, "UNIQUE_VIOLATION"),
        (json!({"sql": insert, "params": [2, null]}), 422, "NOT_NULL_VIOLATION"),
        (json!({"sql": "SELECT $1", "params": vec![1; 1001]}), 413, "TOO_LARGE"),
        (json!({"sql": 1}), 400, "INVALID_PARAMETER"),
        (json!({"params": []}), 400, "INVALID_PARAMETER"),
        (json!({"sql": "SELECT 1", "parms": []}), 400, "INVALID_PARAMETER"),
        (json!({"sql": "SELECT 1", "row_format": "columns"}), 400, "INVALID_PARAMETER"),
        (json!({"sql": "SELECT 1", "namespace": "nowhere"}), 404, "NAMESPACE_NOT_FOUND"),
        (json!([]), 400, "INVALID_PARAMETER"),
    ] {
        let refusal = root.request(&body).refusal();
        assert_eq!(
            (refusal.status, refusal.code.as_str()),
            (status, code),
            "{body:.200}: {}",
            refusal.answer
        );
        still_well(&root, &body.to_string());
    }
    for value in [json!("two"), json!([1]), json!({"a": 1}), json!(1.5), json!(true)] {
        let refusal = root.request(&json!({"sql": insert, "params": [value, "x"]})).refusal();
        assert!(matches!(refusal.status, 400 | 422), "{value}: {}", refusal.answer);
    }
    still_well(&root, "parameters of a wrong type");
}

#[test]
fn malformed_bodies_are_refused() {
    let (_server, root) = prepared();
    let json_type = [("content-type", "application/json")];
    let deep = format!("{{\"sql\":{}{}}}", "[".repeat(200_000), "]".repeat(200_000));
    let long_list = format!("SELECT {}", vec!["1"; 30_000].join("+"));
    let parens = format!("SELECT {}1{}", "(".repeat(20_000), ")".repeat(20_000));
    for body in ["{", "{\"sql\": \"SELECT 1\"", "{\"sql\": SELECT 1}", "nonsense", "", "\u{0}", deep.as_str()]
    {
        let refusal = root.post("/api/sql", &json_type, body.as_bytes()).refusal();
        let accepted = [(400, "SYNTAX_ERROR"), (400, "INVALID_PARAMETER")];
        assert!(
            accepted.contains(&(refusal.status, refusal.code.as_str())),
            "{body:.50}: {}",
            refusal.answer
        );
        still_well(&root, &format!("{body:.50}"));
    }
    let refusal = root.post("/api/sql", &json_type, b"{\n  \"sql\": }").refusal();
    assert_eq!(refusal.code, "SYNTAX_ERROR");
    assert_eq!(refusal.answer["error"]["position"]["line"], 2, "{}", refusal.answer);
    let refusal = root.post("/api/sql", &json_type, b"{\"sql\": \"\xff\xfe\"}").refusal();
    assert_eq!(refusal.status, 400);
    for text in [long_list.as_str(), parens.as_str()] {
        let reply = root.post("/api/sql", &[("content-type", "text/plain")], text.as_bytes());
        assert!(matches!(reply.status, 200 | 400 | 413), "{:.300}", reply.text);
        still_well(&root, &format!("{text:.50}"));
    }
    let reply =
        root.post("/api/sql", &[("content-type", "application/x-www-form-urlencoded")], b"sql=SELECT+1");
    assert_eq!(reply.refusal().status, 400);
}

#[test]
fn a_body_over_the_limit_is_refused_announced_or_not() {
    let (_server, root) = prepared();
    let statement = |size: usize| format!("SELECT '{}'", "x".repeat(size));
    let plain = [("content-type", "text/plain")];
    let refusal = root.post("/api/sql", &plain, statement(17 * MIB).as_bytes()).refusal();
    assert_eq!((refusal.status, refusal.code.as_str()), (413, "TOO_LARGE"));
    still_well(&root, "a large body");
    let text = statement(17 * MIB);
    let refusal = root.post_stream("/api/sql", "text/plain", &mut text.as_bytes()).refusal();
    assert_eq!((refusal.status, refusal.code.as_str()), (413, "TOO_LARGE"));
    still_well(&root, "a large body of unknown length");
    let reply = root.post("/api/sql", &plain, statement(15 * MIB).as_bytes());
    assert_eq!(reply.status, 200, "{:.300}", reply.text);
    assert!(reply.text.len() > 15 * MIB);
}

#[test]
fn unknown_endpoints_and_methods_are_told_in_json() {
    let (_server, root) = prepared();
    for path in
        ["/api", "/api/", "/api/nothing", "/nothing", "/api/sql/more", "/v1/nothing", "/api/import/app"]
    {
        let refusal = root.get(path).refusal();
        assert_eq!((refusal.status, refusal.code.as_str()), (404, "NOT_FOUND"), "{path}");
    }
    for (path, allowed) in [
        ("/api/sql", "POST"),
        ("/v1/sql", "POST"),
        ("/api/auth/login", "POST"),
        ("/api/import/app/messages", "POST"),
    ] {
        let reply = root.get(path);
        assert!(reply.header("allow").contains(allowed), "{path}: {:?}", reply.header("allow"));
        let refusal = reply.refusal();
        assert_eq!((refusal.status, refusal.code.as_str()), (405, "METHOD_NOT_ALLOWED"), "{path}");
    }
    let reply = root.post("/health", &[], b"");
    assert_eq!((reply.status, reply.header("allow").contains("GET")), (405, true));
    still_well(&root, "unknown endpoints");
}

#[test]
fn who_is_not_known_is_told_how_to_log_in() {
    let (server, root) = prepared();
    let unauthenticated = |reply: Reply| {
        assert!(reply.header("www-authenticate").starts_with("Basic realm="), "{:?}", reply.headers);
        let refusal = reply.refusal();
        assert_eq!((refusal.status, refusal.code.as_str()), (401, "UNAUTHENTICATED"));
        refusal.message().to_owned()
    };
    let select = json!({"sql": "SELECT 1"});
    let wrong_password = unauthenticated(server.user("root", "wrong").request(&select));
    let wrong_user = unauthenticated(server.user("nobody", "wrong").request(&select));
    assert_eq!(wrong_password, wrong_user, "nobody learns which users exist");
    unauthenticated(root.anonymous().request(&select));
    unauthenticated(root.bearer("nonsense").request(&select));
    for header in ["Basic", "Basic !!!", "Digest x", "nonsense"] {
        unauthenticated(Client::with_authorization(root.url(), Some(header.into())).request(&select));
    }
    unauthenticated(root.anonymous().get("/api/live?sql=SELECT%201"));
    unauthenticated(root.anonymous().get("/api/auth/me"));
    unauthenticated(root.anonymous().post(
        "/api/import/app/messages",
        &[("content-type", "text/csv")],
        b"id\n2\n",
    ));
    for path in ["/health", "/ready"] {
        assert_eq!(root.anonymous().get(path).status, 200, "{path}");
    }
    still_well(&root, "wrong logins");
}

#[test]
fn ten_wrong_logins_lock_a_user_and_nobody_else() {
    let (server, root) = prepared();
    root.sql("CREATE USER 'ann' WITH PASSWORD 'ann has a secret' ROLE user");
    for _ in 0..10 {
        assert_eq!(server.user("ann", "guess").request(&json!({"sql": "SELECT 1"})).status, 401);
    }
    let reply = server.user("ann", "ann has a secret").request(&json!({"sql": "SELECT 1"}));
    assert!(!reply.header("retry-after").is_empty());
    let refusal = reply.refusal();
    assert_eq!((refusal.status, refusal.code.as_str()), (429, "RATE_LIMITED"));
    still_well(&root, "a locked user");
}

#[test]
fn a_refused_import_says_how_many_rows_are_in() {
    let (_server, root) = prepared();
    let csv = [("content-type", "text/csv")];
    let import = |query: &str, body: &str| {
        root.post(&format!("/api/import/app/messages{query}"), &csv, body.as_bytes())
    };
    let reply = import("", "id,body\n1,again\n");
    assert_eq!(reply.json()["rows"], 0);
    assert_eq!((reply.status, reply.refusal().code.as_str()), (409, "UNIQUE_VIOLATION"));
    for (body, status) in
        [("id,bdy\n2,x\n", 404), ("id,body\ntwo,x\n", 422), ("id,body\n2,\n", 422), ("id,body\n2\n", 400)]
    {
        let refusal = import("", body).refusal();
        let alike = refusal.status == status || (status == 422 && refusal.status == 400);
        assert!(alike, "{body:?}: {}", refusal.answer);
        still_well(&root, body);
    }
    let rows: String = (2..25).map(|id| format!("{id},text\n")).collect();
    let reply = import("?batch_rows=10", &format!("id,body\n{rows}1,again\n"));
    assert_eq!((reply.status, reply.json()["rows"].as_u64()), (409, Some(20)));
    assert_eq!(root.number("SELECT count(*) FROM app.messages"), 21);
    let refusal = root.post("/api/import/app/nothing", &csv, b"id\n1\n").refusal();
    assert_eq!((refusal.status, refusal.code.as_str()), (404, "TABLE_NOT_FOUND"));
    let refusal = root
        .post("/api/import/app/messages", &[("content-type", "text/tab-separated-values")], b"x")
        .refusal();
    assert_eq!((refusal.status, refusal.code.as_str()), (400, "INVALID_PARAMETER"));
    let refusal = import("?nul=NA", "id\n2\n").refusal();
    assert_eq!((refusal.status, refusal.code.as_str()), (400, "INVALID_PARAMETER"));
}

#[test]
fn answers_come_in_the_documented_shape_and_formats() {
    let (_server, root) = prepared();
    let reply = root.request(&json!({"sql": "SELECT id, body FROM app.messages"}));
    assert!(!reply.header("x-request-id").is_empty());
    let answer = reply.json();
    let result = &answer["results"][0];
    assert_eq!(result["schema"][0], json!({"name": "id", "type": "BIGINT", "nullable": false}));
    assert_eq!((&result["rows"], &result["row_count"]), (&json!([{"id": 1, "body": "one"}]), &json!(1)));
    assert_eq!((&result["affected_rows"], &result["seq"]), (&Value::Null, &Value::Null));
    assert!(answer["execution_time_ms"].is_number() && result["execution_time_ms"].is_number());
    let insert = root.last("INSERT INTO app.messages (id, body) VALUES (2, 'two') RETURNING id, score");
    assert_eq!((&insert["affected_rows"], &insert["rows"]), (&json!(1), &json!([{"id": 2, "score": 0}])));
    assert!(insert["seq"].as_u64().is_some_and(|seq| seq > 0));
    assert!(root.last("CREATE NAMESPACE other")["message"].is_string());
    let values = "SELECT 9007199254740993 AS big, CAST(1.50 AS DECIMAL(10,2)) AS d, TIMESTAMP '2024-02-29 12:00:00' AS t";
    let row = &root.rows(values)[0];
    assert_eq!(row, &json!({"big": "9007199254740993", "d": "1.50", "t": "2024-02-29T12:00:00.000000Z"}));
    let as_format = |accept: &str| {
        let headers = [("accept", accept), ("content-type", "text/plain")];
        root.post("/v1/sql", &headers, b"SELECT id, body FROM app.messages ORDER BY id")
    };
    assert_eq!(as_format("text/csv").text.replace("\r\n", "\n"), "id,body\n1,one\n2,two\n");
    assert_eq!(
        as_format("application/x-ndjson").text,
        "{\"id\":1,\"body\":\"one\"}\n{\"id\":2,\"body\":\"two\"}\n"
    );
    let mut arrow = Vec::new();
    as_format("application/vnd.apache.arrow.stream").text.as_bytes().read_to_end(&mut arrow).unwrap();
    assert!(!arrow.is_empty());
}
