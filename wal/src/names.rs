//! The names of the files in a log's directory.

use crate::Lsn;

/// Low-water mark and durable bound.
pub(crate) const MARK: &str = "log.mark";
/// Held while the log is open.
pub(crate) const LOCK: &str = "log.lock";

const SEGMENT: &str = ".wal";
const SPARE: &str = ".spare";

/// A segment is named after its first record, so that names sort like records.
pub(crate) fn segment(first: Lsn) -> String {
    format!("{first:020}{SEGMENT}")
}

/// A file that is allocated and not yet, or no longer, a segment.
pub(crate) fn spare(number: u64) -> String {
    format!("{number:020}{SPARE}")
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Name {
    Segment(Lsn),
    /// Ends like a segment but is not named like one.
    Misnamed,
    Spare(u64),
    /// The mark, the lock, or somebody else's.
    Other,
}

pub(crate) fn parse(name: &str) -> Name {
    if let Some(digits) = name.strip_suffix(SEGMENT) {
        return number(digits).map_or(Name::Misnamed, Name::Segment);
    }
    if let Some(digits) = name.strip_suffix(SPARE) {
        return number(digits).map_or(Name::Other, Name::Spare);
    }
    Name::Other
}

fn number(digits: &str) -> Option<u64> {
    let plain = digits.len() == 20 && digits.bytes().all(|b| b.is_ascii_digit());
    plain.then(|| digits.parse().ok()).flatten()
}
