//! Random statements beside SQLite: the same rows, the same counts, errors at the same statements; with flushes, compactions
//! and changed schemas on the way.
//!
//! A run is told by its seed: `KALAMDB_SEED=17` repeats one, `KALAMDB_SEEDS=500` runs many. Without Python and its
//! SQLite the test says that it is skipped.

mod expressions;
mod oracle;
mod schema;
mod statements;

use kalamdb_sql::{Error, ErrorCode, Outcome, RowFormat};
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::Value;

use self::oracle::{Answer, Oracle};
use self::schema::Table;
use self::statements::Step;
use crate::harness::{Client, Server, encode};

const TABLES: usize = 3;
const STEPS: usize = 90;
/// Seeds of a run that was not told otherwise.
const SEEDS: u64 = 6;

struct Run {
    server: Server,
    client: Client,
    oracle: Oracle,
    /// What was run so far, to be read when an answer is wrong.
    history: Vec<String>,
    compared: usize,
}

impl Run {
    async fn step(&mut self, step: Step) {
        let (Step::Query { sql, .. } | Step::Change { sql, .. } | Step::Definition(sql) | Step::Storage(sql)) =
            &step;
        self.history.push(sql.clone());
        let ours = self.client.try_run(sql, &[]).await;
        match step {
            Step::Storage(_) => drop(ours.unwrap_or_else(|error| self.fail(&format!("{error}")))),
            Step::Definition(sql) => {
                if let (Err(error), Answer::Rows(_) | Answer::Changed(_)) = (ours, self.oracle.ask(&sql)) {
                    self.fail(&format!("{error}"));
                }
            }
            Step::Change { sql, table } => {
                self.change(&sql, ours).await;
                self.compare(&table).await;
            }
            Step::Query { sql, ordered } => self.query(&sql, ours, ordered).await,
        }
    }

    async fn change(&mut self, sql: &str, ours: Result<Outcome, Error>) {
        if ours.as_ref().is_err_and(not_there) {
            return;
        }
        match (ours, self.oracle.ask(sql)) {
            (Ok(outcome), Answer::Changed(count)) => {
                self.compared += 1;
                let changed = outcome.affected_rows.unwrap_or_default();
                if i64::try_from(changed) != Ok(count) {
                    self.fail(&format!("{changed} rows changed, not {count}"));
                }
            }
            (Err(error), Answer::Error(theirs)) => {
                if error.code != ErrorCode::UniqueViolation {
                    self.fail(&format!("{} {error}, and not {theirs}", error.code.as_str()));
                }
            }
            (ours, theirs) => self.fail(&format!("{ours:?}, and not {theirs:?}")),
        }
    }

    async fn query(&mut self, sql: &str, ours: Result<Outcome, Error>, ordered: bool) {
        if ours.as_ref().is_err_and(not_there) {
            return;
        }
        let rows = match (ours, self.oracle.ask(sql)) {
            (Ok(outcome), Answer::Rows(rows)) => (outcome, rows),
            (ours, theirs) => self.fail(&format!("{ours:?}, and not {theirs:?}")),
        };
        self.compared += 1;
        let ours: Vec<Vec<Value>> = serde_json::from_value(encode(rows.0, RowFormat::Arrays).await).unwrap();
        let (mut ours, mut theirs): (Vec<_>, Vec<_>) = (plain(ours), plain(rows.1));
        if !ordered {
            ours.sort();
            theirs.sort();
        }
        if ours != theirs {
            let differing = ours.iter().zip(&theirs).find(|(a, b)| a != b);
            self.fail(&format!(
                "{} rows, expected {}; first different: {differing:?}",
                ours.len(),
                theirs.len()
            ));
        }
    }

    fn fail(&self, what: &str) -> ! {
        panic!("{what}\n\n{};", self.history.join(";\n"));
    }

    /// All rows of a table.
    async fn compare(&mut self, table: &Table) {
        let sql = format!("SELECT {} FROM {}", table.names(), table.name);
        let ours = self.client.try_run(&sql, &[]).await;
        self.query(&sql, ours, false).await;
    }
}

/// Statements that we know and do not have.
fn not_there(error: &Error) -> bool {
    error.code == ErrorCode::Unsupported
}

/// Rows as text in which values that are equal look alike: SQLite has no type of its own for booleans, and 2.0 is 2.
fn plain(rows: Vec<Vec<Value>>) -> Vec<String> {
    let show = |value: Value| match value {
        Value::Bool(flag) => u8::from(flag).to_string(),
        Value::Number(number) => {
            let number = number.as_f64().unwrap();
            // Averages may differ in their last digit.
            format!("{:.9}", if number == 0.0 { 0.0 } else { number })
        }
        Value::String(text) => format!("'{text}'"),
        other => other.to_string(),
    };
    let show = |value: Value| match show(value) {
        flag if flag == "0" || flag == "1" => format!("{flag}.000000000"),
        other => other,
    };
    rows.into_iter().map(|row| row.into_iter().map(show).collect::<Vec<_>>().join(" | ")).collect()
}

async fn run(seed: u64) -> bool {
    let Some(oracle) = Oracle::start() else { return false };
    eprintln!("seed {seed}");
    let server = Server::start().await;
    let client = server.root();
    let mut run = Run { server, client, oracle, history: vec![format!("-- seed {seed}")], compared: 0 };
    let mut rng = StdRng::seed_from_u64(seed);
    let mut tables: Vec<Table> = (0..TABLES).map(|number| Table::random(&mut rng, number)).collect();
    for table in &tables {
        run.step(Step::Definition(table.create())).await;
    }
    for _ in 0..STEPS {
        let step = statements::step(&mut rng, &mut tables);
        run.step(step).await;
    }
    for table in &tables {
        run.step(Step::Storage(format!("COMPACT TABLE {}", table.name))).await;
        run.compare(table).await;
    }
    assert!(run.compared > STEPS / 3, "seed {seed}: most statements were skipped");
    drop(run.server);
    true
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_statements_are_answered_like_sqlite() {
    let seeds = match number("KALAMDB_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("KALAMDB_SEEDS").unwrap_or(SEEDS),
    };
    for seed in seeds {
        if !run(seed).await {
            eprintln!("skipped: there is no python3 with SQLite 3.39 or newer");
            return;
        }
    }
}
