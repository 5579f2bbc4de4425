//! The walk from end to end on real flights: import, kill, restart, flush, change, follow.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use kalamdb_tests::flights::{self, Flight};
use kalamdb_tests::{Client, Command, Live, LiveRequest, RaiseOnDrop, Server, eventually};
use serde_json::{Value, json};

/// Rows of one commit of the second import.
const BATCH: usize = 500;

fn create_flights(client: &Client) {
    client.sql(&format!("CREATE NAMESPACE app; CREATE SHARED TABLE app.flights ({})", flights::COLUMNS));
}

fn import_sample(server: &Server) {
    let path = flights::sample_path();
    let arguments = ["import", path.to_str().expect("UTF-8"), "--table", "app.flights", "--null", "NA"];
    let output = Command::at(server, &arguments).finish().success();
    assert!(output.contains("imported 19,811 rows"), "{output}");
}

fn check_sample(client: &Client) {
    assert_eq!(flights::ask(client, "app.flights"), flights::sample_carriers());
    for (question, answer) in flights::SAMPLE_ANSWERS {
        let sql = question.replace("{}", "app.flights");
        assert_eq!(client.value(&sql).to_string().trim_matches('"'), answer.trim_matches('"'), "{sql}");
    }
}

/// How many rows of the flushed table are in Parquet.
fn rows_in_parquet(client: &Client) -> i64 {
    client.number("SELECT COALESCE(sum(rows), 0) FROM system.segments WHERE path LIKE '%flights%'")
}

#[test]
fn imported_flights_give_the_answers_that_were_computed_independently_hot_flushed_and_restarted() {
    let mut server = Server::start();
    create_flights(&server.root());
    import_sample(&server);
    check_sample(&server.root());
    server.crash();
    check_sample(&server.root());
    server.root().sql("FLUSH TABLE app.flights");
    assert_eq!(rows_in_parquet(&server.root()), 19811);
    check_sample(&server.root());
    server.restart();
    check_sample(&server.root());
    server.crash();
    check_sample(&server.root());
}

/// Changes the table and the model of it in the same way.
fn change(client: &Client, model: &mut Vec<Flight>, round: i64) {
    client.sql(&format!("UPDATE app.flights SET dep_delay = dep_delay + 1000 WHERE month = {round}"));
    client.sql(&format!("UPDATE app.flights SET dep_delay = NULL WHERE carrier = 'AA' AND day = {round}"));
    client.sql(&format!("DELETE FROM app.flights WHERE dest = 'ORD' AND month = {round}"));
    client.sql(
        "INSERT INTO app.flights (carrier, dep_delay, dest, month, day) VALUES ('ZZ', 7, 'ZRH', 13, 1), ('ZZ', NULL, 'ZRH', 13, 1)",
    );
    for flight in model.iter_mut() {
        if flight.month == round {
            flight.dep_delay = flight.dep_delay.map(|delay| delay + 1000);
        }
        if flight.carrier == "AA" && flight.day == round {
            flight.dep_delay = None;
        }
    }
    model.retain(|flight| !(flight.dest == "ORD" && flight.month == round));
    for dep_delay in [Some(7), None] {
        model.push(Flight { month: 13, day: 1, dep_delay, carrier: "ZZ".into(), dest: "ZRH".into() });
    }
}

#[test]
fn changes_of_flushed_flights_are_right_before_and_after_a_second_flush_and_a_restart() {
    let mut server = Server::start();
    create_flights(&server.root());
    import_sample(&server);
    let mut model = flights::sample();
    for round in 1..=3 {
        let client = server.root();
        client.sql("FLUSH TABLE app.flights");
        change(&client, &mut model, round);
        let expected = flights::summary(&model);
        assert_eq!(flights::ask(&client, "app.flights"), expected, "round {round}, mixed");
        assert_eq!(client.number("SELECT count(*) FROM app.flights"), model.len() as i64);
        if round == 2 {
            server.restart();
        } else {
            server.crash();
        }
        assert_eq!(flights::ask(&server.root(), "app.flights"), expected, "round {round}, mixed, restarted");
    }
    server.root().sql("FLUSH TABLE app.flights");
    assert_eq!(flights::ask(&server.root(), "app.flights"), flights::summary(&model), "all flushed");
    server.restart();
    assert_eq!(
        flights::ask(&server.root(), "app.flights"),
        flights::summary(&model),
        "all flushed, restarted"
    );
}

/// Legs of the second import, numbered, without an end: row `n` is flight `n` modulo the sample.
struct Legs {
    flights: Vec<Flight>,
}

impl Legs {
    const HEADER: &str = "id,carrier,dest,dep_delay\n";

    fn lines(&self, from: usize, to: usize) -> String {
        let line = |id: usize| {
            let flight = &self.flights[id % self.flights.len()];
            let delay = flight.dep_delay.map_or_else(|| "NA".to_owned(), |delay| delay.to_string());
            format!("{id},{},{},{delay}\n", flight.carrier, flight.dest)
        };
        (from..to).map(line).collect()
    }

    /// Per carrier: rows, sum of ids, sum of delays of the first `count` legs.
    fn summary(&self, count: usize) -> Vec<(String, i64, i64, i64)> {
        let mut of = std::collections::BTreeMap::<&str, (i64, i64, i64)>::new();
        for id in 0..count {
            let flight = &self.flights[id % self.flights.len()];
            let sums = of.entry(&flight.carrier).or_default();
            *sums = (sums.0 + 1, sums.1 + id as i64, sums.2 + flight.dep_delay.unwrap_or(0));
        }
        of.into_iter().map(|(name, (rows, ids, delays))| (name.to_owned(), rows, ids, delays)).collect()
    }
}

fn ask_legs(client: &Client) -> Vec<(String, i64, i64, i64)> {
    let sql = "SELECT _user, count(*), sum(id), COALESCE(sum(dep_delay), 0), count(DISTINCT carrier), min(carrier) \
               FROM app.legs GROUP BY _user ORDER BY _user";
    let integer = |value: &Value| value.as_i64().or_else(|| value.as_str()?.parse().ok()).expect("a number");
    let rows = client.grid(sql).into_iter().map(|row| {
        assert_eq!(
            (&row[4], &row[5]),
            (&json!(1), &row[0]),
            "a partition holds the rows of its carrier only"
        );
        (row[0].as_str().expect("a user").to_owned(), integer(&row[1]), integer(&row[2]), integer(&row[3]))
    });
    rows.collect()
}

fn count_legs(client: &Client) -> usize {
    client.number("SELECT count(*) FROM app.legs WHERE _user IS NOT NULL") as usize
}

/// Kills the server while an import without end runs; returns how many rows a client had been shown before.
fn kill_during_import(server: &mut Server, legs: &Legs) -> usize {
    let arguments = ["import", "-", "--table", "app.legs", "--user-column", "carrier", "--null", "NA"];
    let batch = BATCH.to_string();
    let mut import = Command::at(server, &[&arguments[..], &["--batch-rows", &batch]].concat());
    let mut input = import.input();
    let killed = AtomicBool::new(false);
    let client = server.root();
    let shown = thread::scope(|scope| {
        let _end = RaiseOnDrop(&killed);
        scope.spawn(|| {
            let mut next = 0;
            let mut text = Legs::HEADER.to_owned();
            while !killed.load(Ordering::Relaxed) && input.write_all(text.as_bytes()).is_ok() {
                text = legs.lines(next, next + 250);
                next += 250;
            }
            drop(input);
        });
        let shown = eventually("rows of the import are visible", || {
            let count = count_legs(&client);
            (count >= 8 * BATCH).then_some(count)
        });
        server.kill9();
        shown
    });
    let ended = import.finish();
    assert_eq!(ended.code, 1, "an import whose server is gone fails: {ended:?}");
    shown
}

#[test]
fn rows_acknowledged_before_a_kill_during_an_import_are_there_hot_flushed_mixed_and_restarted() {
    let mut server = Server::start();
    let root = server.root();
    root.sql("CREATE NAMESPACE app");
    root.sql(
        "CREATE USER TABLE app.legs (id BIGINT PRIMARY KEY, carrier TEXT NOT NULL, dest TEXT, dep_delay INT)",
    );
    let legs = Legs { flights: flights::sample() };
    let shown = kill_during_import(&mut server, &legs);
    server.launch();

    let root = server.root();
    let count = count_legs(&root);
    assert!(count >= shown, "{shown} rows were shown, {count} are left");
    assert_eq!(count % BATCH, 0, "a batch is there as a whole or not at all");
    assert_eq!(ask_legs(&root), legs.summary(count), "the first {count} rows, each once");
    let torn = "SELECT _seq FROM app.legs WHERE _user IS NOT NULL GROUP BY _seq HAVING count(*) <> ";
    assert_eq!(root.rows(&format!("{torn}{BATCH}")), [] as [Value; 0], "one commit a batch");

    root.sql("FLUSH TABLE app.legs");
    assert_eq!(ask_legs(&root), legs.summary(count), "flushed");
    // The rest of the file goes on where it stopped.
    let rest = format!("{}{}", Legs::HEADER, legs.lines(count, count + 1700));
    let arguments = ["import", "-", "--table", "app.legs", "--user-column", "carrier", "--null", "NA"];
    Command::at(&server, &arguments).feed(rest.as_bytes()).success();
    let expected = legs.summary(count + 1700);
    assert_eq!(ask_legs(&root), expected, "half flushed, half not");
    server.crash();
    assert_eq!(ask_legs(&server.root()), expected, "half flushed, half not, killed");
    server.root().sql("FLUSH TABLE app.legs");
    server.restart();
    assert_eq!(ask_legs(&server.root()), expected, "all flushed, restarted");
}

/// The changes a feed is expected to tell, made one after another; each is a commit of its own.
fn make_changes(client: &Client, from: i64, to: i64) -> Vec<(String, Vec<i64>)> {
    let mut expected = Vec::new();
    for n in from..to {
        let id = 1_000_000 + n;
        client.sql(&format!(
            "INSERT INTO app.flights (id, carrier, flight, dep_delay) VALUES ({id}, 'OO', {n}, 1), ({id}000, 'UA', {n}, 1)"
        ));
        client
            .sql(&format!("UPDATE app.flights SET dep_delay = {n} + 2 WHERE flight = {n} AND id >= 1000000"));
        expected.extend([("insert".to_owned(), vec![id]), ("update".to_owned(), vec![id])]);
        if n % 3 == 0 {
            client.sql(&format!("DELETE FROM app.flights WHERE id IN ({id}, {id}000)"));
            expected.push(("delete".to_owned(), vec![id]));
        }
        if n % 5 == 0 {
            client.sql("FLUSH TABLE app.flights");
        }
    }
    expected
}

fn told(live: &mut Live, count: usize) -> Vec<(String, Vec<i64>)> {
    let ids = |rows: &[Value]| rows.iter().map(|row| row["id"].as_i64().expect("an id")).collect();
    let mut last = 0;
    let next = |_| {
        let event = live.next_event().expect("the feed goes on");
        let seq = event.data["seq"].as_u64().unwrap_or_else(|| panic!("no seq: {event:?}"));
        assert!(seq > last, "commit {seq} after {last}");
        assert_eq!(event.id, Some(seq.to_string()), "the only event of its commit");
        last = seq;
        (event.name.clone(), ids(event.rows()))
    };
    (0..count).map(next).collect()
}

#[test]
fn a_live_client_sees_each_later_change_of_the_flights_once_and_in_order_across_restarts() {
    const QUERY: &str = "SELECT id, carrier, dep_delay FROM app.flights WHERE carrier = 'OO'";
    let mut server = Server::start();
    let columns = flights::COLUMNS;
    let create = format!(
        "CREATE NAMESPACE app; CREATE SHARED TABLE app.flights (id BIGINT PRIMARY KEY DEFAULT SNOWFLAKE_ID(), {columns})"
    );
    server.root().sql(&create);
    import_sample(&server);
    let (mut live, rows) = Live::follow(&server.root(), QUERY);
    assert_eq!(rows.len(), 2, "{rows:?}");
    let expected = make_changes(&server.root(), 0, 7);
    assert_eq!(told(&mut live, expected.len()), expected);

    // Changes that nobody reads before the server is killed, and changes after it is back.
    let mut expected = make_changes(&server.root(), 7, 10);
    let cursor = live.last_id();
    server.crash();
    expected.extend(make_changes(&server.root(), 10, 14));
    let mut live = LiveRequest::new(QUERY).after(&cursor).open(&server.root());
    assert_eq!(live.expect("ready").id, Some(cursor));
    expected.extend(make_changes(&server.root(), 14, 16));
    assert_eq!(told(&mut live, expected.len()), expected);

    let cursor = live.last_id();
    server.restart();
    let mut live = LiveRequest::new(QUERY).after(&cursor).open(&server.root());
    live.expect("ready");
    let expected = make_changes(&server.root(), 16, 18);
    assert_eq!(told(&mut live, expected.len()), expected);
}

#[test]
fn all_flights_of_the_year_are_imported_if_the_file_is_there() {
    let Some(path) = std::env::var_os("KALAMDB_FLIGHTS") else {
        eprintln!("skipped: KALAMDB_FLIGHTS does not name the full file");
        return;
    };
    let server = Server::start();
    create_flights(&server.root());
    let path = path.to_str().expect("UTF-8");
    let output =
        Command::at(&server, &["import", path, "--table", "app.flights", "--null", "NA"]).finish().success();
    assert!(output.contains("imported 336,776 rows"), "{output}");
    assert_eq!(flights::ask(&server.root(), "app.flights"), flights::full_carriers());
    server.root().sql("FLUSH TABLE app.flights");
    assert_eq!(flights::ask(&server.root(), "app.flights"), flights::full_carriers());
}
