//! Scan and aggregate: flushed rows beside plain DataFusion over the same Parquet files, rows in memory beside its
//! `MemTable`, half and half beside Parquet alone, and a range of time over many segments.

use std::sync::Arc;

use datafusion::datasource::MemTable;

use crate::place::Place;
use crate::report::{Budget, Comparison, Outcome, Sample};
use crate::sql_table::{SqlFixture, plain};

const ROWS: i64 = 400_000;
const TURNS: usize = 9;
const GROUPED: &str = "SELECT name, count(*), sum(score), max(id) FROM rows GROUP BY name";
const FILTERED: &str = "SELECT count(*), sum(score) FROM rows WHERE score >= 900";

/// See the module.
#[derive(Debug)]
pub struct Scan;

impl Comparison for Scan {
    fn name(&self) -> &'static str {
        "sql-scan"
    }

    fn run(&self, place: &Place) -> Outcome<Vec<Sample>> {
        let mut samples = flushed(place)?;
        samples.extend(hot(place)?);
        Ok(samples)
    }
}

fn sample(work: String, beside: &'static str, (ours, theirs): (f64, f64), limit: f64) -> Sample {
    let (ours, theirs) = (ours / 1e3, theirs / 1e3);
    Sample { work, beside, ours, theirs, unit: "ms", budget: Budget::AtMost(limit) }
}

fn flushed(place: &Place) -> Outcome<Vec<Sample>> {
    let dir = place.dir()?;
    let fixture = SqlFixture::open(place, &dir.path().join("db"))?;
    fixture.fill(0..ROWS)?;
    fixture.run("FLUSH TABLE rows", &[])?;
    let files = fixture.over_parquet()?;
    let mut samples = Vec::new();
    let both = [("GROUP BY", GROUPED), ("WHERE", FILTERED)];
    for (what, sql) in both {
        let times = fixture.beside(&files, sql, TURNS)?;
        samples.push(sample(
            format!("sql: {what} over {ROWS} flushed rows"),
            "DataFusion, same Parquet",
            times,
            1.1,
        ));
    }
    // Rows here and there, and rows in runs of a hundred.
    fixture.run("DELETE FROM rows WHERE id % 40 = 7", &[])?;
    fixture.run("UPDATE rows SET score = score + 1 WHERE id % 4000 < 100", &[])?;
    for (what, sql) in both {
        let times = fixture.beside(&files, sql, TURNS)?;
        let work = format!("sql: {what}, 5 % of the rows deleted or updated since");
        samples.push(sample(work, "DataFusion, same Parquet", times, 1.3));
    }
    fixture.close()?;
    Ok(samples)
}

fn hot(place: &Place) -> Outcome<Vec<Sample>> {
    let dir = place.dir()?;
    let fixture = SqlFixture::open(place, &dir.path().join("db"))?;
    fixture.fill(0..ROWS / 2)?;
    let (_, rows) = fixture.chunks()?;
    let memory = plain();
    // Spread over partitions, as MemTable does not by itself.
    let mut parts = vec![Vec::new(); crate::sql_table::PARTITIONS];
    for (at, batch) in rows.iter().enumerate() {
        parts[at % crate::sql_table::PARTITIONS].push(batch.clone());
    }
    memory.register_table("rows", Arc::new(MemTable::try_new(rows[0].schema(), parts)?))?;
    let mut samples = Vec::new();
    for (what, sql) in [("GROUP BY", GROUPED), ("WHERE", FILTERED)] {
        let times = fixture.beside(&memory, sql, TURNS)?;
        let work = format!("sql: {what} over {} rows in memory", ROWS / 2);
        samples.push(sample(work, "DataFusion, MemTable", times, 1.3));
    }
    fixture.run("FLUSH TABLE rows", &[])?;
    fixture.fill(ROWS / 2..ROWS)?;
    // The same rows, all of them flushed.
    let other = SqlFixture::open(place, &dir.path().join("other"))?;
    other.fill(0..ROWS)?;
    other.run("FLUSH TABLE rows", &[])?;
    let files = other.over_parquet()?;
    let times = fixture.beside(&files, GROUPED, TURNS)?;
    samples.push(sample(
        format!("sql: GROUP BY, half of {ROWS} rows flushed"),
        "DataFusion, Parquet only",
        times,
        1.3,
    ));
    fixture.close()?;
    other.close()?;
    Ok(samples)
}

/// Sorts and joins, whose memory is counted and bounded here and is not beside.
#[derive(Debug)]
pub struct Operators;

impl Comparison for Operators {
    fn name(&self) -> &'static str {
        "sql-operators"
    }

    fn run(&self, place: &Place) -> Outcome<Vec<Sample>> {
        const QUERIES: [(&str, &str); 4] = [
            ("ORDER BY text and number", "SELECT id, name, score FROM rows ORDER BY name, score DESC"),
            ("ORDER BY with LIMIT", "SELECT id, name, body FROM rows ORDER BY score, id LIMIT 10"),
            (
                "JOIN by key",
                "SELECT a.score, count(*) FROM rows a JOIN rows b ON b.id = a.id + 1 GROUP BY a.score",
            ),
            (
                "window",
                "SELECT max(r) FROM (SELECT row_number() OVER (PARTITION BY name ORDER BY score) r FROM rows)",
            ),
        ];
        let dir = place.dir()?;
        let fixture = SqlFixture::open(place, &dir.path().join("db"))?;
        fixture.fill(0..ROWS)?;
        fixture.run("FLUSH TABLE rows", &[])?;
        let files = fixture.over_parquet()?;
        let mut samples = Vec::new();
        for (what, sql) in QUERIES {
            let times = fixture.beside(&files, sql, TURNS)?;
            samples.push(sample(
                format!("sql: {what}, {ROWS} flushed rows"),
                "DataFusion, same Parquet",
                times,
                1.3,
            ));
        }
        fixture.close()?;
        Ok(samples)
    }
}

/// A query for 1 % of the time that a hundred segments cover.
#[derive(Debug)]
pub struct Range;

impl Comparison for Range {
    fn name(&self) -> &'static str {
        "sql-range"
    }

    fn run(&self, place: &Place) -> Outcome<Vec<Sample>> {
        const SEGMENTS: i64 = 100;
        const EACH: i64 = 2_000;
        let dir = place.dir()?;
        let fixture = SqlFixture::open(place, &dir.path().join("db"))?;
        for at in 0..SEGMENTS {
            fixture.fill(at * EACH..(at + 1) * EACH)?;
            fixture.run("FLUSH TABLE rows", &[])?;
        }
        let from = 42 * EACH + EACH / 2;
        let range =
            format!("SELECT count(*), sum(score) FROM rows WHERE id >= {from} AND id < {}", from + EACH);
        let plan = fixture.run(&format!("EXPLAIN {range}"), &[])?;
        let plan = kalamdb_engine::arrow::util::pretty::pretty_format_batches(&plan)?.to_string();
        let opened =
            plan.split("segments=").nth(1).and_then(|rest| rest.split(',').next()?.parse::<f64>().ok());
        let files = fixture.over_parquet()?;
        let times = fixture.beside(&files, &range, TURNS)?;
        fixture.close()?;
        Ok(vec![
            Sample {
                work: format!("sql: 1 % of the keys of {SEGMENTS} segments, files opened"),
                beside: "all files",
                ours: opened.ok_or("EXPLAIN says no number of segments")?,
                theirs: SEGMENTS as f64,
                unit: "files",
                budget: Budget::AtMost(0.05),
            },
            Sample {
                work: "sql: the same, time".into(),
                beside: "DataFusion, same Parquet",
                ours: times.0 / 1e3,
                theirs: times.1 / 1e3,
                unit: "ms",
                budget: Budget::None,
            },
        ])
    }
}
