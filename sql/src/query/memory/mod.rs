//! The memory of statements: what all of them may hold together, and what one of them may hold.
//!
//! Operators of DataFusion ask a pool before they take memory that grows with the data. Each statement has a pool of its
//! own, shared fairly among its operators that can spill; it takes what it gives from what there is for all. So a runaway
//! statement spills or fails at its own limit, and what others hold cannot make it fail before. A part of the whole is kept
//! for statements that need little, so that these run whatever others do.

mod spill;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use datafusion::error::{DataFusionError, Result};
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation};
use parking_lot::Mutex;

pub(super) use spill::SpillFiles;
pub(crate) use spill::SpillOptions;

use crate::error::{Error, ErrorCode};

/// The part of all memory that statements which need little have for themselves: one in so many.
const KEPT_FOR_SMALL: usize = 8;
/// A statement needs little while it holds at most one in so many bytes of all.
const SMALL: usize = 128;

/// What all statements may hold together.
#[derive(Debug)]
pub(super) struct AllMemory {
    limit: usize,
    each: usize,
    used: AtomicUsize,
}

impl AllMemory {
    /// `limit` bytes for all, at most `each` of them for one statement.
    pub(super) fn new(limit: usize, each: usize) -> Self {
        Self { limit, each: each.min(limit), used: AtomicUsize::new(0) }
    }

    /// Bytes that one statement may hold.
    pub(super) fn each(&self) -> usize {
        self.each
    }

    /// A pool for one statement.
    pub(super) fn statement(self: &Arc<Self>) -> Arc<dyn MemoryPool> {
        Arc::new(StatementPool { all: self.clone(), state: Mutex::default() })
    }

    /// Takes bytes for a statement that will hold `held` with them; false if there are too few.
    fn take(&self, bytes: usize, held: usize) -> bool {
        let small = held <= self.limit / SMALL;
        let most = if small { self.limit } else { self.limit - self.limit / KEPT_FOR_SMALL };
        let taken = |used: usize| used.checked_add(bytes).filter(|used| *used <= most);
        self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, taken).is_ok()
    }
}

/// The memory of one statement, by what its consumers can do.
///
/// Those that can spill get half of it in equal parts, and the rest is for those that cannot. Sorts merge what they hold when
/// they spill, which takes several times as much as the sorted rows if these are narrow: each key is there once more, row by
/// row. A sort that cannot merge fails instead of spilling, so for that there is as much again, in equal parts too.
#[derive(Debug)]
struct StatementPool {
    all: Arc<AllMemory>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    spilling: Held,
    merging: Held,
    keeping: Held,
}

/// What a consumer can do when there is no more.
enum Kind {
    Spills,
    Merges,
    Keeps,
}

impl Kind {
    fn of(consumer: &MemoryConsumer) -> Self {
        match consumer.can_spill() {
            true => Self::Spills,
            // DataFusion tells it by its name alone.
            false if consumer.name().starts_with("ExternalSorterMerge") => Self::Merges,
            false => Self::Keeps,
        }
    }
}

/// What consumers of a kind hold.
#[derive(Debug, Default)]
struct Held {
    consumers: usize,
    bytes: usize,
}

impl State {
    fn held(&self) -> usize {
        self.spilling.bytes + self.merging.bytes + self.keeping.bytes
    }

    fn of(&mut self, consumer: &MemoryConsumer) -> &mut Held {
        match Kind::of(consumer) {
            Kind::Spills => &mut self.spilling,
            Kind::Merges => &mut self.merging,
            Kind::Keeps => &mut self.keeping,
        }
    }

    /// The most that a reservation can have out of `limit`.
    fn most(&self, reservation: &MemoryReservation, limit: usize) -> usize {
        let Self { spilling, merging, keeping } = self;
        match Kind::of(reservation.consumer()) {
            Kind::Spills => limit.saturating_sub(keeping.bytes).min(limit / 2) / spilling.consumers.max(1),
            Kind::Merges => limit / merging.consumers.max(1),
            Kind::Keeps => (limit + reservation.size()).saturating_sub(spilling.bytes + keeping.bytes),
        }
    }
}

impl fmt::Display for StatementPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "statement({} of {} bytes)", self.reserved(), self.all.each)
    }
}

impl MemoryPool for StatementPool {
    fn name(&self) -> &str {
        "statement"
    }

    fn register(&self, consumer: &MemoryConsumer) {
        self.state.lock().of(consumer).consumers += 1;
    }

    fn unregister(&self, consumer: &MemoryConsumer) {
        self.state.lock().of(consumer).consumers -= 1;
    }

    fn grow(&self, reservation: &MemoryReservation, additional: usize) {
        self.state.lock().of(reservation.consumer()).bytes += additional;
        self.all.used.fetch_add(additional, Ordering::Relaxed);
    }

    fn shrink(&self, reservation: &MemoryReservation, shrink: usize) {
        self.state.lock().of(reservation.consumer()).bytes -= shrink;
        self.all.used.fetch_sub(shrink, Ordering::Relaxed);
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> Result<()> {
        let mut state = self.state.lock();
        if reservation.size() + additional > state.most(reservation, self.all.each) {
            tracing::debug!(consumer = reservation.consumer().name(), additional, ?state, "no more memory");
            return Err(refused(Refusal::Statement, self.all.each));
        }
        if !self.all.take(additional, state.held() + additional) {
            return Err(refused(Refusal::All, self.all.limit));
        }
        state.of(reservation.consumer()).bytes += additional;
        Ok(())
    }

    fn reserved(&self) -> usize {
        self.state.lock().held()
    }

    fn memory_limit(&self) -> MemoryLimit {
        MemoryLimit::Finite(self.all.each)
    }
}

/// Which limit was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refusal {
    Statement,
    All,
}

impl Refusal {
    /// How messages about it begin.
    fn begins(self) -> &'static str {
        match self {
            Self::Statement => "the statement needs more memory than one may have",
            Self::All => "running statements hold all of their memory",
        }
    }

    fn hint(self) -> &'static str {
        match self {
            Self::Statement => {
                "filter more, select fewer columns, join or group less at once, or raise limits.statement_memory"
            }
            Self::All => "try again later, or raise limits.memory",
        }
    }
}

/// Operators that can spill look for this kind of error alone, so that it has to carry what happened as a text.
fn refused(refusal: Refusal, limit: usize) -> DataFusionError {
    DataFusionError::ResourcesExhausted(format!("{}, {}", refusal.begins(), size(limit)))
}

fn size(bytes: usize) -> String {
    match bytes >> 20 {
        0 => format!("{} KiB", bytes >> 10),
        mebibytes => format!("{mebibytes} MiB"),
    }
}

/// The error of a statement that got no more memory, as DataFusion told it.
pub(crate) fn exhausted(message: &str) -> Error {
    let known = [Refusal::Statement, Refusal::All].into_iter().find(|r| message.starts_with(r.begins()));
    match known {
        Some(refusal) => Error::new(ErrorCode::Overloaded, message).with_hint(refusal.hint()),
        None => {
            tracing::warn!(message, "a statement needed more memory than there is");
            Error::new(ErrorCode::Overloaded, "a row of the statement needs more memory than it can have")
                .with_hint(Refusal::Statement.hint())
        }
    }
}
