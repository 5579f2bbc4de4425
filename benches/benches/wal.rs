//! Small costs of the log: what a commit costs beside the sync, group sizes, record sizes, reading.

use std::sync::Arc;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use kalamdb_wal::{Log, Options, RealDisk, Record, SyncPolicy};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn open(sync: SyncPolicy) -> (tempfile::TempDir, Log) {
    let dir = tempfile::tempdir_in("../target").expect("a scratch directory");
    let options = Options { sync, ..Options::default() };
    let (log, _) = Log::open(Arc::new(RealDisk), dir.path(), options, &mut |_, _| Ok(())).expect("opens");
    (dir, log)
}

fn commits(c: &mut Criterion) {
    let mut group = c.benchmark_group("commit");
    for size in [20, 200, 4096, 1 << 20] {
        group.throughput(Throughput::Bytes(size as u64));
        let (_dir, log) = open(SyncPolicy::Always);
        group.bench_function(format!("durable/{size}"), |b| {
            b.iter_batched(
                || vec![7; size],
                |payload| {
                    let lsn = log.append(Record::new(payload)).expect("appends");
                    log.wait_durable(lsn).expect("durable");
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

fn appends(c: &mut Criterion) {
    let mut group = c.benchmark_group("append");
    for size in [20, 200, 4096] {
        group.throughput(Throughput::Elements(1));
        let (_dir, log) = open(SyncPolicy::Never);
        group.bench_function(format!("unsynced/{size}"), |b| {
            b.iter(|| {
                let lsn = log.append(Record::new(vec![7; size])).expect("appends");
                log.truncate_every(lsn);
            });
        });
    }
    group.finish();
}

/// Keeps the log of a long run small.
trait TruncateEvery {
    fn truncate_every(&self, lsn: u64);
}

impl TruncateEvery for Log {
    fn truncate_every(&self, lsn: u64) {
        if lsn.is_multiple_of(1 << 17) {
            self.truncate_before(self.durable()).expect("truncates");
        }
    }
}

fn reads(c: &mut Criterion) {
    let (_dir, log) = open(SyncPolicy::Never);
    for _ in 0..100_000 {
        log.append(Record::new(vec![7; 200])).expect("appends");
    }
    log.sync().expect("syncs");
    let mut group = c.benchmark_group("read");
    group.throughput(Throughput::Elements(100_000)).sample_size(20);
    group.bench_function("all/200", |b| {
        b.iter(|| {
            let mut reader = log.reader(1).expect("retained");
            let mut bytes = 0;
            while let Some((_, payload)) = reader.try_next().expect("reads") {
                bytes += payload.len();
            }
            bytes
        });
    });
    group.bench_function("seek", |b| {
        let mut lsn = 1;
        b.iter(|| {
            lsn = (lsn * 7919) % 100_000 + 1;
            log.reader(lsn).expect("retained").position()
        });
    });
    group.finish();
}

criterion_group!(benches, commits, appends, reads);
criterion_main!(benches);
