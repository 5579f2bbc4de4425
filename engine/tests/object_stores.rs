//! Tables in object stores: in one in memory, in one that fails, and in a real one that speaks S3.
//!
//! The real one is asked for by `KALAMDB_TEST_S3`, its address; it has to take the key `kalam` with the secret `kalam-secret`
//! and to have a bucket `kalamdb`. Without it that test says that it was skipped.
#![cfg(feature = "object-stores")]

mod common;

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::gate::PATIENCE;
use common::{Model, commit, config, contents, create_as, delete, find, insert, now, rows, schema, update};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use kalamdb_engine::offline::{Condition, check_on, repair_on};
use kalamdb_engine::store::{Credentials, ObjectDisk, S3Location, Spool, Stores, Volumes};
use kalamdb_engine::{Config, Database, Ddl, Error, Table, TableKind, TableOptions, UserId};
use kalamdb_wal::sim::{Crash, SimClock, SimDisk};
use kalamdb_wal::{Disk, RealDisk};
use object_store::memory::InMemory;
use object_store::path::Path as Key;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result as StoreResult,
};

const STORE: &str = "env:TEST s3://kalamdb/below";

/// The one store there is.
#[derive(Debug, Clone)]
struct Only {
    store: Arc<dyn ObjectStore>,
    local: Arc<dyn Disk>,
}

impl Stores for Only {
    fn open(&self, name: &str, mounted: &Path, spool: &Path) -> io::Result<Arc<dyn Disk>> {
        assert_eq!(name, STORE);
        let spool = Spool::new(self.local.clone(), spool)?;
        Ok(Arc::new(ObjectDisk::new(self.store.clone(), "below", mounted, spool)?))
    }
}

#[derive(Debug)]
struct RealS3 {
    endpoint: String,
    prefix: String,
}

impl RealS3 {
    fn credentials(&self) -> Credentials {
        Credentials {
            endpoint: Some(self.endpoint.clone()),
            region: None,
            access_key_id: Some("kalam".into()),
            secret_access_key: Some("kalam-secret".into()),
        }
    }
}

impl Stores for RealS3 {
    fn open(&self, _: &str, mounted: &Path, spool: &Path) -> io::Result<Arc<dyn Disk>> {
        let location = S3Location { bucket: "kalamdb".into(), prefix: self.prefix.clone() };
        let local: Arc<dyn Disk> = Arc::new(RealDisk);
        location.open(&self.credentials(), &local, mounted, spool)
    }
}

async fn create(database: &Arc<Database>, name: &str, kind: TableKind) -> Arc<Table> {
    let options = TableOptions {
        store: Some(STORE.into()),
        // So that bytes can be searched for.
        compression: Some("none".into()),
        ..TableOptions::default()
    };
    create_as(database, name, kind, schema(), options).await.unwrap()
}

/// Every file below the store's mount.
fn files(volumes: &dyn Disk, dir: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in volumes.read_dir(dir).unwrap_or_default() {
        let path = dir.join(&entry.name);
        if entry.is_dir { found.extend(files(volumes, &path)) } else { found.push(path) }
    }
    found
}

fn user(n: usize) -> UserId {
    UserId::new(&format!("user {n}/ä")).unwrap()
}

/// Everything that a table's life has: in a data directory whose database `open` opens, over `volumes`.
async fn a_table_s_life(open: impl AsyncFn() -> Arc<Database>, volumes: &Arc<dyn Disk>, data: &Path) {
    let mount = data.join("tables");
    let in_store = || {
        let dirs =
            volumes.read_dir(&mount).unwrap().into_iter().filter(|entry| entry.name.starts_with("_store-"));
        dirs.flat_map(|entry| files(volumes.as_ref(), &mount.join(entry.name))).collect::<Vec<_>>()
    };
    let named =
        |end: &str| in_store().into_iter().filter(|file| file.to_string_lossy().contains(end)).count();
    let database = open().await;
    let table = create(&database, "t", TableKind::Shared).await;
    let people = create(&database, "u", TableKind::User).await;

    // Flush, delete vectors, reading by key and by scan.
    database.commit(vec![insert(&table, None, &rows(0..200, "a"))]).await.unwrap();
    database.flush(&table, None).await.unwrap();
    assert_eq!((named(".parquet"), named("manifest.json")), (1, 1));
    commit(&database, update(&database, &table, None, |id| id < 20, "b").await).await.unwrap();
    commit(&database, delete(&database, &table, None, |id| id == 150).await).await.unwrap();
    database.flush(&table, None).await.unwrap();
    assert_eq!((named(".parquet"), named(".deletes")), (2, 1));
    let view = database.view(&database.snapshot(), &table, None).await.unwrap();
    let keys: Vec<arrow::array::ArrayRef> =
        vec![Arc::new(arrow::array::Int64Array::from(vec![7, 150, 199, 500]))];
    let found: Vec<bool> = view.find(&keys).unwrap().unwrap().iter().map(Option::is_some).collect();
    assert_eq!(found, [true, false, true, false]);
    drop(view);
    let model = now(&database, &table, None).await;
    assert_eq!(model.len(), 199);

    // Compaction leaves one object and removes the others.
    database.compact(&table, None).await.unwrap();
    assert_eq!((named(".parquet"), named(".deletes")), (1, 0));
    assert_eq!(now(&database, &table, None).await, model);

    // Many users in a pack; one with files of its own.
    for n in 0..20 {
        database.commit(vec![insert(&people, Some(&user(n)), &rows(0..3, "secret of"))]).await.unwrap();
    }
    database.flush_table(&people).await.unwrap();
    database.commit(vec![insert(&people, Some(&user(3)), &rows(100..110, "secret of"))]).await.unwrap();
    database.flush(&people, Some(&user(3))).await.unwrap();
    assert_eq!((named("_packs/pack-"), named("user%203%2F")), (1, 2));
    let mine = now(&database, &people, Some(&user(3))).await;
    assert_eq!(mine.len(), 13);

    // A restart.
    database.close().await.unwrap();
    drop(database);
    let database = open().await;
    let (table, people) = (find(&database, "t"), find(&database, "u"));
    assert_eq!(now(&database, &table, None).await, model);
    assert_eq!(now(&database, &people, Some(&user(3))).await, mine);
    assert_eq!(now(&database, &people, Some(&user(4))).await.len(), 3);

    // Purge: nothing of one user is left, all of the others.
    database.purge_user(&user(3)).await.unwrap();
    assert_eq!(named("user%203%2F"), 0, "{:?}", in_store());
    for file in in_store() {
        let bytes = kalamdb_wal::durable::read_file(volumes.as_ref(), &file).unwrap();
        let gone = "user 3/";
        assert!(!bytes.windows(gone.len()).any(|part| part == gone.as_bytes()), "{}", file.display());
    }
    assert_eq!(now(&database, &people, Some(&user(3))).await, Model::new());
    assert_eq!(now(&database, &people, Some(&user(4))).await.len(), 3);

    // A lost manifest closes its partition, and is rebuilt.
    commit(&database, update(&database, &table, None, |id| id > 190, "c").await).await.unwrap();
    database.flush(&table, None).await.unwrap();
    let model = now(&database, &table, None).await;
    database.close().await.unwrap();
    drop(database);
    assert_eq!(check_on(volumes.as_ref(), data).unwrap().condition(), Condition::Clean);
    let manifest = in_store().into_iter().find(|file| {
        file.file_name().is_some_and(|name| name == "manifest.json") && file.to_string_lossy().contains("/t-")
    });
    volumes.remove_file(&manifest.expect("it has a manifest")).unwrap();
    let database = open().await;
    let refused = database.view(&database.snapshot(), &find(&database, "t"), None).await;
    assert!(matches!(refused, Err(Error::PartitionDamaged { .. })), "{refused:?}");
    assert_eq!(now(&database, &find(&database, "u"), Some(&user(4))).await.len(), 3);
    database.close().await.unwrap();
    drop(database);
    let repaired = repair_on(volumes, &SimClock::new(1_800_000_000_000_000), data).unwrap();
    assert_eq!((repaired.rebuilt.len(), repaired.left.len()), (1, 0), "{repaired:?}");
    let database = open().await;
    let table = find(&database, "t");
    assert_eq!(now(&database, &table, None).await, model);

    // Dropped tables leave nothing.
    for name in ["t", "u"] {
        database.ddl(Ddl::DropTable { id: find(&database, name).id }).await.unwrap();
    }
    assert_eq!(in_store(), Vec::<std::path::PathBuf>::new());
    database.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_lives_in_an_object_store_as_it_does_on_a_disk() {
    let disk = SimDisk::new();
    let local: Arc<dyn Disk> = Arc::new(disk.clone());
    let stores = Arc::new(Only { store: Arc::new(InMemory::new()), local: local.clone() });
    let open = async || {
        let config = Config { stores: stores.clone(), ..config(local.clone()) };
        Database::open(config).await.unwrap()
    };
    let volumes: Arc<dyn Disk> = Arc::new(Volumes::new(local.clone(), Path::new("/db"), stores.clone()));
    a_table_s_life(open, &volumes, Path::new("/db")).await;
    assert!(disk.files().iter().all(|file| !file.starts_with("/db/spool")), "nothing stays in the spool");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_is_an_object_once_it_is_synced_under_its_last_name_and_not_before() {
    let local: Arc<dyn Disk> = Arc::new(SimDisk::new());
    let memory = Arc::new(InMemory::new());
    let mounted = Path::new("/mounted");
    let spool = Spool::new(local.clone(), Path::new("/spool")).unwrap();
    let disk = ObjectDisk::new(memory.clone(), "below", mounted, spool).unwrap();
    let objects = async || {
        let found: Vec<ObjectMeta> = memory.list(None).try_collect().await.unwrap();
        found.into_iter().map(|object| object.location.to_string()).collect::<Vec<_>>()
    };
    let (aside, last) = (mounted.join("a/b.tmp"), mounted.join("a/b"));
    let file = disk.create(&aside).unwrap();
    assert_eq!(disk.create(&aside).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    file.write_all_at(b"one", 0).unwrap();
    file.sync_all().unwrap();
    assert!(objects().await.is_empty(), "nobody looks for it after a crash");
    disk.rename(&aside, &last).unwrap();
    assert_eq!(objects().await, ["below/a/b"]);
    assert!(
        !disk.exists(&aside).unwrap()
            && disk.exists(&last).unwrap()
            && disk.exists(&mounted.join("a")).unwrap()
    );
    let read = disk.open(&last).unwrap();
    let mut bytes = [0; 8];
    assert_eq!((read.read_at(&mut bytes, 1).unwrap(), &bytes[..2]), (2, &b"ne"[..]));
    assert!(read.write_all_at(b"x", 0).is_err(), "an object does not change");
    let plain = disk.create(&mounted.join("a/c")).unwrap();
    plain.write_all_at(b"two", 0).unwrap();
    plain.sync_all().unwrap();
    assert_eq!(objects().await, ["below/a/b", "below/a/c"]);
    disk.remove_file(&mounted.join("a/c")).unwrap();
    assert_eq!(disk.remove_file(&mounted.join("a/c")).unwrap_err().kind(), io::ErrorKind::NotFound);
    disk.remove_dir_all(&mounted.join("a")).unwrap();
    assert!(objects().await.is_empty());
    assert_eq!(disk.read_dir(&mounted.join("a")).unwrap_err().kind(), io::ErrorKind::NotFound);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_lives_in_a_real_s3_server() {
    let Ok(endpoint) = std::env::var("KALAMDB_TEST_S3") else {
        eprintln!("skipped: KALAMDB_TEST_S3 names no server");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("db");
    // A prefix of its own, so that runs do not meet.
    let prefix =
        dir.path().file_name().unwrap().to_string_lossy().replace(|c: char| !c.is_ascii_alphanumeric(), "x");
    let stores = Arc::new(RealS3 { endpoint, prefix });
    let open = async || {
        let compaction = kalamdb_engine::CompactionConfig { workers: 0, ..Default::default() };
        let config = Config { stores: stores.clone(), compaction, ..Config::new(&data) };
        Database::open(config).await.unwrap()
    };
    let volumes: Arc<dyn Disk> = Arc::new(Volumes::new(Arc::new(RealDisk), &data, stores.clone()));
    a_table_s_life(open, &volumes, &data).await;
    // Wrong credentials are refused when the store is opened, with what the server says.
    let location = S3Location { bucket: "kalamdb".into(), prefix: "x".into() };
    let wrong = Credentials { secret_access_key: Some("wrong".into()), ..stores.credentials() };
    let local: Arc<dyn Disk> = Arc::new(RealDisk);
    let refused = location.open(&wrong, &local, Path::new("/mounted"), &dir.path().join("spool"));
    let refused = refused.unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied, "{refused}");
    assert!(!refused.to_string().contains("wrong"), "{refused}");
    // A file of several parts goes up and comes back as it was.
    let disk = location
        .open(&stores.credentials(), &local, Path::new("/mounted"), &dir.path().join("spool"))
        .unwrap();
    let bytes: Vec<u8> = (0..20 << 20).map(|at: u32| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let file = disk.create(Path::new("/mounted/large.tmp")).unwrap();
    file.write_all_at(&bytes, 0).unwrap();
    file.sync_all().unwrap();
    disk.rename(Path::new("/mounted/large.tmp"), Path::new("/mounted/large")).unwrap();
    let read = disk.open(Path::new("/mounted/large")).unwrap().map(kalamdb_wal::Access::Whole).unwrap();
    assert!(read == bytes, "{} bytes", read.len());
    disk.remove_file(Path::new("/mounted/large")).unwrap();
    assert!(!disk.exists(Path::new("/mounted/large")).unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_in_the_middle_of_a_flush_leaves_the_table_as_the_log_has_it() {
    for failing in 0..4 {
        let disk = SimDisk::new();
        let local: Arc<dyn Disk> = Arc::new(disk.clone());
        let memory = Arc::new(InMemory::new());
        let failures = Arc::new(Failing::new(memory.clone()));
        let config_of = |store: Arc<dyn ObjectStore>, disk: &SimDisk| {
            let local: Arc<dyn Disk> = Arc::new(disk.clone());
            Config { stores: Arc::new(Only { store, local: local.clone() }), ..config(local) }
        };
        let database = Database::open(config_of(failures.clone(), &disk)).await.unwrap();
        let table = create(&database, "t", TableKind::Shared).await;
        database.commit(vec![insert(&table, None, &rows(0..20, "a"))]).await.unwrap();
        database.flush(&table, None).await.unwrap();
        commit(&database, update(&database, &table, None, |id| id < 5, "b").await).await.unwrap();
        let model = now(&database, &table, None).await;
        // The delete vector, the segment, the manifest, or none of them.
        failures.fail("put", failing, usize::MAX);
        let flushed = database.flush(&table, None).await;
        assert_eq!(flushed.is_ok(), failing == 3, "{failing}: {flushed:?}");
        let after = disk.crash(Crash::LoseUnsynced);
        let database = Database::open(config_of(memory.clone(), &after)).await.unwrap();
        let table = find(&database, "t");
        assert_eq!(now(&database, &table, None).await, model, "{failing}");
        database.flush(&table, None).await.unwrap();
        database.compact(&table, None).await.unwrap();
        assert_eq!(now(&database, &table, None).await, model, "{failing}");
        let left: Vec<ObjectMeta> = memory.list(None).try_collect().await.unwrap();
        let left: Vec<String> = left.into_iter().map(|object| object.location.to_string()).collect();
        assert_eq!(left.len(), 2, "{failing}: one segment and the manifest: {left:?}");
        drop(local);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_does_not_answer_closes_nothing_and_flushes_wait_for_it() {
    let disk = SimDisk::new();
    let local: Arc<dyn Disk> = Arc::new(disk.clone());
    let store = Arc::new(Failing::new(Arc::new(InMemory::new())));
    let stores = Arc::new(Only { store: store.clone(), local: local.clone() });
    let config = Config {
        stores,
        flush_rows: 10,
        retry_after: Duration::from_millis(1),
        evict_after: Duration::ZERO,
        ..config(local)
    };
    let database = Database::open(config).await.unwrap();
    let table = create(&database, "t", TableKind::Shared).await;
    let near = common::create(&database, "near", TableKind::Shared).await.unwrap();
    // Written in the background once the store answers again.
    store.fail("put", 0, usize::MAX);
    database.commit(vec![insert(&table, None, &rows(0..20, "a"))]).await.unwrap();
    let deadline = Instant::now() + PATIENCE;
    while !database.background_failures().iter().any(|failure| failure.attempts >= 2) {
        assert!(Instant::now() < deadline, "a failing flush shows");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let model = now(&database, &table, None).await;
    assert_eq!(model.len(), 20);
    store.fail("put", 0, 0);
    while !database.background_failures().is_empty() {
        assert!(Instant::now() < deadline, "it is written at last");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    database.flush(&table, None).await.unwrap();
    // What cannot be read now can be read later; local tables do not notice.
    // The manifest's, and the segment's of which a part comes.
    for (request, after, times) in [("get", 0, 1), ("head", 0, usize::MAX), ("body", 1, 1)] {
        database.evict();
        assert!(database.loaded_partitions().iter().all(|(id, _)| id.table != table.id));
        store.fail(request, after, times);
        let view = database.view(&database.snapshot(), &table, None).await;
        let read = view.and_then(|view| common::contents_of(&view));
        assert!(matches!(read, Err(Error::Io { .. })), "{request}: {read:?}");
        let first = now(&database, &near, None).await.len() as i64;
        database.commit(vec![insert(&near, None, &rows(first..first + 1, "a"))]).await.unwrap();
        store.fail(request, 0, 0);
        assert_eq!(now(&database, &table, None).await, model, "{request}");
    }
    // A snapshot reads on from what it has open, whatever the store does.
    let snapshot = database.snapshot();
    let view = database.view(&snapshot, &table, None).await.unwrap();
    common::contents_of(&view).unwrap();
    for request in ["get", "head", "put", "list"] {
        store.fail(request, 0, usize::MAX);
    }
    assert_eq!(contents(&database, &snapshot, &table, None).await.unwrap(), model);
    assert_eq!(common::contents_of(&view).unwrap(), model);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_nobody_configured_is_refused_in_so_many_words() {
    let database = common::open(&SimDisk::new()).await;
    let table = create(&database, "t", TableKind::Shared).await;
    let refused = database.commit(vec![insert(&table, None, &rows(0..1, "a"))]).await.unwrap_err();
    assert!(refused.to_string().contains("none is configured"), "{refused}");
}

/// A store that fails on demand.
#[derive(Debug)]
struct Failing {
    inner: Arc<InMemory>,
    /// Per kind of request: how many go well, and how many fail then.
    plans: [(&'static str, AtomicUsize, AtomicUsize); 5],
}

impl fmt::Display for Failing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a failing store")
    }
}

impl Failing {
    fn new(inner: Arc<InMemory>) -> Self {
        let plan = |request| (request, AtomicUsize::new(0), AtomicUsize::new(0));
        Self { inner, plans: ["put", "get", "head", "list", "body"].map(plan) }
    }

    fn plan(&self, request: &str) -> &(&'static str, AtomicUsize, AtomicUsize) {
        self.plans.iter().find(|(of, _, _)| *of == request).expect("a kind of request")
    }

    fn fail(&self, request: &str, after: usize, times: usize) {
        let (_, well, failing) = self.plan(request);
        well.store(after, Ordering::SeqCst);
        failing.store(times, Ordering::SeqCst);
    }

    fn strike(&self, request: &str) -> StoreResult<()> {
        let (_, well, failing) = self.plan(request);
        let less = |n: usize| n.checked_sub(1);
        if failing.load(Ordering::SeqCst) == 0
            || well.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less).is_ok()
        {
            return Ok(());
        }
        let fewer = |n: usize| if n == usize::MAX { Some(n) } else { n.checked_sub(1) };
        let _ = failing.fetch_update(Ordering::SeqCst, Ordering::SeqCst, fewer);
        let source = Box::from(format!("{request}: 503 Slow Down"));
        Err(object_store::Error::Generic { store: "failing", source })
    }
}

#[async_trait::async_trait]
impl ObjectStore for Failing {
    async fn put_opts(&self, at: &Key, payload: PutPayload, options: PutOptions) -> StoreResult<PutResult> {
        self.strike("put")?;
        self.inner.put_opts(at, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        at: &Key,
        options: PutMultipartOptions,
    ) -> StoreResult<Box<dyn MultipartUpload>> {
        self.strike("put")?;
        self.inner.put_multipart_opts(at, options).await
    }

    async fn get_opts(&self, at: &Key, options: GetOptions) -> StoreResult<GetResult> {
        if options.head {
            self.strike("head")?;
            return self.inner.get_opts(at, options).await;
        }
        self.strike("get")?;
        if self.strike("body").is_err() {
            // The answer begins well and ends early.
            let whole = self.inner.get_opts(at, options).await?;
            let (meta, range, attributes) =
                (whole.meta.clone(), whole.range.clone(), whole.attributes.clone());
            let bytes = whole.bytes().await?;
            let cut = bytes.slice(..bytes.len() / 2);
            let payload = object_store::GetResultPayload::Stream(futures::stream::iter([Ok(cut)]).boxed());
            return Ok(GetResult { payload, meta, range, attributes });
        }
        self.inner.get_opts(at, options).await
    }

    fn delete_stream(
        &self,
        keys: BoxStream<'static, StoreResult<Key>>,
    ) -> BoxStream<'static, StoreResult<Key>> {
        self.inner.delete_stream(keys)
    }

    fn list(&self, prefix: Option<&Key>) -> BoxStream<'static, StoreResult<ObjectMeta>> {
        match self.strike("list") {
            Ok(()) => self.inner.list(prefix),
            Err(error) => futures::stream::iter([Err(error)]).boxed(),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Key>) -> StoreResult<ListResult> {
        self.strike("list")?;
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Key, to: &Key, options: CopyOptions) -> StoreResult<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
