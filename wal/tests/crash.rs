//! Power cuts and kills at every point of a workload with groups, rolls, recycling, truncation and reopening.

mod common;

use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use common::{Story, dir, inline, open, try_open};
use kalamdb_wal::sim::{Crash, Freeze, SimDisk};
use kalamdb_wal::{Access, DirEntry, Disk, DiskFile, Log, Record, SyncPolicy};

const CRASHES: [Crash; 6] = [
    Crash::LoseUnsynced,
    Crash::KeepUnsynced,
    Crash::KillProcess,
    Crash::Torn(1),
    Crash::Torn(2),
    Crash::Torn(3),
];

/// Opens what a crash left, checks it, writes more, loses power again, checks again: nothing that was dropped may come
/// back, and nothing that was replayed may vanish.
fn survive(disk: &SimDisk, story: &Story) {
    let mut story = story.clone();
    let (log, recovered, replayed) = open(disk, inline());
    story.check(&recovered, &replayed);
    for len in [10, 700, 0, 9000] {
        story.append(&log, 77, len).expect("appends");
    }
    story.wait(&log, log.last()).expect("durable");
    let again = disk.crash(Crash::LoseUnsynced);
    let (_, recovered, replayed) = open(&again, inline());
    story.check(&recovered, &replayed);
}

/// Recovery itself loses power before each of its changes.
fn survive_crashes_during_recovery(disk: &SimDisk, story: &Story, seed: u64) {
    let before = disk.counts().changes;
    for nth in 1.. {
        let disk = disk.fork();
        disk.freeze_at(Freeze::Change(before + nth));
        let opened = try_open(&disk, inline());
        if !disk.is_frozen() {
            return;
        }
        drop(opened);
        survive(&disk.crash(Crash::Torn(seed + nth)), story);
    }
}

fn run_to(freeze: Freeze, seed: u64) -> Option<(SimDisk, Story)> {
    let disk = SimDisk::new();
    disk.freeze_at(freeze);
    let mut story = Story::new();
    let ended = story.run(&disk, &inline(), seed, 60);
    // The disk may also stop when the log is dropped, which has nobody to tell.
    assert!(ended.is_ok() || disk.is_frozen(), "seed {seed}, {freeze:?}: {ended:?}");
    disk.is_frozen().then_some((disk, story))
}

#[test]
fn the_workload_does_all_that_can_go_wrong() {
    let disk = SimDisk::new();
    let mut story = Story::new();
    story.run(&disk, &inline(), 1, 60).expect("runs");
    let (log, ..) = open(&disk, inline());
    assert!(story.acked > 100 && log.first() > 20, "{} {}", story.acked, log.first());
    assert!(disk.counts().all_syncs() > 100);
    let mut story = Story::new();
    let (log, ..) = open(&SimDisk::new(), inline());
    for _ in 0..200 {
        let lsn = story.append(&log, 1, 500).expect("appends");
        story.wait(&log, lsn).expect("durable");
        story.truncate(&log, lsn).expect("truncates");
    }
    assert!(log.metrics().recycled > 2, "{:?}", log.metrics());
}

#[test]
fn a_power_cut_at_any_sync_loses_nothing_that_was_answered_for() {
    for seed in [1, 2] {
        for nth in 1.. {
            let Some((disk, story)) = run_to(Freeze::Sync(nth), seed) else { break };
            for crash in CRASHES {
                survive(&disk.crash(crash), &story);
            }
        }
    }
}

#[test]
fn a_power_cut_at_any_change_loses_nothing_that_was_answered_for() {
    for nth in 1.. {
        let Some((disk, story)) = run_to(Freeze::Change(nth), 3) else { break };
        for crash in CRASHES {
            survive(&disk.crash(crash), &story);
        }
        if nth % 7 == 0 {
            survive_crashes_during_recovery(&disk.crash(Crash::Torn(nth)), &story, nth);
        }
    }
}

#[test]
fn a_log_that_does_not_sync_keeps_its_records_over_a_kill() {
    for sync in [SyncPolicy::Never, SyncPolicy::Interval(std::time::Duration::from_secs(1))] {
        let disk = SimDisk::new();
        let mut story = Story::new();
        let (log, ..) = open(&disk, kalamdb_wal::Options { sync, ..inline() });
        for _ in 0..50 {
            let lsn = story.append(&log, 1, 400).expect("appends");
            story.wait(&log, lsn).expect("handed over");
        }
        survive(&disk.crash(Crash::KillProcess), &story);
        // A power cut takes back the end, but what is left is a true prefix.
        for seed in 0..20 {
            let mut story = Story { acked: 0, ..story.clone() };
            let (_, recovered, replayed) = open(&disk.crash(Crash::Torn(seed)), inline());
            story.check(&recovered, &replayed);
        }
    }
}

/// A disk whose file syncs do nothing, or whose directory syncs do nothing.
#[derive(Debug, Clone)]
struct Forgetful {
    disk: SimDisk,
    files: bool,
    dirs: bool,
}

#[derive(Debug)]
struct ForgetfulFile(Arc<dyn DiskFile>);

impl Forgetful {
    fn wrap(&self, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        if self.files { Arc::new(ForgetfulFile(file)) } else { file }
    }
}

impl Disk for Forgetful {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.wrap(self.disk.create(path)?))
    }
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.wrap(self.disk.open(path)?))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)
    }
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.disk.remove_file(path)
    }
    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.disk.remove_dir_all(path)
    }
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.disk.create_dir_all(path)
    }
    fn read_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        self.disk.read_dir(path)
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        if self.dirs { Ok(()) } else { self.disk.sync_dir(path) }
    }
    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.disk.exists(path)
    }
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        self.disk.lock(path)
    }
}

impl DiskFile for ForgetfulFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buf, offset)
    }
    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(buf, offset)
    }
    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }
    fn sync_all(&self) -> io::Result<()> {
        self.0.sync_all()
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
    fn map(&self, access: Access) -> io::Result<Bytes> {
        self.0.map(access)
    }
}

/// The control: if the model did not bite, the tests above would prove nothing.
#[test]
fn a_log_without_its_syncs_is_caught_by_the_same_test() {
    for (files, dirs) in [(true, false), (false, true)] {
        let disk = SimDisk::new();
        let forgetful = Forgetful { disk: disk.clone(), files, dirs };
        let (log, _) = Log::open(Arc::new(forgetful), dir(), inline(), &mut |_, _| Ok(())).expect("opens");
        for n in 1..=50u8 {
            let lsn = log.append(Record::new(vec![n; 400])).expect("appends");
            log.wait_durable(lsn).expect("answered for");
        }
        let reopened = try_open(&disk.crash(Crash::LoseUnsynced), inline());
        let kept = reopened.map_or(0, |(_, recovered, _)| recovered.next - 1);
        assert!(kept < 50, "files {files}, dirs {dirs}: nothing was lost");
    }
}
