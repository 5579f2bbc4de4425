//! Merging segments by key into a new one, in memory that depends on how many they are and not on how large.
//!
//! Each input has one batch in memory. Runs of rows that come before every other input's next key are taken as a whole,
//! so segments whose keys do not overlap are copied rather than merged row by row.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::interleave_record_batch;

use super::input::{BATCH_ROWS, Input};
use super::running::Running;
use crate::catalog::Table;
use crate::database::Database;
use crate::error::{Error, Result};
use crate::ids::Seq;
use crate::partition::Partition;
use crate::schema::TableSchema;
use crate::segment::Segment;
use crate::segment::write::{SegmentWriter, Spec};

/// A segment that is written but has neither id nor place yet.
pub(super) struct Merged {
    pub(super) writer: SegmentWriter,
    /// The schema of its rows.
    pub(super) schema: Arc<TableSchema>,
    /// Per input and row, where it went.
    pub(super) moved: Vec<Vec<u32>>,
}

impl Merged {
    /// Merges segments. `pin`: rows superseded up to this commit are dropped, tombstones of `cutoff` or older as well.
    ///
    /// # Errors
    /// [`Error::Cancelled`], [`Error::PartitionDamaged`], [`Error::StorageFull`]; nothing is left on disk then.
    pub(super) fn new(
        database: &Database,
        partition: &Partition,
        table: &Table,
        segments: &[Arc<Segment>],
        pin: Seq,
        cutoff: Option<i64>,
        running: &Running,
    ) -> Result<Self> {
        running.expect(segments.iter().map(|segment| segment.meta().bytes).sum());
        let schema = &table.schema;
        let inputs =
            segments.iter().map(|segment| Input::new(segment, schema, pin)).collect::<Result<_>>()?;
        let rows = segments.iter().map(|segment| segment.meta().rows).sum::<u64>();
        let spec = Spec {
            partition: &partition.id,
            schema,
            compression: table.options.compression(),
            rows: usize::try_from(rows).unwrap_or(usize::MAX),
            purpose: "compaction",
        };
        let writer = SegmentWriter::create(database.disk(), &partition.dir, &spec)?;
        let output = Output { writer, sources: Vec::new(), pending: Vec::new(), rows: 0, next: 0 };
        let mut merge = Merge { database, schema, cutoff, running, inputs, sources: Vec::new(), output };
        merge.run(false)?;
        merge.run(true)?;
        let Merge { inputs, output: Output { mut writer, .. }, .. } = merge;
        writer.settle()?;
        let schema = schema.clone();
        Ok(Self { writer, schema, moved: inputs.into_iter().map(Input::into_moved).collect() })
    }
}

struct Merge<'a> {
    database: &'a Database,
    schema: &'a TableSchema,
    cutoff: Option<i64>,
    running: &'a Running,
    inputs: Vec<Input>,
    /// Per input, which of the output's sources its batch is.
    sources: Vec<usize>,
    output: Output,
}

impl Merge<'_> {
    /// Merges the live rows, or the tombstones.
    fn run(&mut self, tombstones: bool) -> Result<()> {
        self.sources = vec![0; self.inputs.len()];
        // Inputs with rows left, by their next key.
        let mut order = Vec::with_capacity(self.inputs.len());
        for at in 0..self.inputs.len() {
            self.inputs[at].start(tombstones)?;
            if self.advance(at)? {
                self.place(&mut order, at);
            }
        }
        while !order.is_empty() {
            let at = order.remove(0);
            if self.take_run(at, order.first().copied()) || self.advance(at)? {
                self.place(&mut order, at);
            }
            if self.output.is_full(self.inputs.len()) {
                self.write(tombstones)?;
            }
        }
        self.write(tombstones)
    }

    fn place(&self, order: &mut Vec<usize>, at: usize) {
        let key = |at: usize| self.inputs[at].batch().map(|batch| batch.key());
        let position = order.partition_point(|other| key(*other) <= key(at));
        order.insert(position, at);
    }

    /// Takes rows of an input until the key of the next one in order; true if the batch has more.
    fn take_run(&mut self, at: usize, next: Option<usize>) -> bool {
        let limit = next.and_then(|next| self.inputs[next].batch()).map(|batch| batch.key());
        let Some(batch) = self.inputs[at].batch() else { return false };
        let (start, end, rows) = (batch.at, batch.run_until(limit), batch.rows.num_rows());
        let to = self.output.add(self.sources[at], start, end);
        self.inputs[at].take(end, to);
        end < rows
    }

    /// Reads an input's next batch; false at its end. Waits if the work goes faster than it may.
    fn advance(&mut self, at: usize) -> Result<bool> {
        let (mut read, with_keys) = (0, self.inputs.len() > 1);
        let batch = self.inputs[at].advance(self.schema, self.cutoff, with_keys, &mut read)?;
        let more = batch.map(|batch| self.output.source(batch.rows.clone()));
        self.database.compacting().read(read, self.running)?;
        self.sources[at] = more.unwrap_or_default();
        Ok(more.is_some())
    }

    fn write(&mut self, tombstones: bool) -> Result<()> {
        let before = self.output.writer.bytes();
        self.output.write(tombstones)?;
        self.database.compacting().wrote(self.output.writer.bytes() - before, self.running)?;
        // What is written is not needed any more, but the batches under way are.
        for (input, source) in self.inputs.iter().zip(&mut self.sources) {
            if let Some(batch) = input.batch() {
                *source = self.output.source(batch.rows.clone());
            }
        }
        Ok(())
    }
}

/// Rows on their way into the file.
struct Output {
    writer: SegmentWriter,
    sources: Vec<RecordBatch>,
    /// Source, first row, end: in the order they go to the file.
    pending: Vec<(usize, usize, usize)>,
    /// Rows that are pending.
    rows: usize,
    /// The number of the next row in the file.
    next: u32,
}

impl Output {
    fn source(&mut self, rows: RecordBatch) -> usize {
        self.sources.push(rows);
        self.sources.len() - 1
    }

    /// Adds rows; returns the file row of the first.
    fn add(&mut self, source: usize, start: usize, end: usize) -> u32 {
        let first = self.next;
        self.pending.push((source, start, end));
        self.rows += end - start;
        self.next += (end - start) as u32;
        first
    }

    /// True if there is enough for a batch, or too much is held for what there is.
    fn is_full(&self, inputs: usize) -> bool {
        self.rows >= BATCH_ROWS || self.sources.len() > 2 * inputs + 2
    }

    fn write(&mut self, tombstones: bool) -> Result<()> {
        match *self.pending.as_slice() {
            [] => {}
            [(source, start, end)] => {
                self.writer.push(&self.sources[source].slice(start, end - start), tombstones)?;
            }
            _ => {
                let runs = self.pending.iter();
                let places: Vec<(usize, usize)> =
                    runs.flat_map(|(source, start, end)| (*start..*end).map(|row| (*source, row))).collect();
                let sources: Vec<&RecordBatch> = self.sources.iter().collect();
                let rows =
                    interleave_record_batch(&sources, &places).map_err(|e| Error::internal("compact", e))?;
                self.writer.push(&rows, tombstones)?;
            }
        }
        self.sources.clear();
        self.pending.clear();
        self.rows = 0;
        Ok(())
    }
}
