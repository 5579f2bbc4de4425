//! What the server is doing: `system.queries`, `system.settings`, `system.metrics`.

use std::sync::atomic::Ordering;

use kalamdb_engine::DataType::{BigInt, Double, Json, Text, Timestamp};
use kalamdb_engine::SYSTEM_NAMESPACE;
use kalamdb_engine::system::Cell;

use super::{PartitionFacts, define_table};
use crate::error::Result;
use crate::grid;
use crate::statement::StatementContext;

define_table!(
    /// `system.queries`: the statements that run now, this one included.
    Queries,
    SYSTEM_NAMESPACE,
    "queries",
    everyone: false,
    [
        "query_id": Text,
        "user_id": Text,
        "sql": Text,
        "state": Text,
        "started_at": Timestamp,
        "duration_ms": Double,
        "rows": BigInt,
        "node_id": Text,
    ],
    queries
);

async fn queries(ctx: &StatementContext) -> Result<Vec<Vec<Cell>>> {
    let now = ctx.instance.clock().now_micros();
    let node = ctx.instance.database().config().node_id.to_string();
    let rows = ctx.instance.running().list().into_iter().map(|query| {
        vec![
            Cell::from(query.id.to_string()),
            Cell::from(query.user.as_str()),
            Cell::from(query.shown_text()),
            Cell::from("running"),
            Cell::Int(query.started_at),
            Cell::Double((now - query.started_at) as f64 / 1_000.0),
            grid::count(query.rows.load(Ordering::Relaxed)),
            Cell::from(node.as_str()),
        ]
    });
    Ok(rows.collect())
}

define_table!(
    /// `system.settings`: what the server was started with.
    Settings,
    SYSTEM_NAMESPACE,
    "settings",
    everyone: false,
    ["name": Text, "value": Text, "source": Text],
    settings
);

async fn settings(ctx: &StatementContext) -> Result<Vec<Vec<Cell>>> {
    let row = |setting: &crate::instance::Setting| {
        vec![
            Cell::from(setting.name.as_str()),
            Cell::from(setting.value.as_str()),
            Cell::from(setting.source.as_str()),
        ]
    };
    Ok(ctx.instance.settings().iter().map(row).collect())
}

define_table!(
    /// `system.metrics`: counters and gauges.
    Metrics,
    SYSTEM_NAMESPACE,
    "metrics",
    everyone: false,
    ["name": Text, "labels": Json, "value": Double],
    metrics
);

async fn metrics(ctx: &StatementContext) -> Result<Vec<Vec<Cell>>> {
    let database = ctx.instance.database();
    let loaded = database.loaded_partitions();
    let facts =
        loaded.iter().fold(PartitionFacts::default(), |sum, (_, version)| sum + PartitionFacts::of(version));
    let streams = database.streams().stats();
    let plans = ctx.instance.queries().plans().stats();
    let log = database.log_metrics();
    let values = [
        ("kalamdb_plan_cache_plans", plans.plans),
        ("kalamdb_plan_cache_hits_total", plans.hits),
        ("kalamdb_plan_cache_misses_total", plans.misses),
        ("kalamdb_key_lookups_total", plans.lookups),
        ("kalamdb_tables", ctx.catalog.tables().count() as u64),
        ("kalamdb_namespaces", ctx.catalog.namespaces().count() as u64),
        ("kalamdb_partitions_loaded", loaded.len() as u64),
        ("kalamdb_hot_rows", facts.hot_rows),
        ("kalamdb_hot_bytes", facts.hot_bytes),
        ("kalamdb_segments", facts.segments),
        ("kalamdb_segment_bytes", facts.segment_bytes),
        ("kalamdb_stream_rows", streams.rows),
        ("kalamdb_stream_bytes", streams.bytes as u64),
        ("kalamdb_visible_seq", database.visible()),
        ("kalamdb_background_failures", database.background_failures().len() as u64),
        ("kalamdb_snapshot_horizon_seq", database.horizon()),
        ("kalamdb_log_bytes", log.retained_bytes),
        ("kalamdb_log_segments", log.segments),
        ("kalamdb_log_begin_seq", database.feed_begin()),
        ("kalamdb_log_replay_seq", database.replay_begin()),
        ("kalamdb_live_queries", ctx.instance.live().count() as u64),
        ("kalamdb_running_statements", ctx.instance.running().list().len() as u64),
    ];
    let row =
        |(name, value): (&str, u64)| vec![Cell::from(name), Cell::from("{}"), Cell::Double(value as f64)];
    Ok(values.into_iter().map(row).collect())
}
