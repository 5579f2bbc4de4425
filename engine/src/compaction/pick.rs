//! Which segments to compact.
//!
//! Size-tiered: segments of about the same size are merged once there are [`MIN_FAN_IN`] of them, with all smaller ones,
//! so that a row is rewritten about once per tier, and the number of segments grows with the logarithm of the size.
//! Besides, a segment with many dead rows is rewritten alone, unless it is so small that the next merge will come soon; and
//! one that holds deleted rows past their retention is rewritten so that they are gone from the disk.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Goal;
use crate::ids::Seq;
use crate::retention::is_due;
use crate::segment::Segment;

/// This many segments of a tier are merged.
const MIN_FAN_IN: usize = 4;
/// At most so many are read at a time.
const MAX_FAN_IN: usize = 32;
/// Segments up to this size are of the lowest tier; each tier's are up to [`MIN_FAN_IN`] times as large as the one's below.
const SMALLEST_TIER_BYTES: u64 = 64 << 10;
/// Per cent of dead rows from which on a segment is rewritten alone.
const MANY_DEAD: u64 = 30;
/// At most so many rows in a segment: where each row of the inputs went is held in memory, in four bytes.
const MAX_ROWS: u64 = 32 << 20;

/// What is to be minded.
#[derive(Debug)]
pub(super) struct Limits {
    /// The size from which on segments are not merged any more.
    pub(super) max_bytes: u64,
    /// The schema of the segment to be written. Newer ones are left alone.
    pub(super) schema_version: u32,
    /// How long deleted rows are kept, microseconds; `None` for ever.
    pub(super) retention: Option<i64>,
    /// The time, microseconds since the epoch.
    pub(super) now: i64,
}

impl Limits {
    /// Tombstones of this time or older are dropped.
    pub(super) fn cutoff(&self) -> Option<i64> {
        self.retention.map(|retention| self.now - retention)
    }
}

/// A segment and what of it can go.
#[derive(Debug)]
pub(super) struct Candidate {
    pub(super) segment: Arc<Segment>,
    dead: u64,
}

impl Candidate {
    /// `pin`: rows superseded up to this commit can go.
    pub(super) fn new(segment: &Arc<Segment>, pin: Seq) -> Self {
        Self { segment: segment.clone(), dead: segment.marks.len_up_to(pin) }
    }

    fn rows(&self) -> u64 {
        self.segment.meta().rows.saturating_sub(self.dead)
    }

    /// What it adds to a merged segment, about.
    fn bytes(&self) -> u64 {
        let meta = self.segment.meta();
        let share = u128::from(meta.bytes) * u128::from(self.rows()) / u128::from(meta.rows.max(1));
        u64::try_from(share).unwrap_or(meta.bytes)
    }

    fn tier(&self) -> u32 {
        (self.bytes() / SMALLEST_TIER_BYTES).checked_ilog(MIN_FAN_IN as u64).map_or(0, |tier| tier + 1)
    }

    fn is_wasteful(&self) -> bool {
        let meta = self.segment.meta();
        meta.bytes >= SMALLEST_TIER_BYTES && self.dead * 100 > meta.rows * MANY_DEAD
    }

    /// True if rewriting it alone makes it smaller, or brings it to the newest schema.
    fn is_worth_rewriting(&self, limits: &Limits) -> bool {
        let meta = self.segment.meta();
        let expired =
            meta.oldest_tombstone.zip(limits.cutoff()).is_some_and(|(oldest, cutoff)| oldest <= cutoff);
        self.dead > 0 || expired || meta.schema_version < limits.schema_version
    }
}

/// The next segments to merge into one, or one to rewrite; `None` if nothing is to be gained.
pub(super) fn pick(goal: Goal, candidates: &[Candidate], limits: &Limits) -> Option<Vec<usize>> {
    let known = |at: &usize| candidates[*at].segment.meta().schema_version <= limits.schema_version;
    let known: Vec<usize> = (0..candidates.len()).filter(known).collect();
    match goal {
        Goal::Full => full(&known, candidates, limits),
        Goal::Due => tiered(&known, candidates, limits)
            .or_else(|| wasteful(&known, candidates))
            .or_else(|| overdue(&known, candidates, limits)),
    }
}

fn tiered(known: &[usize], candidates: &[Candidate], limits: &Limits) -> Option<Vec<usize>> {
    let mut growing: Vec<usize> =
        known.iter().copied().filter(|at| candidates[*at].bytes() <= limits.max_bytes / 2).collect();
    let mut tiers = BTreeMap::<u32, usize>::new();
    growing.iter().for_each(|at| *tiers.entry(candidates[*at].tier()).or_default() += 1);
    let (full, _) = tiers.into_iter().find(|(_, count)| *count >= MIN_FAN_IN)?;
    growing.retain(|at| candidates[*at].tier() <= full);
    growing.sort_by_key(|at| candidates[*at].bytes());
    Some(fitting(&growing, candidates, limits)).filter(|picked| picked.len() > 1)
}

fn wasteful(known: &[usize], candidates: &[Candidate]) -> Option<Vec<usize>> {
    known.iter().find(|at| candidates[**at].is_wasteful()).map(|at| vec![*at])
}

fn overdue(known: &[usize], candidates: &[Candidate], limits: &Limits) -> Option<Vec<usize>> {
    let retention = limits.retention?;
    let due =
        |at: &usize| is_due(candidates[*at].segment.meta(), candidates[*at].dead, retention, limits.now);
    let due: Vec<usize> = known.iter().copied().filter(due).collect();
    Some(fitting(&due, candidates, limits)).filter(|picked| !picked.is_empty())
}

/// Neighbours in key order, so that each segment covers a narrow range of keys.
fn full(known: &[usize], candidates: &[Candidate], limits: &Limits) -> Option<Vec<usize>> {
    let mut order = known.to_vec();
    order.sort_by_key(|at| (&candidates[*at].segment.meta().min_key, candidates[*at].segment.meta().id));
    let mut rest = order.as_slice();
    while !rest.is_empty() {
        let picked = fitting(rest, candidates, limits);
        rest = &rest[picked.len()..];
        if picked.len() > 1 || picked.iter().any(|at| candidates[*at].is_worth_rewriting(limits)) {
            return Some(picked);
        }
    }
    None
}

/// The first of some segments, as many as one can hold.
fn fitting(order: &[usize], candidates: &[Candidate], limits: &Limits) -> Vec<usize> {
    let (mut bytes, mut rows) = (0u64, 0u64);
    let fits = order.iter().take(MAX_FAN_IN).take_while(|at| {
        bytes = bytes.saturating_add(candidates[**at].bytes());
        rows = rows.saturating_add(candidates[**at].rows());
        bytes <= limits.max_bytes && rows <= MAX_ROWS
    });
    let mut picked: Vec<usize> = fits.copied().collect();
    if picked.is_empty() {
        picked.extend(order.first());
    }
    picked
}
