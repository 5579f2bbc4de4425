//! What is on disk after a flush: files at the documented paths that other programs can read.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use kalamdb_tests::{Options, Server};
use serde_json::Value;

const MANIFEST: [&str; 10] = [
    "format_version",
    "table_id",
    "user_id",
    "version",
    "schema_version",
    "created_at",
    "updated_at",
    "flushed_seq",
    "segments",
    "crc32",
];
const SEGMENT: [&str; 15] = [
    "id",
    "path",
    "level",
    "rows",
    "live_row_groups",
    "tombstones",
    "bytes",
    "min_seq",
    "max_seq",
    "schema_version",
    "created_at",
    "crc32",
    "columns",
    "min_key",
    "max_key",
];

fn names(directory: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// Checks a partition's manifest against its directory; returns the Parquet files it names.
fn check_partition(directory: &Path, user: Option<&str>) -> Vec<PathBuf> {
    let manifest: Value =
        serde_json::from_slice(&fs::read(directory.join("manifest.json")).unwrap()).unwrap();
    for member in MANIFEST {
        assert!(manifest.get(member).is_some(), "{member} is missing: {manifest}");
    }
    assert_eq!(manifest["user_id"].as_str(), user);
    let mut expected = BTreeSet::from(["manifest.json".to_owned()]);
    let mut files = Vec::new();
    for segment in manifest["segments"].as_array().expect("segments") {
        for member in SEGMENT {
            assert!(segment.get(member).is_some(), "{member} is missing: {segment}");
        }
        let path = segment["path"].as_str().expect("a path");
        assert!(path.starts_with("batch-") && path.ends_with(".parquet"), "{path}");
        assert_eq!(fs::metadata(directory.join(path)).unwrap().len(), segment["bytes"].as_u64().unwrap());
        let bytes = fs::read(directory.join(path)).unwrap();
        assert_eq!((&bytes[..4], &bytes[bytes.len() - 4..]), (&b"PAR1"[..], &b"PAR1"[..]), "{path}");
        files.push(directory.join(path));
        expected.insert(path.to_owned());
        if let Some(deletes) = segment["deletes_path"].as_str() {
            assert!(deletes.starts_with("batch-") && deletes.ends_with(".deletes"), "{deletes}");
            expected.insert(deletes.to_owned());
        }
    }
    assert_eq!(names(directory), expected, "nothing else is in {}", directory.display());
    files
}

#[test]
fn a_flush_writes_parquet_and_a_manifest_where_the_reference_says() {
    let mut server = Server::start();
    let root = server.root();
    root.sql(
        "CREATE NAMESPACE app; CREATE SHARED TABLE app.notes (id BIGINT PRIMARY KEY, body TEXT); \
         CREATE USER TABLE app.messages (id BIGINT PRIMARY KEY, body TEXT); \
         CREATE USER 'ann' WITH PASSWORD 'ann has a secret' ROLE user; \
         CREATE USER '../b/o b' WITH PASSWORD 'bob has a secret' ROLE user",
    );
    let tables = server.data().join("tables");
    assert!(!tables.join("app").exists(), "nothing is flushed");
    root.sql("INSERT INTO app.notes VALUES (1, 'one'), (2, 'two'), (3, 'three')");
    for (user, password) in [("ann", "ann has a secret"), ("../b/o b", "bob has a secret")] {
        server.user(user, password).sql("INSERT INTO app.messages VALUES (1, 'mine'), (2, 'too')");
    }
    root.sql(
        "FLUSH TABLE app.notes; FLUSH TABLE app.messages FOR USER 'ann'; FLUSH TABLE app.messages FOR USER '../b/o b'",
    );
    let notes = tables.join("app/notes");
    assert_eq!(check_partition(&notes, None).len(), 1);
    let messages = tables.join("app/messages");
    let users = names(&messages);
    assert_eq!(users.len(), 2, "{users:?}");
    assert!(users.contains("ann"), "{users:?}");
    assert_eq!(check_partition(&messages.join("ann"), Some("ann")).len(), 1);
    let other = users.iter().find(|name| *name != "ann").expect("the other one");
    assert!(!other.contains('/') && !other.starts_with('.'), "{other}");
    check_partition(&messages.join(other), Some("../b/o b"));
    assert_eq!(
        names(server.scratch()),
        BTreeSet::from(["data".to_owned()]),
        "nothing is outside of the data directory"
    );

    root.sql("UPDATE app.notes SET body = 'zwei' WHERE id = 2; INSERT INTO app.notes VALUES (4, 'four'); FLUSH TABLE app.notes");
    assert_eq!(check_partition(&notes, None).len(), 2);
    assert!(names(&notes).iter().any(|name| name.ends_with(".deletes")), "{:?}", names(&notes));
    server.restart();
    assert_eq!(server.root().number("SELECT count(*) FROM app.notes"), 4);
    check_partition(&notes, None);
}

#[test]
fn files_with_secrets_are_for_their_owner_only_and_a_chosen_password_is_not_written() {
    let chosen = Server::start();
    assert!(!chosen.data().join("root.password").exists());
    let generated = Server::start_with(Options::default().generated_password());
    for name in ["root.password", "jwt.secret"] {
        let mode = fs::metadata(generated.data().join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    let password = fs::read_to_string(generated.data().join("root.password")).unwrap();
    assert!(generated.log().contains("root.password") && !generated.log().contains(password.trim()));
    assert_eq!(generated.user("root", password.trim()).number("SELECT 40 + 2"), 42);
    let log = fs::read_dir(generated.data().join("wal")).unwrap().map(|entry| entry.unwrap().file_name());
    let segments: Vec<String> =
        log.map(|name| name.into_string().unwrap()).filter(|name| name.ends_with(".wal")).collect();
    assert!(
        segments.iter().all(|name| name.len() == 24 && name[..20].bytes().all(|b| b.is_ascii_digit())),
        "{segments:?}"
    );
    assert!(!segments.is_empty() && generated.data().join("kalamdb.lock").exists());
}

#[test]
fn a_flush_at_a_number_of_rows_happens_by_itself() {
    let server = Server::start();
    let root = server.root();
    root.sql("CREATE NAMESPACE app; CREATE SHARED TABLE app.t (id BIGINT PRIMARY KEY) FLUSH POLICY ROWS 100");
    for start in [0, 60] {
        let rows: Vec<String> = (start..start + 60).map(|id| format!("({id})")).collect();
        root.sql(&format!("INSERT INTO app.t VALUES {}", rows.join(",")));
    }
    kalamdb_tests::eventually("the table is flushed", || {
        (root.number("SELECT COALESCE(sum(rows), 0) FROM system.segments WHERE path LIKE '%app/t/%'") >= 100)
            .then_some(())
    });
    assert_eq!(root.number("SELECT count(*) FROM app.t"), 120);
}

/// Reads all files with pyarrow, else with DuckDB; exits with 77 if neither is there.
const READ: &str = r#"
import sys
paths = sys.argv[1:]
try:
    import pyarrow.parquet as parquet
    tables = [parquet.read_table(path, partitioning=None) for path in paths]
    rows = [(row['id'], row['body'], int(row['at'].timestamp())) for table in tables for row in table.to_pylist()]
except ImportError:
    try:
        import duckdb
    except ImportError:
        sys.exit(77)
    rows = duckdb.execute('SELECT id, body, CAST(epoch("at") AS BIGINT) FROM read_parquet(?)', [paths]).fetchall()
print(sorted(rows))
"#;

#[test]
fn other_programs_read_the_parquet_files() {
    let server = Server::start();
    server.root().sql(
        "CREATE NAMESPACE app; CREATE SHARED TABLE app.t (id BIGINT PRIMARY KEY, body TEXT, at TIMESTAMP); \
         INSERT INTO app.t VALUES (1, 'Grüße', '2024-02-29T12:00:00Z'), (2, NULL, '2024-02-29T12:00:01Z'); FLUSH TABLE app.t; \
         INSERT INTO app.t VALUES (3, '', '1969-12-31T23:59:59Z'); FLUSH TABLE app.t",
    );
    let files = check_partition(&server.data().join("tables/app/t"), None);
    assert_eq!(files.len(), 2);
    let python = std::env::var("KALAMDB_PYTHON").unwrap_or_else(|_| "python3".into());
    let Ok(output) = Command::new(python).arg("-c").arg(READ).args(&files).output() else {
        eprintln!("skipped: there is no Python");
        return;
    };
    if output.status.code() == Some(77) {
        eprintln!("skipped: Python has neither pyarrow nor duckdb");
        return;
    }
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let expected = "[(1, 'Grüße', 1709208000), (2, None, 1709208001), (3, '', -1)]";
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), expected);
}
