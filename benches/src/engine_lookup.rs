//! Finding a row by its key: in memory beside a hash table of the same keys, in a segment beside Parquet's own reader with
//! a filter on the key column.

use std::collections::HashMap;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use kalamdb_engine::arrow::array::{ArrayRef, Int64Array};
use kalamdb_engine::arrow::compute::kernels::cmp::eq;
use kalamdb_engine::arrow::row::Rows;
use kalamdb_wal::durable;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowPredicateFn, ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder, RowFilter,
};

use crate::measure::{median, micros, time_each};
use crate::place::Place;
use crate::report::{Budget, Comparison, Outcome, Sample};
use crate::table::Fixture;

const ROWS: i64 = 100_000;
/// Keys that are looked up in memory.
const HOT: usize = 100_000;
/// Keys that are looked up in a segment.
const COLD: usize = 2_000;
/// Keys that Parquet's reader looks for: it takes a thousand times as long.
const FILTERED: usize = 20;
/// From one key to the next one that is looked up: none is near the one before.
const STRIDE: usize = 7_919;

/// See the module.
#[derive(Debug)]
pub struct Lookup;

struct Keys {
    ids: Vec<i64>,
    columns: Vec<ArrayRef>,
    encoded: Rows,
}

impl Comparison for Lookup {
    fn name(&self) -> &'static str {
        "engine-lookup"
    }

    fn run(&self, place: &Place) -> Outcome<Vec<Sample>> {
        let dir = place.dir()?;
        let fixture = Fixture::open(place, &dir.path().join("db"))?;
        fixture.insert(0..ROWS, 1_000)?;
        let ids: Vec<i64> = (0..ROWS).collect();
        let columns: Vec<ArrayRef> = vec![Arc::new(Int64Array::from(ids.clone()))];
        let encoded = fixture.table.schema.keys().convert_columns(&columns)?;
        let keys = Keys { ids, columns, encoded };
        let hot = hot(&fixture, &keys)?;
        fixture.runtime.block_on(fixture.database.flush(&fixture.table, None))?;
        let filtered = filtered(place, &fixture, &keys)?;
        let cold = cold(&fixture, &keys, filtered)?;
        let row = row(&fixture, &keys, filtered)?;
        fixture.close()?;
        // Nothing of the segment is known then but what the manifest says.
        let fixture = Fixture::open(place, &dir.path().join("db"))?;
        let first = first(place, &fixture, &keys)?;
        fixture.close()?;
        Ok(vec![hot, cold, row, first])
    }
}

fn hot(fixture: &Fixture, keys: &Keys) -> Outcome<Sample> {
    let version = fixture.database.partition_version(&fixture.table, None)?.ok_or("no partition")?;
    let ours = per_key(HOT, |at| version.active.find(keys.encoded.row(at).data()).is_some())?;
    let bare: HashMap<&[u8], u64> = keys.encoded.iter().map(|key| key.data()).zip(0..).collect();
    let theirs = per_key(HOT, |at| bare.contains_key(keys.encoded.row(at).data()))?;
    Ok(Sample {
        work: format!("engine: key lookup among {ROWS} rows in memory"),
        beside: "a hash table of the same keys",
        ours: ours * 1e9,
        theirs: theirs * 1e9,
        unit: "ns",
        budget: Budget::None,
    })
}

/// Seconds per key that is found.
fn per_key(count: usize, find: impl Fn(usize) -> bool) -> Outcome<f64> {
    let begun = Instant::now();
    let found = (0..count).filter(|n| black_box(find(n * STRIDE % ROWS as usize))).count();
    let time = begun.elapsed().as_secs_f64();
    if found == count { Ok(time / count as f64) } else { Err("a key was not found".into()) }
}

fn cold(fixture: &Fixture, keys: &Keys, theirs: f64) -> Outcome<Sample> {
    let version = fixture.database.partition_version(&fixture.table, None)?.ok_or("no partition")?;
    let segment = version.segments.first().ok_or("no segment")?;
    let mut next = (0..).map(|n: usize| n * STRIDE % ROWS as usize);
    let ours = time_each(COLD, || -> Outcome<()> {
        let at = next.next().ok_or("keys without end")?;
        let found = segment.find(keys.encoded.row(at).data(), &keys.columns, at)?;
        found.map(|_| ()).ok_or_else(|| "a key was not found".into())
    })?;
    Ok(Sample {
        work: format!("engine: key lookup among {ROWS} rows in a segment, p50"),
        beside: "Parquet reader with a filter on the key column",
        ours: median(ours),
        theirs,
        unit: "us",
        budget: Budget::AtMost(1.0),
    })
}

/// A row of a segment: its address by its key, and all its columns.
fn row(fixture: &Fixture, keys: &Keys, theirs: f64) -> Outcome<Sample> {
    let (database, table) = (&fixture.database, &fixture.table);
    let view = fixture.runtime.block_on(database.view(&database.snapshot(), table, None))?;
    let columns: Vec<usize> = (0..table.schema.columns().len()).collect();
    let mut next = (0..).map(|n: usize| n * STRIDE % ROWS as usize);
    let ours = time_each(COLD, || -> Outcome<()> {
        let id = keys.ids[next.next().ok_or("keys without end")?];
        let found = view.find(&[Arc::new(Int64Array::from(vec![id]))])?.ok_or("no key index")?;
        let addresses: Vec<u64> = found.into_iter().flatten().collect();
        let picked = view.pick(&addresses, &columns)?;
        if picked.len() == 1 { Ok(()) } else { Err("a key was not found".into()) }
    })?;
    Ok(Sample {
        work: format!("engine: a row of {ROWS} in a segment by its key, all columns, p50"),
        beside: "Parquet reader with a filter on the key column, that column alone",
        ours: median(ours),
        theirs,
        unit: "us",
        budget: Budget::AtMost(1.0),
    })
}

fn first(place: &Place, fixture: &Fixture, keys: &Keys) -> Outcome<Sample> {
    let version = fixture.database.partition_version(&fixture.table, None)?.ok_or("no partition")?;
    let segment = version.segments.first().ok_or("no segment")?;
    let at = ROWS as usize / 2;
    let begun = Instant::now();
    segment.find(keys.encoded.row(at).data(), &keys.columns, at)?.ok_or("a key was not found")?;
    let ours = micros(begun.elapsed());
    let begun = Instant::now();
    let bytes = Bytes::from(durable::read_file(&*place.disk(), segment.path())?);
    black_box(crc32fast::hash(&bytes));
    let metadata = ArrowReaderMetadata::load(&bytes, ArrowReaderOptions::new())?;
    find_filtered(&bytes, &metadata, keys.ids[at])?;
    Ok(Sample {
        work: format!("engine: the first key lookup among {ROWS} rows in a segment, checksum included"),
        beside: "reading, CRC, Parquet reader with a filter on the key column",
        ours,
        theirs: micros(begun.elapsed()),
        unit: "us",
        budget: Budget::AtMost(1.0),
    })
}

/// How long Parquet's reader takes to find a key, its footer being parsed already, in microseconds.
fn filtered(place: &Place, fixture: &Fixture, keys: &Keys) -> Outcome<f64> {
    let version = fixture.database.partition_version(&fixture.table, None)?.ok_or("no partition")?;
    let segment = version.segments.first().ok_or("no segment")?;
    let bytes = Bytes::from(durable::read_file(&*place.disk(), segment.path())?);
    let metadata = ArrowReaderMetadata::load(&bytes, ArrowReaderOptions::new())?;
    let mut next = (0..).map(|n: usize| keys.ids[n * STRIDE % ROWS as usize]);
    let times = time_each(FILTERED, || -> Outcome<()> {
        find_filtered(&bytes, &metadata, next.next().ok_or("keys without end")?)
    })?;
    Ok(median(times))
}

fn find_filtered(bytes: &Bytes, metadata: &ArrowReaderMetadata, id: i64) -> Outcome<()> {
    let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(bytes.clone(), metadata.clone());
    let key = ProjectionMask::leaves(builder.parquet_schema(), [0]);
    let wanted = Int64Array::new_scalar(id);
    let is_it = ArrowPredicateFn::new(key.clone(), move |batch| eq(batch.column(0), &wanted));
    let filter = RowFilter::new(vec![Box::new(is_it)]);
    let reader = builder.with_projection(key).with_row_filter(filter).build()?;
    let found = reader.map(|batch| batch.map(|batch| batch.num_rows())).sum::<Result<usize, _>>()?;
    if found == 1 { Ok(()) } else { Err("a key was not found".into()) }
}
