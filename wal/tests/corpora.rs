//! Replays the corpora of the fuzz targets, so that what they once found stays found.

mod common;

use std::path::{Path, PathBuf};

use common::{dir, inline, open};
use kalamdb_wal::sim::{SimDisk, SimRandom, fuzz};
use kalamdb_wal::{RealDisk, Record, durable};

fn corpus(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target)
}

fn replay(target: &str, run: fn(&[u8])) {
    let mut count = 0;
    for entry in std::fs::read_dir(corpus(target)).expect("a corpus") {
        let path = entry.expect("readable").path();
        let input = std::fs::read(&path).expect("readable");
        let ran = std::panic::catch_unwind(|| run(&input));
        assert!(ran.is_ok(), "{}", path.display());
        count += 1;
    }
    assert!(count >= 5, "the corpus of {target} has gone missing");
}

#[test]
fn the_corpus_of_wal_decode_passes() {
    replay("wal_decode", fuzz::decode);
}

#[test]
fn the_corpus_of_wal_recover_passes() {
    replay("wal_recover", fuzz::recover);
}

/// A poor man's fuzzer for machines without one: deterministic, brief.
#[test]
fn random_inputs_pass_both_targets() {
    for seed in 0..3000 {
        let mut random = SimRandom::new(seed);
        let script: Vec<u8> = (0..8 * (1 + random.below(3))).map(|_| random.next_u64() as u8).collect();
        fuzz::recover(&script);
        fuzz::decode(&script);
    }
}

/// Writes the seeds anew, in case the format changes.
#[test]
#[ignore = "writes into the source tree"]
fn regenerate_the_seeds() {
    let put = |target: &str, name: String, bytes: &[u8]| {
        let path = corpus(target).join(name);
        durable::replace_file(&RealDisk, &path, bytes).expect("written");
    };
    let disk = SimDisk::new();
    let (log, ..) = open(&disk, inline());
    for n in [0, 1, 3, 200, 3000] {
        let lsn = log.append(Record::new(vec![7; n])).expect("appends");
        log.wait_durable(lsn).expect("durable");
    }
    let segment = disk.contents(&dir().join(format!("{:020}.wal", 1))).expect("there");
    let frames = [&segment[56..60], &segment[4096..]].concat();
    put("wal_decode", "header".into(), &segment[..64]);
    put("wal_decode", "mark".into(), &disk.contents(&dir().join("log.mark")).expect("there"));
    put("wal_decode", "frames".into(), &frames[..3600]);
    put("wal_decode", "torn".into(), &[&frames[..300], &[0; 64], &frames[364..3600]].concat());
    put("wal_decode", "cut".into(), &frames[..280]);
    for what in 0..6u8 {
        for which in 0..4u8 {
            let script = [what, which, 16, 16, 0, 9, 1, 7, what, which, 8, 0, 0, 2, 0, 0];
            put("wal_recover", format!("{what}-{which}"), &script);
        }
    }
}
