//! The rows of one stream table: a ring of immutable chunks.
//!
//! The ring holds a range of rows, numbered from 0 since it was made. Its end is where inserts go. Two places move towards
//! the end: rows before `first_row` have left the buffer and are hidden from queries; chunks that are hidden as a whole
//! are freed once no listener can want them. Small inserts are merged, so that a buffer of many is not as many batches.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};

use arrow::array::{Int64Array, RecordBatch, TimestampMicrosecondArray};
use arrow::compute::concat_batches;

use crate::error::{Error, Result};
use crate::ids::Seq;
use crate::rows::compacted;
use crate::types::TIMEZONE;

/// How long listeners can still read rows that have left the buffer, microseconds.
pub const HELD: i64 = 5_000_000;
/// How many bytes of rows that have left the buffer are held for listeners.
pub const HELD_BYTES: usize = 4 << 20;
/// So many chunks of one insert each become one.
const MERGE: usize = 64;
/// Larger inserts stay by themselves.
const MERGE_ROWS: usize = 1_024;

/// What a buffer keeps.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Microseconds a row is kept.
    pub(super) retention_us: i64,
    /// Rows that are kept.
    pub(super) max_rows: u64,
}

/// A listener asked for an insert that is no longer held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Evicted;

/// The rows of one INSERT into a stream.
#[derive(Debug, Clone)]
pub struct StreamInsert {
    /// Counts the inserts of the table since its buffer was made, from 1.
    pub number: u64,
    /// Its number among the inserts into all streams.
    pub seq: Seq,
    /// Its time, microseconds since the epoch.
    pub time_us: i64,
    /// Its rows, with the columns of [`crate::TableSchema::rows`].
    pub rows: RecordBatch,
}

/// Some rows of a buffer, with when and by which insert each came.
#[derive(Debug, Clone)]
pub struct StreamRows {
    /// The rows, with the columns of [`crate::TableSchema::rows`].
    pub rows: RecordBatch,
    /// The insert of each row.
    pub seqs: Int64Array,
    /// Its time.
    pub times: TimestampMicrosecondArray,
}

/// What a buffer held at one moment, oldest first.
#[derive(Debug, Clone, Default)]
pub struct StreamView {
    /// The rows.
    pub chunks: Vec<StreamRows>,
    /// The last insert; 0 if there was none.
    pub seq: Seq,
    /// How many inserts there were.
    pub number: u64,
}

#[derive(Debug, Clone, Copy)]
struct Insert {
    seq: Seq,
    time_us: i64,
    /// Where its rows end in the chunk.
    end: usize,
}

/// Immutable rows of one or more inserts.
#[derive(Debug)]
struct Chunk {
    rows: RecordBatch,
    /// Number of the first row in the ring.
    first_row: u64,
    /// How many inserts came before.
    inserts_before: u64,
    inserts: Vec<Insert>,
    bytes: usize,
    versions: OnceLock<(Int64Array, TimestampMicrosecondArray)>,
}

impl Chunk {
    fn new(rows: RecordBatch, first_row: u64, inserts_before: u64, inserts: Vec<Insert>) -> Self {
        let bytes = rows.get_array_memory_size() + inserts.len() * size_of::<Insert>() + 256;
        Self { rows, first_row, inserts_before, inserts, bytes, versions: OnceLock::new() }
    }

    fn end_row(&self) -> u64 {
        self.first_row + self.rows.num_rows() as u64
    }

    fn newest(&self) -> i64 {
        self.inserts.last().map_or(i64::MIN, |insert| insert.time_us)
    }

    fn start_of(&self, insert: usize) -> usize {
        if insert == 0 { 0 } else { self.inserts[insert - 1].end }
    }

    fn versions(&self) -> &(Int64Array, TimestampMicrosecondArray) {
        self.versions.get_or_init(|| {
            let mut seqs = Vec::with_capacity(self.rows.num_rows());
            let mut times = Vec::with_capacity(self.rows.num_rows());
            for insert in &self.inserts {
                seqs.resize(insert.end, insert.seq as i64);
                times.resize(insert.end, insert.time_us);
            }
            (seqs.into(), TimestampMicrosecondArray::from(times).with_timezone(TIMEZONE))
        })
    }

    /// The rows from number `first` on.
    fn rows_since(&self, first: u64) -> StreamRows {
        let skip = first.saturating_sub(self.first_row) as usize;
        let count = self.rows.num_rows() - skip;
        let (seqs, times) = self.versions();
        StreamRows {
            rows: self.rows.slice(skip, count),
            seqs: seqs.slice(skip, count),
            times: times.slice(skip, count),
        }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Ring {
    chunks: VecDeque<Arc<Chunk>>,
    /// Chunks at the end that hold one small insert each.
    single: usize,
    bytes: usize,
    first_row: u64,
    end_row: u64,
    inserts: u64,
    last: Seq,
    last_time: i64,
}

impl Ring {
    /// Bytes held, about.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Rows in the buffer.
    pub(super) fn rows(&self) -> u64 {
        self.end_row - self.first_row
    }

    /// How many inserts there were.
    pub(super) fn inserts(&self) -> u64 {
        self.inserts
    }

    /// The time of an insert now: never lower than that of the one before.
    pub(super) fn time(&self, now: i64) -> i64 {
        now.max(self.last_time)
    }

    /// Notes an insert whose rows nobody wants.
    pub(super) fn pass(&mut self, seq: Seq, time_us: i64) {
        debug_assert!(self.chunks.is_empty(), "rows that are held must stay in order");
        (self.last, self.last_time) = (seq, time_us);
        self.inserts += 1;
    }

    /// Appends the rows of an insert.
    ///
    /// # Errors
    /// None in practice: batches of one schema can be merged.
    pub(super) fn push(&mut self, rows: RecordBatch, seq: Seq, time_us: i64) -> Result<()> {
        let small = rows.num_rows() <= MERGE_ROWS;
        let insert = Insert { seq, time_us, end: rows.num_rows() };
        let chunk = Chunk::new(rows, self.end_row, self.inserts, vec![insert]);
        self.end_row = chunk.end_row();
        (self.last, self.last_time) = (seq, time_us);
        self.inserts += 1;
        self.add(chunk);
        self.single = if small { self.single + 1 } else { 0 };
        if self.single >= MERGE { self.merge() } else { Ok(()) }
    }

    fn add(&mut self, chunk: Chunk) {
        self.bytes += chunk.bytes;
        self.chunks.push_back(Arc::new(chunk));
    }

    /// Makes one chunk of the single ones at the end.
    fn merge(&mut self) -> Result<()> {
        let parts: Vec<Arc<Chunk>> = self.chunks.drain(self.chunks.len() - self.single..).collect();
        self.single = 0;
        let Some(first) = parts.first() else { return Ok(()) };
        let merged = concat_batches(&first.rows.schema(), parts.iter().map(|part| &part.rows));
        let merged = merged.map_err(|e| Error::internal("merge the rows of a stream", e))?;
        let columns = merged.columns().iter().map(compacted).collect();
        let rows = RecordBatch::try_new(merged.schema(), columns)
            .map_err(|e| Error::internal("merge the rows of a stream", e))?;
        let mut end = 0;
        let inserts = parts.iter().map(|part| {
            end += part.rows.num_rows();
            Insert { end, ..part.inserts[0] }
        });
        let inserts = inserts.collect();
        self.bytes -= parts.iter().map(|part| part.bytes).sum::<usize>();
        self.add(Chunk::new(rows, first.first_row, first.inserts_before, inserts));
        Ok(())
    }

    /// Hides what has left the buffer and frees what nobody can want. With `listened`, rows are held for [`HELD`] more.
    pub(super) fn evict(&mut self, now: i64, limits: Limits, listened: bool) {
        self.first_row = self.first_row.max(self.end_row.saturating_sub(limits.max_rows));
        self.first_row = self.first_row.max(self.first_since(now.saturating_sub(limits.retention_us)));
        let held = |ring: &Self, chunk: &Chunk| {
            listened && chunk.newest() > now.saturating_sub(HELD) && ring.bytes <= HELD_BYTES
        };
        while let Some(chunk) = self.chunks.front()
            && chunk.end_row() <= self.first_row
            && !held(self, chunk)
        {
            self.drop_oldest();
        }
    }

    /// Number of the first row inserted after a time.
    fn first_since(&self, time_us: i64) -> u64 {
        let at = self.chunks.partition_point(|chunk| chunk.newest() <= time_us);
        let Some(chunk) = self.chunks.get(at) else { return self.end_row };
        let insert = chunk.inserts.partition_point(|insert| insert.time_us <= time_us);
        chunk.first_row + chunk.start_of(insert) as u64
    }

    /// Frees the oldest chunks until at most `bytes` are held.
    pub(super) fn shrink_to(&mut self, bytes: usize) {
        while self.bytes > bytes && self.drop_oldest() {}
    }

    /// Frees everything.
    pub(super) fn clear(&mut self) {
        self.shrink_to(0);
    }

    fn drop_oldest(&mut self) -> bool {
        let Some(chunk) = self.chunks.pop_front() else { return false };
        self.bytes -= chunk.bytes;
        self.first_row = self.first_row.max(chunk.end_row());
        self.single = self.single.min(self.chunks.len());
        true
    }

    /// What the buffer holds. To be called after [`Ring::evict`].
    pub(super) fn view(&self) -> StreamView {
        let first = self.chunks.partition_point(|chunk| chunk.end_row() <= self.first_row);
        let chunks = self.chunks.range(first..).map(|chunk| chunk.rows_since(self.first_row)).collect();
        StreamView { chunks, seq: self.last, number: self.inserts }
    }

    /// The inserts after number `after`, at most `most` of them.
    pub(super) fn after(&self, after: u64, most: usize) -> Result<Vec<StreamInsert>, Evicted> {
        if after >= self.inserts {
            return Ok(Vec::new());
        }
        if self.chunks.front().is_none_or(|oldest| oldest.inserts_before > after) {
            return Err(Evicted);
        }
        let at = self.chunks.partition_point(|chunk| chunk.inserts_before <= after) - 1;
        let mut found = Vec::new();
        for chunk in self.chunks.range(at..) {
            let skip = after.saturating_sub(chunk.inserts_before) as usize;
            for (index, insert) in chunk.inserts.iter().enumerate().skip(skip) {
                if found.len() == most {
                    return Ok(found);
                }
                let start = chunk.start_of(index);
                found.push(StreamInsert {
                    number: chunk.inserts_before + index as u64 + 1,
                    seq: insert.seq,
                    time_us: insert.time_us,
                    rows: chunk.rows.slice(start, insert.end - start),
                });
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, AsArray};
    use arrow::datatypes::Int64Type;

    use super::*;

    const KEEP_ALL: Limits = Limits { retention_us: i64::MAX, max_rows: u64::MAX };

    fn batch(values: std::ops::Range<i64>) -> RecordBatch {
        let column: ArrayRef = Arc::new(values.collect::<Vec<_>>().into_iter().collect::<Int64Array>());
        RecordBatch::try_from_iter([("n", column)]).unwrap()
    }

    fn numbers(rows: &RecordBatch) -> Vec<i64> {
        rows.column(0).as_primitive::<Int64Type>().values().to_vec()
    }

    fn seen(ring: &Ring) -> Vec<i64> {
        ring.view().chunks.iter().flat_map(|chunk| numbers(&chunk.rows)).collect()
    }

    /// `inserts` inserts of two rows each, one every 10 microseconds from 10 on, with sequences from 1 on.
    fn filled(inserts: i64) -> Ring {
        let mut ring = Ring::default();
        for n in 1..=inserts {
            ring.push(batch(2 * n..2 * n + 2), n as Seq, 10 * n).unwrap();
        }
        ring
    }

    #[test]
    fn rows_come_back_in_order_with_their_insert_and_time_however_they_were_merged() {
        let ring = filled(200);
        assert!(ring.chunks.len() < 80, "{} chunks", ring.chunks.len());
        let view = ring.view();
        assert_eq!(seen(&ring), (2..402).collect::<Vec<_>>());
        let seqs: Vec<i64> = view.chunks.iter().flat_map(|c| c.seqs.values().to_vec()).collect();
        let times: Vec<i64> = view.chunks.iter().flat_map(|c| c.times.values().to_vec()).collect();
        assert_eq!(seqs, (1..=200).flat_map(|n| [n, n]).collect::<Vec<_>>());
        assert_eq!(times, (1..=200).flat_map(|n| [10 * n, 10 * n]).collect::<Vec<_>>());
        assert_eq!((view.seq, view.number), (200, 200));
    }

    #[test]
    fn the_oldest_rows_leave_first_by_count_and_by_age_to_the_row() {
        let mut ring = filled(200);
        ring.evict(2_000, Limits { max_rows: 5, ..KEEP_ALL }, false);
        assert_eq!(seen(&ring), [397, 398, 399, 400, 401]);
        assert!(ring.chunks.len() <= 8, "what is hidden as a whole is freed");
        let mut ring = filled(200);
        ring.evict(2_000, Limits { retention_us: 30, ..KEEP_ALL }, false);
        assert_eq!(seen(&ring), [396, 397, 398, 399, 400, 401], "inserts at 1970 and before are too old");
        ring.evict(5_000, Limits { retention_us: 30, ..KEEP_ALL }, false);
        assert_eq!((seen(&ring).len(), ring.bytes(), ring.rows()), (0, 0, 0));
    }

    #[test]
    fn a_listener_reads_every_insert_once_from_any_place() {
        let ring = filled(150);
        for after in [0, 1, 63, 64, 65, 100, 149] {
            let found = ring.after(after, usize::MAX).unwrap();
            assert_eq!(
                found.iter().map(|i| i.number).collect::<Vec<_>>(),
                (after + 1..=150).collect::<Vec<_>>()
            );
            for insert in found {
                let n = insert.number as i64;
                assert_eq!((insert.seq, insert.time_us), (insert.number, 10 * n));
                assert_eq!(numbers(&insert.rows), [2 * n, 2 * n + 1]);
            }
        }
        assert!(ring.after(150, usize::MAX).unwrap().is_empty());
        assert_eq!(ring.after(0, 3).unwrap().len(), 3);
    }

    #[test]
    fn what_left_a_small_buffer_is_held_for_listeners_for_a_while_and_then_missed() {
        let small = Limits { max_rows: 2, ..KEEP_ALL };
        let mut ring = filled(100);
        ring.evict(1_000, small, true);
        assert_eq!(seen(&ring), [200, 201]);
        assert_eq!(ring.after(0, usize::MAX).unwrap().len(), 100);
        ring.evict(1_000 + HELD, small, true);
        assert_eq!(ring.after(0, usize::MAX).unwrap_err(), Evicted);
        assert_eq!(ring.after(99, usize::MAX).unwrap().len(), 1);
        ring.clear();
        assert_eq!((ring.after(99, 1).unwrap_err(), ring.after(100, 1).unwrap().len()), (Evicted, 0));
    }

    #[test]
    fn bytes_are_counted_exactly_and_shrinking_frees_the_oldest() {
        let mut ring = filled(130);
        let counted: usize = ring.chunks.iter().map(|chunk| chunk.bytes).sum();
        assert_eq!(ring.bytes(), counted);
        ring.shrink_to(counted / 2);
        assert!(ring.bytes() <= counted / 2);
        assert_eq!(seen(&ring).last(), Some(&261));
        assert_eq!(seen(&ring).len() as u64, ring.rows());
        ring.push(batch(0..1), 131, 2_000).unwrap();
        assert_eq!(seen(&ring).last(), Some(&0));
    }
}
