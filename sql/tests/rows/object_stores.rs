use std::io;
use std::path::Path;
use std::sync::Arc;

use kalamdb_sql::ErrorCode;
use kalamdb_sql::engine::store::Stores;
use kalamdb_sql::engine::{Disk, RealDisk};
use serde_json::json;

use crate::harness::Server;

/// Stores that are plain directories; one of them does not answer.
#[derive(Debug)]
struct Directories;

impl Stores for Directories {
    fn open(&self, name: &str, mounted: &Path, _: &Path) -> io::Result<Arc<dyn Disk>> {
        if name.contains("s3://gone") {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "nobody answers"));
        }
        RealDisk.create_dir_all(mounted)?;
        Ok(Arc::new(RealDisk))
    }
}

fn insert(name: &str, path: &str, credentials: &str) -> String {
    format!(
        "INSERT INTO system.storage_locations (location_name, location_type, path, credentials_ref) \
         VALUES ('{name}', 's3', '{path}', {credentials})"
    )
}

#[tokio::test]
async fn a_table_of_a_location_in_an_object_store_has_its_files_there() {
    let server = Server::with(|options| options.engine.stores = Arc::new(Directories)).await;
    let mut root = server.root();
    root.run(&insert("archive", "s3://data/app", "'env:ARCHIVE'")).await;
    root.run("CREATE TABLE kept (id BIGINT PRIMARY KEY, n INT) LOCATION REFERENCE 'archive'").await;
    root.run("CREATE USER TABLE mine (id BIGINT PRIMARY KEY) LOCATION REFERENCE 'archive'").await;
    root.run("INSERT INTO kept VALUES (1, 1), (2, 2); INSERT INTO mine VALUES (1)").await;
    root.run("FLUSH ALL; UPDATE kept SET n = 5 WHERE id = 2; FLUSH TABLE kept").await;
    assert_eq!(root.rows("SELECT id, n FROM kept ORDER BY id").await, json!([[1, 1], [2, 5]]));
    assert_eq!(root.rows("SELECT id FROM mine").await, json!([[1]]));
    let there = "SELECT count(*) FROM system.segments s JOIN system.tables t ON s.table_id = t.table_id \
                 WHERE t.table_name = 'kept' AND s.path LIKE 'tables/_store-env%3AARCHIVE%20s3%3A%2F%2Fdata%2Fapp/default/kept-%'";
    assert_eq!(root.rows(there).await, json!([[2]]));
    for sql in [
        "UPDATE system.storage_locations SET path = 's3://data/other' WHERE location_name = 'archive'",
        "UPDATE system.storage_locations SET credentials_ref = 'env:OTHER' WHERE location_name = 'archive'",
        "DELETE FROM system.storage_locations WHERE location_name = 'archive'",
    ] {
        let error = root.fail(sql).await;
        assert_eq!(error.code, ErrorCode::InUse, "{sql}: {error}");
    }
    root.run("DROP TABLE kept; DROP TABLE mine; DELETE FROM system.storage_locations").await;
}

#[tokio::test]
async fn a_location_in_an_object_store_that_cannot_be_used_is_refused() {
    let server = Server::with(|options| options.engine.stores = Arc::new(Directories)).await;
    let mut root = server.root();
    for (path, credentials, said) in [
        ("s3://gone/app", "'env:ARCHIVE'", "nobody answers"),
        ("/data/app", "'env:ARCHIVE'", "s3://"),
        ("s3://data/../app", "'env:ARCHIVE'", "climbs nowhere"),
        ("s3://data/app", "'hunter2'", "env:NAME"),
        ("s3://data/app", "'env:'", "env:NAME"),
        ("s3://data/app", "'config:'", "config:name"),
        ("s3://data/app", "'config:a b'", "config:name"),
        ("s3://data/app", "'env:a b'", "env:NAME"),
    ] {
        let error = root.fail(&insert("a", path, credentials)).await;
        assert_eq!(error.code, ErrorCode::InvalidParameter, "{path}, {credentials}: {error}");
        assert!(error.message.contains(said), "{path}, {credentials}: {error}");
    }
    let plain = Server::start().await;
    let error = plain.root().fail(&insert("a", "s3://data/app", "NULL")).await;
    assert_eq!(error.code, ErrorCode::InvalidParameter, "{error}");
    assert!(error.message.contains("none is configured"), "{error}");
}
