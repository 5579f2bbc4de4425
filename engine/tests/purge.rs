//! Every byte of a person's rows goes, and nothing else does.

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use common::{Model, commit, config, create, delete, find, insert, now, rows, update};
use kalamdb_engine::{CompactionConfig, Config, Database, Error, Result, Retain, Table, TableKind, UserId};
use kalamdb_wal::sim::{Crash, Freeze, SimDisk};

const SECRET: &str = "the secret of eve";

fn user(name: &str) -> UserId {
    UserId::new(name).unwrap()
}

fn opened(disk: &SimDisk) -> Config {
    // History is kept, so that a purge has something to forget.
    let retain = Retain { bytes: 1 << 30, age: std::time::Duration::from_secs(3_600) };
    Config { pack_rows: 20, retain, ..config(Arc::new(disk.clone())) }
}

/// The files in which the secret is, the name of the user included.
fn secrets(disk: &SimDisk) -> Vec<String> {
    let holds = |path: &Path| {
        let bytes = disk.contents(path).unwrap();
        [SECRET, "eve-the-user"].iter().any(|text| bytes.windows(text.len()).any(|w| w == text.as_bytes()))
    };
    let named = |path: &Path| path.to_string_lossy().contains("eve");
    disk.files()
        .iter()
        .filter(|path| named(path) || holds(path))
        .map(|path| path.display().to_string())
        .collect()
}

/// Rows of eve and of others: in packs with others, in files of eve's own, in memory, in the history of the log.
async fn filled(database: &Arc<Database>) -> Vec<Arc<Table>> {
    let (eve, ann) = (user("eve-the-user"), user("ann"));
    let small = create(database, "small", TableKind::User).await.unwrap();
    let large = create(database, "large", TableKind::User).await.unwrap();
    let shared = create(database, "shared", TableKind::Shared).await.unwrap();
    for (table, count) in [(&small, 5), (&large, 40)] {
        let writes = [&eve, &ann, &user("zoe")].map(|user| {
            let value = if *user == eve { SECRET } else { "of somebody else" };
            insert(table, Some(user), &rows(0..count, value))
        });
        database.commit(writes.into()).await.unwrap();
        database.flush_table(table).await.unwrap();
        commit(database, delete(database, table, Some(&eve), |id| id == 3).await).await.unwrap();
        commit(database, update(database, table, Some(&eve), |id| id == 1, SECRET).await).await.unwrap();
    }
    database.commit(vec![insert(&shared, None, &rows(0..9, "of all"))]).await.unwrap();
    vec![small, large, shared]
}

async fn others(database: &Arc<Database>) -> BTreeMap<(String, Option<UserId>), Model> {
    let mut found = BTreeMap::new();
    for (name, owners) in [("small", &["ann", "zoe"][..]), ("large", &["ann", "zoe"]), ("shared", &[])] {
        let table = find(database, name);
        for owner in owners.iter().map(|name| Some(user(name))) {
            found.insert((name.to_owned(), owner.clone()), now(database, &table, owner.as_ref()).await);
        }
        if owners.is_empty() {
            found.insert((name.to_owned(), None), now(database, &table, None).await);
        }
    }
    found
}

async fn rows_of_eve(database: &Arc<Database>) -> usize {
    let mut count = 0;
    for name in ["small", "large"] {
        count += now(database, &find(database, name), Some(&user("eve-the-user"))).await.len();
    }
    count
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_of_a_purged_user_is_left_in_any_file_and_everything_of_others_is() {
    let disk = SimDisk::new();
    let database = Database::open(opened(&disk)).await.unwrap();
    let tables = filled(&database).await;
    let eve = user("eve-the-user");
    let (kept, mut feed) = (others(&database).await, database.feed(0));
    assert_eq!(rows_of_eve(&database).await, 4 + 39);
    assert!(secrets(&disk).len() >= 3, "{:?}", secrets(&disk));
    let outcome = database.purge_user(&eve).await.unwrap();
    assert_eq!((outcome.partitions, outcome.packs), (1, 2));
    assert_eq!(secrets(&disk), [] as [String; 0]);
    assert_eq!(rows_of_eve(&database).await, 0);
    assert_eq!(others(&database).await, kept);
    assert!(matches!(feed.next().await, Err(Error::Expired { .. })), "a feed that is behind is told so");
    // The user may come again, with nothing of before.
    database.commit(vec![insert(&tables[0], Some(&eve), &rows(0..2, "new"))]).await.unwrap();
    let database = Database::open(opened(&disk.crash(Crash::LoseUnsynced))).await.unwrap();
    assert_eq!(rows_of_eve(&database).await, 2);
    assert_eq!(others(&database).await, kept);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_purge_on_a_real_disk_leaves_nothing_either() {
    fn files(dir: &Path, found: &mut Vec<Vec<u8>>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { files(&path, found) } else { found.push(std::fs::read(&path).unwrap()) }
        }
    }
    let holds = |dir: &Path| {
        let mut found = Vec::new();
        files(dir, &mut found);
        found.iter().filter(|bytes| bytes.windows(SECRET.len()).any(|w| w == SECRET.as_bytes())).count()
    };
    let dir = tempfile::tempdir().unwrap();
    let config = Config { pack_rows: 20, ..Config::new(dir.path()) };
    let database = Database::open(config.clone()).await.unwrap();
    filled(&database).await;
    let kept = others(&database).await;
    assert!(holds(dir.path()) > 0);
    database.purge_user(&user("eve-the-user")).await.unwrap();
    assert_eq!(holds(dir.path()), 0);
    database.close().await.unwrap();
    drop(database);
    let database = Database::open(config).await.unwrap();
    assert_eq!(others(&database).await, kept);
    assert_eq!(rows_of_eve(&database).await, 0);
}

async fn purge(database: &Arc<Database>) -> Result<()> {
    database.purge_user(&user("eve-the-user")).await.map(drop)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_power_cut_at_any_sync_of_a_purge_leaves_all_of_the_user_or_nothing() {
    let (mut before, mut after) = (0, 0);
    for n in 1.. {
        let disk = SimDisk::new();
        let database = Database::open(opened(&disk)).await.unwrap();
        filled(&database).await;
        let kept = others(&database).await;
        disk.freeze_at(Freeze::Sync(disk.counts().all_syncs() + n));
        let done = purge(&database).await;
        let frozen = disk.is_frozen();
        assert!(done.is_ok() || frozen, "{done:?}");
        for crash in [Crash::LoseUnsynced, Crash::KeepUnsynced, Crash::Torn(n)] {
            let what = format!("{crash:?} at sync {n}");
            let disk = disk.fork().crash(crash);
            let database = Database::open(opened(&disk)).await.unwrap();
            assert_eq!(others(&database).await, kept, "{what}");
            match rows_of_eve(&database).await {
                0 => {
                    assert_eq!(secrets(&disk), [] as [String; 0], "{what}");
                    after += 1;
                }
                43 => {
                    assert!(done.is_err(), "{what}: it was acknowledged");
                    purge(&database).await.unwrap();
                    assert_eq!(secrets(&disk), [] as [String; 0], "{what}, purged again");
                    before += 1;
                }
                some => panic!("{what}: {some} rows are left"),
            }
        }
        if !frozen {
            break;
        }
    }
    assert!(before > 10 && after > 10, "{before} before and {after} after the purge was noted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_purge_does_not_wait_for_a_compaction_of_the_users_rows() {
    let disk = SimDisk::new();
    // One that would take hours.
    let compaction = CompactionConfig { workers: 0, bytes_per_second: 1, ..CompactionConfig::default() };
    let database = Database::open(Config { compaction, ..opened(&disk) }).await.unwrap();
    let tables = filled(&database).await;
    let eve = user("eve-the-user");
    database.flush(&tables[1], Some(&eve)).await.unwrap();
    let compacting = tokio::spawn({
        let (database, table, eve) = (database.clone(), tables[1].clone(), eve.clone());
        async move { database.compact(&table, Some(&eve)).await }
    });
    let running = async {
        while database.compactions().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(common::gate::PATIENCE, running).await.expect("it is compacted");
    tokio::time::timeout(common::gate::PATIENCE, purge(&database)).await.expect("in time").unwrap();
    let compacted = compacting.await.unwrap();
    assert!(matches!(compacted, Err(Error::Cancelled(_))), "{compacted:?}");
    assert_eq!(secrets(&disk), [] as [String; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_writes_to_a_user_that_is_being_purged_waits_and_writes_to_an_empty_partition() {
    let disk = SimDisk::new();
    let database = Database::open(opened(&disk)).await.unwrap();
    let tables = filled(&database).await;
    let eve = user("eve-the-user");
    let gate = common::gate::Gate::before(&disk, kalamdb_wal::sim::Operation::Remove, "/wal/");
    let purge = tokio::spawn({
        let database = database.clone();
        async move { database.purge_user(&user("eve-the-user")).await }
    });
    gate.reached();
    let write = tokio::spawn({
        let (database, table, eve) = (database.clone(), tables[0].clone(), eve.clone());
        async move {
            loop {
                match database.commit(vec![insert(&table, Some(&eve), &rows(0..2, "new"))]).await {
                    Err(Error::Conflict) => tokio::task::yield_now().await,
                    other => break other,
                }
            }
        }
    });
    database
        .commit(vec![insert(&tables[0], Some(&user("ann")), &rows(70..72, "others go on"))])
        .await
        .unwrap();
    gate.open();
    purge.await.unwrap().unwrap();
    write.await.unwrap().unwrap();
    assert_eq!(now(&database, &tables[0], Some(&eve)).await, rows(0..2, "new").into_iter().collect());
    assert_eq!(secrets(&disk).iter().filter(|file| !file.contains("wal")).count(), 0, "{:?}", secrets(&disk));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_feeds_read_of_the_log_before_or_during_a_purge_is_not_in_memory_after_it() {
    let disk = SimDisk::new();
    let database = Database::open(opened(&disk)).await.unwrap();
    filled(&database).await;
    // One is in the middle of reading the log when it goes.
    let gate = common::gate::Gate::before(&disk, kalamdb_wal::sim::Operation::Read, "/wal/");
    let reading = tokio::spawn({
        let mut feed = database.feed(0);
        async move { feed.next().await }
    });
    gate.reached();
    // One has read some of it and then stalls: what it would go on with is in memory.
    let mut stalled = database.feed(0);
    let seen = Arc::downgrade(&stalled.try_next().unwrap().unwrap());
    assert!(seen.upgrade().is_some(), "kept for those who come after");
    purge(&database).await.unwrap();
    assert!(seen.upgrade().is_none(), "neither the reader nor the cache holds it");
    gate.open();
    assert!(matches!(reading.await.unwrap(), Err(Error::Expired { .. })), "what it has read is not used");
    assert!(matches!(stalled.next().await, Err(Error::Expired { .. })));
}
