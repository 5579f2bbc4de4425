//! Short statements: a row by its key, the catalog, views and system tables, and where the time of an INSERT goes.

use std::time::Instant;

use kalamdb_sql::{RowEncoder, RowFormat};
use serde_json::{Value, json};

use crate::measure::{median, micros, time_each};
use crate::place::Place;
use crate::report::{Budget, Comparison, Outcome, Sample};
use crate::sql_table::{SqlFixture, run_in};
use crate::table::insertion;

const ROWS: i64 = 100_000;
const TURNS: usize = 300;
const BY_KEY: &str = "SELECT id, name, score FROM rows WHERE id = $1";

/// See the module.
#[derive(Debug)]
pub struct Paths;

impl Comparison for Paths {
    fn name(&self) -> &'static str {
        "sql-paths"
    }

    fn run(&self, place: &Place) -> Outcome<Vec<Sample>> {
        let dir = place.dir()?;
        let fixture = SqlFixture::open(place, &dir.path().join("db"))?;
        fixture.fill(0..ROWS)?;
        let mut samples = vec![schema_lookup(&fixture)?];
        samples.push(by_key(&fixture, "in memory")?);
        samples.extend(inserts(&fixture)?);
        fixture.run("FLUSH TABLE rows", &[])?;
        samples.push(by_key(&fixture, "flushed")?);
        samples.extend(other_tables(&fixture)?);
        fixture.close()?;
        Ok(samples)
    }
}

fn micro(
    work: impl Into<String>,
    beside: &'static str,
    (ours, theirs): (f64, f64),
    budget: Budget,
) -> Sample {
    Sample { work: work.into(), beside, ours, theirs, unit: "us", budget }
}

fn schema_lookup(fixture: &SqlFixture) -> Outcome<Sample> {
    const EACH: u32 = 10_000;
    let database = fixture.instance.database();
    let begun = Instant::now();
    for _ in 0..EACH {
        let catalog = database.catalog();
        let table = catalog.table("default", "rows").ok_or("no table")?;
        std::hint::black_box(table.schema.rows().clone());
    }
    let time = micros(begun.elapsed()) / f64::from(EACH);
    Ok(micro("sql: schema of a table", "2 us", (time, 2.0), Budget::AtMost(1.0)))
}

fn by_key(fixture: &SqlFixture, place: &str) -> Outcome<Sample> {
    // The comment makes the text another one each time, so that it is parsed and planned.
    let (mut kept, mut planned) = (Vec::new(), Vec::new());
    let mut session = fixture.session()?;
    for turn in 0..TURNS {
        let key = [json!((turn as i64 * 331) % ROWS)];
        let other = format!("{BY_KEY} /* {place} {turn} */");
        for (sql, times) in [(BY_KEY, &mut kept), (other.as_str(), &mut planned)] {
            let begun = Instant::now();
            let rows = fixture.runtime.block_on(run_in(&mut session, sql, &key))?;
            times.push(micros(begun.elapsed()));
            if rows.iter().map(|batch| batch.num_rows()).sum::<usize>() != 1 {
                return Err("a key has no row".into());
            }
        }
    }
    let times = (median(kept), median(planned));
    Ok(micro(format!("sql: a row by its key, {place}"), "the same, planned anew", times, Budget::None))
}

fn inserts(fixture: &SqlFixture) -> Outcome<Vec<Sample>> {
    const SQL: &str = "INSERT INTO rows VALUES ($1, $2, $3, $4)";
    let table = fixture.table()?;
    let mut session = fixture.session()?;
    let mut next = ROWS;
    let params = |id: i64| -> Vec<Value> {
        vec![json!(id), json!(format!("name {id}")), json!(format!("{id:0>160x}")), json!(id % 977)]
    };
    let whole = time_each(TURNS, || {
        next += 1;
        fixture.runtime.block_on(run_in(&mut session, SQL, &params(next))).map(drop)
    })?;
    let commit = time_each(TURNS, || {
        next += 1;
        let write = insertion(&table, next..next + 1)?;
        fixture.runtime.block_on(fixture.instance.database().commit(vec![write])).map(drop)?;
        Outcome::Ok(())
    })?;
    let parse = time_each(TURNS, || session.parse(SQL).map(drop))?;
    let fresh: Vec<String> = (0..TURNS).map(|turn| format!("{SQL} /* {turn} */")).collect();
    let mut texts = fresh.iter();
    let parse_anew = time_each(TURNS, || session.parse(texts.next().map_or(SQL, String::as_str)).map(drop))?;
    let batch = fixture.run("SELECT * FROM rows LIMIT 1", &[])?.remove(0);
    let encoder = RowEncoder::new(&batch.schema(), RowFormat::Objects);
    let answer = time_each(TURNS, || {
        let mut out = Vec::with_capacity(1024);
        encoder.encode_rows(&batch, &mut out);
        std::hint::black_box(out);
        Outcome::Ok(())
    })?;
    let (whole, commit) = (median(whole), median(commit));
    Ok(vec![
        micro("sql: INSERT of one row with parameters", "its commit alone", (whole, commit), Budget::None),
        micro(
            "sql: parse of that INSERT, known text",
            "text that is new",
            (median(parse), median(parse_anew)),
            Budget::None,
        ),
        micro("sql: a row as JSON", "the whole INSERT", (median(answer), whole), Budget::None),
    ])
}

fn other_tables(fixture: &SqlFixture) -> Outcome<Vec<Sample>> {
    fixture.run("CREATE VIEW v AS SELECT name, score FROM rows WHERE score < 500", &[])?;
    let view = fixture.two(
        "SELECT name, sum(score) FROM v GROUP BY name",
        "SELECT name, sum(score) FROM rows WHERE score < 500 GROUP BY name",
        30,
    )?;
    for at in 0..200 {
        fixture.run(&format!("CREATE TABLE t{at} (id BIGINT PRIMARY KEY)"), &[])?;
    }
    fixture.run(
        "CREATE TABLE copy (table_id BIGINT PRIMARY KEY, namespace_id TEXT, table_name TEXT, table_type TEXT, schema_version BIGINT)",
        &[],
    )?;
    let columns = "table_id, namespace_id, table_name, table_type, schema_version";
    fixture.run(&format!("INSERT INTO copy SELECT {columns} FROM system.tables"), &[])?;
    let system = fixture.two(
        &format!("SELECT {columns} FROM system.tables WHERE table_name LIKE 't1%' ORDER BY table_name"),
        &format!("SELECT {columns} FROM copy WHERE table_name LIKE 't1%' ORDER BY table_name"),
        100,
    )?;
    Ok(vec![
        micro("sql: a query over a view", "the query written out", view, Budget::AtMost(1.05)),
        micro(
            "sql: system.tables with 200 tables",
            "a SHARED table of the same rows",
            system,
            Budget::AtMost(1.1),
        ),
    ])
}
