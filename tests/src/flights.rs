//! The flights that left New York City in 2013: the shipped sample, and what is known about it and the full file.

use std::io::Read;
use std::path::PathBuf;

use serde_json::Value;

use crate::client::{Client, number};

/// Columns of a table that takes the file as it is.
pub const COLUMNS: &str = "year INT, month INT, day INT, dep_time INT, sched_dep_time INT, dep_delay INT, \
    arr_time INT, sched_arr_time INT, arr_delay INT, carrier TEXT NOT NULL, flight INT, tailnum TEXT, origin TEXT, \
    dest TEXT, air_time INT, distance INT, hour INT, minute INT, time_hour TIMESTAMP";

/// Departure delays of one airline, in minutes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Carrier {
    /// Its code.
    pub name: String,
    /// Its flights.
    pub rows: i64,
    /// Flights whose delay is NULL.
    pub missing: i64,
    /// Sum of the other delays.
    pub total: i64,
    /// Lowest delay.
    pub low: i64,
    /// Highest delay.
    pub high: i64,
}

impl Carrier {
    fn of(name: &str, rows: i64, missing: i64, total: i64, low: i64, high: i64) -> Self {
        Self { name: name.into(), rows, missing, total, low, high }
    }
}

/// One row of the sample, as far as tests change it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flight {
    /// Month, from 1.
    pub month: i64,
    /// Day of the month, from 1.
    pub day: i64,
    /// Departure delay in minutes.
    pub dep_delay: Option<i64>,
    /// Airline.
    pub carrier: String,
    /// Destination.
    pub dest: String,
}

/// Path of the sample.
pub fn sample_path() -> PathBuf {
    concat!(env!("CARGO_MANIFEST_DIR"), "/data/flights-sample.csv.gz").into()
}

/// The sample's rows in their order.
pub fn sample() -> Vec<Flight> {
    let packed = std::fs::read(sample_path()).unwrap();
    let mut text = String::new();
    flate2::read::GzDecoder::new(packed.as_slice()).read_to_string(&mut text).unwrap();
    let mut lines = text.lines();
    let names: Vec<&str> = lines.next().expect("a header").split(',').collect();
    let at = |name: &str| names.iter().position(|other| *other == name).expect("a column");
    let (month, day, delay, carrier, dest) =
        (at("month"), at("day"), at("dep_delay"), at("carrier"), at("dest"));
    let flight = |line: &str| {
        let fields: Vec<&str> = line.split(',').collect();
        Flight {
            month: fields[month].parse().unwrap(),
            day: fields[day].parse().unwrap(),
            dep_delay: fields[delay].parse().ok(),
            carrier: fields[carrier].into(),
            dest: fields[dest].into(),
        }
    };
    lines.map(flight).collect()
}

/// What [`ask`] must answer for these flights.
pub fn summary(flights: &[Flight]) -> Vec<Carrier> {
    let mut names: Vec<&str> = flights.iter().map(|flight| flight.carrier.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    let of = |name: &str| {
        let all = flights.iter().filter(|flight| flight.carrier == name);
        let (rows, known) =
            (all.clone().count(), all.filter_map(|flight| flight.dep_delay).collect::<Vec<_>>());
        let missing = (rows - known.len()) as i64;
        let edge = |value: Option<&i64>| value.copied().unwrap_or_default();
        let (low, high) = (edge(known.iter().min()), edge(known.iter().max()));
        Carrier::of(name, rows as i64, missing, known.iter().sum(), low, high)
    };
    names.into_iter().map(of).collect()
}

/// Asks the server for the departure delays per airline; averages are checked against sums and counts.
pub fn ask(client: &Client, table: &str) -> Vec<Carrier> {
    let sql = format!(
        "SELECT carrier, count(*), count(*) - count(dep_delay), sum(dep_delay), min(dep_delay), max(dep_delay), \
         avg(dep_delay) FROM {table} GROUP BY carrier ORDER BY carrier"
    );
    let integer = |value: &Value| number(value).unwrap_or_else(|| panic!("not a number: {value}"));
    let carrier = |row: Vec<Value>| {
        let name = row[0].as_str().expect("a code");
        let [rows, missing, total, low, high] = [1, 2, 3, 4, 5].map(|at| integer(&row[at]));
        let average = total as f64 / (rows - missing) as f64;
        let told = row[6].as_f64().expect("an average");
        assert!((told - average).abs() < 1e-9 * average.abs().max(1.0), "{name}: {told}, not {average}");
        Carrier::of(name, rows, missing, total, low, high)
    };
    client.grid(&sql).into_iter().map(carrier).collect()
}

/// Questions and answers about the rest of the columns, for the sample; `{}` stands for the table.
pub const SAMPLE_ANSWERS: [(&str, &str); 10] = [
    ("SELECT count(*) FROM {}", "19811"),
    ("SELECT count(*) FROM {} WHERE arr_time IS NULL", "520"),
    ("SELECT count(*) FROM {} WHERE tailnum IS NULL", "158"),
    ("SELECT count(*) FROM {} WHERE air_time IS NULL", "569"),
    ("SELECT count(DISTINCT tailnum) FROM {}", "3261"),
    ("SELECT count(DISTINCT dest) FROM {}", "103"),
    ("SELECT sum(distance) FROM {}", "20696592"),
    ("SELECT min(time_hour) FROM {}", "\"2013-01-01T10:00:00.000000Z\""),
    ("SELECT max(time_hour) FROM {}", "\"2014-01-01T02:00:00.000000Z\""),
    ("SELECT count(*) FROM {} WHERE origin = 'JFK' AND month = 7 AND dep_delay > 60", "86"),
];

/// Delays of the sample, computed by `data/sample.py`.
pub fn sample_carriers() -> Vec<Carrier> {
    vec![
        Carrier::of("9E", 1129, 64, 17918, -17, 319),
        Carrier::of("AA", 1845, 31, 15183, -16, 636),
        Carrier::of("AS", 39, 0, 434, -14, 222),
        Carrier::of("B6", 3228, 27, 41070, -21, 411),
        Carrier::of("DL", 2819, 22, 26638, -18, 812),
        Carrier::of("EV", 3062, 177, 51935, -18, 420),
        Carrier::of("F9", 34, 0, 1381, -10, 289),
        Carrier::of("FL", 188, 5, 3205, -16, 309),
        Carrier::of("HA", 25, 0, 1244, -15, 1301),
        Carrier::of("MQ", 1614, 59, 15537, -26, 343),
        Carrier::of("OO", 2, 0, -20, -14, -6),
        Carrier::of("UA", 3468, 38, 40778, -16, 336),
        Carrier::of("US", 1231, 50, 3747, -16, 268),
        Carrier::of("VX", 318, 2, 5109, -16, 367),
        Carrier::of("WN", 770, 10, 13715, -10, 382),
        Carrier::of("YV", 39, 5, 493, -13, 103),
    ]
}

/// Delays of the full file, computed by `data/sample.py --full`.
pub fn full_carriers() -> Vec<Carrier> {
    vec![
        Carrier::of("9E", 18460, 1044, 291_296, -24, 747),
        Carrier::of("AA", 32729, 636, 275_551, -24, 1014),
        Carrier::of("AS", 714, 2, 4133, -21, 225),
        Carrier::of("B6", 54635, 466, 705_417, -43, 502),
        Carrier::of("DL", 48110, 349, 442_482, -33, 960),
        Carrier::of("EV", 54173, 2817, 1_024_829, -32, 548),
        Carrier::of("F9", 685, 3, 13787, -27, 853),
        Carrier::of("FL", 3260, 73, 59680, -22, 602),
        Carrier::of("HA", 342, 0, 1676, -16, 1301),
        Carrier::of("MQ", 26397, 1234, 265_521, -26, 1137),
        Carrier::of("OO", 32, 3, 365, -14, 154),
        Carrier::of("UA", 58665, 686, 701_898, -20, 483),
        Carrier::of("US", 20536, 663, 75168, -19, 500),
        Carrier::of("VX", 5162, 31, 66033, -20, 653),
        Carrier::of("WN", 12275, 192, 214_011, -13, 471),
        Carrier::of("YV", 601, 56, 10353, -16, 387),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sample_is_what_the_constants_describe() {
        assert_eq!(summary(&sample()), sample_carriers());
    }
}
