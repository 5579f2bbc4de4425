//! Forgetting records for good: no byte of them is left in the directory.

mod common;

use std::path::Path;

use common::{inline, open, payload};
use kalamdb_wal::sim::{Crash, Freeze, SimDisk};
use kalamdb_wal::{Error, Log, Options, Record, Retain};

const SECRET: &[u8] = b"what nobody may read again";

fn write(log: &Log, count: usize, bytes: &[u8]) {
    for _ in 0..count {
        let lsn = log.append(Record::new(bytes.repeat(20))).expect("appends");
        log.wait_durable(lsn).expect("durable");
    }
}

fn holds_secret(disk: &SimDisk) -> bool {
    let holds = |file: &Path| {
        disk.contents(file).expect("reads").windows(SECRET.len()).any(|window| window == SECRET)
    };
    disk.files().iter().any(|file| holds(file))
}

/// Segments of several sizes, some of them recycled, with secrets in all of them.
fn filled(disk: &SimDisk) -> Log {
    let options = || Options { retain: Retain { bytes: 0, ..Retain::default() }, spares: 2, ..inline() };
    let (log, ..) = open(disk, options());
    for _ in 0..6 {
        write(&log, 30, SECRET);
        log.truncate_before(log.last()).expect("truncates");
    }
    assert!(holds_secret(disk));
    log
}

/// What the engine does: the number of the first record that stays.
fn purge(log: &Log) -> Result<u64, Error> {
    log.end_segment()?;
    let first = log.append(Record::new(payload(1, 1, 100)))?;
    log.wait_durable(first)?;
    log.truncate_before(first)?;
    log.purge_before(first)?;
    Ok(first)
}

#[test]
fn a_purge_leaves_no_byte_of_older_records_in_segments_or_spares() {
    let disk = SimDisk::new();
    let log = filled(&disk);
    let behind = log.reader(log.last()).expect("a reader");
    let first = purge(&log).expect("purges");
    assert!(!holds_secret(&disk), "{:?}", disk.files());
    assert_eq!(log.first(), first);
    assert!(matches!(log.reader(first - 1), Err(Error::Expired { .. })));
    drop(behind);
    write(&log, 60, b"what comes later");
    assert!(!holds_secret(&disk));
    let (seen, next) = (log.reader(first).expect("a reader").try_next().expect("reads"), log.last() + 1);
    assert_eq!(seen.map(|(lsn, _)| lsn), Some(first));
    drop(log);
    let (log, ..) = open(&disk.crash(Crash::LoseUnsynced), inline());
    assert_eq!(log.last() + 1, next);
}

#[test]
fn what_recovery_needs_is_not_purged() {
    let disk = SimDisk::new();
    let log = filled(&disk);
    log.end_segment().expect("ends the segment");
    write(&log, 1, b"x");
    assert!(matches!(log.purge_before(log.last()), Err(Error::OutOfRange { .. })));
}

#[test]
fn a_power_cut_at_any_sync_of_a_purge_leaves_a_log_that_opens_and_can_be_purged() {
    for n in 1.. {
        let disk = SimDisk::new();
        let log = filled(&disk);
        let before = disk.counts().all_syncs();
        disk.freeze_at(Freeze::Sync(before + n));
        let done = purge(&log);
        let frozen = disk.is_frozen();
        for crash in [Crash::LoseUnsynced, Crash::KeepUnsynced, Crash::Torn(n)] {
            let after = disk.fork().crash(crash);
            let (log, ..) = open(&after, inline());
            purge(&log).unwrap_or_else(|e| panic!("{crash:?} at sync {n}: {e}"));
            assert!(!holds_secret(&after), "{crash:?} at sync {n}");
        }
        if !frozen {
            done.expect("purges");
            break;
        }
    }
}
