//! Load on a running server: single-row durable inserts over many keep-alive connections.

use std::io;
use std::time::{Duration, Instant};

use crate::http::{Connection, basic};
use crate::measure::percentile;

/// What to load, and how.
#[derive(Debug, Clone)]
pub struct Load {
    /// `host:port` of the server.
    pub address: String,
    /// `user:password`.
    pub credentials: String,
    /// Connections, each with one request under way.
    pub connections: usize,
    /// How long.
    pub duration: Duration,
}

/// What came of it.
#[derive(Debug, Clone, Copy)]
pub struct Outcome {
    /// Acknowledged inserts per second.
    pub per_second: f64,
    /// Median time from request to answer, milliseconds.
    pub p50_ms: f64,
    /// 99th percentile of the same.
    pub p99_ms: f64,
}

/// Creates the table and inserts rows of about 200 bytes until the time is over.
///
/// # Errors
/// From the network, or the server's answer if it is not success.
pub async fn run(load: &Load) -> io::Result<Outcome> {
    let mut first = Connection::open(&load.address, &basic(&load.credentials)).await?;
    first.sql("DROP TABLE IF EXISTS bench_inserts").await?;
    first.sql("CREATE SHARED TABLE bench_inserts (id BIGINT PRIMARY KEY, name TEXT NOT NULL, body TEXT, score INT)").await?;
    let started = Instant::now();
    let workers = (0..load.connections).map(|worker| {
        let load = load.clone();
        tokio::spawn(async move { insert_until(&load, worker, started + load.duration).await })
    });
    let mut latencies = Vec::new();
    for worker in workers.collect::<Vec<_>>() {
        latencies.extend(worker.await.map_err(io::Error::other)??);
    }
    let elapsed = started.elapsed().as_secs_f64();
    let per_second = latencies.len() as f64 / elapsed;
    Ok(Outcome {
        per_second,
        p50_ms: percentile(latencies.clone(), 0.5),
        p99_ms: percentile(latencies, 0.99),
    })
}

async fn insert_until(load: &Load, worker: usize, end: Instant) -> io::Result<Vec<f64>> {
    let mut connection = Connection::open(&load.address, &basic(&load.credentials)).await?;
    let body = "x".repeat(150);
    let mut latencies = Vec::new();
    for n in 0.. {
        let sent = Instant::now();
        if sent >= end {
            break;
        }
        let id = (worker as u64) << 32 | n;
        let json = format!(
            r#"{{"sql":"INSERT INTO bench_inserts (id, name, body, score) VALUES ($1, $2, $3, $4)","params":[{id},"name {n}","{body}",{n}]}}"#
        );
        connection.post("/api/sql", &json).await?;
        latencies.push(sent.elapsed().as_secs_f64() * 1_000.0);
    }
    Ok(latencies)
}
