//! What only KalamDB is asked.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures::future::try_join_all;
use tokio::net::TcpStream;

use super::LiveLoad;
use super::delivery::until_delivered;
use super::feed::{Readers, Tally};
use super::kalamdb::Kalamdb;
use super::side::BODY;
use crate::http::Connection;
use crate::measure::{median, percentile};
use crate::report::Outcome;

/// How many feeds are opened at a time.
const AT_A_TIME: usize = 50;
/// How often the subscriptions are listed.
const LISTINGS: usize = 51;
/// The receive buffer of a client that stalls: it should be full soon.
const SMALL: u32 = 16 << 10;

async fn start(load: &LiveLoad) -> io::Result<Kalamdb> {
    Kalamdb::start(&load.kalamdb, load.directory()?).await
}

/// Feeds to which nothing happens: their memory, what the server does meanwhile, and how long listing them takes.
///
/// # Errors
/// Whatever keeps it from measuring.
pub async fn idle(load: &LiveLoad) -> Outcome<()> {
    let server = start(load).await?;
    let mut root = server.connection().await?;
    // What the first feeds need once is not theirs.
    let _first = feeds(&server, "u", 100, 0).await?;
    let before = server.process.usage()?;
    let _all = feeds(&server, "u", load.subscribers, 100).await?;
    let after = server.process.usage()?;
    let each = (after.resident.saturating_sub(before.resident)) as f64 / load.subscribers as f64 / 1024.0;
    println!("{} idle feeds of as many users: {each:.1} KiB each", load.subscribers);
    let (begun, cpu) = (Instant::now(), server.process.usage()?.cpu);
    tokio::time::sleep(Duration::from_secs(load.seconds)).await;
    let share = (server.process.usage()?.cpu - cpu) / begun.elapsed().as_secs_f64();
    println!("processor while idle, heartbeats included: {:.1} % of a core", share * 100.0);
    for sql in [
        "SELECT count(*) FROM system.live_queries",
        "SELECT live_id, state, lag FROM system.live_queries WHERE user_id = 'user-7'",
        "SELECT * FROM system.live_queries",
    ] {
        let (mut times, cpu) = (Vec::new(), server.process.usage()?.cpu);
        for _ in 0..LISTINGS {
            let begun = Instant::now();
            root.sql(sql).await?;
            times.push(begun.elapsed().as_secs_f64() * 1_000.0);
        }
        let cpu = (server.process.usage()?.cpu - cpu) * 1_000.0 / LISTINGS as f64;
        println!("{:.2} ms, {cpu:.2} ms of processor time: {sql}", median(times));
    }
    Ok(())
}

/// A feed for each of so many users.
async fn feeds(
    server: &Kalamdb,
    table: &str,
    count: usize,
    from: usize,
) -> io::Result<Vec<(TcpStream, Vec<u8>)>> {
    let mut feeds = Vec::with_capacity(count);
    while feeds.len() < count {
        let batch = AT_A_TIME.min(count - feeds.len());
        let users: Vec<String> = (0..batch).map(|n| format!("user-{}", from + feeds.len() + n)).collect();
        feeds.extend(try_join_all(users.iter().map(|u| server.subscribe(Some(u), table, None))).await?);
    }
    Ok(feeds)
}

/// One feed per user: how long a commit takes to its user's feed, and what the others' feeds add to a commit.
///
/// # Errors
/// Whatever keeps it from measuring.
pub async fn users(load: &LiveLoad) -> Outcome<()> {
    let server = start(load).await?;
    let mut alone = server.connection_of("nobody listens").await?;
    let without = commits(&server, &mut alone, load).await?;
    let tally = Arc::new(Tally::default());
    let feeds = feeds(&server, "u", load.subscribers, 0).await?;
    let mut readers = Readers::start(&tally)?;
    feeds.into_iter().try_for_each(|(stream, rest)| readers.add(stream, rest))?;
    let with = commits(&server, &mut alone, load).await?;
    println!(
        "a commit to another partition: p50 {without:.3} ms without feeds, {with:.3} ms beside {}",
        load.subscribers
    );
    tally.restart(true);
    let mut expected = 0;
    let begun = Instant::now();
    // Everywhere among the users, in an order that is neither that of their feeds nor random.
    for n in 0.. {
        if begun.elapsed() > Duration::from_secs(load.seconds) {
            break;
        }
        let user = format!("user-{}", n * 7_919 % load.subscribers);
        let mut connection = server.connection_of(&user).await?;
        for _ in 0..3 {
            server.write(&mut connection, "u", tally.now(), BODY).await?;
            expected += 1;
        }
    }
    until_delivered(&tally, expected).await?;
    let latencies = tally.latencies();
    println!(
        "{expected} commits to the partitions of {} users with a feed each: p50 {:.2} ms, p99 {:.2} ms",
        load.subscribers,
        percentile(latencies.clone(), 0.5),
        percentile(latencies, 0.99)
    );
    Ok(())
}

/// The median time of a commit of one connection, milliseconds.
async fn commits(server: &Kalamdb, by: &mut Connection, load: &LiveLoad) -> io::Result<f64> {
    let (begun, mut times) = (Instant::now(), Vec::new());
    while begun.elapsed() < Duration::from_secs(load.seconds) {
        let written = Instant::now();
        server.write(by, "u", 0, BODY).await?;
        times.push(written.elapsed().as_secs_f64() * 1_000.0);
    }
    Ok(median(times))
}

/// Clients that do not read, beside writers: the writers' speed without and with them, the memory, and whether each
/// client has everything in the end.
///
/// # Errors
/// Whatever keeps it from measuring; if events are missing or doubled.
pub async fn stalled(load: &LiveLoad) -> Outcome<()> {
    let server = start(load).await?;
    let next = AtomicU64::new(1);
    write(&server, load, &next, 2).await?;
    let (mut without, mut with) = (Vec::new(), Vec::new());
    for run in 0..load.runs {
        without.push(write(&server, load, &next, load.seconds).await?);
        let first = next.load(Ordering::SeqCst);
        let before = server.process.usage()?;
        let mut clients = Vec::with_capacity(load.subscribers);
        while clients.len() < load.subscribers {
            let batch = (0..AT_A_TIME.min(load.subscribers - clients.len()))
                .map(|_| server.subscribe(None, "t", Some(SMALL)));
            clients.extend(try_join_all(batch).await?);
        }
        // Until what the sockets and queues take is full.
        write(&server, load, &next, load.seconds).await?;
        with.push(write(&server, load, &next, load.seconds).await?);
        let after = server.process.usage()?;
        println!(
            "run {run}: {:.0} commits/s without, {:.0} beside {} stalled clients; memory {} MiB before, {} MiB after",
            without[run],
            with[run],
            load.subscribers,
            before.resident >> 20,
            after.resident >> 20
        );
        if run + 1 == load.runs {
            let last = next.load(Ordering::SeqCst);
            read_all(clients, first, last, &server).await?;
        }
    }
    let ratio = median(with) / median(without);
    println!("medians: {:.1} % of the speed without them", ratio * 100.0);
    Ok(())
}

/// Rows a second by all writers together. Numbers go on rising by one.
async fn write(server: &Kalamdb, load: &LiveLoad, next: &AtomicU64, seconds: u64) -> io::Result<f64> {
    let (begun, first) = (Instant::now(), next.load(Ordering::SeqCst));
    try_join_all((0..load.writers).map(|_| async {
        let mut connection = server.connection().await?;
        while begun.elapsed() < Duration::from_secs(seconds) {
            server.write(&mut connection, "t", next.fetch_add(1, Ordering::SeqCst), BODY).await?;
        }
        io::Result::Ok(())
    }))
    .await?;
    Ok((next.load(Ordering::SeqCst) - first) as f64 / begun.elapsed().as_secs_f64())
}

async fn read_all(
    clients: Vec<(TcpStream, Vec<u8>)>,
    first: u64,
    last: u64,
    server: &Kalamdb,
) -> Outcome<()> {
    let (begun, count) = (Instant::now(), clients.len() as u64);
    let tally = Arc::new(Tally::default());
    let mut readers = Readers::start(&tally)?;
    clients.into_iter().try_for_each(|(stream, rest)| readers.add(stream, rest))?;
    let each = last - first;
    let mut behind = 0;
    while tally.received() < each * count {
        if behind == tally.received() && begun.elapsed() > Duration::from_secs(60) {
            break;
        }
        behind = tally.received();
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    // What came twice came by now.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let sum = (first..last).fold(0u64, u64::wrapping_add).wrapping_mul(count);
    let whole = tally.received() == each * count && tally.sum() == sum;
    println!(
        "then they read: {} events for each of {count} clients in {:.1} s, {}; memory {} MiB",
        each,
        begun.elapsed().as_secs_f64() - 1.0,
        if whole { "each exactly once" } else { "NOT each exactly once" },
        server.process.usage()?.resident >> 20
    );
    match whole {
        true => Ok(()),
        false => Err(format!("{} events instead of {}", tally.received(), each * count).into()),
    }
}

/// A STREAM table: inserts at a steady rate, and how long they and their deliveries take.
///
/// # Errors
/// Whatever keeps it from measuring.
pub async fn stream(load: &LiveLoad) -> Outcome<()> {
    let server = start(load).await?;
    let mut connection = server.connection().await?;
    let mut dropped = Vec::new();
    for _ in 0..2_000 {
        let begun = Instant::now();
        server.write(&mut connection, "e", 0, BODY).await?;
        dropped.push(begun.elapsed().as_secs_f64() * 1_000.0);
    }
    println!(
        "insert into an ephemeral stream without subscribers: p50 {:.3} ms, p99 {:.3} ms",
        percentile(dropped.clone(), 0.5),
        percentile(dropped, 0.99)
    );
    let tally = Arc::new(Tally::default());
    let mut readers = Readers::start(&tally)?;
    for _ in 0..load.subscribers {
        let (stream, rest) = server.subscribe(None, "s", None).await?;
        readers.add(stream, rest)?;
    }
    tally.restart(true);
    let begun = Instant::now();
    let writers = (0..load.writers).map(|_| async {
        let mut connection = server.connection().await?;
        let mut times = Vec::new();
        while begun.elapsed() < Duration::from_secs(load.seconds) {
            let written = Instant::now();
            server.write(&mut connection, "s", tally.now(), BODY).await?;
            times.push(written.elapsed().as_secs_f64() * 1_000.0);
        }
        io::Result::Ok(times)
    });
    let times: Vec<f64> = try_join_all(writers).await?.into_iter().flatten().collect();
    let rate = times.len() as f64 / begun.elapsed().as_secs_f64();
    until_delivered(&tally, (times.len() * readers.len()) as u64).await?;
    let latencies = tally.latencies();
    println!(
        "{rate:.0} events/s by {} writers to {} subscribers: insert p50 {:.3} ms, p99 {:.3} ms; delivery p50 {:.3} ms, p99 {:.3} ms",
        load.writers,
        readers.len(),
        percentile(times.clone(), 0.5),
        percentile(times, 0.99),
        percentile(latencies.clone(), 0.5),
        percentile(latencies, 0.99)
    );
    Ok(())
}
