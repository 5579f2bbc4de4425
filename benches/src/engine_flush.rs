//! Writing hot rows to Parquet, and merging such files, beside the bare Parquet writer with the same settings and the same
//! sorted rows.

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use kalamdb_engine::arrow::array::RecordBatch;
use kalamdb_engine::segment::write::{Spec, properties};
use kalamdb_engine::{PartitionId, Segment};
use kalamdb_wal::{DiskFile, durable};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::place::Place;
use crate::report::{Budget, Comparison, Outcome, Sample};
use crate::table::Fixture;

const ROWS: i64 = 200_000;
/// Segments that a compaction merges.
const PARTS: i64 = 8;

/// See the module.
#[derive(Debug)]
pub struct Flush;

impl Comparison for Flush {
    fn name(&self) -> &'static str {
        "engine-flush"
    }

    fn run(&self, place: &Place) -> Outcome<Vec<Sample>> {
        let dir = place.dir()?;
        let fixture = Fixture::open(place, &dir.path().join("db"))?;
        fill(&fixture, 0)?;
        fixture.runtime.block_on(fixture.database.flush(&fixture.table, None))?;
        let before = newest_segment(&fixture)?;
        fill(&fixture, ROWS)?;
        // So that each side, when its time is taken, finds memory that the other one has just given back.
        bare(place, &fixture, &before, &dir.path().join("before"))?;
        let begun = Instant::now();
        fixture.runtime.block_on(fixture.database.flush(&fixture.table, None))?;
        let ours = begun.elapsed().as_secs_f64();
        let written = newest_segment(&fixture)?;
        let (_, theirs) = bare(place, &fixture, &written, &dir.path().join("bare"))?;
        let megabytes = written.meta().bytes as f64 / 1e6;
        fixture.close()?;
        Ok(vec![Sample {
            work: format!("engine: flush of {ROWS} rows to {megabytes:.0} MB of Parquet"),
            beside: "Parquet writer, same settings, sorted rows",
            ours: megabytes / ours,
            theirs: megabytes / theirs,
            unit: "MB/s",
            budget: Budget::AtLeast(0.8),
        }])
    }
}

/// Inserts two runs of keys that lie between each other, so that there is something to sort.
fn fill(fixture: &Fixture, from: i64) -> Outcome<()> {
    let evens = (from..from + ROWS).step_by(2_000);
    let odds = evens.clone().map(|first| first + 1_000);
    evens.chain(odds).try_for_each(|first| fixture.insert(first..first + 1_000, 1_000))
}

/// A partition that reaches its limit of rows.
#[derive(Debug)]
pub struct Start;

impl Comparison for Start {
    fn name(&self) -> &'static str {
        "engine-flush-start"
    }

    fn run(&self, place: &Place) -> Outcome<Vec<Sample>> {
        const LIMIT: i64 = 1_000;
        let dir = place.dir()?;
        let fixture = Fixture::limited(place, &dir.path().join("db"), LIMIT as u64)?;
        let mut slowest = 0.0f64;
        for round in 0..20 {
            let first = round * LIMIT;
            fixture.insert(first..first + LIMIT - 1, LIMIT as usize)?;
            let segments = newest_id(&fixture)?;
            let begun = Instant::now();
            fixture.insert(first + LIMIT - 1..first + LIMIT, 1)?;
            // Begun when its rows are set apart, or done already.
            while !is_flushing(&fixture)? && newest_id(&fixture)? == segments {
                std::thread::yield_now();
            }
            slowest = slowest.max(begun.elapsed().as_secs_f64() * 1e3);
            while is_flushing(&fixture)? || newest_id(&fixture)? == segments {
                std::thread::yield_now();
            }
        }
        fixture.close()?;
        Ok(vec![Sample {
            work:
                "engine: from the commit that reaches the limit of rows until the flush begins, slowest of 20"
                    .into(),
            beside: "100 ms",
            ours: slowest,
            theirs: 100.0,
            unit: "ms",
            budget: Budget::AtMost(1.0),
        }])
    }
}

fn is_flushing(fixture: &Fixture) -> Outcome<bool> {
    let version = fixture.database.partition_version(&fixture.table, None)?;
    Ok(version.is_some_and(|version| version.frozen.is_some()))
}

fn newest_id(fixture: &Fixture) -> Outcome<u64> {
    let version = fixture.database.partition_version(&fixture.table, None)?;
    Ok(version.and_then(|version| version.segments.last().map(|segment| segment.meta().id)).unwrap_or(0))
}

/// Eight segments whose keys lie between each other become one.
#[derive(Debug)]
pub struct Compaction;

impl Comparison for Compaction {
    fn name(&self) -> &'static str {
        "engine-compaction"
    }

    fn run(&self, place: &Place) -> Outcome<Vec<Sample>> {
        let dir = place.dir()?;
        let fixture = Fixture::open(place, &dir.path().join("db"))?;
        for part in 0..PARTS {
            for first in (part * 1_000..ROWS).step_by(1_000 * PARTS as usize) {
                fixture.insert(first..first + 1_000, 1_000)?;
            }
            fixture.runtime.block_on(fixture.database.flush(&fixture.table, None))?;
        }
        let begun = Instant::now();
        let done = fixture.runtime.block_on(fixture.database.compact(&fixture.table, None))?;
        let ours = begun.elapsed().as_secs_f64();
        let written = newest_segment(&fixture)?;
        let (read, wrote) = bare(place, &fixture, &written, &dir.path().join("bare"))?;
        fixture.close()?;
        let megabytes = done.bytes_read as f64 / 1e6;
        let amplification = done.bytes_written as f64 / written.meta().bytes as f64;
        Ok(vec![Sample {
            work: format!(
                "engine: compaction of {} segments, {megabytes:.0} MB, each byte written {amplification:.1} times",
                done.segments_in
            ),
            beside: "reading and writing the result with Parquet alone",
            ours: megabytes / ours,
            theirs: megabytes / (read + wrote),
            unit: "MB/s",
            budget: Budget::None,
        }])
    }
}

fn newest_segment(fixture: &Fixture) -> Outcome<Arc<Segment>> {
    let version = fixture.database.partition_version(&fixture.table, None)?.ok_or("no partition")?;
    Ok(version.segments.last().ok_or("no segment")?.clone())
}

/// Seconds that a segment takes to be read, and that its rows take to be written as such a file and synced. Each on a
/// thread of its own, as flushes and compactions are: memory that a thread has used before is cheaper than new one.
fn bare(place: &Place, fixture: &Fixture, segment: &Segment, path: &Path) -> Outcome<(f64, f64)> {
    let (batches, read) = alone(|| read(place, segment))?;
    let ((), wrote) = alone(|| write(place, fixture, segment, &batches, path))?;
    Ok((read, wrote))
}

/// Runs something on a thread of its own; how many seconds it took.
fn alone<T: Send>(work: impl FnOnce() -> Outcome<T> + Send) -> Outcome<(T, f64)> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let begun = Instant::now();
            work().map(|done| (done, begun.elapsed().as_secs_f64()))
        });
        thread.join().map_err(|_| "the bare reader or writer panicked")?
    })
}

fn read(place: &Place, segment: &Segment) -> Outcome<Vec<RecordBatch>> {
    let bytes = durable::read_file(&*place.disk(), segment.path())?;
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes::Bytes::from(bytes))?.with_batch_size(8_192);
    Ok(reader.build()?.collect::<Result<_, _>>()?)
}

fn write(
    place: &Place,
    fixture: &Fixture,
    segment: &Segment,
    batches: &[RecordBatch],
    path: &Path,
) -> Outcome<()> {
    let spec = Spec {
        partition: &PartitionId { table: fixture.table.id, user: None },
        schema: &fixture.table.schema,
        compression: fixture.table.options.compression.as_deref().unwrap_or("zstd"),
        rows: segment.meta().rows as usize,
        purpose: "bench",
    };
    let file = place.disk().create(path)?;
    let sink = Sink { file: Arc::clone(&file), at: 0 };
    let schema = batches.first().ok_or("no rows")?.schema();
    let mut writer = ArrowWriter::try_new(sink, schema, Some(properties(&spec)))?;
    for batch in batches {
        writer.write(batch)?;
    }
    writer.close()?;
    Ok(file.sync_all()?)
}

struct Sink {
    file: Arc<dyn DiskFile>,
    at: u64,
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write_all_at(bytes, self.at)?;
        self.at += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
