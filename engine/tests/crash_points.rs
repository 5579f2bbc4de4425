//! The power fails at every sync of a fixed piece of work: every acknowledged commit is there afterwards, at most the one
//! that nobody answered for besides, and no file is left that nothing names.

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use common::{Model, config, create, delete, insert, now, rows, update};
use kalamdb_engine::{Database, Ddl, Error, Manifest, PartitionWrite, Result, Table, TableKind, UserId};
use kalamdb_wal::sim::{Crash, Freeze, SimDisk};

/// By table and owner (empty for a SHARED table): what is there. Tables without rows have an entry of their own.
type World = BTreeMap<(String, String), Model>;

fn user(name: &str) -> UserId {
    UserId::new(name).unwrap()
}

/// Does the work, as far as the disk goes along.
struct Work {
    database: Arc<Database>,
    acknowledged: World,
    unanswered: Option<World>,
}

impl Work {
    async fn settle<T>(&mut self, result: Result<T>, next: World) -> Result<T> {
        match result {
            Ok(value) => {
                self.acknowledged = next;
                Ok(value)
            }
            Err(error) => {
                self.unanswered = Some(next);
                Err(error)
            }
        }
    }

    async fn create(&mut self, name: &str, kind: TableKind) -> Result<Arc<Table>> {
        let mut next = self.acknowledged.clone();
        next.insert((name.into(), String::new()), Model::new());
        let result = create(&self.database, name, kind).await;
        self.settle(result, next).await
    }

    async fn drop(&mut self, table: &Table) -> Result<()> {
        let mut next = self.acknowledged.clone();
        next.retain(|(name, _), _| name != table.name.as_str());
        let result = self.database.ddl(Ddl::DropTable { id: table.id }).await.map(drop);
        self.settle(result, next).await
    }

    async fn commit(&mut self, writes: Vec<PartitionWrite>, change: impl FnOnce(&mut World)) -> Result<()> {
        let mut next = self.acknowledged.clone();
        change(&mut next);
        let result = self.database.commit(writes).await.map(drop);
        self.settle(result, next).await
    }

    async fn flush(&self, table: &Arc<Table>, owner: Option<&UserId>) -> Result<()> {
        self.database.flush(table, owner).await.map(drop)
    }

    async fn run(&mut self) -> Result<()> {
        let database = self.database.clone();
        let t = self.create("t", TableKind::Shared).await?;
        let u = self.create("u", TableKind::User).await?;
        let (ann, bob) = (user("ann"), user("bob"));
        let at = |name: &str, owner: &str| (name.to_owned(), owner.to_owned());
        self.commit(
            vec![
                insert(&t, None, &rows(0..20, "a")),
                insert(&u, Some(&ann), &rows(0..5, "b")),
                insert(&u, Some(&bob), &rows(0..3, "c")),
            ],
            |world| {
                world.insert(at("t", ""), rows(0..20, "a").into_iter().collect());
                world.insert(at("u", "ann"), rows(0..5, "b").into_iter().collect());
                world.insert(at("u", "bob"), rows(0..3, "c").into_iter().collect());
            },
        )
        .await?;
        self.flush(&t, None).await?;
        for round in 0..2 {
            let value = format!("round {round}");
            let write = update(&database, &t, None, |id| id < 4, &value).await?.unwrap();
            self.commit(vec![write], |world| {
                let model = world.get_mut(&at("t", "")).unwrap();
                (0..4).for_each(|id| drop(model.insert(id, Some(format!("{value}-{id}")))));
            })
            .await?;
            let low = 4 + round * 3;
            let write = delete(&database, &t, None, |id| id >= low && id < low + 3).await?.unwrap();
            self.commit(vec![write], |world| {
                world.get_mut(&at("t", "")).unwrap().retain(|id, _| !(low..low + 3).contains(id));
            })
            .await?;
            let gone = self.create("gone", TableKind::Shared).await?;
            self.commit(vec![insert(&gone, None, &rows(0..3, "g"))], |world| {
                world.insert(at("gone", ""), rows(0..3, "g").into_iter().collect());
            })
            .await?;
            self.flush(&gone, None).await?;
            self.drop(&gone).await?;
            self.flush(&u, Some(&ann)).await?;
            let back = rows(low..low + 1, "back");
            self.commit(
                vec![insert(&t, None, &back), insert(&u, Some(&ann), &rows(100 + low..101 + low, "d"))],
                |world| {
                    world.get_mut(&at("t", "")).unwrap().extend(rows(low..low + 1, "back"));
                    world.get_mut(&at("u", "ann")).unwrap().extend(rows(100 + low..101 + low, "d"));
                },
            )
            .await?;
            self.flush(&t, None).await?;
            self.database.compact(&t, None).await?;
        }
        self.database.close().await
    }
}

async fn observe(database: &Arc<Database>) -> World {
    let mut world = World::new();
    for table in database.catalog().tables_in("default") {
        let name = table.name.to_string();
        world.insert((name.clone(), String::new()), Model::new());
        let owners = match table.kind {
            TableKind::User => database.users_of(table).await.unwrap().into_iter().map(Some).collect(),
            _ => vec![None],
        };
        for owner in owners {
            let model = now(database, table, owner.as_ref()).await;
            if !model.is_empty() {
                world.insert((name.clone(), owner.map_or(String::new(), |o| o.to_string())), model);
            }
        }
    }
    world
}

/// Every file of a table is a manifest or named by the one beside it, and every table is one of the catalog's.
fn check_files(disk: &SimDisk, database: &Database) {
    let known: Vec<_> = database.catalog().tables().map(|t| Path::new("/db/tables").join(&t.path)).collect();
    for file in disk.files().into_iter().filter(|f| f.starts_with("/db/tables")) {
        assert!(known.iter().any(|dir| file.starts_with(dir)), "{} belongs to no table", file.display());
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        let manifest =
            disk.contents(&file.with_file_name("manifest.json")).expect("a manifest beside every file");
        let manifest = Manifest::decode(&manifest).unwrap();
        let named = |name: &str| {
            manifest.segments.iter().any(|s| s.path == name || s.deletes_path.as_deref() == Some(name))
        };
        assert!(name == "manifest.json" || named(&name), "{} is an orphan", file.display());
    }
}

async fn check(disk: SimDisk, work: &Work, what: &str) {
    let database =
        Database::open(config(Arc::new(disk.clone()))).await.unwrap_or_else(|e| panic!("{what}: {e}"));
    let found = observe(&database).await;
    if work.unanswered.as_ref() != Some(&found) {
        assert_eq!(found, work.acknowledged, "{what}");
    }
    check_files(&disk, &database);
    // And it goes on: everything flushed, and once more from the files alone.
    for (id, _) in database.loaded_partitions() {
        let table = database.catalog().table_by_id(id.table).unwrap().clone();
        database.flush(&table, id.user.as_ref()).await.unwrap();
    }
    let database = Database::open(config(Arc::new(disk.crash(Crash::LoseUnsynced)))).await.unwrap();
    assert_eq!(observe(&database).await, found, "{what}, flushed and opened again");
}

async fn run_until(freeze: Option<u64>) -> (SimDisk, Option<Work>) {
    let disk = SimDisk::new();
    if let Some(n) = freeze {
        disk.freeze_at(Freeze::Sync(n));
    }
    let database = match Database::open(config(Arc::new(disk.clone()))).await {
        Ok(database) => database,
        Err(error) => {
            assert!(disk.is_frozen(), "{error}");
            return (disk, None);
        }
    };
    let mut work = Work { database, acknowledged: World::new(), unanswered: None };
    let done = work.run().await;
    assert!(done.is_ok() || disk.is_frozen(), "{done:?}");
    (disk, Some(work))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_power_cut_at_any_sync_loses_no_acknowledged_commit_and_keeps_no_half_of_one() {
    for n in 1.. {
        let (disk, work) = run_until(Some(n)).await;
        let frozen = disk.is_frozen();
        let torn = if n % 2 == 0 { Crash::KeepUnsynced } else { Crash::Torn(n + 1_000) };
        for crash in [Crash::LoseUnsynced, Crash::Torn(n), torn] {
            let what = format!("{crash:?} at sync {n}");
            match &work {
                Some(work) => check(disk.fork().crash(crash), work, &what).await,
                None => {
                    let opened = Database::open(config(Arc::new(disk.fork().crash(crash)))).await;
                    assert!(observe(&opened.unwrap_or_else(|e| panic!("{what}: {e}"))).await.is_empty());
                }
            }
        }
        if !frozen {
            assert!(n > 60, "the work has many syncs to fail at, not {n}");
            break;
        }
    }
}

/// If the disk lied and unsynced writes were all there, the test above could not fail; here it can be seen to bite.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_not_synced_is_indeed_lost_by_the_simulated_power_cut() {
    let disk = SimDisk::new();
    let never =
        kalamdb_engine::Config { sync: kalamdb_engine::SyncPolicy::Never, ..config(Arc::new(disk.clone())) };
    let database = Database::open(never).await.unwrap();
    let table = create(&database, "t", TableKind::Shared).await.unwrap();
    database.commit(vec![insert(&table, None, &rows(0..3, "a"))]).await.unwrap();
    let after = Database::open(config(Arc::new(disk.crash(Crash::LoseUnsynced)))).await.unwrap();
    assert!(observe(&after).await.values().all(Model::is_empty));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flush_makes_its_commits_durable_even_where_commits_alone_are_not_synced() {
    let disk = SimDisk::new();
    let never =
        kalamdb_engine::Config { sync: kalamdb_engine::SyncPolicy::Never, ..config(Arc::new(disk.clone())) };
    let database = Database::open(never.clone()).await.unwrap();
    let table = create(&database, "t", TableKind::Shared).await.unwrap();
    database.commit(vec![insert(&table, None, &rows(0..3, "a"))]).await.unwrap();
    let other = create(&database, "other", TableKind::Shared).await.unwrap();
    database.commit(vec![insert(&other, None, &rows(0..3, "a"))]).await.unwrap();
    database.flush(&other, None).await.unwrap();
    let disk = disk.crash(Crash::LoseUnsynced);
    let database = Database::open(config(Arc::new(disk.clone()))).await.unwrap();
    let table = common::find(&database, "t");
    database.commit(vec![insert(&table, None, &rows(3..6, "b"))]).await.unwrap();
    let other = common::find(&database, "other");
    database.commit(vec![insert(&other, None, &rows(3..6, "b"))]).await.unwrap();
    let database = Database::open(config(Arc::new(disk.crash(Crash::LoseUnsynced)))).await.unwrap();
    assert_eq!(now(&database, &common::find(&database, "t"), None).await.len(), 6);
    assert_eq!(now(&database, &common::find(&database, "other"), None).await.len(), 6);
}

/// Only what the catalog knows to be dropped is removed: it may be the catalog that has lost something.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_that_the_catalog_does_not_know_is_left_alone() {
    let disk = SimDisk::new();
    let database = Database::open(config(Arc::new(disk.clone()))).await.unwrap();
    let table = create(&database, "t", TableKind::Shared).await.unwrap();
    database.commit(vec![insert(&table, None, &rows(0..3, "a"))]).await.unwrap();
    database.flush(&table, None).await.unwrap();
    let stranger = Path::new("/db/tables/default/stranger");
    kalamdb_wal::Disk::create_dir_all(&disk, stranger).unwrap();
    disk.overwrite(&stranger.join("batch-1.parquet"), b"somebody's rows".to_vec()).unwrap();
    let disk = disk.crash(Crash::KeepUnsynced);
    drop(Database::open(config(Arc::new(disk.clone()))).await.unwrap());
    assert!(disk.contents(&stranger.join("batch-1.parquet")).is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drop_whose_files_could_not_be_removed_does_not_spoil_the_name() {
    use kalamdb_wal::sim::{Fault, Operation};
    let disk = SimDisk::new();
    let database = Database::open(config(Arc::new(disk.clone()))).await.unwrap();
    let table = create(&database, "t", TableKind::Shared).await.unwrap();
    database.commit(vec![insert(&table, None, &rows(0..3, "a"))]).await.unwrap();
    database.flush(&table, None).await.unwrap();
    disk.inject(Fault::next_on(Operation::Remove, "default/t"));
    database.ddl(Ddl::DropTable { id: table.id }).await.unwrap();
    let again = create(&database, "t", TableKind::Shared).await.unwrap();
    assert!(now(&database, &again, None).await.is_empty());
    database.commit(vec![insert(&again, None, &rows(7..9, "b"))]).await.unwrap();
    database.flush(&again, None).await.unwrap();
    let disk = disk.crash(Crash::LoseUnsynced);
    let database = Database::open(config(Arc::new(disk.clone()))).await.unwrap();
    assert_eq!(now(&database, &common::find(&database, "t"), None).await.len(), 2);
    check_files(&disk, &database);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manifest_ahead_of_the_log_closes_its_partition() {
    let disk = SimDisk::new();
    let database = Database::open(config(Arc::new(disk.clone()))).await.unwrap();
    let table = create(&database, "t", TableKind::Shared).await.unwrap();
    let path = Path::new("/db/tables/default/t/manifest.json");
    database.commit(vec![insert(&table, None, &rows(0..3, "a"))]).await.unwrap();
    database.flush(&table, None).await.unwrap();
    let mut manifest = Manifest::decode(&disk.contents(path).unwrap()).unwrap();
    manifest.flushed_seq += 1_000;
    disk.overwrite(path, manifest.encode().unwrap()).unwrap();
    let database = Database::open(config(Arc::new(disk.crash(Crash::LoseUnsynced)))).await.unwrap();
    let table = common::find(&database, "t");
    let refused = database.view(&database.snapshot(), &table, None).await;
    assert!(
        matches!(&refused, Err(Error::PartitionDamaged { reason, .. }) if reason.contains("log")),
        "{refused:?}"
    );
}
