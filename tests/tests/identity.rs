//! Users, roles and private partitions: every door through which one user might read another's rows is tried.

use kalamdb_tests::{Client, LiveRequest, Reply, Server};
use serde_json::json;

/// What ann keeps to herself, in every column that she can write.
const SECRET: &str = "anns-secret-7f3a";

struct People {
    server: Server,
    root: Client,
    ann: Client,
    bob: Client,
}

fn people() -> People {
    let server = Server::start();
    let root = server.root();
    root.sql(
        "CREATE NAMESPACE app; \
         CREATE USER TABLE app.messages (id BIGINT PRIMARY KEY, body TEXT, n INT DEFAULT 1); \
         CREATE SHARED TABLE app.board (id BIGINT PRIMARY KEY, body TEXT); \
         CREATE SHARED TABLE app.rules (id BIGINT PRIMARY KEY, body TEXT) WITH (access = 'read'); \
         CREATE SHARED TABLE app.vault (id BIGINT PRIMARY KEY, body TEXT) WITH (access = 'private'); \
         CREATE USER 'ann' WITH PASSWORD 'ann has a secret' ROLE user; \
         CREATE USER 'bob' WITH PASSWORD 'bob has a secret' ROLE user; \
         CREATE USER 'sam' WITH PASSWORD 'sam has a secret' ROLE service; \
         CREATE USER 'dora' WITH PASSWORD 'dora has a secret' ROLE dba",
    );
    root.sql(&format!(
        "INSERT INTO app.rules VALUES (1, 'be kind'); INSERT INTO app.vault VALUES (1, '{SECRET}')"
    ));
    let (ann, bob) = (server.user("ann", "ann has a secret"), server.user("bob", "bob has a secret"));
    // Some flushed, some hot.
    ann.sql(&format!("INSERT INTO app.messages VALUES (1, '{SECRET}', 10), (2, '{SECRET}', 20)"));
    root.sql("FLUSH TABLE app.messages");
    ann.sql(&format!("INSERT INTO app.messages VALUES (3, '{SECRET}', 30)"));
    bob.sql("INSERT INTO app.messages VALUES (1, 'of bob', 1)");
    People { server, root, ann, bob }
}

/// Neither rows of ann, nor that they are there.
fn check_silent(door: &str, reply: &Reply) {
    assert!(!reply.text.contains(SECRET), "{door}: {}", reply.text);
    assert!(reply.status < 500, "{door}: {}", reply.text);
}

#[test]
fn no_text_of_sql_shows_a_user_the_rows_of_another() {
    let People { server: _server, bob, .. } = people();
    for sql in [
        "SELECT * FROM app.messages",
        "SELECT *, _seq, _updated, _deleted FROM app.messages",
        "SELECT * FROM app.messages WHERE 1 = 1 OR body LIKE '%'",
        "SELECT * FROM app.messages WHERE _user = 'ann'",
        "SELECT _user, * FROM app.messages",
        "SELECT * FROM app.messages WHERE _user IS NOT NULL OR true",
        "SELECT \"_user\", body FROM app.messages",
        "SELECT m._user FROM app.messages m",
        "SELECT * FROM (SELECT * FROM app.messages WHERE _user = 'ann') AS x",
        "WITH x AS (SELECT * FROM app.messages) SELECT * FROM x",
        "SELECT a.* FROM app.messages a JOIN app.messages b ON true",
        "SELECT * FROM app.messages UNION ALL SELECT * FROM app.messages",
        "SELECT * FROM app.messages WHERE id IN (SELECT id FROM app.messages)",
        "SELECT (SELECT max(body) FROM app.messages)",
        "SELECT max(body), min(body), string_agg(body, ',') FROM app.messages",
        "SELECT * FROM app.messages WHERE _deleted OR NOT _deleted",
        "SELECT * FROM app.messages WHERE _row_address >= 0",
        "SELECT _row_address FROM app.messages",
        "SELECT * FROM app.messages WHERE _seq > 0 ORDER BY _seq",
        "SELECT * FROM \"app\".\"messages\"",
        "SELECT * FROM app.\"messages/ann\"",
        "SELECT * FROM app.\"../app/messages\"",
        "SELECT * FROM 'tables/app/messages/ann/manifest.json'",
        "SELECT * FROM datafusion.app.messages",
        "SELECT * FROM default.app.messages",
        "TABLE app.messages",
        "EXPLAIN SELECT * FROM app.messages",
        "EXPLAIN VERBOSE SELECT * FROM app.messages WHERE body > ''",
        "EXPLAIN ANALYZE SELECT * FROM app.messages WHERE body > ''",
        "UPDATE app.messages SET n = n + 1 RETURNING *",
        "UPDATE app.messages SET n = 5 WHERE _user = 'ann' RETURNING *",
        "DELETE FROM app.messages WHERE _user = 'ann' RETURNING *",
        "DELETE FROM app.messages WHERE body LIKE 'anns%' RETURNING *",
        "INSERT INTO app.messages (id, body) VALUES (3, 'mine') RETURNING *",
        "INSERT INTO app.messages (id, body) SELECT id + 100, body FROM app.messages RETURNING *",
        "INSERT INTO app.messages (id, body, _user) VALUES (7, 'x', 'ann') RETURNING *",
        "INSERT INTO app.messages (id, body) VALUES (2, 'mine') ON CONFLICT (id) DO UPDATE SET body = app.messages.body RETURNING *",
        "INSERT INTO app.board SELECT id, body FROM app.messages; SELECT * FROM app.board",
        "SELECT CAST(body AS INT) FROM app.messages",
        "SELECT 1 / (n - 10) FROM app.messages",
        "EXECUTE AS USER 'ann' (SELECT * FROM app.messages)",
        "USE app; SELECT * FROM messages",
        "SET SESSION AUTHORIZATION ann; SELECT * FROM app.messages",
        "COPY app.messages TO '/tmp/stolen.csv'",
        "CREATE EXTERNAL TABLE x STORED AS PARQUET LOCATION '/'",
        "CREATE VIEW app.v AS SELECT * FROM app.messages",
        "DESCRIBE app.messages HISTORY",
        "SHOW STATS FOR TABLE app.messages",
        "SHOW MANIFEST FOR app.messages",
        "FLUSH TABLE app.messages FOR USER 'ann'",
        "EXPORT USER 'ann' TO 'x'",
        "BACKUP NAMESPACE app TO 'x'",
        "SELECT * FROM app.vault",
        "SELECT count(*) FROM app.vault",
        "SELECT * FROM system.segments",
        "SELECT * FROM system.partitions",
        "SELECT * FROM system.queries",
        "SELECT * FROM system.audit_log",
        "SELECT * FROM system.jobs",
        "SELECT * FROM system.live_queries",
        "SELECT * FROM information_schema.tables",
        "SELECT * FROM information_schema.columns",
    ] {
        let reply = bob.request(&json!({"sql": sql}));
        check_silent(sql, &reply);
        if reply.status == 200 && sql.contains("EXPLAIN") {
            assert!(!reply.text.contains("ann"), "{sql}: {}", reply.text);
        }
    }
}

#[test]
fn what_one_user_does_leaves_the_rows_of_another_alone() {
    let People { server: _server, root, ann, bob } = people();
    let before = ann.grid("SELECT id, body, n, _seq FROM app.messages ORDER BY id");
    for sql in [
        "INSERT INTO app.messages VALUES (2, 'of bob', 2), (3, 'of bob', 3)",
        "UPDATE app.messages SET body = 'changed', n = 0",
        "UPDATE app.messages SET body = 'changed' WHERE id = 3",
        "DELETE FROM app.messages WHERE id = 2",
        "DELETE FROM app.messages",
    ] {
        bob.sql(sql);
    }
    assert_eq!(ann.grid("SELECT id, body, n, _seq FROM app.messages ORDER BY id"), before);
    root.sql("UPDATE app.messages SET body = 'of root'; DELETE FROM app.messages; FLUSH TABLE app.messages");
    assert_eq!(
        ann.grid("SELECT id, body, n, _seq FROM app.messages ORDER BY id"),
        before,
        "root's own partition only"
    );
    assert_eq!(bob.number("SELECT count(*) FROM app.messages"), 0);
    assert_eq!(ann.value("SELECT CURRENT_USER()"), "ann");
}

#[test]
fn feeds_show_a_user_the_own_partition_only() {
    let People { server: _server, root, ann, bob } = people();
    let everything = LiveRequest::new("SELECT * FROM app.messages WHERE true OR id > 0");
    let mut feed = everything.open(&bob);
    let ready = feed.expect("ready");
    assert!(!ready.data.to_string().contains("ann"));
    assert_eq!(feed.snapshot(), [json!({"id": 1, "body": "of bob", "n": 1})]);
    let mut from_zero =
        LiveRequest::new("SELECT * FROM app.messages").with("snapshot", false).after("0").open(&bob);
    for sql in [
        "SELECT * FROM app.messages WHERE _user = 'ann'",
        "SELECT _user, body FROM app.messages",
        "SELECT * FROM app.vault",
        "SELECT * FROM system.audit_log",
        "SELECT * FROM system.jobs",
    ] {
        let refusal = LiveRequest::new(sql).refused(&bob);
        assert!(matches!(refusal.status, 400 | 403), "{sql}: {}", refusal.answer);
        assert!(!refusal.answer.to_string().contains(SECRET));
    }
    ann.sql(&format!("INSERT INTO app.messages VALUES (4, '{SECRET}', 1); UPDATE app.messages SET n = 2; DELETE FROM app.messages WHERE id = 1"));
    root.sql("INSERT INTO app.messages VALUES (9, 'of root', 1)");
    bob.sql("INSERT INTO app.messages VALUES (5, 'the last', 1)");
    for (feed, name) in [(&mut feed, "from the snapshot"), (&mut from_zero, "from the whole log")] {
        let events = feed.wait_for(|event| event.data.to_string().contains("the last"));
        let text = format!("{events:?}");
        assert!(!text.contains(SECRET) && !text.contains("of root"), "{name}: {text}");
    }
    // Nobody sees, or ends, the live queries of others.
    assert_eq!(ann.rows("SELECT * FROM system.live_queries").len(), 0);
    let of_bob = bob.rows("SELECT live_id, user_id FROM system.live_queries");
    assert_eq!(of_bob.len(), 2, "{of_bob:?}");
    let live_id = of_bob[0]["live_id"].as_str().expect("an id").to_owned();
    let kill = ann.request(&json!({"sql": format!("KILL LIVE QUERY '{live_id}'")})).refusal();
    assert!(matches!(kill.status, 403 | 404), "{}", kill.answer);
}

#[test]
fn roles_may_do_what_is_theirs_and_no_more() {
    let People { server, root, ann, .. } = people();
    let (sam, dora) = (server.user("sam", "sam has a secret"), server.user("dora", "dora has a secret"));
    for sql in [
        "CREATE NAMESPACE mine",
        "DROP NAMESPACE app CASCADE",
        "CREATE SHARED TABLE app.x (id BIGINT PRIMARY KEY)",
        "DROP TABLE app.messages",
        "FLUSH TABLE app.messages",
        "FLUSH ALL",
        "SHOW MANIFEST FOR app.messages",
        "CREATE USER 'x' WITH PASSWORD 'long enough' ROLE user",
        "ALTER USER 'bob' SET PASSWORD 'long enough'",
        "ALTER USER 'ann' SET ROLE dba",
        "DROP USER 'bob'",
        "SELECT * FROM app.vault",
        "INSERT INTO app.vault VALUES (2, 'x')",
        "INSERT INTO app.rules VALUES (2, 'x')",
        "UPDATE app.rules SET body = 'x'",
        "DELETE FROM app.rules",
        "SELECT * FROM system.jobs",
        "INSERT INTO system.users (user_id) VALUES ('x')",
        "UPDATE system.users SET role = 'system'",
        "EXECUTE AS USER 'bob' (SELECT 1)",
    ] {
        ann.refused(sql, 403, "PERMISSION_DENIED");
        if !sql.starts_with("EXECUTE") {
            sam.refused(sql, 403, "PERMISSION_DENIED");
        }
    }
    assert_eq!(ann.value("SELECT body FROM app.rules"), "be kind");
    ann.sql("INSERT INTO app.board VALUES (1, 'hello')");
    assert_eq!(sam.value("SELECT body FROM app.board"), "hello");
    let of_ann = "EXECUTE AS USER 'ann' (SELECT count(*) FROM app.messages)";
    assert_eq!((sam.number(of_ann), sam.number("SELECT count(*) FROM app.messages")), (3, 0));
    sam.sql("EXECUTE AS USER 'nobody-yet' (INSERT INTO app.messages (id, body) VALUES (1, 'welcome'))");
    sam.refused("EXECUTE AS USER 'root' (SELECT * FROM app.vault)", 403, "PERMISSION_DENIED");
    let all = "SELECT _user, count(*) FROM app.messages GROUP BY _user ORDER BY _user";
    let expected = json!([["ann", 3], ["bob", 1], ["nobody-yet", 1]]);
    assert_eq!((json!(dora.grid(all)), json!(root.grid(all))), (expected.clone(), expected));
    assert_eq!(dora.number("SELECT count(*) FROM app.messages"), 0, "without naming _user, one's own");
    dora.sql("CREATE SHARED TABLE app.doras (id BIGINT PRIMARY KEY); DROP TABLE app.doras");
    dora.refused("ALTER USER 'root' SET PASSWORD 'long enough'", 403, "PERMISSION_DENIED");
    dora.refused("CREATE USER 'x' WITH PASSWORD 'long enough' ROLE system", 403, "PERMISSION_DENIED");
}

#[test]
fn users_see_their_own_row_and_no_secret_is_ever_selectable() {
    let People { server: _server, root, ann, .. } = people();
    let own = ann.rows("SELECT * FROM system.users");
    assert_eq!(own.len(), 1);
    assert_eq!((&own[0]["user_id"], &own[0]["role"]), (&json!("ann"), &json!("user")));
    assert_eq!(ann.number("SELECT count(*) FROM system.users WHERE user_id <> 'ann' OR true"), 1);
    let all = root.request(&json!({"sql": "SELECT * FROM system.users"}));
    assert_eq!(all.json()["results"][0]["row_count"], 5);
    for text in ["argon2", "password", "hash", SECRET] {
        assert!(!all.text.to_lowercase().contains(text), "{}", all.text);
    }
    for client in [&root, &ann] {
        client.refused("SELECT password_hash FROM system.users", 404, "COLUMN_NOT_FOUND");
        let described = client.request(&json!({"sql": "DESCRIBE system.users"}));
        assert!(!described.text.contains("password"), "{}", described.text);
    }
}

#[test]
fn a_changed_password_and_a_dropped_user_end_access_at_once() {
    let People { server, root, ann, bob } = people();
    let select = json!({"sql": "SELECT 1"});
    let login = root
        .anonymous()
        .post("/api/auth/login", &[], br#"{"username":"bob","password":"bob has a secret"}"#)
        .json();
    let token = bob.bearer(login["token"].as_str().expect("a token"));
    assert_eq!(
        (ann.request(&select).status, bob.request(&select).status, token.request(&select).status),
        (200, 200, 200)
    );
    ann.sql("ALTER USER 'ann' SET PASSWORD 'ann has a new one'");
    assert_eq!(ann.request(&select).status, 401);
    assert_eq!(server.user("ann", "ann has a new one").number("SELECT count(*) FROM app.messages"), 3);
    root.sql("DROP USER 'bob'");
    assert_eq!(bob.request(&select).status, 401);
}

#[test]
fn tokens_of_a_login_stand_for_the_user_until_they_log_out() {
    let People { server: _server, root, .. } = people();
    let nobody = root.anonymous();
    let wrong = nobody.post("/api/auth/login", &[], br#"{"username":"ann","password":"wrong"}"#).refusal();
    assert_eq!((wrong.status, wrong.code.as_str()), (401, "UNAUTHENTICATED"));
    let reply = nobody.post("/api/auth/login", &[], br#"{"username":"ann","password":"ann has a secret"}"#);
    assert!(
        reply.header("set-cookie").contains("HttpOnly")
            && reply.header("set-cookie").contains("SameSite=Strict")
    );
    let login = reply.json();
    let of = |name: &str| nobody.bearer(login[name].as_str().expect("a token"));
    let token = of("token");
    assert_eq!(token.number("SELECT count(*) FROM app.messages"), 3);
    assert_eq!(token.get("/api/auth/me").json()["user"], json!({"user_id": "ann", "role": "user"}));
    // A feed token opens feeds and nothing else.
    assert_eq!(of("feed_token").request(&json!({"sql": "SELECT 1"})).status, 401);
    let request =
        LiveRequest::new("SELECT id FROM app.messages").token(login["feed_token"].as_str().unwrap());
    let mut feed = request.open(&nobody);
    feed.expect("ready");
    assert_eq!(feed.snapshot().len(), 3);
    let mut forged = login["token"].as_str().unwrap().to_owned();
    let last = forged.pop().unwrap();
    forged.push(if last == 'A' { 'B' } else { 'A' });
    let tampered = forged.replacen('.', ".e30", 1);
    for bad in
        [tampered.as_str(), "", "a.b.c", "eyJhbGciOiJub25lIn0.eyJzdWIiOiJyb290IiwiZXhwIjo5OTk5OTk5OTk5fQ."]
    {
        assert_eq!(nobody.bearer(bad).request(&json!({"sql": "SELECT 1"})).status, 401, "{bad}");
    }
    assert_eq!(token.post("/api/auth/logout", &[], b"").status, 200);
    assert_eq!(token.request(&json!({"sql": "SELECT 1"})).status, 401);
}
