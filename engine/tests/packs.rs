//! Many small partitions in few files.

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use common::gate::Gate;
use common::{Model, commit, config, contents, create, delete, find, insert, now, rows, update};
use kalamdb_engine::offline::{Condition, check_on, repair_on};
use kalamdb_engine::{
    CompactionConfig, Config, Database, Error, PackManifest, Result, Table, TableKind, UserId,
};
use kalamdb_wal::Disk;
use kalamdb_wal::sim::{Crash, Fault, Freeze, Operation, SimClock, SimDisk};

const PACKS: &str = "/db/tables/default/u/_packs";

fn user(n: usize) -> UserId {
    UserId::new(&format!("user-{n:04}")).unwrap()
}

async fn forgetful(disk: &SimDisk) -> Arc<Database> {
    timed(disk, &SimClock::new(1_800_000_000_000_000), 0).await
}

/// The same with a time that the test sets, and with so many compactions in the background.
async fn timed(disk: &SimDisk, clock: &SimClock, workers: usize) -> Arc<Database> {
    let compaction = CompactionConfig { workers, ..CompactionConfig::default() };
    let config = Config {
        evict_after: Duration::ZERO,
        clock: Arc::new(clock.clone()),
        compaction,
        ..config(Arc::new(disk.clone()))
    };
    Database::open(config).await.unwrap()
}

/// Everything that is not in table `u` to files, so that it does not hold back the log.
async fn flush_others(database: &Arc<Database>) {
    for (id, _) in database.loaded_partitions().into_iter().filter(|(id, _)| id.user.is_none()) {
        let table = database.catalog().table_by_id(id.table).unwrap().clone();
        database.flush(&table, None).await.unwrap();
    }
}

/// Who stays loaded when everybody is evicted who can be.
fn kept(database: &Database, table: &Table) -> Vec<UserId> {
    database.evict();
    let loaded = database.loaded_partitions().into_iter().filter(|(id, _)| id.table == table.id);
    let mut users: Vec<UserId> = loaded.filter_map(|(id, _)| id.user).collect();
    users.sort_unstable();
    users
}

/// One commit with some rows for each of some users.
async fn fill(database: &Database, table: &Arc<Table>, users: std::ops::Range<usize>, value: &str) {
    let writes = users.map(|n| insert(table, Some(&user(n)), &rows(0..3, value)));
    database.commit(writes.collect()).await.unwrap();
}

fn packs(disk: &SimDisk) -> PackManifest {
    PackManifest::decode(&disk.contents(&Path::new(PACKS).join("manifest.json")).unwrap()).unwrap()
}

fn files(disk: &SimDisk) -> Vec<PathBuf> {
    disk.files().into_iter().filter(|file| file.starts_with("/db/tables/default/u")).collect()
}

/// What every user has now.
async fn all(database: &Arc<Database>) -> BTreeMap<UserId, Model> {
    let table = find(database, "u");
    let mut found = BTreeMap::new();
    for user in database.users_of(&table).await.unwrap() {
        let model = now(database, &table, Some(&user)).await;
        if !model.is_empty() {
            found.insert(user, model);
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_small_users_go_to_one_file_and_come_back_from_it() {
    const USERS: usize = 1_500;
    let disk = SimDisk::new();
    let database = forgetful(&disk).await;
    let table = create(&database, "u", TableKind::User).await.unwrap();
    for first in (0..USERS).step_by(100) {
        fill(&database, &table, first..first + 100, "a").await;
    }
    commit(&database, delete(&database, &table, Some(&user(7)), |id| id == 1).await).await.unwrap();
    let before = all(&database).await;
    let outcome = database.flush_table(&table).await.unwrap();
    assert_eq!((outcome.rows, outcome.segments), (USERS as u64 * 3, 1));
    assert_eq!(
        files(&disk),
        [Path::new(PACKS).join("manifest.json"), Path::new(PACKS).join("pack-1.parquet")]
    );
    assert_eq!(packs(&disk).packs[0].users, USERS as u64);
    assert_eq!(kept(&database, &table), [], "all of it is on disk");
    assert_eq!(all(&database).await, before);
    flush_others(&database).await;
    database.close().await.unwrap();
    let database = forgetful(&disk.crash(Crash::LoseUnsynced)).await;
    assert!(database.loaded_partitions().iter().all(|(id, _)| id.user.is_none()), "nobody asked for one");
    assert_eq!(all(&database).await, before);
    let nobody = UserId::new("user-0007b").unwrap();
    assert!(now(&database, &find(&database, "u"), Some(&nobody)).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_changed_after_a_pack_is_replayed_onto_its_slices() {
    let disk = SimDisk::new();
    let database = forgetful(&disk).await;
    let table = create(&database, "u", TableKind::User).await.unwrap();
    let ann = user(1);
    for first in [0, 3, 6] {
        let mut low = rows(first..first + 3, "a");
        low.reverse();
        database.commit(vec![insert(&table, Some(&ann), &low)]).await.unwrap();
    }
    commit(&database, update(&database, &table, Some(&ann), |id| id < 4, "b").await).await.unwrap();
    commit(&database, delete(&database, &table, Some(&ann), |id| id == 2 || id == 8).await).await.unwrap();
    database.flush_table(&table).await.unwrap();
    // In the memtable that was packed, and in one that came from the pack.
    for value in ["c", "d"] {
        commit(&database, update(&database, &table, Some(&ann), |id| id % 2 == 1, value).await)
            .await
            .unwrap();
        commit(&database, delete(&database, &table, Some(&ann), |id| id == 4).await).await.unwrap();
        let model = now(&database, &table, Some(&ann)).await;
        let database = common::open(&disk.fork().crash(Crash::LoseUnsynced)).await;
        assert_eq!(now(&database, &find(&database, "u"), Some(&ann)).await, model);
    }
    database.commit(vec![insert(&table, Some(&ann), &rows(8..9, "again"))]).await.unwrap();
    let model = now(&database, &table, Some(&ann)).await;
    let database = forgetful(&disk.crash(Crash::LoseUnsynced)).await;
    let table = find(&database, "u");
    assert_eq!(now(&database, &table, Some(&ann)).await, model);
    database.flush_table(&table).await.unwrap();
    assert_eq!(kept(&database, &table), []);
    assert_eq!(now(&database, &table, Some(&ann)).await, model);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_who_grows_gets_files_of_its_own_and_the_slice_no_longer_counts() {
    let disk = SimDisk::new();
    let config = Config { pack_rows: 10, evict_after: Duration::ZERO, ..config(Arc::new(disk.clone())) };
    let database = Database::open(config).await.unwrap();
    let table = create(&database, "u", TableKind::User).await.unwrap();
    fill(&database, &table, 0..5, "a").await;
    database.flush_table(&table).await.unwrap();
    database.commit(vec![insert(&table, Some(&user(2)), &rows(10..20, "b"))]).await.unwrap();
    commit(&database, delete(&database, &table, Some(&user(2)), |id| id == 0).await).await.unwrap();
    let outcome = database.flush_table(&table).await.unwrap();
    assert_eq!(outcome.rows, 13, "all of that user and nobody else");
    let model = now(&database, &table, Some(&user(2))).await;
    assert_eq!(model.len(), 12);
    database.evict();
    assert_eq!(now(&database, &table, Some(&user(2))).await, model);
    let database = common::open(&disk.crash(Crash::LoseUnsynced)).await;
    assert_eq!(now(&database, &find(&database, "u"), Some(&user(2))).await, model);
    assert_eq!(all(&database).await.len(), 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_while_a_pack_is_written_is_in_the_log_still() {
    let disk = SimDisk::new();
    let database = forgetful(&disk).await;
    let table = create(&database, "u", TableKind::User).await.unwrap();
    fill(&database, &table, 0..4, "a").await;
    let gate = Gate::before(&disk, Operation::Sync, "_packs/pack");
    let flush = tokio::spawn({
        let (database, table) = (database.clone(), table.clone());
        async move { database.flush_table(&table).await }
    });
    gate.reached();
    commit(&database, update(&database, &table, Some(&user(1)), |id| id == 1, "b").await).await.unwrap();
    database.commit(vec![insert(&table, Some(&user(2)), &rows(5..7, "c"))]).await.unwrap();
    commit(&database, delete(&database, &table, Some(&user(3)), |_| true).await).await.unwrap();
    let during = all(&database).await;
    gate.open();
    flush.await.unwrap().unwrap();
    assert_eq!(all(&database).await, during);
    let changed = [user(1), user(2), user(3)];
    assert_eq!(kept(&database, &table), changed, "they have commits that only the log has");
    let after = common::open(&disk.fork().crash(Crash::LoseUnsynced)).await;
    assert_eq!(all(&after).await, during);
    database.flush_table(&table).await.unwrap();
    database.evict();
    assert_eq!(all(&database).await, during);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_snapshot_still_sees_what_a_pack_does_not_have() {
    let database = forgetful(&SimDisk::new()).await;
    let table = create(&database, "u", TableKind::User).await.unwrap();
    fill(&database, &table, 0..2, "a").await;
    let old = database.snapshot();
    commit(&database, update(&database, &table, Some(&user(0)), |id| id < 2, "b").await).await.unwrap();
    database.flush_table(&table).await.unwrap();
    assert_eq!(kept(&database, &table), [user(0)], "the other was not changed since");
    let seen = contents(&database, &old, &table, Some(&user(0))).await.unwrap();
    assert_eq!(seen, rows(0..3, "a").into_iter().collect());
    drop(old);
    database.evict();
    assert_eq!(now(&database, &table, Some(&user(0))).await[&0], Some("b-0".into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packs_are_merged_and_the_newest_slice_of_a_user_stays() {
    let disk = SimDisk::new();
    let database = forgetful(&disk).await;
    let table = create(&database, "u", TableKind::User).await.unwrap();
    fill(&database, &table, 0..40, "a").await;
    database.flush_table(&table).await.unwrap();
    for round in 0..12 {
        for n in [round, round + 1, 30] {
            let value = format!("r{round}");
            commit(&database, update(&database, &table, Some(&user(n)), |id| id == 1, &value).await)
                .await
                .unwrap();
        }
        database.flush_table(&table).await.unwrap();
        database.evict();
        assert!(packs(&disk).packs.len() < 4, "round {round}: {:?}", packs(&disk));
    }
    let before = all(&database).await;
    assert_eq!(before.len(), 40);
    assert_eq!(before[&user(30)][&1], Some("r11-1".into()));
    assert_eq!(before[&user(5)][&1], Some("r5-1".into()));
    let disk = disk.crash(Crash::LoseUnsynced);
    assert_eq!(all(&forgetful(&disk).await).await, before);
    let named = packs(&disk).packs.len();
    assert_eq!(files(&disk).len(), named + 1, "merged packs are removed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_deleted_longer_ago_than_the_retention_leave_the_packs() {
    let (disk, clock) = (SimDisk::new(), SimClock::new(1_800_000_000_000_000));
    let database = timed(&disk, &clock, 0).await;
    let table = create(&database, "u", TableKind::User).await.unwrap();
    fill(&database, &table, 0..4, "a").await;
    commit(&database, delete(&database, &table, Some(&user(1)), |id| id == 1).await).await.unwrap();
    commit(&database, delete(&database, &table, Some(&user(2)), |_| true).await).await.unwrap();
    database.flush_table(&table).await.unwrap();
    let before = all(&database).await;
    assert_eq!(before.len(), 3);
    let compacted = async |days: u64| {
        clock.advance(Duration::from_secs(days * 86_400));
        assert_eq!(kept(&database, &table), []);
        let outcome = database.compact_packs(&table).await.unwrap();
        let meta = packs(&disk).packs.pop().unwrap();
        assert_eq!(all(&database).await, before);
        assert_eq!(all(&forgetful(&disk.fork().crash(Crash::LoseUnsynced)).await).await, before);
        assert_eq!((outcome.segments_in, outcome.rows_out), (1, meta.rows));
        (meta.rows, meta.users, meta.oldest_tombstone.is_some())
    };
    assert_eq!(compacted(6).await, (12, 4, true), "too early");
    // Replay would bring back the rows of a user whose slice was gone: they are in the log still.
    assert_eq!(compacted(2).await, (11, 4, true));
    flush_others(&database).await;
    fill(&database, &table, 5..6, "b").await;
    database.flush_table(&table).await.unwrap();
    let before = all(&database).await;
    assert_eq!(kept(&database, &table), []);
    database.compact_packs(&table).await.unwrap();
    let meta = packs(&disk).packs.pop().unwrap();
    assert_eq!((meta.rows, meta.users, meta.oldest_tombstone), (11, 4, None));
    assert!(!database.users_of(&table).await.unwrap().contains(&user(2)));
    assert_eq!(all(&database).await, before);
    database.commit(vec![insert(&table, Some(&user(2)), &rows(0..1, "again"))]).await.unwrap();
    let before = all(&database).await;
    assert_eq!(all(&forgetful(&disk.crash(Crash::LoseUnsynced)).await).await, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packs_with_rows_past_their_retention_are_merged_in_the_background() {
    let (disk, clock) = (SimDisk::new(), SimClock::new(1_800_000_000_000_000));
    let database = timed(&disk, &clock, 1).await;
    let table = create(&database, "u", TableKind::User).await.unwrap();
    fill(&database, &table, 0..3, "a").await;
    commit(&database, delete(&database, &table, Some(&user(1)), |id| id == 1).await).await.unwrap();
    // Nobody flushes: after its retention the database does, and all users together.
    clock.advance(Duration::from_secs(8 * 86_400));
    let merged = async {
        while !disk.contents(&Path::new(PACKS).join("manifest.json")).is_ok_and(|bytes| {
            let packs = PackManifest::decode(&bytes).unwrap().packs;
            packs.iter().any(|pack| pack.rows == 8 && pack.oldest_tombstone.is_none())
        }) {
            // Each look of the database's at the clock finds another hour gone.
            clock.advance(Duration::from_secs(7_200));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), merged).await.expect("a deleted row is gone");
    assert!(files(&disk).iter().all(|file| file.starts_with(PACKS)), "{:?}", files(&disk));
}

/// The work, up to where the power fails. Returns what was acknowledged, and what holds if the last step made it.
async fn work(
    database: &Arc<Database>,
    clock: &SimClock,
    states: &mut Vec<BTreeMap<UserId, Model>>,
) -> Result<()> {
    let table = create(database, "u", TableKind::User).await?;
    for round in 0..5 {
        let mut next = states.last().cloned().unwrap_or_default();
        let new = rows(round * 10..round * 10 + 2, "a");
        let users: Vec<UserId> = (0..3).map(|n| user((n + round as usize) % 5)).collect();
        for user in &users {
            next.entry(user.clone()).or_default().extend(new.clone());
        }
        states.push(next);
        database.commit(users.iter().map(|user| insert(&table, Some(user), &new)).collect()).await?;
        let mut next = states[states.len() - 1].clone();
        let owner = users[0].clone();
        next.entry(owner.clone()).or_default().remove(&(round * 10));
        states.push(next);
        if let Some(write) = delete(database, &table, Some(&owner), |id| id == round * 10).await? {
            database.commit(vec![write]).await?;
        }
        database.flush_table(&table).await?;
        database.evict();
        if round == 3 {
            database.flush(&table, Some(&user(1))).await?;
        }
        if round % 2 == 0 {
            clock.advance(Duration::from_secs(8 * 86_400));
            database.compact_packs(&table).await?;
        }
    }
    database.close().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_power_cut_at_any_sync_of_packing_and_merging_loses_nothing() {
    for n in 1.. {
        let (disk, clock) = (SimDisk::new(), SimClock::new(1_800_000_000_000_000));
        let database = timed(&disk, &clock, 0).await;
        let before = disk.counts().all_syncs();
        disk.freeze_at(Freeze::Sync(before + n));
        let mut states = vec![BTreeMap::new()];
        let done = work(&database, &clock, &mut states).await;
        assert!(done.is_ok() || disk.is_frozen(), "{done:?}");
        for crash in [Crash::LoseUnsynced, Crash::KeepUnsynced, Crash::Torn(n)] {
            let after = disk.fork().crash(crash);
            let database = forgetful(&after).await;
            let what = format!("{crash:?} at sync {n}");
            if database.catalog().table("default", "u").is_none() {
                assert!(states.len() == 1, "{what}");
                continue;
            }
            let found = all(&database).await;
            let last = states.len() - 1;
            let expected = [&states[last], &states[last.saturating_sub(1)]];
            assert!(expected.contains(&&found), "{what}: {found:?} is none of {expected:?}");
            let table = find(&database, "u");
            database.flush_table(&table).await.unwrap();
            database.evict();
            assert_eq!(all(&database).await, found, "{what}, packed");
            database.close().await.unwrap();
            let report = check_on(&after, Path::new("/db")).unwrap();
            assert_ne!(report.condition(), Condition::Damaged, "{what}: {report:?}");
            assert!(report.orphans.is_empty(), "{what}: {report:?}");
        }
        if !disk.is_frozen() {
            assert!(n > 40, "the work has many syncs to fail at, not {n}");
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_at_any_write_of_a_pack_loses_nothing() {
    for operation in
        [Operation::Create, Operation::Write, Operation::Sync, Operation::Rename, Operation::SyncDir]
    {
        for after in 0..3 {
            let disk = SimDisk::new();
            let database = forgetful(&disk).await;
            let table = create(&database, "u", TableKind::User).await.unwrap();
            fill(&database, &table, 0..4, "a").await;
            let error = std::io::ErrorKind::StorageFull;
            disk.inject(Fault { after, error, ..Fault::next_on(operation, "default/u") });
            let failed = database.flush_table(&table).await;
            let what = format!("{operation:?} after {after}: {failed:?}");
            assert!(matches!(failed, Err(Error::StorageFull(_)) | Ok(_)), "{what}");
            let model = all(&database).await;
            assert_eq!(model.len(), 4, "{what}");
            assert_eq!(
                all(&common::open(&disk.fork().crash(Crash::LoseUnsynced)).await).await,
                model,
                "{what}"
            );
            disk.clear_faults();
            fill(&database, &table, 4..6, "b").await;
            database.flush_table(&table).await.unwrap();
            database.evict();
            assert_eq!(all(&database).await.len(), 6, "{what}");
            assert_eq!(all(&common::open(&disk.crash(Crash::LoseUnsynced)).await).await.len(), 6, "{what}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_pack_closes_the_users_it_may_have_and_no_others() {
    let damages: [fn(&SimDisk, &Path); 3] = [
        |disk, path| {
            disk.remove_file(path).unwrap();
            disk.sync_dir(path.parent().unwrap()).unwrap();
        },
        |disk, path| disk.truncate(path, 100).unwrap(),
        |disk, path| disk.flip_bit(path, 4_000).unwrap(),
    ];
    for damage in damages {
        let disk = SimDisk::new();
        let database = forgetful(&disk).await;
        let table = create(&database, "u", TableKind::User).await.unwrap();
        fill(&database, &table, 0..5, "a").await;
        database.flush_table(&table).await.unwrap();
        fill(&database, &table, 10..15, "b").await;
        commit(&database, update(&database, &table, Some(&user(3)), |id| id == 1, "new").await)
            .await
            .unwrap();
        database.flush_table(&table).await.unwrap();
        let ann = now(&database, &table, Some(&user(3))).await;
        let disk = disk.crash(Crash::LoseUnsynced);
        damage(&disk, &Path::new(PACKS).join("pack-1.parquet"));
        let report = check_on(&disk, Path::new("/db")).unwrap();
        assert_eq!(report.condition(), Condition::Damaged);
        assert!(report.damage.iter().any(|f| f.file.ends_with("pack-1.parquet")), "{report:?}");
        // The log still begins before the packs; what it has must not hide what they lost.
        let database = forgetful(&disk).await;
        let table = find(&database, "u");
        let snapshot = database.snapshot();
        for n in [0, 1, 4] {
            let refused = database.view(&snapshot, &table, Some(&user(n))).await;
            assert!(matches!(refused, Err(Error::PartitionDamaged { .. })), "{refused:?}");
            let refused = database.commit(vec![insert(&table, Some(&user(n)), &rows(50..51, "x"))]).await;
            assert!(matches!(refused, Err(Error::PartitionDamaged { .. })), "{refused:?}");
        }
        assert_eq!(now(&database, &table, Some(&user(3))).await, ann, "a newer pack has all of it");
        assert_eq!(now(&database, &table, Some(&user(12))).await.len(), 3);
        database.commit(vec![insert(&table, Some(&user(20)), &rows(0..1, "x"))]).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_manifest_of_packs_is_rebuilt_from_them() {
    let disk = SimDisk::new();
    let database = forgetful(&disk).await;
    let table = create(&database, "u", TableKind::User).await.unwrap();
    for round in 0..6 {
        fill(&database, &table, round * 3..round * 3 + 3, "a").await;
        database.flush_table(&table).await.unwrap();
    }
    let before = all(&database).await;
    database.close().await.unwrap();
    let disk = disk.crash(Crash::LoseUnsynced);
    let path = Path::new(PACKS).join("manifest.json");
    let manifest = packs(&disk);
    disk.flip_bit(&path, 333).unwrap();
    let clock = SimClock::new(1_900_000_000_000_000);
    let on: Arc<dyn Disk> = Arc::new(disk.clone());
    let report = repair_on(&on, &clock, Path::new("/db")).unwrap();
    assert_eq!(report.rebuilt, [path]);
    assert!(report.left.is_empty(), "{report:?}");
    assert_eq!(packs(&disk).packs, manifest.packs);
    assert_eq!(all(&forgetful(&disk).await).await, before);
}
