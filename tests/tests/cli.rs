//! The commands for people and scripts.

use std::io::Write;

use kalamdb_tests::{Command, Finished, PASSWORD, Server, eventually};
use serde_json::{Value, json};

fn prepared() -> Server {
    let server = Server::start();
    server.root().sql(
        "CREATE NAMESPACE app; CREATE SHARED TABLE app.t (id BIGINT PRIMARY KEY, body TEXT); \
         INSERT INTO app.t VALUES (1, 'one'), (2, NULL)",
    );
    server
}

fn sql(server: &Server, args: &[&str]) -> Finished {
    Command::at(server, &[&["sql"], args].concat()).finish()
}

#[test]
fn sql_is_run_and_shown_in_every_format() {
    let server = prepared();
    let query = "SELECT id, body FROM app.t ORDER BY id";
    let table = sql(&server, &["-c", query]).success();
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines[..4], [" id | body", "----+------", "  1 | one", "  2 | NULL"], "{table}");
    assert!(lines[4].starts_with("(2 rows"), "{table}");
    assert_eq!(
        sql(&server, &["--format", "csv", "-c", query]).success().replace("\r\n", "\n"),
        "id,body\n1,one\n2,\n"
    );
    let ndjson = sql(&server, &["--format", "ndjson", "-c", query]).success();
    assert_eq!(ndjson, "{\"id\":1,\"body\":\"one\"}\n{\"id\":2,\"body\":null}\n");
    let whole: Value =
        serde_json::from_str(&sql(&server, &["--format", "json", "-c", query]).success()).unwrap();
    assert_eq!(whole["results"][0]["rows"][1], json!({"id": 2, "body": null}));
    let insert = sql(&server, &["-c", "INSERT INTO app.t VALUES (3, 'three')"]).success();
    assert!(insert.contains("1 row affected"), "{insert}");
    let from_input = Command::at(&server, &["sql", "-f", "-", "--format", "csv", "-n", "app"])
        .feed(b"SELECT count(*) AS n\nFROM t;\n");
    assert_eq!(from_input.success().replace("\r\n", "\n"), "n\n3\n");
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"DELETE FROM app.t WHERE id = 3;\nSELECT count(*) AS n FROM app.t;").unwrap();
    let from_file = sql(&server, &["-f", file.path().to_str().unwrap()]).success();
    assert!(from_file.contains("1 row affected") && from_file.contains('2'), "{from_file}");
}

#[test]
fn a_live_query_is_followed_until_it_ends_and_a_lost_connection_is_an_error() {
    let mut server = prepared();
    let followed = |server: &Server| {
        let command = Command::at(server, &["sql", "-c", "\\live SELECT id, body FROM app.t WHERE id = 1"]);
        let root = server.root();
        let waiting = std::thread::spawn(move || command.finish());
        eventually("it is followed", || {
            (root.number("SELECT count(*) FROM system.live_queries WHERE state = 'live'") == 1).then_some(())
        });
        waiting
    };
    let waiting = followed(&server);
    server.root().sql("UPDATE app.t SET body = 'two' WHERE id = 1");
    let live_id = server.root().rows("SELECT live_id FROM system.live_queries")[0]["live_id"].clone();
    server.root().sql(&format!("KILL LIVE QUERY '{}'", live_id.as_str().unwrap()));
    let shown = waiting.join().unwrap().success();
    let lines = [
        "  {\"id\":1,\"body\":\"one\"}",
        "- {\"id\":1,\"body\":\"one\"}",
        "+ {\"id\":1,\"body\":\"two\"}",
        "! the feed is closed: killed",
    ];
    assert_eq!(shown.lines().collect::<Vec<_>>(), lines);
    let waiting = followed(&server);
    server.crash();
    let lost = waiting.join().unwrap();
    assert_eq!(lost.code, 1);
    assert!(lost.stderr.contains("the connection to the server is lost"), "{}", lost.stderr);
}

#[test]
fn what_goes_wrong_is_said_on_standard_error_with_exit_code_one() {
    let server = prepared();
    let failed = sql(&server, &["-c", "SELECT *\nFROM app.tt"]);
    assert_eq!((failed.code, failed.stdout.as_str()), (1, ""));
    let lines: Vec<&str> = failed.stderr.lines().collect();
    assert!(lines[0].starts_with("TABLE_NOT_FOUND: "), "{}", failed.stderr);
    assert_eq!(lines[1..3], ["  FROM app.tt", "       ^"], "{}", failed.stderr);
    assert!(lines[3].starts_with("hint: ") && lines[3].contains("app.t"), "{}", failed.stderr);
    let url = server.url();
    let failed =
        Command::run(&["sql", "-c", "SELECT 1"], &[("KALAMDB_URL", &url), ("KALAMDB_PASSWORD", "wrong")]);
    assert!(failed.code == 1 && failed.stderr.starts_with("UNAUTHENTICATED: "), "{failed:?}");
    let failed = Command::run(&["sql", "-c", "SELECT 1"], &[("KALAMDB_URL", &url)]);
    assert!(failed.code == 1 && failed.stderr.contains("KALAMDB_PASSWORD"), "{failed:?}");
    let failed =
        Command::run(&["sql", "-c", "SELECT 1", "--url", "http://127.0.0.1:9"], &[("KALAMDB_PASSWORD", "x")]);
    assert!(failed.code == 1 && failed.stderr.contains("127.0.0.1:9"), "{failed:?}");
    let failed = Command::run(&["sql", "--format", "xml", "-c", "SELECT 1"], &[]);
    assert!(failed.code == 2 && failed.stderr.contains("ndjson"), "{failed:?}");
}

#[test]
fn users_other_than_root_log_in_with_their_name() {
    let server = prepared();
    server.root().sql("CREATE USER 'ann' WITH PASSWORD 'ann has a secret' ROLE user");
    let environment = [("KALAMDB_PASSWORD", "ann has a secret")];
    let who = Command::run(
        &[
            "sql",
            "-u",
            "ann",
            "--url",
            &server.url(),
            "--format",
            "csv",
            "-c",
            "SELECT CURRENT_USER() AS who",
        ],
        &environment,
    );
    assert_eq!(who.success().replace("\r\n", "\n"), "who\nann\n");
}

#[test]
fn rows_are_imported_from_files_and_standard_input_in_every_text_format() {
    let server = prepared();
    server.root().sql("DELETE FROM app.t");
    let import = |args: &[&str]| Command::at(&server, &[&["import"], args, &["--table", "app.t"]].concat());
    import(&["-"]).feed(b"body,id\n\"a, \"\"quoted\"\"\nline\",1\n,2\nNA,3\n").success();
    import(&["-", "--null", "NA"]).feed(b"id,body\n4,NA\n").success();
    import(&["-", "--format", "ndjson"])
        .feed("{\"id\":5,\"body\":\"Gr\u{fc}\u{df}e\"}\n{\"id\":6}\n".as_bytes())
        .success();
    let rows = server.root().grid("SELECT id, body FROM app.t ORDER BY id");
    let expected = json!([
        [1, "a, \"quoted\"\nline"],
        [2, null],
        [3, "NA"],
        [4, null],
        [5, "Gr\u{fc}\u{df}e"],
        [6, null]
    ]);
    assert_eq!(json!(rows), expected);
    let failed = import(&["-"]).feed(b"id,body\n7,x\n1,again\n");
    assert!(failed.code == 1 && failed.stderr.contains("UNIQUE_VIOLATION"), "{failed:?}");
    let failed = import(&["no-such-file.csv"]).finish();
    assert!(failed.code == 1 && failed.stderr.contains("no-such-file.csv"), "{failed:?}");
    let failed = Command::at(&server, &["import", "-", "--table", "app.nothing"]).feed(b"id\n1\n");
    assert!(failed.code == 1 && failed.stderr.contains("TABLE_NOT_FOUND"), "{failed:?}");
}

#[test]
fn version_help_and_configuration_are_shown() {
    let version = Command::run(&["version"], &[]).success();
    assert!(version.contains(env!("CARGO_PKG_VERSION")) && version.contains("commit"), "{version}");
    assert!(version.contains("formats: log 1, log record 2, manifest 1"), "{version}");
    let help = Command::run(&["--help"], &[]).success();
    for command in ["serve", "sql", "import", "check", "repair", "version"] {
        assert!(help.contains(command), "{command}: {help}");
    }
    let shown = Command::run(
        &["serve", "--print-config", "--set", "live.heartbeat=7s"],
        &[("KALAMDB_LISTEN", "127.0.0.1:1")],
    );
    let shown = shown.success();
    for text in ["7s", "--set", "127.0.0.1:1", "KALAMDB_LISTEN", "default"] {
        assert!(shown.contains(text), "{text}: {shown}");
    }
    for (args, environment, name) in [
        (&["serve", "--set", "live.hartbeat=7s"][..], &[][..], "live.hartbeat"),
        (&["serve", "--set", "live.heartbeat=soon"], &[], "live.heartbeat"),
        (&["serve"], &[("KALAMDB_LIVE_HEARTBEAT", "soon")], "KALAMDB_LIVE_HEARTBEAT"),
        (&["serve", "--config", "no-such-file.toml"], &[], "no-such-file.toml"),
    ] {
        let failed = Command::run(args, environment);
        assert!(failed.code != 0 && failed.stderr.contains(name), "{args:?}: {failed:?}");
    }
}

#[test]
fn a_directory_is_checked_offline() {
    let mut server = prepared();
    server.root().sql("FLUSH TABLE app.t; UPDATE app.t SET body = 'x'; FLUSH TABLE app.t; INSERT INTO app.t VALUES (9, 'hot')");
    let data = server.data();
    let check = || Command::run(&["check", data.to_str().unwrap()], &[]);
    assert_eq!(check().code, 2, "a server runs");
    assert!(server.terminate().success());
    let clean = check();
    assert_eq!(clean.code, 0, "{clean:?}");
    let missing = Command::run(&["check", data.join("nothing").to_str().unwrap()], &[]);
    assert_eq!(missing.code, 2, "{missing:?}");
    let directory = data.join("tables/app/t");
    let segment = std::fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path());
    let segment = segment
        .filter(|path| path.extension().is_some_and(|kind| kind == "parquet"))
        .min()
        .expect("a segment");
    let whole = std::fs::read(&segment).unwrap();
    let mut file = std::fs::OpenOptions::new().write(true).open(&segment).unwrap();
    file.write_all(&[!whole[0]]).unwrap();
    drop(file);
    let damaged = check();
    let name = segment.file_name().unwrap().to_str().unwrap();
    assert!(damaged.code == 2 && damaged.stdout.contains(name), "{damaged:?}");
    let mut file = std::fs::OpenOptions::new().write(true).open(&segment).unwrap();
    file.write_all(&whole[..1]).unwrap();
    drop(file);
    assert_eq!(check().code, 0);
    let manifest = directory.join("manifest.json");
    std::fs::remove_file(&manifest).unwrap();
    let lost = check();
    assert_eq!(lost.code, 2, "{lost:?}");
    let repaired = Command::run(&["repair", data.to_str().unwrap()], &[]);
    assert_eq!(repaired.code, 0, "{repaired:?}");
    assert_eq!(check().code, 0);
    server.launch();
    let rows = server.user("root", PASSWORD).grid("SELECT id, body FROM app.t ORDER BY id");
    assert_eq!(json!(rows), json!([[1, "x"], [2, "x"], [9, "hot"]]));
}
