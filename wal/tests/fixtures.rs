//! Logs of every released format version open and hold what they held.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use kalamdb_wal::sim::{Crash, SimClock, SimDisk};
use kalamdb_wal::{Log, Mode, Options, RealDisk, Record, Retain, Verdict, check, durable};

fn fixture(version: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(version)
}

fn options() -> Options {
    Options {
        segment_bytes: 8 << 10,
        mode: Mode::Inline,
        entropy: 0x6b61_6c61_6d64_6221,
        clock: Arc::new(SimClock::default()),
        retain: Retain::default(),
        ..Options::default()
    }
}

fn payload(lsn: u64) -> Vec<u8> {
    format!("record {lsn} ").repeat(lsn as usize * 4).into_bytes()
}

const RECORDS: u64 = 20;
const LOW_WATER: u64 = 3;

fn copy_to_simulation(from: &Path) -> SimDisk {
    let disk = SimDisk::new();
    durable::create_dir(&disk, Path::new("/log")).expect("created");
    for entry in std::fs::read_dir(from).expect("the fixture") {
        let path = entry.expect("readable").path();
        let name = path.file_name().expect("a file");
        disk.overwrite(&Path::new("/log").join(name), std::fs::read(&path).expect("readable"))
            .expect("copied");
    }
    disk
}

#[test]
fn version_1_opens() {
    let disk = copy_to_simulation(&fixture("v1"));
    let report = check(&disk, Path::new("/log")).expect("readable");
    assert_eq!((report.verdict, report.records), (Verdict::Clean, RECORDS));
    assert!(report.segments.len() > 1);
    let mut next = LOW_WATER;
    let (log, recovered) =
        Log::open(Arc::new(disk.clone()), Path::new("/log"), options(), &mut |lsn, bytes| {
            assert_eq!((lsn, &bytes[..]), (next, &payload(next)[..]));
            next += 1;
            Ok(())
        })
        .expect("opens");
    assert_eq!((recovered.low_water, recovered.first, recovered.next), (LOW_WATER, 1, RECORDS + 1));
    let mut reader = log.reader(1).expect("retained");
    assert_eq!(reader.try_next().expect("reads"), Some((1, payload(1).into())));
    assert_eq!(log.append(Record::new(payload(RECORDS + 1))).expect("appends"), RECORDS + 1);
}

/// The bytes that today's code writes are the bytes of the fixture: a change of format cannot slip in.
#[test]
fn version_1_is_what_is_written() {
    let disk = write();
    let fixture = copy_to_simulation(&fixture("v1"));
    for path in fixture.files() {
        assert_eq!(disk.contents(&path).ok(), fixture.contents(&path).ok(), "{}", path.display());
    }
}

fn write() -> SimDisk {
    let disk = SimDisk::new();
    let (log, _) =
        Log::open(Arc::new(disk.clone()), Path::new("/log"), options(), &mut |_, _| Ok(())).expect("opens");
    for lsn in 1..=RECORDS {
        log.append(Record::new(payload(lsn))).expect("appends");
        // Groups of one and of two.
        if lsn % 3 != 0 {
            log.wait_durable(lsn).expect("durable");
        }
    }
    log.truncate_before(LOW_WATER).expect("truncates");
    log.close().expect("closes");
    disk.crash(Crash::LoseUnsynced)
}

/// For a new version: writes its fixture.
#[test]
#[ignore = "writes into the source tree"]
fn regenerate_the_fixture() {
    let disk = write();
    let to = fixture("v1");
    durable::create_dir(&RealDisk, &to).expect("created");
    for path in disk.files().into_iter().filter(|p| p.extension().is_some_and(|e| e == "wal" || e == "mark"))
    {
        let bytes = disk.contents(&path).expect("there");
        durable::replace_file(&RealDisk, &to.join(path.file_name().expect("a file")), &bytes)
            .expect("written");
    }
}
