//! A place in a feed, and the event id that names it.

use std::fmt;

use kalamdb_engine::Seq;

use crate::error::{Error, ErrorCode, Result};

/// How far a feed was delivered: everything up to some commit and, perhaps, the first events of the one after.
///
/// As an event id it is `<seq>` (everything up to and including commit `seq`) or `<seq>.<n>` (the first `n` events of
/// commit `seq`, and everything before it).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cursor {
    seq: Seq,
    /// Events of commit `seq` that were delivered; 0 stands for all of them.
    events: u32,
}

impl Cursor {
    /// After all of commit `seq`.
    pub(crate) fn after(seq: Seq) -> Self {
        Self { seq, events: 0 }
    }

    /// After event number `index` (from 0) of the `count` events that commit `seq` has for a connection.
    pub(crate) fn after_event(seq: Seq, index: usize, count: usize) -> Self {
        let events = if index + 1 == count { 0 } else { u32::try_from(index + 1).unwrap_or(u32::MAX) };
        Self { seq, events }
    }

    /// Reads an event id.
    ///
    /// # Errors
    /// [`ErrorCode::InvalidParameter`] if no feed of ours gave such an id.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let text = text.trim();
        let (seq, events) = text.split_once('.').unwrap_or((text, ""));
        let number =
            |part: &str| part.bytes().all(|b| b.is_ascii_digit()).then(|| part.parse::<u64>().ok()).flatten();
        let events =
            if text.contains('.') { number(events).and_then(|n| u32::try_from(n).ok()) } else { Some(0) };
        match (number(seq), events) {
            (Some(seq), Some(0)) if text.contains('.') => Ok(Self::after(seq.saturating_sub(1))),
            (Some(seq), Some(events)) => Ok(Self { seq, events }),
            _ => {
                let shown: String = text.chars().take(40).flat_map(char::escape_default).collect();
                Err(Error::new(
                    ErrorCode::InvalidParameter,
                    format!("{shown:?} is not an event id of a live feed"),
                )
                .with_hint(
                    "resume with the id of the last event received, or 0 for all that the log still has",
                ))
            }
        }
    }

    /// The last commit of which everything was delivered: a resumed feed reads the commits after it.
    pub(crate) fn complete(self) -> Seq {
        if self.events == 0 { self.seq } else { self.seq.saturating_sub(1) }
    }

    /// The newest commit of which anything was delivered.
    pub(crate) fn newest(self) -> Seq {
        self.seq
    }

    /// How many events of commit `seq` were delivered already, given that it comes after [`Cursor::complete`].
    pub(crate) fn delivered_of(self, seq: Seq) -> usize {
        if seq == self.seq { self.events as usize } else { 0 }
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.events {
            0 => self.seq.fmt(f),
            events => write!(f, "{}.{events}", self.seq),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_reads_back_as_the_place_it_names() {
        for (index, count, id) in [(0, 1, "7"), (0, 3, "7.1"), (1, 3, "7.2"), (2, 3, "7")] {
            let cursor = Cursor::after_event(7, index, count);
            assert_eq!(cursor.to_string(), id);
            assert_eq!(Cursor::parse(id).unwrap(), cursor);
        }
    }

    #[test]
    fn a_cut_within_a_commit_reads_that_commit_again_and_skips_its_first_events() {
        let cursor = Cursor::parse("7.2").unwrap();
        assert_eq!((cursor.complete(), cursor.delivered_of(7), cursor.delivered_of(8)), (6, 2, 0));
        let cursor = Cursor::parse("7").unwrap();
        assert_eq!((cursor.complete(), cursor.delivered_of(8)), (7, 0));
        assert_eq!(Cursor::parse("7.0").unwrap(), Cursor::after(6));
        assert_eq!(Cursor::parse("0").unwrap(), Cursor::after(0));
    }

    #[test]
    fn what_is_no_id_is_refused() {
        for bad in ["x", "-1", "+1", "1.", ".1", "1.2.3", "1.x", "99999999999999999999", "1 2", ""] {
            assert_eq!(Cursor::parse(bad).unwrap_err().code, ErrorCode::InvalidParameter, "{bad:?}");
        }
    }
}
