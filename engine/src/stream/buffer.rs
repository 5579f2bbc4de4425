//! One stream table: its ring behind its lock, and who listens.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow::array::RecordBatch;
use parking_lot::Mutex;

use super::ring::{Evicted, Limits, Ring, StreamInsert, StreamView};
use crate::catalog::TableOptions;
use crate::error::Result;
use crate::ids::Seq;

/// How long rows are kept if the table does not say, milliseconds.
const DEFAULT_RETENTION_MILLIS: u64 = 3_600_000;
/// How many rows are kept if the table does not say.
const DEFAULT_MAX_BUFFER: u64 = 10_000;

/// See the module.
#[derive(Debug)]
pub struct Stream {
    limits: Limits,
    ephemeral: bool,
    state: Mutex<State>,
    /// Bytes of all streams; every change of the ring's bytes is added to it.
    total: Arc<AtomicUsize>,
}

#[derive(Debug, Default)]
struct State {
    ring: Ring,
    listeners: usize,
}

/// What a stream holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StreamStats {
    /// Rows in the buffer.
    pub rows: u64,
    /// Bytes in memory, those held for listeners included.
    pub bytes: usize,
    /// Who listens.
    pub listeners: usize,
}

impl Stream {
    pub(super) fn new(options: &TableOptions, total: Arc<AtomicUsize>) -> Self {
        let millis = options.retention_millis.unwrap_or(DEFAULT_RETENTION_MILLIS);
        let retention_us = i64::try_from(millis.saturating_mul(1_000)).unwrap_or(i64::MAX);
        Self {
            limits: Limits { retention_us, max_rows: options.max_buffer.unwrap_or(DEFAULT_MAX_BUFFER) },
            ephemeral: options.ephemeral.unwrap_or(false),
            state: Mutex::default(),
            total,
        }
    }

    /// Changes the ring and keeps the total right.
    fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state.lock();
        let before = state.ring.bytes();
        let result = change(&mut state);
        let after = state.ring.bytes();
        if after >= before {
            self.total.fetch_add(after - before, Ordering::Relaxed);
        } else {
            self.total.fetch_sub(before - after, Ordering::Relaxed);
        }
        result
    }

    /// Appends an insert; returns its sequence, which `number` gives under the lock, and its time. An ephemeral stream
    /// to which nobody listens keeps nothing.
    pub(super) fn insert(
        &self,
        rows: RecordBatch,
        now: i64,
        number: impl FnOnce() -> Seq,
    ) -> Result<(Seq, i64)> {
        self.with(|state| {
            let (seq, time_us) = (number(), state.ring.time(now));
            if self.ephemeral && state.listeners == 0 {
                state.ring.pass(seq, time_us);
            } else {
                state.ring.push(rows, seq, time_us)?;
                state.ring.evict(now, self.limits, state.listeners > 0);
            }
            Ok((seq, time_us))
        })
    }

    /// Frees what is too old; false if nothing is left to become so.
    pub(super) fn evict(&self, now: i64) -> bool {
        self.with(|state| {
            state.ring.evict(now, self.limits, state.listeners > 0);
            state.ring.bytes() > 0
        })
    }

    /// Frees the oldest rows until at most `bytes` are held, listeners or not.
    pub(super) fn shrink_to(&self, bytes: usize) {
        self.with(|state| state.ring.shrink_to(bytes));
    }

    /// What the buffer holds at time `now`.
    pub fn view(&self, now: i64) -> StreamView {
        self.with(|state| {
            state.ring.evict(now, self.limits, state.listeners > 0);
            state.ring.view()
        })
    }

    /// Begins to listen: from now on an ephemeral stream keeps its rows, and rows that leave the buffer are held for a
    /// moment. Returns how many inserts there were before.
    pub fn listen(self: &Arc<Self>) -> (Listener, u64) {
        let number = self.with(|state| {
            state.listeners += 1;
            state.ring.inserts()
        });
        (Listener { stream: self.clone() }, number)
    }

    /// The inserts after number `after`, at most `most` of them.
    ///
    /// # Errors
    /// [`Evicted`] if the next one is gone: the listener was too slow, or does not listen.
    pub fn after(&self, after: u64, most: usize) -> Result<Vec<StreamInsert>, Evicted> {
        self.state.lock().ring.after(after, most)
    }

    /// How many inserts there were.
    pub fn inserts(&self) -> u64 {
        self.state.lock().ring.inserts()
    }

    /// What it holds.
    pub fn stats(&self) -> StreamStats {
        let state = self.state.lock();
        StreamStats { rows: state.ring.rows(), bytes: state.ring.bytes(), listeners: state.listeners }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.total.fetch_sub(self.state.get_mut().ring.bytes(), Ordering::Relaxed);
    }
}

/// Somebody who reads a stream, for as long as it is not dropped. Once the last is gone, an ephemeral stream is emptied.
#[derive(Debug)]
pub struct Listener {
    stream: Arc<Stream>,
}

impl Listener {
    /// What is listened to.
    pub fn stream(&self) -> &Arc<Stream> {
        &self.stream
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.stream.with(|state| {
            state.listeners -= 1;
            if state.listeners == 0 && self.stream.ephemeral {
                state.ring.clear();
            }
        });
    }
}
