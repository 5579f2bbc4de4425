//! What the fuzz targets run, so that an ordinary test can replay their corpora.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{SimClock, SimDisk};
use crate::frame;
use crate::header::SegmentHeader;
use crate::mark::Mark;
use crate::walk::{Step, Walk, look_beyond};
use crate::{Error, Log, Mode, Options, Record, Retain, Verdict, check};

/// Target `wal_decode`: any bytes as a header, as a mark, and as frames (the first four bytes are the salt). Whatever
/// is accepted must encode to the same bytes again.
///
/// # Panics
/// If it does not.
pub fn decode(data: &[u8]) {
    let path = Path::new("fuzz");
    if let Ok(header) = SegmentHeader::decode(data, path) {
        assert_eq!(SegmentHeader::decode(&header.encode(), path).ok(), Some(header));
    }
    if let Ok(mark) = Mark::decode(data, path) {
        assert_eq!(Mark::decode(&mark.encode(), path).ok(), Some(mark));
    }
    let Some((salt, frames)) = data.split_first_chunk() else { return };
    let salt = u32::from_le_bytes(*salt);
    let mut walk = Walk::new(frames, salt, 0, 1);
    loop {
        let at = walk.offset;
        let Step::Record(lsn, range) = walk.step() else { break };
        let mut again = Vec::new();
        let durable = frame::decode(&frames[at..], salt).map_or(0, |header| header.durable());
        frame::encode(&mut again, salt, lsn, durable, &Record::new(frames[range.clone()].to_vec()));
        let header = at + 16..at + frame::FRAME_HEADER;
        assert_eq!(again[16..frame::FRAME_HEADER], frames[header], "the LSN and flags of record {lsn}");
        assert_eq!(again[frame::FRAME_HEADER..][..range.len()], frames[range], "the payload of record {lsn}");
    }
    look_beyond(frames, salt, walk.offset, walk.next);
}

/// Target `wal_recover`: a small log, changed by a script, is checked, opened, written to and opened again. Each
/// instruction of the script is eight bytes: what to do, which file, where (three bytes), and three bytes of argument.
///
/// # Panics
/// If the check and the opening disagree, or a log that opens does not stay open.
pub fn recover(script: &[u8]) {
    let disk = sample();
    let files = disk.files();
    for instruction in script.chunks_exact(8).take(32) {
        // A file may have been removed by an earlier instruction.
        let _ = mutate(&disk, &files, instruction);
    }
    let checked = check(&disk, dir());
    let Ok((log, next)) = open(&disk) else { return };
    // Opening may refuse what checking accepts (a lock, a directory), but not the other way round.
    assert!(!matches!(checked.map(|c| c.verdict), Ok(Verdict::Corrupt { .. })) || history_only(&log));
    let lsn = log.append(Record::new(b"after".to_vec())).expect("a log that opened takes records");
    assert_eq!(lsn, next);
    log.wait_durable(lsn).expect("the disk is sound");
    drop(log);
    let (_, next) = open(&disk).expect("a log that opened once opens again");
    assert_eq!(next, lsn + 1);
}

/// The check reads history that opening leaves to readers.
fn history_only(log: &Log) -> bool {
    log.low_water() > log.first()
}

fn dir() -> &'static Path {
    Path::new("/log")
}

fn open(disk: &SimDisk) -> Result<(Log, u64), Error> {
    let options = Options {
        segment_bytes: 0,
        entropy: 1,
        mode: Mode::Inline,
        clock: Arc::new(SimClock::default()),
        retain: Retain::default(),
        ..Options::default()
    };
    Log::open(Arc::new(disk.clone()), dir(), options, &mut |_, _| Ok(()))
        .map(|(log, found)| (log, found.next))
}

/// Two segments and a mark.
fn sample() -> SimDisk {
    let disk = SimDisk::new();
    let (log, _) = open(&disk).expect("an empty disk");
    for n in 1..=12u8 {
        let lsn = log.append(Record::new(vec![n; usize::from(n) * 60])).expect("there is room");
        if n % 3 == 0 {
            log.wait_durable(lsn).expect("the disk is sound");
        }
    }
    // As a kill leaves it: the mark does not vouch for the tail.
    disk.crash(super::Crash::KeepUnsynced)
}

fn mutate(disk: &SimDisk, files: &[PathBuf], instruction: &[u8]) -> std::io::Result<()> {
    let [what, which, a, b, c, x, y, z] = *instruction else { return Ok(()) };
    let path = &files[usize::from(which) % files.len()];
    let mut bytes = disk.contents(path)?;
    let at = u32::from_le_bytes([a, b, c, 0]) as usize % (bytes.len() + 1);
    match what % 6 {
        0 if at < bytes.len() => bytes[at] ^= x,
        1 => bytes.truncate(at),
        2 => {
            let end = bytes.len().min(at + usize::from(x) * 32);
            bytes[at..end].fill(y);
        }
        3 => {
            // A piece of the file somewhere else in it.
            let len = (usize::from(x) * 16).min(bytes.len() - at);
            let to = (usize::from(y) << 8 | usize::from(z)) % (bytes.len() - len + 1);
            bytes.copy_within(at..at + len, to);
        }
        4 => {
            let other = disk.contents(&files[usize::from(x) % files.len()])?;
            bytes = other;
        }
        _ => reseal(&mut bytes, &[x, y, z], at),
    }
    disk.overwrite(path, bytes)
}

/// Changes a field of a header or mark and makes its checksum right again, to get past it.
fn reseal(bytes: &mut [u8], field: &[u8; 3], at: usize) {
    let Some(block) = bytes.first_chunk_mut::<64>() else { return };
    let at = at % 57;
    block[at..at + 3].copy_from_slice(field);
    *block = crate::header::seal(*block);
}
