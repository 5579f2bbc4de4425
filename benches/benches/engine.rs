//! The parts of the engine that every statement passes: the row codec, views, key lookups.
//!
//! Everything runs on files in a temporary directory whose syncs are left out: these are costs of the processor.

use std::hint::black_box;
use std::path::PathBuf;
use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use kalamdb_benches::place::Place;
use kalamdb_benches::table::{Fixture, insertion};
use kalamdb_engine::arrow::array::{ArrayRef, RecordBatch};
use kalamdb_engine::codec::Input;
use kalamdb_engine::codec::columns::{get_batch, put_batch};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ROWS: i64 = 100_000;

fn fixture() -> (tempfile::TempDir, Fixture) {
    let place = Place::paced(PathBuf::from("/tmp"), Duration::ZERO);
    let dir = place.dir().expect("a directory");
    let fixture = Fixture::open(&place, &dir.path().join("db")).expect("opens");
    fixture.insert(0..ROWS, 1_000).expect("inserts");
    (dir, fixture)
}

fn codec(c: &mut Criterion) {
    let (_dir, fixture) = fixture();
    let mut group = c.benchmark_group("row codec");
    for rows in [1, 1_000] {
        let write = insertion(&fixture.table, 0..rows).expect("rows");
        let batch = write.insert.expect("rows");
        let mut bytes = Vec::new();
        put_batch(&mut bytes, &batch).expect("columns of ours");
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_function(format!("write/{rows}"), |b| {
            b.iter_batched_ref(
                || Vec::with_capacity(bytes.len()),
                |out| put_batch(out, black_box(&batch)).expect("columns of ours"),
                BatchSize::SmallInput,
            );
        });
        group.bench_function(format!("read/{rows}"), |b| {
            let schema = fixture.table.schema.rows();
            b.iter(|| {
                get_batch(&mut Input::new(black_box(&bytes)), schema, rows as usize).expect("readable")
            });
        });
    }
    group.finish();
}

fn reads(c: &mut Criterion) {
    let (_dir, fixture) = fixture();
    let keys = key_batch(&fixture);
    let columns: Vec<ArrayRef> = vec![keys.column(0).clone()];
    let encoded = fixture.table.schema.keys().convert_columns(&columns).expect("keys");
    let mut group = c.benchmark_group("read");
    group.bench_function("snapshot and view of hot rows", |b| {
        b.iter(|| {
            let snapshot = fixture.database.snapshot();
            fixture
                .runtime
                .block_on(fixture.database.view(&snapshot, &fixture.table, None))
                .expect("readable")
        });
    });
    let version =
        || fixture.database.partition_version(&fixture.table, None).expect("readable").expect("there");
    let hot = version();
    let mut at = 0;
    group.bench_function("key lookup, hot", |b| {
        b.iter(|| {
            at = (at + 7_919) % keys.num_rows();
            hot.active.find(encoded.row(at).data()).expect("there")
        });
    });
    fixture.runtime.block_on(fixture.database.flush(&fixture.table, None)).expect("flushes");
    let cold = version();
    group.bench_function("key lookup, in a segment", |b| {
        b.iter(|| {
            at = (at + 7_919) % keys.num_rows();
            let key = encoded.row(at);
            let found = cold.segments[0].find(key.data(), &columns, at);
            found.expect("readable").expect("there")
        });
    });
    group.finish();
}

fn key_batch(fixture: &Fixture) -> RecordBatch {
    insertion(&fixture.table, 0..ROWS).expect("rows").insert.expect("rows")
}

criterion_group!(benches, codec, reads);
criterion_main!(benches);
