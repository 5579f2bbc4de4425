//! All streams of a database: their order and their budget.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use arrow::array::RecordBatch;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::buffer::{Stream, StreamStats};
use crate::catalog::{Table, TableKind};
use crate::commit::Committed;
use crate::database::Database;
use crate::error::{Error, Result};
use crate::fit;
use crate::ids::{Seq, TableId};

/// The buffers that exist: one per stream table that was used since the start.
#[derive(Debug)]
pub struct Streams {
    /// Bytes that all buffers together may hold.
    budget: usize,
    total: Arc<AtomicUsize>,
    buffers: Mutex<HashMap<TableId, Arc<Stream>>>,
    /// The last insert's sequence.
    last: AtomicU64,
    /// Told of inserts, for the evictor.
    pub(super) work: Arc<Notify>,
}

impl Streams {
    pub(crate) fn new(budget: usize) -> Self {
        Self {
            budget,
            total: Arc::default(),
            buffers: Mutex::default(),
            last: AtomicU64::new(0),
            work: Arc::default(),
        }
    }

    /// The evictor's wake-up.
    pub(crate) fn work(&self) -> Arc<Notify> {
        self.work.clone()
    }

    /// The next sequence: the time in microseconds, or one more than the last. So it rises through restarts, and is far
    /// above every commit's: one that is mistaken for a place in the log is found to be none.
    fn number(&self, now: i64) -> Seq {
        let now = Seq::try_from(now).unwrap_or(0);
        let next = |last: Seq| Some(now.max(last + 1));
        self.last
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, next)
            .map_or(now, |last| now.max(last + 1))
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        self.total.load(Ordering::Relaxed)
    }

    /// What is held altogether.
    pub fn stats(&self) -> StreamStats {
        let mut sum = StreamStats::default();
        for stream in self.buffers.lock().values() {
            let stats = stream.stats();
            sum.rows += stats.rows;
            sum.bytes += stats.bytes;
            sum.listeners += stats.listeners;
        }
        sum
    }

    /// Frees what is too old; false if there is nothing left that could become so.
    pub(crate) fn evict(&self, now: i64) -> bool {
        let buffers: Vec<_> = self.buffers.lock().values().cloned().collect();
        buffers.iter().fold(false, |left, stream| stream.evict(now) | left)
    }

    /// Forgets the buffer of a dropped table; who still listens keeps it until then.
    pub(crate) fn remove(&self, table: TableId) {
        self.buffers.lock().remove(&table);
    }

    /// Takes from the largest buffers until all are within seven eighths of the budget.
    fn relieve(&self) {
        let buffers = self.buffers.lock();
        let mut sizes: Vec<usize> = buffers.values().map(|stream| stream.stats().bytes).collect();
        let level = level(&mut sizes, self.budget / 8 * 7);
        buffers.values().for_each(|stream| stream.shrink_to(level));
    }
}

impl Drop for Streams {
    fn drop(&mut self) {
        self.work.notify_one();
    }
}

/// The largest size to which all can be cut so that together they are at most `target`.
fn level(sizes: &mut [usize], target: usize) -> usize {
    sizes.sort_unstable();
    let mut left = target;
    for (at, size) in sizes.iter().enumerate() {
        let share = left / (sizes.len() - at);
        if *size > share {
            return share;
        }
        left -= size;
    }
    usize::MAX
}

impl Database {
    /// The buffers of STREAM tables.
    pub fn streams(&self) -> &Arc<Streams> {
        &self.streams
    }

    /// The buffer of a STREAM table.
    ///
    /// # Errors
    /// [`Error::TableNotFound`] if the table was dropped.
    pub fn stream(&self, table: &Table) -> Result<Arc<Stream>> {
        if table.kind != TableKind::Stream {
            return Err(Error::internal("find a stream", "the table is not a STREAM table"));
        }
        let mut buffers = self.streams.buffers.lock();
        // Under the lock: a drop changes the catalog first and then forgets the buffer, so none is made after it.
        if self.catalog().table_by_id(table.id).is_none() {
            return Err(Error::TableNotFound(table.qualified_name()));
        }
        let new = || Arc::new(Stream::new(&table.options, self.streams.total.clone()));
        Ok(buffers.entry(table.id).or_insert_with(new).clone())
    }

    /// Appends rows to a STREAM table. They are in memory when this returns, and nowhere else. The sequence is not that of
    /// a commit: it numbers the inserts into all streams, and rises through restarts as long as the clock does.
    ///
    /// # Errors
    /// [`Error::TableNotFound`] if the table was dropped; [`Error::TooLarge`] for rows that are more than a quarter of the
    /// budget of all streams; [`Error::NotNullViolation`].
    pub fn insert_into_stream(&self, table: &Table, rows: RecordBatch) -> Result<Committed> {
        let rows = fit::new_rows(table, rows)?;
        let (bytes, most) = (rows.get_array_memory_size(), self.streams.budget / 4);
        if bytes > most {
            let message = format!("an insert into a stream has at most {most} bytes, this one {bytes}");
            return Err(Error::TooLarge(message));
        }
        let now = self.clock().now_micros();
        let stream = self.stream(table)?;
        let (seq, time_us) = stream.insert(rows, now, || self.streams.number(now))?;
        if self.streams.bytes() > self.streams.budget {
            self.streams.relieve();
        }
        self.streams.work.notify_one();
        Ok(Committed { seq, time_us })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_are_cut_to_one_level_and_the_small_are_left_alone() {
        assert_eq!(level(&mut [10, 20, 30], 100), usize::MAX);
        assert_eq!(level(&mut [100, 10, 100], 110), 50);
        assert_eq!(level(&mut [100, 100], 100), 50);
        assert_eq!(level(&mut [], 100), usize::MAX);
    }

    #[test]
    fn sequences_rise_also_when_the_clock_does_not() {
        let streams = Streams::new(0);
        assert_eq!(
            [streams.number(7), streams.number(7), streams.number(3), streams.number(20)],
            [7, 8, 9, 20]
        );
    }
}
