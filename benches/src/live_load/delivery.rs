//! Commits on one table, delivered to all who subscribe to it.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::try_join_all;

use super::LiveLoad;
use super::feed::{Arrival, Tally};
use super::side::{Side, Writer};
use crate::measure::{median, percentile};
use crate::report::Outcome;

/// How long deliveries may take after the last write.
const PATIENCE: Duration = Duration::from_secs(60);

/// Prints the latencies of paced commits.
///
/// # Errors
/// Whatever keeps it from measuring.
pub async fn latency(load: &LiveLoad) -> Outcome<()> {
    let sides = Side::all(load).await?;
    println!("| subscribers | server | p50 ms | p99 ms | write p50 ms | after the answer p50 ms | p99 ms |");
    println!("|---|---|---|---|---|---|---|");
    let mut figures = vec![Vec::new(); sides.len()];
    for _ in 0..load.runs {
        for (side, figures) in sides.iter().zip(&mut figures) {
            figures.push(latency_of(side, load).await?);
        }
    }
    for (side, figures) in sides.iter().zip(figures) {
        let of = |which: fn(&Latency) -> f64| median(figures.iter().map(which).collect());
        println!(
            "| {} | {} | {:.2} | {:.2} | {:.2} | {:.2} | {:.2} |",
            load.subscribers,
            side.name(),
            of(|l| l.p50),
            of(|l| l.p99),
            of(|l| l.write),
            of(|l| l.after_p50),
            of(|l| l.after_p99)
        );
    }
    Ok(())
}

#[derive(Debug, Clone, Copy)]
struct Latency {
    p50: f64,
    p99: f64,
    write: f64,
    after_p50: f64,
    after_p99: f64,
}

/// A row that was written: the time before the request, which is in the row, and that of the answer.
#[derive(Debug, Clone, Copy)]
struct Written {
    sent: u64,
    answered: u64,
}

async fn latency_of(side: &Side, load: &LiveLoad) -> io::Result<Latency> {
    let tally = Arc::new(Tally::default());
    let readers = side.subscribers(load.subscribers, &tally).await?;
    let mut writer = side.writer().await?;
    // Everybody has slept through the first ones.
    paced(side, &mut writer, &tally, load, Duration::from_secs(1)).await?;
    tally.restart(true);
    let writes = paced(side, &mut writer, &tally, load, Duration::from_secs(load.seconds)).await?;
    until_delivered(&tally, (writes.len() * readers.len()) as u64).await?;
    let latencies = tally.latencies();
    // Some come before the answer.
    let answered: HashMap<u64, u64> = writes.iter().map(|write| (write.sent, write.answered)).collect();
    let after = |arrival: &Arrival| {
        answered.get(&arrival.sent).map(|answered| (arrival.came as f64 - *answered as f64) / 1_000.0)
    };
    let after: Vec<f64> = tally.arrivals().iter().filter_map(after).collect();
    Ok(Latency {
        p50: percentile(latencies.clone(), 0.5),
        p99: percentile(latencies, 0.99),
        write: median(writes.iter().map(|write| (write.answered - write.sent) as f64 / 1_000.0).collect()),
        after_p50: percentile(after.clone(), 0.5),
        after_p99: percentile(after, 0.99),
    })
}

/// Writes one row after another with a pause in which all subscribers can be served, and returns when each was written.
async fn paced(
    side: &Side,
    writer: &mut Writer,
    tally: &Tally,
    load: &LiveLoad,
    time: Duration,
) -> io::Result<Vec<Written>> {
    let pause = Duration::from_micros(5_000 + 100 * load.subscribers as u64);
    let (begun, mut written) = (Instant::now(), Vec::new());
    while begun.elapsed() < time {
        let sent = tally.now();
        side.write(writer, sent).await?;
        written.push(Written { sent, answered: tally.now() });
        tokio::time::sleep(pause).await;
    }
    Ok(written)
}

/// Waits until so many events arrived, over all subscribers.
///
/// # Errors
/// [`io::ErrorKind::TimedOut`], saying how many did.
pub async fn until_delivered(tally: &Tally, expected: u64) -> io::Result<()> {
    let begun = Instant::now();
    while tally.received() < expected {
        if begun.elapsed() > PATIENCE {
            let message = format!("{} of {expected} events arrived", tally.received());
            return Err(io::Error::new(io::ErrorKind::TimedOut, message));
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok(())
}

/// Prints how many events a second arrive when writers do not wait.
///
/// # Errors
/// Whatever keeps it from measuring.
pub async fn fanout(load: &LiveLoad) -> Outcome<()> {
    let sides = Side::all(load).await?;
    println!("| subscribers | writers | server | events/s | commits/s |\n|---|---|---|---|---|");
    let mut figures = vec![Vec::new(); sides.len()];
    for _ in 0..load.runs {
        for (side, figures) in sides.iter().zip(&mut figures) {
            figures.push(fanout_of(side, load).await?);
        }
    }
    for (side, figures) in sides.iter().zip(figures) {
        let events = median(figures.iter().map(|(events, _)| *events).collect());
        let commits = median(figures.iter().map(|(_, commits)| *commits).collect());
        println!(
            "| {} | {} | {} | {events:.0} | {commits:.0} |",
            load.subscribers,
            load.writers,
            side.name()
        );
    }
    Ok(())
}

async fn fanout_of(side: &Side, load: &LiveLoad) -> io::Result<(f64, f64)> {
    let tally = Arc::new(Tally::default());
    let readers = side.subscribers(load.subscribers, &tally).await?;
    let begun = Instant::now();
    let writers = (0..load.writers).map(|_| async {
        let mut writer = side.writer().await?;
        let mut commits = 0;
        while begun.elapsed() < Duration::from_secs(load.seconds) {
            side.write(&mut writer, tally.now()).await?;
            commits += 1;
        }
        io::Result::Ok(commits)
    });
    let commits: u64 = try_join_all(writers).await?.into_iter().sum();
    let wrote = begun.elapsed().as_secs_f64();
    let events = commits * readers.len() as u64;
    until_delivered(&tally, events).await?;
    Ok((events as f64 / begun.elapsed().as_secs_f64(), commits as f64 / wrote))
}
