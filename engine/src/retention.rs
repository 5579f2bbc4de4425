//! How long deleted rows are kept, and which segments hold some that are kept too long.
//!
//! A DELETE leaves the row's last version as a tombstone, and its bytes in the segment it was in. Once the table's
//! `deleted_retention` is over, a compaction that touches them drops both; segments that no other compaction touches are
//! rewritten for that alone. Not too often: one with rows superseded all the time is rewritten once per retention, one with
//! tombstones expiring all the time once per quarter of it.

use crate::catalog::TableOptions;
use crate::error::{Error, Result};
use crate::manifest::SegmentMeta;

/// Kept for this long unless the table says otherwise: seven days, in microseconds.
const DEFAULT: i64 = 7 * 86_400_000_000;
/// The option's value that keeps deleted rows for ever.
pub const OFF: &str = "off";

/// How long a table's deleted rows are kept, microseconds; `None` for ever.
///
/// # Errors
/// [`Error::Corrupt`] if the option is not what was validated when it was set.
pub fn of(options: &TableOptions) -> Result<Option<i64>> {
    match options.deleted_retention.as_deref() {
        None => Ok(Some(DEFAULT)),
        Some(OFF) => Ok(None),
        Some(text) => match duration_millis(text).and_then(|millis| i64::try_from(millis).ok()) {
            Some(millis) => Ok(Some(millis.saturating_mul(1_000))),
            None => Err(Error::Corrupt(format!("deleted_retention {text:?} is not a duration"))),
        },
    }
}

/// Milliseconds of a duration as people write it: `500ms`, `10s`, `5 minutes`, `1d 12h`. `None` if it is none, or no time
/// at all.
pub fn duration_millis(text: &str) -> Option<u64> {
    let mut rest = text.trim();
    let mut total = 0_u64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: u64 = rest[..digits].parse().ok()?;
        rest = rest[digits..].trim_start();
        let letters = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
        let unit = match rest[..letters].to_ascii_lowercase().as_str() {
            "ms" | "millisecond" | "milliseconds" => 1,
            "s" | "sec" | "secs" | "second" | "seconds" => 1_000,
            "m" | "min" | "mins" | "minute" | "minutes" => 60_000,
            "h" | "hour" | "hours" => 3_600_000,
            "d" | "day" | "days" => 86_400_000,
            "w" | "week" | "weeks" => 604_800_000,
            _ => return None,
        };
        total = total.checked_add(number.checked_mul(unit)?)?;
        rest = rest[letters..].trim_start();
    }
    (total > 0).then_some(total)
}

/// True if a segment is to be rewritten because of what it keeps of deleted rows. `dead`: how many of its rows are
/// superseded for every snapshot.
pub(crate) fn is_due(meta: &SegmentMeta, dead: u64, retention: i64, now: i64) -> bool {
    due_at(meta, dead, retention).is_some_and(|due| due <= now)
}

/// When that will be, microseconds since the epoch; `None` if it holds nothing of deleted rows.
pub(crate) fn due_at(meta: &SegmentMeta, dead: u64, retention: i64) -> Option<i64> {
    let pause = if meta.level == 0 { 0 } else { retention / 4 };
    let tombstones = meta
        .oldest_tombstone
        .map(|oldest| oldest.saturating_add(retention).max(meta.created_at.saturating_add(pause)));
    // When a row was superseded is not known, but not before its file was written.
    let superseded = (dead > 0).then(|| meta.created_at.saturating_add(retention));
    tombstones.into_iter().chain(superseded).min()
}
