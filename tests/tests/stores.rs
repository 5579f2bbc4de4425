//! Tables in an S3 server: made, read, crashed, checked and dropped by the real programs.
//!
//! `KALAMDB_TEST_S3` names the server, say `http://127.0.0.1:8333`; it has to take the key `kalam` with the secret
//! `kalam-secret` and to have a bucket `kalamdb`. Without it the test says that it was skipped.

use std::io::Write;
use std::process;

use kalamdb_tests::{Command, Options, Server};
use serde_json::json;

/// The environment of a server, and of commands, that may use the store.
fn environment<'a>(endpoint: &'a str, config: &'a str) -> Vec<(&'a str, &'a str)> {
    vec![
        ("KALAMDB_CONFIG", config),
        ("ARCHIVE_ENDPOINT", endpoint),
        ("ARCHIVE_ACCESS_KEY_ID", "kalam"),
        ("ARCHIVE_SECRET_ACCESS_KEY", "kalam-secret"),
        ("TYPO_ENDPOINT", endpoint),
        ("TYPO_ACCESS_KEY_ID", "kalam"),
        ("TYPO_SECRET_ACCESS_KEY", "not-the-secret"),
    ]
}

#[test]
fn a_table_in_a_bucket_survives_what_a_local_one_does() {
    let Ok(endpoint) = std::env::var("KALAMDB_TEST_S3") else {
        eprintln!("skipped: KALAMDB_TEST_S3 names no server");
        return;
    };
    let mut config = tempfile::NamedTempFile::new().unwrap();
    writeln!(config, "[credentials.archive]\nendpoint = {endpoint:?}").unwrap();
    writeln!(config, "access_key_id = \"kalam\"\nsecret_access_key = \"kalam-secret\"").unwrap();
    let environment = environment(&endpoint, config.path().to_str().unwrap());
    let options =
        environment.iter().fold(Options::default(), |options, (name, value)| options.env(name, value));
    let mut server = Server::start_with(options);
    let root = server.root();
    // A prefix of its own, so that runs do not meet.
    let prefix = format!(
        "{}-{}",
        process::id(),
        server.data().ancestors().nth(1).unwrap().file_name().unwrap().to_str().unwrap()
    );
    let location = |name: &str, credentials: &str| {
        format!(
            "INSERT INTO system.storage_locations (location_name, location_type, path, credentials_ref) \
             VALUES ('{name}', 's3', 's3://kalamdb/{prefix}/{name}', '{credentials}')"
        )
    };
    for credentials in ["env:TYPO", "env:NOTHING", "config:nothing"] {
        let refused = root.refused(&location("wrong", credentials), 400, "INVALID_PARAMETER");
        assert!(!refused.message().contains("not-the-secret"), "{refused:?}");
    }
    root.sql(&location("cold", "env:ARCHIVE"));
    root.sql(&location("configured", "config:archive"));
    root.sql(
        "CREATE NAMESPACE app; CREATE SHARED TABLE app.t (id BIGINT PRIMARY KEY, body TEXT) LOCATION REFERENCE 'cold'; \
         CREATE USER TABLE app.u (id BIGINT PRIMARY KEY, body TEXT) LOCATION REFERENCE 'configured'; \
         INSERT INTO app.t VALUES (1, 'one'), (2, 'two'), (3, 'three'); FLUSH TABLE app.t; \
         UPDATE app.t SET body = 'zwei' WHERE id = 2; DELETE FROM app.t WHERE id = 3; FLUSH TABLE app.t; \
         INSERT INTO app.t VALUES (4, 'hot'); \
         INSERT INTO app.u VALUES (1, 'mine'); FLUSH TABLE app.u FOR USER 'root'",
    );
    let local = server.data().join("tables/app");
    assert!(!local.exists(), "{} is in the bucket", local.display());
    let expected = json!([[1, "one"], [2, "zwei"], [4, "hot"]]);
    let rows = |server: &Server| json!(server.root().grid("SELECT id, body FROM app.t ORDER BY id"));
    assert_eq!(rows(&server), expected);
    server.crash();
    assert_eq!(rows(&server), expected);
    assert_eq!(server.root().value("SELECT body FROM app.u"), json!("mine"));
    server.root().sql("COMPACT TABLE app.t");
    assert_eq!(rows(&server), expected);
    assert!(server.terminate().success());

    let data = server.data();
    let check = |environment: &[(&str, &str)]| Command::run(&["check", data.to_str().unwrap()], environment);
    let checked = check(&environment);
    assert!(checked.code == 0 && checked.stdout.contains("tables: 2 partitions"), "{checked:?}");
    let blind = check(&[]);
    let said = |what| blind.stderr.contains(what);
    assert!(blind.code == 2 && (said("ARCHIVE_ACCESS_KEY_ID") || said("credentials.archive")), "{blind:?}");
    let repaired = Command::run(&["repair", data.to_str().unwrap()], &environment);
    assert!(repaired.code == 0 && repaired.stdout.contains("nothing to repair"), "{repaired:?}");

    server.launch();
    assert_eq!(rows(&server), expected);
    server.root().refused("DELETE FROM system.storage_locations WHERE location_name = 'cold'", 409, "IN_USE");
    server.root().sql("DROP TABLE app.t; DROP TABLE app.u");
    assert!(server.terminate().success());
    let dropped = check(&environment);
    assert!(dropped.code == 0 && dropped.stdout.contains("tables: 0 partitions"), "{dropped:?}");
}
