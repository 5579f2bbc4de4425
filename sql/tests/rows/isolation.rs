use kalamdb_sql::{ErrorCode, Role};
use serde_json::json;

use crate::harness::{Layout, Server};

async fn messages(server: &Server, layout: Layout) {
    let mut root = server.root();
    root.run("CREATE NAMESPACE app; CREATE USER TABLE app.messages (id INT PRIMARY KEY, text TEXT)").await;
    for user in ["ann", "bob", "eve"] {
        server
            .user(user)
            .run(&format!("INSERT INTO app.messages VALUES (1, '{user} 1'), (2, '{user} 2')"))
            .await;
    }
    layout.half(&mut root, "app.messages").await;
    server.user("ann").run("UPDATE app.messages SET text = 'ann two' WHERE id = 2").await;
    server.user("bob").run("DELETE FROM app.messages WHERE id = 1").await;
    layout.end(&mut root, "app.messages").await;
}

#[tokio::test]
async fn every_session_sees_its_own_partition_whatever_it_says() {
    for layout in Layout::ALL {
        let server = Server::start().await;
        messages(&server, layout).await;
        let mut ann = server.user("ann");
        for sql in [
            "SELECT text FROM app.messages ORDER BY id",
            "SELECT text FROM app.messages WHERE true OR text LIKE 'bob%' ORDER BY id",
            "SELECT a.text FROM app.messages a JOIN app.messages b ON a.id = b.id ORDER BY a.id",
            "WITH m AS (SELECT * FROM app.messages) SELECT text FROM m UNION SELECT text FROM app.messages ORDER BY 1",
            "SELECT text FROM app.messages WHERE _seq >= 0 AND NOT _deleted ORDER BY id",
        ] {
            assert_eq!(ann.rows(sql).await, json!([["ann 1"], ["ann two"]]), "{layout:?}: {sql}");
        }
        assert_eq!(ann.rows("SELECT count(*) FROM app.messages").await, json!([[2]]));
        assert_eq!(server.user("bob").rows("SELECT id FROM app.messages").await, json!([[2]]));
        assert_eq!(server.user("new").rows("SELECT count(*) FROM app.messages").await, json!([[0]]));
        assert_eq!(
            server.root().rows("SELECT count(*) FROM app.messages").await,
            json!([[0]]),
            "root is a user too"
        );
        // Writes reach no further than reads.
        assert_eq!(ann.run("UPDATE app.messages SET text = 'mine'").await.affected_rows, Some(2));
        assert_eq!(server.root().run("DELETE FROM app.messages").await.affected_rows, Some(0));
        assert_eq!(
            server.user("eve").rows("SELECT text FROM app.messages ORDER BY id").await,
            json!([["eve 1"], ["eve 2"]])
        );
    }
}

#[tokio::test]
async fn only_dba_and_above_can_name_user() {
    let server = Server::start().await;
    messages(&server, Layout::Mixed).await;
    for role in [Role::User, Role::Service] {
        let mut client = server.session("ann", role);
        for sql in [
            "SELECT _user FROM app.messages",
            "SELECT id FROM app.messages WHERE _user = 'bob'",
            "SELECT id FROM app.messages WHERE \"_user\" IS NOT NULL",
            "UPDATE app.messages SET text = 'x' WHERE _user = 'bob'",
            "DELETE FROM app.messages WHERE _user = 'bob'",
            "INSERT INTO app.messages (id, text, _user) VALUES (9, 'x', 'bob')",
            "EXPLAIN SELECT _user FROM app.messages",
        ] {
            assert_eq!(client.fail(sql).await.code, ErrorCode::PermissionDenied, "{role}: {sql}");
        }
    }
    assert_eq!(server.user("bob").rows("SELECT id, text FROM app.messages").await, json!([[2, "bob 2"]]));
}

#[tokio::test]
async fn a_dba_who_names_user_reads_and_writes_all_partitions() {
    for layout in Layout::ALL {
        let server = Server::start().await;
        messages(&server, layout).await;
        let mut dba = server.session("dba", Role::Dba);
        let all = dba.rows("SELECT _user, id, text FROM app.messages ORDER BY 1, 2").await;
        let expected = json!([
            ["ann", 1, "ann 1"],
            ["ann", 2, "ann two"],
            ["bob", 2, "bob 2"],
            ["eve", 1, "eve 1"],
            ["eve", 2, "eve 2"]
        ]);
        assert_eq!(all, expected, "{layout:?}");
        let count = dba.rows("SELECT _user, count(*) FROM app.messages GROUP BY _user ORDER BY 1").await;
        assert_eq!(count, json!([["ann", 2], ["bob", 1], ["eve", 2]]));
        let some = dba
            .rows("SELECT * FROM app.messages WHERE _user IN ('bob', 'eve') AND id = 2 ORDER BY text")
            .await;
        assert_eq!(some, json!([[2, "bob 2"], [2, "eve 2"]]));
        assert_eq!(dba.rows("SELECT count(*) FROM app.messages WHERE _user = 'nobody'").await, json!([[0]]));
        assert_eq!(
            dba.run("UPDATE app.messages SET text = text || ' of ' || _user WHERE id = 2")
                .await
                .affected_rows,
            Some(3)
        );
        assert_eq!(server.user("bob").rows("SELECT text FROM app.messages").await, json!([["bob 2 of bob"]]));
        assert_eq!(dba.run("DELETE FROM app.messages WHERE _user = 'eve'").await.affected_rows, Some(2));
        assert_eq!(server.user("eve").rows("SELECT count(*) FROM app.messages").await, json!([[0]]));
        assert_eq!(server.user("ann").rows("SELECT count(*) FROM app.messages").await, json!([[2]]));
        let insert =
            "INSERT INTO app.messages (_user, id, text) VALUES ('ann', 5, 'from dba'), ('zoe', 5, 'too')";
        assert_eq!(dba.run(insert).await.affected_rows, Some(2));
        assert_eq!(server.user("zoe").rows("SELECT * FROM app.messages").await, json!([[5, "too"]]));
        let error = dba.fail("INSERT INTO app.messages (_user, id) VALUES ('new', 1), ('ann', 5)").await;
        assert_eq!(error.code, ErrorCode::UniqueViolation);
        assert_eq!(
            server.user("new").rows("SELECT count(*) FROM app.messages").await,
            json!([[0]]),
            "one atomic commit"
        );
    }
}

#[tokio::test]
async fn many_small_users_are_read_together_wherever_their_rows_are() {
    let server = Server::start().await;
    let mut root = server.root();
    root.run("CREATE NAMESPACE app; CREATE USER TABLE app.notes (id INT PRIMARY KEY, text TEXT)").await;
    let rows = |users: std::ops::Range<i32>| {
        let rows = users.flat_map(|n| (0..3).map(move |id| format!("('u{n:03}', {id}, 'text {id}')")));
        rows.collect::<Vec<_>>().join(", ")
    };
    let insert = |users| format!("INSERT INTO app.notes (_user, id, text) VALUES {}", rows(users));
    // In a pack; in a pack and changed since; only in memory; with a newer schema.
    root.run(&format!("{}; FLUSH TABLE app.notes", insert(0..200))).await;
    root.run("ALTER TABLE app.notes ADD COLUMN stars INT DEFAULT 5").await;
    root.run("UPDATE app.notes SET text = 'new' WHERE _user = 'u007' AND id = 1").await;
    root.run("DELETE FROM app.notes WHERE _user = 'u008'").await;
    root.run(&insert(200..250)).await;
    let plan = root.plan("SELECT _user, text FROM app.notes").await;
    assert!(plan.contains("UsersScanExec: table=app.notes"), "{plan}");
    assert!(!plan.contains("MemtableScanExec"), "{plan}");
    let counts =
        "SELECT count(*), count(DISTINCT _user), sum(stars), count(text) FROM app.notes WHERE _user <> ''";
    assert_eq!(root.rows(counts).await, json!([[747, 249, 3735, 747]]));
    let some = "SELECT _user, id, text, stars FROM app.notes WHERE text = 'new' OR _user LIKE 'u24%' AND id = 2 \
                ORDER BY _user LIMIT 2";
    assert_eq!(root.rows(some).await, json!([["u007", 1, "new", 5], ["u240", 2, "text 2", 5]]));
    let deleted = "SELECT _user, id, _deleted FROM app.notes WHERE _deleted ORDER BY id";
    assert_eq!(root.rows(deleted).await, json!([["u008", 0, true], ["u008", 1, true], ["u008", 2, true]]));
    let again =
        "SELECT a._user FROM app.notes a JOIN app.notes b ON a._user = b._user AND a.id < b.id GROUP BY 1";
    assert_eq!(root.rows(&format!("SELECT count(*) FROM ({again})")).await, json!([[249]]));
    assert_eq!(
        root.rows("SELECT id FROM app.notes WHERE _user IS NOT NULL LIMIT 4").await.as_array().unwrap().len(),
        4
    );
    root.run("FLUSH TABLE app.notes; COMPACT TABLE app.notes").await;
    assert_eq!(root.rows(counts).await, json!([[747, 249, 3735, 747]]));
    // Whoever changes rows across users still reads them one by one.
    let changed = root.run("UPDATE app.notes SET stars = 1 WHERE id = 0 AND _user < 'u100'").await;
    assert_eq!(changed.affected_rows, Some(99));
    assert_eq!(
        root.rows("SELECT count(*) FROM app.notes WHERE stars = 1 AND _user IS NOT NULL").await,
        json!([[99]])
    );
}

#[tokio::test]
async fn a_shared_table_opens_as_far_as_its_access_says() {
    let server = Server::start().await;
    let mut root = server.root();
    for access in ["public", "read", "private"] {
        root.run(&format!(
            "CREATE SHARED TABLE {access}_table (id INT PRIMARY KEY) WITH (access = '{access}')"
        ))
        .await;
        root.run(&format!("INSERT INTO {access}_table VALUES (1)")).await;
    }
    let mut user = server.user("ann");
    assert_eq!(user.rows("SELECT id FROM public_table").await, json!([[1]]));
    assert_eq!(user.rows("SELECT id FROM read_table").await, json!([[1]]));
    user.run("INSERT INTO public_table VALUES (2)").await;
    for sql in [
        "SELECT id FROM private_table",
        "EXPLAIN SELECT id FROM private_table",
        "SELECT (SELECT max(id) FROM private_table)",
        "INSERT INTO private_table VALUES (2)",
        "INSERT INTO public_table SELECT id + 10 FROM private_table",
        "INSERT INTO read_table VALUES (2)",
        "UPDATE read_table SET id = 2",
        "DELETE FROM read_table",
        "INSERT INTO system.users (user_id) VALUES ('x')",
        "DELETE FROM system.users",
    ] {
        assert_eq!(user.fail(sql).await.code, ErrorCode::PermissionDenied, "{sql}");
    }
}
