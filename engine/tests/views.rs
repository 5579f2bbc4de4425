//! Views in the catalog: created, replaced, dropped, and found again after a crash.

mod common;

use common::{create, open};
use kalamdb_engine::{Database, Ddl, Error, NamespaceId, NewView, TableKind, TableName, ViewDefinition};
use kalamdb_wal::sim::{Crash, SimDisk};
use std::sync::Arc;

async fn define(database: &Arc<Database>, name: &str, query: &str, replace: bool) -> Result<(), Error> {
    let view = NewView {
        namespace: NamespaceId::new("default").unwrap(),
        name: TableName::new(name).unwrap(),
        definition: ViewDefinition { query: query.into(), columns: vec!["a".into()] },
        replace,
    };
    database.ddl(Ddl::CreateView(Box::new(view))).await.map(drop)
}

async fn remove(database: &Arc<Database>, name: &str) -> Result<(), Error> {
    let (namespace, name) = (NamespaceId::new("default").unwrap(), TableName::new(name).unwrap());
    database.ddl(Ddl::DropView { namespace, name }).await.map(drop)
}

fn query(database: &Database, name: &str) -> Option<String> {
    database.catalog().view("default", name).map(|view| view.definition.query.clone())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_view_is_what_it_was_after_a_crash_and_a_flush() {
    let disk = SimDisk::new();
    let database = open(&disk).await;
    define(&database, "v", "SELECT 1", false).await.unwrap();
    define(&database, "gone", "SELECT 2", false).await.unwrap();
    let id = database.catalog().view("default", "v").unwrap().id;
    define(&database, "v", "SELECT 3", true).await.unwrap();
    assert_eq!(database.catalog().view("default", "v").unwrap().id, id);
    remove(&database, "gone").await.unwrap();
    let database = open(&disk.crash(Crash::LoseUnsynced)).await;
    assert_eq!((query(&database, "v").as_deref(), query(&database, "gone")), (Some("SELECT 3"), None));
    let view = database.catalog().view("default", "v").unwrap().clone();
    assert_eq!((view.id, view.definition.columns.as_slice()), (id, ["a".to_owned()].as_slice()));
    let table = create(&database, "t", TableKind::Shared).await.unwrap();
    assert_ne!(table.id, id, "a table never gets the id of a view");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_and_views_share_their_names() {
    let database = open(&SimDisk::new()).await;
    create(&database, "t", TableKind::Shared).await.unwrap();
    define(&database, "v", "SELECT 1", false).await.unwrap();
    let exists = |result: Result<(), Error>, expected: &str| match result {
        Err(Error::AlreadyExists { what, .. }) => assert_eq!(what, expected),
        other => panic!("{other:?}"),
    };
    exists(define(&database, "t", "SELECT 1", true).await, "table");
    exists(define(&database, "v", "SELECT 1", false).await, "view");
    exists(create(&database, "v", TableKind::Shared).await.map(drop), "view");
    assert!(matches!(remove(&database, "t").await, Err(Error::TableNotFound(_))));
    remove(&database, "v").await.unwrap();
    create(&database, "v", TableKind::Shared).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_with_views_is_dropped_with_them_or_not_at_all() {
    let disk = SimDisk::new();
    let database = open(&disk).await;
    let app = NamespaceId::new("app").unwrap();
    database.ddl(Ddl::CreateNamespace { name: app.clone(), options: "{}".into() }).await.unwrap();
    let view = NewView {
        namespace: app.clone(),
        name: TableName::new("v").unwrap(),
        definition: ViewDefinition { query: "SELECT 1".into(), columns: Vec::new() },
        replace: false,
    };
    database.ddl(Ddl::CreateView(Box::new(view))).await.unwrap();
    let refused = database.ddl(Ddl::DropNamespace { name: app.clone(), cascade: false }).await;
    assert!(matches!(refused, Err(Error::InUse { users, .. }) if users == "app.v"));
    database.ddl(Ddl::DropNamespace { name: app, cascade: true }).await.unwrap();
    let database = open(&disk.crash(Crash::LoseUnsynced)).await;
    assert_eq!(database.catalog().views().count(), 0);
}
