//! Opening what is on disk: replay, verdict, repair of a torn tail.
//!
//! Nothing is changed before the verdict is known, and nothing at all if it is `Corrupt`. What makes the result safe
//! to build on:
//!
//! 1. A torn tail is zeroed, so that what was dropped can never come back behind records that take its place.
//! 2. The last segment and the directory are synced even if they look whole: the process that wrote them may have died
//!    between its write and its sync, and what is replayed now must not vanish in a later power cut.

use std::collections::VecDeque;
use std::ops::Range;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::disk::{Access, Disk};
use crate::error::{Error, IoContext};
use crate::frame::TERMINATOR;
use crate::header::SEGMENT_HEADER;
use crate::mark::Mark;
use crate::payload::Payload;
use crate::segment::Segment;
use crate::survey::Survey;
use crate::walk::{Aftermath, Step, Walk, look_beyond};
use crate::{Lsn, MAX_RECORD, Mode};

/// How many segments are checked at once before their turn to be replayed comes.
const CHECKED_AHEAD: usize = 2;

/// Called for every replayed record, in order, with its payload. An error ends the opening.
pub type Replay<'a> = dyn FnMut(Lsn, Payload<'_>) -> Result<(), Error> + 'a;

/// What opening a log found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovered {
    /// What state the log was in.
    pub verdict: Verdict,
    /// The oldest retained record.
    pub first: Lsn,
    /// Where replay began.
    pub low_water: Lsn,
    /// The number the next record will get.
    pub next: Lsn,
}

/// What state a log's files are in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Every record that was written is whole.
    Clean,
    /// The last write was cut short by a crash. Nothing that was reported durable is missing (see
    /// `docs/adr/002-torn-tail-or-damage.md` for how that is known).
    TornTail {
        /// The file it is in.
        segment: PathBuf,
        /// Where the whole records end, in bytes from the file's start.
        at: u64,
    },
    /// Something that had been durable is damaged. The log refuses to open.
    Corrupt {
        /// The damaged file.
        segment: PathBuf,
        /// Where, in bytes from the file's start.
        offset: u64,
        /// What is wrong there.
        reason: String,
        /// How many whole records follow the damage in the same file.
        following: u64,
    },
}

/// Everything needed to go on.
#[derive(Debug)]
pub(crate) struct Recovery {
    pub(crate) mark: Mark,
    /// Oldest first, at least one.
    pub(crate) segments: Vec<Arc<Segment>>,
    /// Where the next frame goes in the last segment.
    pub(crate) offset: u64,
    pub(crate) next: Lsn,
    pub(crate) verdict: Verdict,
}

/// Replays the surveyed segments from the low-water mark on and makes the tail fit to be appended to. The survey must
/// hold a segment at least.
pub(crate) fn recover(
    disk: &dyn Disk,
    dir: &Path,
    mark: Mark,
    survey: &Survey,
    mode: Mode,
    replay: &mut Replay<'_>,
) -> Result<Recovery, Error> {
    let (last, sealed) =
        survey.segments.split_last().ok_or_else(|| Error::corrupt(dir, 0, "the log has no segment"))?;
    let is_history = |segment: &Arc<Segment>| segment.sealed().is_some_and(|s| s.last < mark.low_water);
    let (history, replayed) = sealed.split_at(sealed.partition_point(is_history));
    for segment in history {
        // Only readers want it; they check what they read.
        segment.publish(segment.header.capacity);
    }
    let mut each =
        |lsn, payload: Payload<'_>| if lsn >= mark.low_water { replay(lsn, payload) } else { Ok(()) };
    match mode {
        Mode::Threads => replay_checked_ahead(replayed, &mut each)?,
        Mode::Inline => {
            for segment in replayed {
                read_sealed(segment, &mut each)?;
            }
        }
    }
    let tail = read_tail(last, mark.known_durable(), &mut each)?;
    let verdict = tail.verdict(last);
    if let Verdict::Corrupt { segment, offset, reason, .. } = verdict {
        return Err(Error::Corrupt { segment, offset, reason });
    }
    repair(disk, dir, last, &tail)?;
    last.publish(tail.offset as u64);
    let segments = survey.segments.clone();
    Ok(Recovery { mark, segments, offset: tail.offset as u64, next: tail.next, verdict })
}

/// Replays sealed segments in order. Threads check the ones to come meanwhile: bringing a segment into memory and
/// hashing it takes longer than most callers need for its records.
fn replay_checked_ahead(segments: &[Arc<Segment>], each: &mut Replay<'_>) -> Result<(), Error> {
    std::thread::scope(|scope| {
        let mut to_come = segments.iter();
        let mut ahead = VecDeque::with_capacity(CHECKED_AHEAD);
        // Used again and again: with small records the pages of a new one would cost as much as the checksums.
        let mut done = Vec::new();
        loop {
            while ahead.len() < CHECKED_AHEAD
                && let Some(segment) = to_come.next()
            {
                let thread = std::thread::Builder::new().name("log recovery".into());
                let room = done.pop().unwrap_or_default();
                let check = thread.spawn_scoped(scope, || find_records(segment, room));
                ahead.push_back((segment, check));
            }
            match ahead.pop_front() {
                Some((segment, Ok(check))) => {
                    let records = check.join().unwrap_or_else(|panic| resume_unwind(panic))?;
                    let data = segment.map(Access::Whole)?;
                    for (lsn, payload) in (segment.header.first..).zip(&records) {
                        each(lsn, Payload::sealed(&data[payload.clone()], &data))?;
                    }
                    done.push(records);
                }
                // No thread to be had: it is done here, when its turn comes.
                Some((segment, Err(_))) => read_sealed(segment, each)?,
                None => return Ok(()),
            }
        }
    })
}

/// Where the payloads of a sealed segment are, all of them checked, in `records` after what was there is removed.
fn find_records(segment: &Segment, mut records: Vec<Range<usize>>) -> Result<Vec<Range<usize>>, Error> {
    records.clear();
    let data = segment.map(Access::Whole)?;
    walk_sealed(segment, &data, |_, payload| {
        records.push(payload);
        Ok(())
    })?;
    Ok(records)
}

/// Reads a sealed segment to its end; anything but whole records up to the last one is damage.
pub(crate) fn read_sealed(segment: &Segment, each: &mut Replay<'_>) -> Result<(), Error> {
    let data = segment.map(Access::Whole)?;
    walk_sealed(segment, &data, |lsn, payload| each(lsn, Payload::sealed(&data[payload], &data)))
}

/// The same with the places of the payloads in `data`, the bytes of the segment.
fn walk_sealed(
    segment: &Segment,
    data: &[u8],
    mut each: impl FnMut(Lsn, Range<usize>) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut walk = Walk::new(data, segment.header.salt, SEGMENT_HEADER, segment.header.first);
    let last = segment.sealed().map_or(0, |sealed| sealed.last);
    let mut noted = SEGMENT_HEADER as u64;
    while walk.next <= last {
        let at = walk.offset as u64;
        match walk.step() {
            Step::Record(lsn, range) => {
                segment.note(&mut noted, lsn, at);
                each(lsn, range)?;
            }
            Step::Newer => return Err(newer(segment)),
            Step::End => return Err(Error::corrupt(&segment.path, at, ends_early(walk.next, last))),
            Step::Bad(reason) => return Err(Error::corrupt(&segment.path, at, reason)),
        }
    }
    segment.publish(walk.offset as u64);
    Ok(())
}

/// Where the records of the last segment end, and what that means.
#[derive(Debug)]
pub(crate) struct TailEnd {
    pub(crate) offset: usize,
    pub(crate) next: Lsn,
    /// `None` if the log ends with zeros, as it should.
    bad: Option<&'static str>,
    /// The record here is known to have been durable.
    known_durable: bool,
    pub(crate) after: Aftermath,
}

/// Reads the segment that was written last to its end. It is mapped for that long only: the file will change.
pub(crate) fn read_tail(segment: &Segment, durable: Lsn, each: &mut Replay<'_>) -> Result<TailEnd, Error> {
    let len = usize::try_from(segment.header.capacity).unwrap_or(usize::MAX);
    if len > MAX_SEGMENT {
        return Err(Error::corrupt(&segment.path, 40, "no segment is that large"));
    }
    let whole = segment.file.map(Access::Whole).at("map", &segment.path)?;
    let data = whole.get(..len).ok_or_else(|| Error::corrupt(&segment.path, 40, "the file has been cut"))?;
    let mut walk = Walk::new(data, segment.header.salt, SEGMENT_HEADER, segment.header.first);
    let mut noted = SEGMENT_HEADER as u64;
    let bad = loop {
        let at = walk.offset as u64;
        match walk.step() {
            Step::Record(lsn, range) => {
                segment.note(&mut noted, lsn, at);
                each(lsn, Payload::active(&data[range]))?;
            }
            Step::End => break None,
            Step::Bad(reason) => break Some(reason),
            Step::Newer => return Err(newer(segment)),
        }
    };
    let (offset, next) = (walk.offset, walk.next);
    let after = look_beyond(data, segment.header.salt, offset, next);
    Ok(TailEnd { offset, next, bad, known_durable: next <= durable, after })
}

/// Segments are read whole; a length that no configuration makes sense of is damage, not an allocation.
const MAX_SEGMENT: usize = 16 << 30;
const _: () = assert!(MAX_SEGMENT > MAX_RECORD);

impl TailEnd {
    pub(crate) fn verdict(&self, segment: &Segment) -> Verdict {
        let reason = match (self.known_durable, self.after.proof) {
            (true, _) => format!("record {} is not there, and the log's mark says it was durable", self.next),
            (_, true) => format!("record {} is not there, and a later one says it was durable", self.next),
            (false, false) if self.bad.is_none() && self.after.end == 0 => return Verdict::Clean,
            (false, false) => {
                return Verdict::TornTail { segment: segment.path.clone(), at: self.offset as u64 };
            }
        };
        let reason = self.bad.map_or(reason.clone(), |bad| format!("{bad}; {reason}"));
        let following = self.after.records;
        Verdict::Corrupt { segment: segment.path.clone(), offset: self.offset as u64, reason, following }
    }
}

fn repair(disk: &dyn Disk, dir: &Path, last: &Segment, tail: &TailEnd) -> Result<(), Error> {
    if tail.bad.is_some() || tail.after.end > 0 {
        let room = usize::try_from(last.header.capacity).unwrap_or(usize::MAX) - tail.offset;
        let torn = tail.after.end.saturating_sub(tail.offset).max(TERMINATOR).min(room);
        last.file.write_all_at(&vec![0; torn], tail.offset as u64).at("zero the torn tail of", &last.path)?;
        tracing::warn!(
            segment = %last.path.display(), at = tail.offset, next = tail.next, dropped = tail.after.records,
            "the log's last write was torn; it was not durable and has been dropped"
        );
    }
    last.file.sync_data().at("sync", &last.path)?;
    disk.sync_dir(dir).at("sync directory", dir)
}

fn newer(segment: &Segment) -> Error {
    Error::NewerFormat { path: segment.path.clone(), version: 2 }
}

fn ends_early(next: Lsn, last: Lsn) -> String {
    format!("the segment ends before record {next}; it should hold records up to {last}")
}
