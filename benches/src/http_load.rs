//! Load on a running server: single-row durable inserts over many keep-alive connections.
//!
//! A client as thin as can be (one task and one socket per connection, requests written as bytes), since it shares the
//! machine with what it measures.

use std::io;
use std::time::{Duration, Instant};

use base64::Engine;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

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
    let mut first = Connection::open(load).await?;
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
    let mut connection = Connection::open(load).await?;
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
        connection.post(&json).await?;
        latencies.push(sent.elapsed().as_secs_f64() * 1_000.0);
    }
    Ok(latencies)
}

/// One keep-alive connection.
struct Connection {
    stream: TcpStream,
    head: String,
    buffer: Vec<u8>,
}

impl Connection {
    async fn open(load: &Load) -> io::Result<Self> {
        let stream = TcpStream::connect(&load.address).await?;
        stream.set_nodelay(true)?;
        let credentials = base64::engine::general_purpose::STANDARD.encode(&load.credentials);
        let head = format!(
            "POST /api/sql HTTP/1.1\r\nHost: {}\r\nAuthorization: Basic {credentials}\r\nContent-Type: application/json\r\n",
            load.address
        );
        Ok(Self { stream, head, buffer: Vec::with_capacity(4096) })
    }

    async fn sql(&mut self, sql: &str) -> io::Result<()> {
        self.post(&format!(r#"{{"sql":"{sql}"}}"#)).await
    }

    async fn post(&mut self, json: &str) -> io::Result<()> {
        let request = format!("{}Content-Length: {}\r\n\r\n{json}", self.head, json.len());
        self.stream.write_all(request.as_bytes()).await?;
        self.buffer.clear();
        let end = loop {
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if let Some(end) = response_end(&self.buffer) {
                break end;
            }
        };
        let answer = String::from_utf8_lossy(&self.buffer[..end]);
        match answer.starts_with("HTTP/1.1 200") {
            true => Ok(()),
            false => Err(io::Error::other(answer.into_owned())),
        }
    }
}

/// Where a whole response ends, if it is all there: by its length, or by the last chunk.
fn response_end(bytes: &[u8]) -> Option<usize> {
    let head_end = bytes.windows(4).position(|w| w == b"\r\n\r\n")? + 4;
    let head = std::str::from_utf8(&bytes[..head_end]).ok()?.to_ascii_lowercase();
    if let Some(at) = head.find("content-length:") {
        let length: usize = head[at + 15..].lines().next()?.trim().parse().ok()?;
        return (bytes.len() >= head_end + length).then_some(head_end + length);
    }
    bytes.ends_with(b"0\r\n\r\n").then_some(bytes.len())
}
