//! Counters of the server, and `GET /metrics` in the text form that Prometheus reads.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use parking_lot::RwLock;

use super::state::Shared;

/// Upper bounds of the request time buckets, in microseconds.
const BUCKETS: [u64; 12] =
    [100, 250, 500, 1000, 2500, 5000, 10_000, 25_000, 100_000, 250_000, 1_000_000, 10_000_000];

/// All counters; each is independent of the others and never goes back, except gauges.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    requests: RwLock<BTreeMap<RequestKind, Timed>>,
    /// Statements that were answered.
    pub(crate) statements: AtomicU64,
    /// Statements that failed.
    pub(crate) failures: AtomicU64,
    /// Rows that imports committed.
    pub(crate) imported_rows: AtomicU64,
    /// Feeds that are open.
    pub(crate) feeds: Gauge,
    /// Events sent to feeds.
    pub(crate) events: AtomicU64,
    /// Bytes sent to feeds.
    pub(crate) feed_bytes: AtomicU64,
    /// Connections that are open.
    pub(crate) connections: Gauge,
}

/// What requests are counted by: the route's pattern (never the path, which is unbounded), and the status.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct RequestKind {
    route: String,
    status: u16,
}

#[derive(Debug, Default)]
struct Timed {
    buckets: [AtomicU64; BUCKETS.len()],
    count: AtomicU64,
    micros: AtomicU64,
}

/// A number that goes up and down.
#[derive(Debug, Default)]
pub(crate) struct Gauge(AtomicI64);

impl Gauge {
    /// One more.
    pub(crate) fn up(&self) {
        self.0.fetch_add(1, Relaxed);
    }

    /// One less.
    pub(crate) fn down(&self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl Metrics {
    /// Counts one answered request.
    pub(crate) fn request(&self, route: &str, status: u16, took: Duration) {
        let kind = RequestKind { route: route.to_owned(), status };
        if let Some(timed) = self.requests.read().get(&kind) {
            timed.add(took);
            return;
        }
        self.requests.write().entry(kind).or_default().add(took);
    }

    fn render(&self, uptime: Duration) -> String {
        let mut text = String::with_capacity(4096);
        let version = env!("CARGO_PKG_VERSION");
        let commit = env!("KALAMDB_COMMIT");
        family(&mut text, "kalamdb_build_info", "gauge", "Version and commit of the running server.");
        line(&mut text, &format!("kalamdb_build_info{{version=\"{version}\",commit=\"{commit}\"}}"), 1);
        family(&mut text, "kalamdb_uptime_seconds", "gauge", "Seconds since the server started.");
        line(&mut text, "kalamdb_uptime_seconds", uptime.as_secs());
        let gauges = [
            ("kalamdb_connections", "Connections that are open.", &self.connections),
            ("kalamdb_feeds", "Live feeds that are open.", &self.feeds),
        ];
        for (name, help, gauge) in gauges {
            family(&mut text, name, "gauge", help);
            line(&mut text, name, gauge.0.load(Relaxed));
        }
        let counters = [
            ("kalamdb_statements_total", "Statements that succeeded.", &self.statements),
            ("kalamdb_statement_failures_total", "Statements that failed.", &self.failures),
            ("kalamdb_imported_rows_total", "Rows committed by imports.", &self.imported_rows),
            ("kalamdb_feed_events_total", "Events sent to live feeds.", &self.events),
            ("kalamdb_feed_bytes_total", "Bytes sent to live feeds.", &self.feed_bytes),
        ];
        for (name, help, counter) in counters {
            family(&mut text, name, "counter", help);
            line(&mut text, name, counter.load(Relaxed));
        }
        self.render_requests(&mut text);
        text
    }

    fn render_requests(&self, text: &mut String) {
        const NAME: &str = "kalamdb_http_request_duration_seconds";
        family(text, NAME, "histogram", "Time until the head of the answer, by route and status.");
        for (kind, timed) in self.requests.read().iter() {
            let labels = format!("route=\"{}\",status=\"{}\"", kind.route, kind.status);
            for (bound, count) in BUCKETS.iter().zip(&timed.buckets) {
                let bound = *bound as f64 / 1e6;
                line(text, &format!("{NAME}_bucket{{{labels},le=\"{bound}\"}}"), count.load(Relaxed));
            }
            let count = timed.count.load(Relaxed);
            line(text, &format!("{NAME}_bucket{{{labels},le=\"+Inf\"}}"), count);
            line(text, &format!("{NAME}_sum{{{labels}}}"), timed.micros.load(Relaxed) as f64 / 1e6);
            line(text, &format!("{NAME}_count{{{labels}}}"), count);
        }
    }
}

impl Timed {
    fn add(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        // Buckets are cumulative: one counts everything up to its bound.
        for (bound, bucket) in BUCKETS.iter().zip(&self.buckets) {
            if micros <= *bound {
                bucket.fetch_add(1, Relaxed);
            }
        }
        self.count.fetch_add(1, Relaxed);
        self.micros.fetch_add(micros, Relaxed);
    }
}

// Writing to a String cannot fail.
fn family(text: &mut String, name: &str, kind: &str, help: &str) {
    let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
}

fn line(text: &mut String, series: &str, value: impl std::fmt::Display) {
    let _ = writeln!(text, "{series} {value}");
}

/// `GET /metrics`.
pub(crate) async fn metrics(State(app): State<Shared>) -> Response {
    let text = app.metrics.render(app.started.elapsed());
    ([("content-type", "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_cumulative_and_every_line_is_a_sample_or_a_comment() {
        let metrics = Metrics::default();
        for micros in [50, 300, 400, 20_000_000] {
            metrics.request("/api/sql", 200, Duration::from_micros(micros));
        }
        metrics.feeds.up();
        let text = metrics.render(Duration::from_secs(3));
        let value = |series: &str| {
            text.lines().find_map(|line| line.strip_prefix(series)?.trim().parse::<f64>().ok()).unwrap()
        };
        let bucket = |le| {
            value(&format!(
                "kalamdb_http_request_duration_seconds_bucket{{route=\"/api/sql\",status=\"200\",le=\"{le}\"}}"
            ))
        };
        assert_eq!(
            [bucket("0.0001"), bucket("0.00025"), bucket("0.0005"), bucket("+Inf")],
            [1.0, 1.0, 3.0, 4.0]
        );
        assert_eq!(value("kalamdb_feeds"), 1.0);
        assert_eq!(value("kalamdb_uptime_seconds"), 3.0);
        for line in text.lines().filter(|line| !line.starts_with("# ")) {
            assert!(line.rsplit_once(' ').is_some_and(|(_, value)| value.parse::<f64>().is_ok()), "{line}");
        }
    }
}
