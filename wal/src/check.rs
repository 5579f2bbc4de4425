//! The offline check: reads everything a log retains, history included, and changes nothing.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::Lsn;
use crate::disk::{Access, Disk};
use crate::error::Error;
use crate::mark::Mark;
use crate::payload::Payload;
use crate::recovery::{Verdict, read_sealed, read_tail};
use crate::segment::Segment;
use crate::survey::Survey;
use crate::walk::look_beyond;

/// What [`check`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckReport {
    /// The first damage from the oldest record on, or what opening the log would say.
    pub verdict: Verdict,
    /// The segments up to the damage, oldest first.
    pub segments: Vec<SegmentReport>,
    /// Where replay would begin.
    pub low_water: Lsn,
    /// Whole records before the damage, or in all.
    pub records: u64,
    /// Their payload bytes.
    pub bytes: u64,
}

/// One whole segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentReport {
    /// The file.
    pub path: PathBuf,
    /// Its first record.
    pub first: Lsn,
    /// How many records it holds.
    pub records: u64,
    /// Their payload bytes.
    pub bytes: u64,
}

/// Reads a log that nobody has open, verifies every checksum, and reports the first damage. Changes nothing.
///
/// # Errors
/// [`Error::Io`] if something cannot be read, which says nothing about its contents; [`Error::NewerFormat`].
pub fn check(disk: &dyn Disk, dir: &Path) -> Result<CheckReport, Error> {
    let (verdict, segments, low_water) = match Survey::new(disk, dir) {
        Ok(survey) => read_all(&survey)?,
        Err(Error::Corrupt { segment, offset, reason }) => {
            let following = count_after(disk, dir, &segment)?;
            (Verdict::Corrupt { segment, offset, reason, following }, Vec::new(), 0)
        }
        Err(other) => return Err(other),
    };
    let records = segments.iter().map(|s| s.records).sum();
    let bytes = segments.iter().map(|s| s.bytes).sum();
    Ok(CheckReport { verdict, segments, low_water, records, bytes })
}

type Read = (Verdict, Vec<SegmentReport>, Lsn);

fn read_all(survey: &Survey) -> Result<Read, Error> {
    let mut reports = Vec::new();
    let Some(mark) = survey.mark else {
        return Ok((Verdict::Clean, reports, 1));
    };
    let mut verdict = Verdict::Clean;
    for (at, segment) in survey.segments.iter().enumerate() {
        let (found, report) = read_one(segment, mark.known_durable())?;
        reports.push(report);
        verdict = found;
        if let Verdict::Corrupt { following, .. } = &mut verdict {
            let later = survey.segments.get(at + 1..).unwrap_or_default();
            *following += later.iter().map(count).sum::<Result<u64, _>>()?;
            break;
        }
    }
    Ok((verdict, reports, mark.low_water))
}

fn read_one(segment: &Arc<Segment>, durable: Lsn) -> Result<(Verdict, SegmentReport), Error> {
    let first = segment.header.first;
    let mut report = SegmentReport { path: segment.path.clone(), first, records: 0, bytes: 0 };
    let mut tally = |_, payload: Payload<'_>| {
        report.records += 1;
        report.bytes += payload.len() as u64;
        Ok(())
    };
    let verdict = if segment.sealed().is_none() {
        read_tail(segment, durable, &mut tally)?.verdict(segment)
    } else {
        match read_sealed(segment, &mut tally) {
            Ok(()) => Verdict::Clean,
            Err(Error::Corrupt { segment: path, offset, reason }) => {
                let at = usize::try_from(offset).unwrap_or(usize::MAX);
                let lost = first + report.records;
                let following =
                    look_beyond(&segment.map(Access::Whole)?, segment.header.salt, at, lost).records;
                Verdict::Corrupt { segment: path, offset, reason, following }
            }
            Err(other) => return Err(other),
        }
    };
    Ok((verdict, report))
}

/// Whole records in a segment, as far as it can be read.
fn count(segment: &Arc<Segment>) -> Result<u64, Error> {
    let (verdict, report) = read_one(segment, 0)?;
    let more = if let Verdict::Corrupt { following, .. } = verdict { following } else { 0 };
    Ok(report.records + more)
}

/// Whole records in the readable segments behind a file that is damaged beyond reading; behind the mark are all.
fn count_after(disk: &dyn Disk, dir: &Path, damaged: &Path) -> Result<u64, Error> {
    let all = damaged == Mark::path(dir);
    let mut records = 0;
    for segment in Survey::readable(disk, dir)? {
        if all || segment.path.as_path() > damaged {
            records += count(&segment)?;
        }
    }
    Ok(records)
}
