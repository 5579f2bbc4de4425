//! How long after a record is durable a waiting reader has it, beside waking a waiting thread.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Instant;

use kalamdb_wal::{Error, Log, Lsn, Observer, Options, Record};

use crate::measure::{micros, percentile};
use crate::place::Place;
use crate::report::{Budget, Comparison, Outcome, Sample};

const RECORDS: u64 = 2000;

/// See the module.
#[derive(Debug)]
pub struct Tail;

/// Notes when the newest group became durable.
#[derive(Debug)]
struct Stamp(Mutex<Instant>);

impl Observer for Stamp {
    fn durable(&self, _: Lsn) {
        if let Ok(mut at) = self.0.lock() {
            *at = Instant::now();
        }
    }
    fn failed(&self, _: &Error) {}
}

impl Comparison for Tail {
    fn name(&self) -> &'static str {
        "wal-tail"
    }

    fn run(&self, place: &Place) -> Outcome<Vec<Sample>> {
        let theirs = wake_a_thread()?;
        let ours = follow(place)?;
        let line = |name, share| Sample {
            work: format!("durable record to waiting reader, {name}"),
            beside: "waking a waiting thread",
            ours: percentile(ours.clone(), share),
            theirs: percentile(theirs.clone(), share),
            unit: "us",
            budget: Budget::None,
        };
        Ok(vec![line("p50", 0.5), line("p99", 0.99)])
    }
}

fn follow(place: &Place) -> Outcome<Vec<f64>> {
    let dir = place.dir()?;
    let stamp = Arc::new(Stamp(Mutex::new(Instant::now())));
    let options = Options { observer: Some(stamp.clone()), spares: 0, ..Options::default() };
    let (log, _) = Log::open(place.disk(), &dir.path().join("log"), options, &mut |_, _| Ok(()))?;
    let read = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| read_all(&log, &stamp, &read));
        for n in 1..=RECORDS {
            log.append(Record::new(vec![7; 200]))?;
            // The next record only after this one was read, so that each is waited for.
            while read.load(Ordering::Acquire) < n {
                std::thread::yield_now();
            }
        }
        reader.join().map_err(|_| "the reader panicked")?
    })
}

fn read_all(log: &Log, stamp: &Stamp, read: &AtomicU64) -> Outcome<Vec<f64>> {
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let mut reader = log.reader(1)?;
    let mut times = Vec::new();
    for n in 1..=RECORDS {
        runtime.block_on(reader.next())?;
        let durable = *stamp.0.lock().map_err(|_| "the writer panicked")?;
        times.push(micros(durable.elapsed()));
        read.store(n, Ordering::Release);
    }
    Ok(times)
}

fn wake_a_thread() -> Outcome<Vec<f64>> {
    let (send, receive) = mpsc::channel::<Instant>();
    let read = &AtomicU64::new(0);
    std::thread::scope(|scope| {
        let waiter = scope.spawn(move || {
            receive
                .iter()
                .map(|sent| {
                    let time = micros(sent.elapsed());
                    read.fetch_add(1, Ordering::Release);
                    time
                })
                .collect()
        });
        for n in 1..=RECORDS {
            // As long as a sync takes, so that the waiter is asleep.
            let until = Instant::now() + std::time::Duration::from_micros(100);
            while Instant::now() < until {
                std::thread::yield_now();
            }
            send.send(Instant::now())?;
            while read.load(Ordering::Acquire) < n {
                std::thread::yield_now();
            }
        }
        drop(send);
        Ok(waiter.join().map_err(|_| "the waiter panicked")?)
    })
}
