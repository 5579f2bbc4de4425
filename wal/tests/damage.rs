//! Bytes that are not what was written: every flipped bit, every cut, missing files.

mod common;

use std::path::{Path, PathBuf};

use common::{Replayed, Story, dir, inline, open, payload, try_open};
use kalamdb_wal::sim::{Crash, SimDisk};
use kalamdb_wal::{Error, Log, Mode, Options, Record, Retain, Verdict, check};

/// What a damaged log may do: return a prefix that reaches at least `durable`, or refuse.
fn prefix_or_refusal(disk: &SimDisk, written: &[Vec<u8>], durable: u64, what: &str) -> bool {
    let checked = check(disk, dir());
    let opened = try_open(disk, keep_all());
    match opened {
        Ok((log, recovered, replayed)) => {
            assert!(recovered.next > durable, "{what}: silently lost {} to {durable}", recovered.next);
            assert!(is_prefix(&replayed, written), "{what}: a wrong record");
            let checked = checked.expect("readable").verdict;
            assert_eq!(checked, recovered.verdict, "{what}: the check disagrees with the opening");
            // What was dropped does not come back.
            let lsn = log.append(Record::new(payload(9, recovered.next, 3))).expect("appends");
            log.wait_durable(lsn).expect("durable");
            drop(log);
            let (_, recovered, replayed) = open(&disk.crash(Crash::LoseUnsynced), keep_all());
            assert_eq!(recovered.next, lsn + 1, "{what}: something came back");
            assert_eq!(replayed.last().map(|(_, b)| b.to_vec()), Some(payload(9, lsn, 3)), "{what}");
            true
        }
        Err(Error::Corrupt { segment, offset, .. }) => {
            match checked.expect("readable").verdict {
                Verdict::Corrupt { segment: s, offset: o, .. } => {
                    assert_eq!((s, o), (segment, offset), "{what}")
                }
                other => panic!("{what}: refused, but the check says {other:?}"),
            }
            false
        }
        Err(other) => panic!("{what}: {other}"),
    }
}

fn is_prefix(replayed: &Replayed, written: &[Vec<u8>]) -> bool {
    replayed.iter().zip(written).all(|((_, got), wrote)| got == wrote) && replayed.len() <= written.len()
}

fn keep_all() -> Options {
    Options { retain: Retain::default(), segment_bytes: 0, ..inline() }
}

const LAST: u64 = 22;

/// A log over three segments, one group per record, and its disk as a kill leaves it.
fn small_log() -> (SimDisk, Vec<Vec<u8>>) {
    let disk = SimDisk::new();
    let (log, ..) = open(&disk, keep_all());
    let written: Vec<_> = (1..=LAST).map(|n| payload(1, n, [5, 900, 60][n as usize % 3])).collect();
    for bytes in &written {
        let lsn = log.append(Record::new(bytes.clone())).expect("appends");
        log.wait_durable(lsn).expect("durable");
    }
    assert_eq!(log.metrics().rolls, 2);
    (disk.crash(Crash::LoseUnsynced), written)
}

fn segments(disk: &SimDisk) -> Vec<PathBuf> {
    disk.files().into_iter().filter(|p| p.extension().is_some_and(|e| e == "wal")).collect()
}

/// The part of a segment that holds anything: its header and, from 4096 on, frames.
fn used_bytes(disk: &SimDisk, path: &Path) -> Vec<u64> {
    let bytes = disk.contents(path).expect("there");
    let end = bytes.iter().rposition(|b| *b != 0).map_or(0, |at| at as u64 + 1);
    (0..64).chain(4096..end + 40).collect()
}

#[test]
fn every_flipped_bit_gives_a_true_prefix_or_a_refusal() {
    let (disk, written) = small_log();
    let last = written.len() as u64;
    let files = segments(&disk);
    let mut refused = 0;
    for (nth, path) in files.iter().enumerate() {
        for byte in used_bytes(&disk, path) {
            for bit in 0..8 {
                let disk = disk.fork();
                disk.flip_bit(path, byte * 8 + bit).expect("there");
                // Only the very last record is not vouched for by a later one.
                let what = format!("segment {nth}, byte {byte}, bit {bit}");
                refused += u64::from(!prefix_or_refusal(&disk, &written, last - 1, &what));
            }
        }
    }
    assert!(refused > 10_000, "only {refused} refusals");
}

#[test]
fn every_cut_is_refused_with_the_file_named() {
    let (disk, written) = small_log();
    for path in segments(&disk) {
        for len in 0..disk.contents(&path).expect("there").len() as u64 {
            let disk = disk.fork();
            disk.truncate(&path, len).expect("there");
            let opened = try_open(&disk, keep_all());
            let named = matches!(&opened, Err(Error::Corrupt { segment, .. }) if *segment == path);
            assert!(named, "{} cut at {len}: {:?}", path.display(), opened.map(|o| o.1));
        }
    }
    assert!(prefix_or_refusal(&disk, &written, LAST, "untouched"));
}

/// Unlike a cut, which recovery notices by the length, zeros are what a power cut leaves of sectors that never came.
#[test]
fn every_zeroed_tail_gives_a_true_prefix_or_a_refusal() {
    let (disk, written) = small_log();
    let path = segments(&disk).pop().expect("three");
    let bytes = disk.contents(&path).expect("there");
    let end = used_bytes(&disk, &path).pop().expect("used") as usize;
    for at in 4096..end {
        let disk = disk.fork();
        let mut cut = bytes.clone();
        cut[at..].fill(0);
        disk.overwrite(&path, cut).expect("there");
        // A zeroed end of the last segment cannot be told from a group that never reached the disk.
        assert!(prefix_or_refusal(&disk, &written, 0, &format!("zeros from {at}")));
    }
}

#[test]
fn after_a_clean_close_the_whole_tail_is_vouched_for() {
    let disk = SimDisk::new();
    let (log, ..) = open(&disk, keep_all());
    log.append(Record::new(payload(1, 1, 30))).expect("appends");
    log.close().expect("closes");
    let path = segments(&disk).pop().expect("one");
    for byte in used_bytes(&disk, &path).into_iter().filter(|b| (4096..4096 + 28 + 46).contains(b)) {
        for bit in 0..8 {
            let disk = disk.fork();
            disk.flip_bit(&path, byte * 8 + bit).expect("there");
            let opened = try_open(&disk, keep_all());
            assert!(matches!(opened, Err(Error::Corrupt { offset: 4096, .. })), "byte {byte}, bit {bit}");
        }
    }
}

#[test]
fn a_damaged_or_missing_mark_is_refused() {
    let (disk, _) = small_log();
    let mark = dir().join("log.mark");
    for bit in 0..64 * 8 {
        let disk = disk.fork();
        disk.flip_bit(&mark, bit).expect("there");
        let opened = try_open(&disk, keep_all());
        assert!(matches!(opened, Err(Error::Corrupt { segment, .. }) if segment == mark), "bit {bit}");
    }
    kalamdb_wal::durable::remove_file(&disk, &mark).expect("removes");
    assert!(matches!(try_open(&disk, keep_all()), Err(Error::Corrupt { segment, .. }) if segment == mark));
}

#[test]
fn a_missing_segment_is_refused_wherever_it_was() {
    let (disk, _) = small_log();
    for (nth, path) in segments(&disk).iter().enumerate() {
        let disk = disk.fork();
        kalamdb_wal::durable::remove_file(&disk, path).expect("removes");
        let opened = try_open(&disk, keep_all());
        match nth {
            // Records of the last segment that no mark vouches for: only the check of its name could tell.
            2 => assert_eq!(opened.expect("opens").1.verdict, Verdict::Clean),
            _ => assert!(matches!(opened, Err(Error::Corrupt { .. })), "segment {nth}"),
        }
    }
}

#[test]
fn a_segment_of_another_log_is_refused() {
    let (disk, _) = small_log();
    let other = SimDisk::new();
    let (log, ..) = open(&other, Options { entropy: 43, ..keep_all() });
    log.append(Record::new(vec![1])).expect("appends");
    log.close().expect("closes");
    let path = segments(&other).pop().expect("one");
    disk.overwrite(&path, other.contents(&path).expect("there")).expect("there");
    assert!(matches!(try_open(&disk, keep_all()), Err(Error::Corrupt { offset: 16, .. })));
}

#[test]
fn the_check_counts_what_follows_the_damage_and_changes_nothing() {
    let (disk, written) = small_log();
    let whole = check(&disk, dir()).expect("readable");
    assert_eq!((whole.verdict, whole.records), (Verdict::Clean, LAST));
    assert_eq!(whole.bytes, written.iter().map(|w| w.len() as u64).sum::<u64>());
    // The payload of record 2.
    let at = 4096 + 28 + (written[0].len() as u64).next_multiple_of(4) + 28;
    disk.flip_bit(&segments(&disk)[0], at * 8).expect("there");
    let before = disk.counts().changes;
    let report = check(&disk, dir()).expect("readable");
    assert_eq!(disk.counts().changes, before);
    assert_eq!(report.records, 1);
    let Verdict::Corrupt { segment, offset, following, .. } = report.verdict else { panic!("{report:?}") };
    assert_eq!((segment, offset, following), (segments(&disk)[0].clone(), at - 28, LAST - 2));
    // A header beyond reading: what it vouched for is gone, the later segments are counted.
    disk.flip_bit(&segments(&disk)[0], 0).expect("there");
    let report = check(&disk, dir()).expect("readable");
    let later = LAST - whole.segments[0].records;
    assert!(matches!(report.verdict, Verdict::Corrupt { offset: 0, following, .. } if following == later));
}

#[test]
fn an_unreadable_disk_is_an_error_and_not_the_end_of_the_log() {
    use kalamdb_wal::sim::{Fault, Operation};
    let (disk, written) = small_log();
    for (after, mode) in (0..6).flat_map(|after| [(after, Mode::Inline), (after, Mode::Threads)]) {
        let disk = disk.fork();
        disk.inject(Fault { after, ..Fault::next_on(Operation::Read, ".wal") });
        let opened = try_open(&disk, Options { mode, ..keep_all() });
        assert!(matches!(opened, Err(Error::Io { .. })), "read {after} with {mode:?}");
        assert!(prefix_or_refusal(&disk, &written, LAST, "after the fault"));
    }
}

#[test]
fn a_torn_group_is_dropped_whole_from_its_first_bad_record() {
    let mut torn = 0;
    for seed in 0..200 {
        let disk = SimDisk::new();
        let mut story = Story::new();
        let (log, ..) = open(&disk, inline());
        story.append(&log, 1, 700).expect("appends");
        story.wait(&log, 1).expect("durable");
        for _ in 0..6 {
            story.append(&log, 1, 700).expect("appends");
        }
        // The write goes out, the power goes before its sync.
        disk.freeze_at(kalamdb_wal::sim::Freeze::Sync(disk.counts().all_syncs() + 1));
        log.wait_durable(7).expect_err("no power");
        let after = disk.crash(Crash::Torn(seed));
        let checked = check(&after, dir()).expect("readable");
        let (_, recovered, replayed) = open(&after, inline());
        assert_eq!(checked.verdict, recovered.verdict);
        torn += u64::from(matches!(recovered.verdict, Verdict::TornTail { .. }));
        story.check(&recovered, &replayed);
    }
    assert!(torn > 150, "only {torn} torn tails");
}

#[test]
fn a_newer_format_is_told_from_damage() {
    let (disk, _) = small_log();
    let path = segments(&disk)[0].clone();
    let mut bytes = disk.contents(&path).expect("there");
    bytes[8] = 2;
    let crc = crc32fast::hash(&bytes[..60]);
    bytes[60..64].copy_from_slice(&crc.to_le_bytes());
    disk.overwrite(&path, bytes).expect("there");
    assert!(matches!(try_open(&disk, keep_all()), Err(Error::NewerFormat { version: 2, .. })));
}

#[test]
fn history_that_rotted_is_found_by_its_reader_not_by_recovery() {
    let (disk, _) = small_log();
    let (log, ..) = open(&disk, keep_all());
    log.truncate_before(LAST).expect("truncates");
    drop(log);
    disk.flip_bit(&segments(&disk)[0], (4096 + 40) * 8).expect("there");
    let (log, ..): (Log, _, _) = open(&disk, keep_all());
    let mut reader = log.reader(1).expect("retained");
    assert!(matches!(reader.try_next(), Err(Error::Corrupt { offset: 4096, .. })));
    assert!(matches!(check(&disk, dir()).expect("readable").verdict, Verdict::Corrupt { .. }));
}
