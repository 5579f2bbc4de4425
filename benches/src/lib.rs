//! Side-by-side comparisons: our work beside a physical limit or another system, on the same machine in the same run.
//!
//! A comparison lives in a file of its own, implements [`report::Comparison`] and is listed in [`all`]; `report` runs
//! them and prints one table. Budgets are ratios, so that a noisy or slow machine does not change the verdict.

pub mod bare;
pub mod engine_commit;
pub mod engine_flush;
pub mod engine_growth;
pub mod engine_growth_columns;
pub mod engine_growth_partitions;
pub mod engine_lookup;
pub mod engine_projection;
pub mod engine_scan;
pub mod http;
pub mod http_load;
pub mod live_load;
pub mod measure;
pub mod place;
pub mod report;
pub mod small_partitions;
pub mod sql_paths;
pub mod sql_scan;
pub mod sql_table;
pub mod table;
pub mod wal_commit;
pub mod wal_recovery;
pub mod wal_tail;
pub mod wal_writers;

/// Every comparison, in the order of the table.
pub fn all() -> Vec<Box<dyn report::Comparison>> {
    vec![
        Box::new(wal_commit::Commit),
        Box::new(wal_writers::Writers),
        Box::new(wal_recovery::Recovery::default()),
        Box::new(wal_tail::Tail),
        Box::new(engine_commit::Commit),
        Box::new(engine_commit::Writers),
        Box::new(engine_scan::Scan),
        Box::new(engine_flush::Flush),
        Box::new(engine_flush::Start),
        Box::new(engine_flush::Compaction),
        Box::new(engine_lookup::Lookup),
        Box::new(engine_projection::Projected),
        Box::new(engine_growth::Growth),
        Box::new(engine_growth_partitions::Partitions),
        Box::new(engine_growth_columns::Columns),
        Box::new(small_partitions::SmallPartitions),
        Box::new(sql_scan::Scan),
        Box::new(sql_scan::Range),
        Box::new(sql_scan::Operators),
        Box::new(sql_paths::Paths),
    ]
}
