//! Every type with its edges: what comes out is what went in, whichever way it went in and wherever it was meanwhile.

use bytes::Bytes;
use futures::TryStreamExt;
use kalamdb_sql::ErrorCode::{self, TypeMismatch, ValueOutOfRange};
use kalamdb_sql::{ImportOptions, Instance, Options, RowFormat};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{Client, Server, encode};

/// A type and values as results show them; NULL is tried of every type.
fn kinds() -> Vec<(&'static str, Vec<Value>)> {
    let nines = "9".repeat(38);
    let deep = (0..60).fold(
        json!("deep"),
        |inner, level| if level % 2 == 0 { json!([inner]) } else { json!({"k": inner}) },
    );
    vec![
        ("BOOLEAN", vec![json!(true), json!(false)]),
        ("SMALLINT", vec![json!(i16::MIN), json!(-1), json!(0), json!(i16::MAX)]),
        ("INT", vec![json!(i32::MIN), json!(0), json!(i32::MAX)]),
        (
            "BIGINT",
            vec![
                json!(i64::MIN.to_string()),
                json!(i64::MAX.to_string()),
                json!("9007199254740992"),
                json!(9_007_199_254_740_991_i64),
                json!(-1),
            ],
        ),
        (
            "FLOAT",
            vec![
                json!(3.4028235e38),
                json!(-3.4028235e38),
                json!(1e-45),
                json!(0.1),
                json!(-0.0),
                json!(16_777_216.0),
            ],
        ),
        ("FLOAT", vec![json!("NaN"), json!("Infinity"), json!("-Infinity")]),
        (
            "DOUBLE",
            vec![json!(f64::MAX), json!(f64::MIN), json!(5e-324), json!(0.1), json!(-0.0), json!(1.0 / 3.0)],
        ),
        ("DOUBLE", vec![json!("NaN"), json!("Infinity"), json!("-Infinity")]),
        ("DECIMAL(38,0)", vec![json!(nines), json!(format!("-{nines}")), json!("0")]),
        (
            "DECIMAL(38,38)",
            vec![
                json!(format!("0.{nines}")),
                json!(format!("-0.{nines}")),
                json!(format!("0.{}1", "0".repeat(37))),
            ],
        ),
        ("DECIMAL(10,2)", vec![json!("99999999.99"), json!("-0.01"), json!("1.50")]),
        (
            "TEXT",
            vec![
                json!(""),
                json!(" "),
                json!("it's \"quoted\", \\ and \t\r\n"),
                json!("é 😀 日本語 \u{10ffff} e\u{301}"),
                json!("nul \u{0} inside"),
                json!("NULL"),
                json!("x".repeat(1 << 20)),
            ],
        ),
        ("BYTES", vec![json!(""), json!("AA=="), json!("AP8AAQ=="), json!("/".repeat(400))]),
        (
            "JSON",
            vec![
                json!({}),
                json!([]),
                json!("text"),
                json!(0),
                json!(false),
                json!({"a": [1, 2.5, null, true, {"é😀": ""}]}),
                deep,
            ],
        ),
        (
            "TIMESTAMP",
            vec![
                json!("0001-01-01T00:00:00.000000Z"),
                json!("1969-12-31T23:59:59.999999Z"),
                json!("1970-01-01T00:00:00.000000Z"),
                json!("2024-02-29T23:59:59.000001Z"),
                json!("9999-12-31T23:59:59.999999Z"),
            ],
        ),
        (
            "DATE",
            vec![
                json!("0001-01-01"),
                json!("1900-02-28"),
                json!("1969-12-31"),
                json!("2000-02-29"),
                json!("9999-12-31"),
            ],
        ),
        ("TIME", vec![json!("00:00:00.000000"), json!("12:34:56.000001"), json!("23:59:59.999999")]),
        (
            "UUID",
            vec![
                json!("00000000-0000-0000-0000-000000000000"),
                json!("ffffffff-ffff-ffff-ffff-ffffffffffff"),
            ],
        ),
        ("INT[]", vec![json!([]), json!([null]), json!([i32::MIN, null, i32::MAX])]),
        ("INT[][]", vec![json!([]), json!([[]]), json!([[1, 2], [], null, [null]])]),
        ("TEXT[]", vec![json!(["", "é😀", null, "a,b\"c'd]"])]),
        ("DOUBLE[]", vec![json!(["NaN", -0.0, 0.1, null])]),
        ("DECIMAL(5,2)[]", vec![json!(["999.99", null, "-0.01"])]),
        ("TIMESTAMP[]", vec![json!(["1969-12-31T23:59:59.999999Z", null])]),
        ("JSON[]", vec![json!([{"a": [1]}, [], 1])]),
        ("UUID[]", vec![json!(["ffffffff-ffff-ffff-ffff-ffffffffffff", null])]),
    ]
}

/// A value as the text of a statement says it.
fn literal(kind: &str, value: &Value) -> String {
    let quoted = |text: &str| format!("'{}'", text.replace('\'', "''"));
    match value {
        Value::Null => "NULL".into(),
        Value::String(base64) if kind == "BYTES" => {
            use base64::Engine as _;
            let bytes = base64::engine::general_purpose::STANDARD.decode(base64).unwrap();
            let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("'\\x{digits}'")
        }
        value if kind == "JSON" => quoted(&value.to_string()),
        Value::String(text) => quoted(text),
        Value::Array(_) | Value::Object(_) => quoted(&value.to_string()),
        plain => plain.to_string(),
    }
}

/// A value as a field of CSV; `None` for what CSV has no form of: an empty text is NULL.
fn field(kind: &str, value: &Value) -> Option<String> {
    let text = match value {
        Value::Null => return Some(String::new()),
        value if kind == "JSON" => value.to_string(),
        Value::String(text) if text.is_empty() => return None,
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    Some(format!("\"{}\"", text.replace('"', "\"\"")))
}

/// A string parameter of a JSON column is JSON text.
fn parameter(kind: &str, value: &Value) -> Value {
    match value {
        Value::String(_) if kind == "JSON" => json!(value.to_string()),
        other => other.clone(),
    }
}

/// Inserts every value in every way; the rows that are there then.
async fn load(client: &mut Client, table: &str, kind: &str, values: &[Value]) -> Vec<(usize, Value)> {
    let mut rows = Vec::new();
    let mut csv = String::from("id,v\n");
    let mut ndjson = String::new();
    for value in values {
        let mut next = |value: &Value| {
            rows.push((rows.len(), value.clone()));
            rows.len() - 1
        };
        let id = next(value);
        client.run(&format!("INSERT INTO {table} VALUES ({id}, {})", literal(kind, value))).await;
        let id = next(value);
        client.run_with(&format!("INSERT INTO {table} VALUES ({id}, $1)"), &[parameter(kind, value)]).await;
        ndjson.push_str(&format!("{}\n", json!({"id": next(value), "v": parameter(kind, value)})));
        if let Some(field) = field(kind, value) {
            csv.push_str(&format!("{},{field}\n", next(value)));
        }
    }
    for (text, is_csv) in [(csv, true), (ndjson, false)] {
        let mut importer = client.session.importer("default", table, ImportOptions::default()).await.unwrap();
        let written = match is_csv {
            true => importer.write_csv(Bytes::from(text)).await,
            false => importer.write_ndjson(Bytes::from(text)).await,
        };
        written.unwrap_or_else(|error| panic!("{kind}, CSV {is_csv}: {error}"));
        importer.finish().await.unwrap_or_else(|error| panic!("{kind}, CSV {is_csv}: {error}"));
    }
    rows
}

/// Sends the rows out as Arrow and in again, into the table's copy.
async fn copy_through_arrow(client: &mut Client, table: &str) {
    let rows = client.run(&format!("SELECT * FROM {table}")).await.rows.unwrap();
    let batches: Vec<_> = rows.stream.try_collect().await.unwrap();
    let copy = format!("{table}_copy");
    let mut importer = client.session.importer("default", &copy, ImportOptions::default()).await.unwrap();
    for batch in batches {
        importer.write_batch(batch).await.unwrap_or_else(|error| panic!("{table}: {error}"));
    }
    importer.finish().await.unwrap_or_else(|error| panic!("{table}: {error}"));
}

async fn check(client: &mut Client, table: &str, kind: &str, expected: &[(usize, Value)], when: &str) {
    let fraction = matches!(kind, "FLOAT" | "DOUBLE");
    for table in [table.to_owned(), format!("{table}_copy")] {
        let typed = client.run(&format!("SELECT v FROM {table} LIMIT 0")).await;
        assert_eq!(typed.rows.unwrap().columns[0].type_name, kind, "{when}");
        // Not every reader of JSON keeps the last bit of a fraction.
        let column = if fraction { "CAST(v AS TEXT)" } else { "v" };
        let outcome = client.run(&format!("SELECT id, {column} FROM {table} ORDER BY id")).await;
        let found = encode(outcome, RowFormat::Arrays).await;
        let found = found.as_array().unwrap();
        assert_eq!(found.len(), expected.len(), "{kind} {when}");
        for (row, (id, value)) in found.iter().zip(expected) {
            match fraction {
                true => assert_eq!((&row[0], bits(&row[1])), (&json!(id), bits(value)), "{kind} {when}"),
                false => assert_eq!(*row, json!([id, value]), "{kind} {when}"),
            }
        }
    }
}

/// A fraction to its last bit, the sign of zero included.
fn bits(value: &Value) -> Option<u64> {
    let value = match value {
        Value::Null => return None,
        Value::String(text) => text.parse::<f64>().unwrap(),
        number => number.as_f64().unwrap(),
    };
    Some(if value.is_nan() { f64::NAN.to_bits() } else { value.to_bits() })
}

async fn open(dir: &TempDir) -> std::sync::Arc<Instance> {
    let mut options = Options::new(dir.path());
    options.query_partitions = 2;
    Instance::open(options).await.unwrap()
}

fn root(instance: &std::sync::Arc<Instance>) -> Client {
    let identity = kalamdb_sql::Identity {
        user: kalamdb_sql::engine::UserId::new("root").unwrap(),
        role: kalamdb_sql::Role::System,
    };
    Client { session: instance.session(identity) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_of_every_type_come_out_as_they_went_in_wherever_they_were_meanwhile() {
    let dir = tempfile::tempdir().unwrap();
    let mut instance = open(&dir).await;
    let mut client = root(&instance);
    let mut tables = Vec::new();
    for (number, (kind, mut values)) in kinds().into_iter().enumerate() {
        values.push(Value::Null);
        let table = format!("t{number}");
        for name in [table.clone(), format!("{table}_copy")] {
            client.run(&format!("CREATE TABLE {name} (id INT PRIMARY KEY, v {kind})")).await;
        }
        let rows = load(&mut client, &table, kind, &values).await;
        copy_through_arrow(&mut client, &table).await;
        tables.push((table, kind, rows));
    }
    for when in
        ["in memory", "replayed from the log", "flushed", "flushed and reopened", "rewritten", "compacted"]
    {
        match when {
            "replayed from the log" | "flushed and reopened" => {
                drop(client);
                instance.close().await.unwrap();
                drop(instance);
                instance = open(&dir).await;
                client = root(&instance);
            }
            "flushed" => drop(client.run("FLUSH ALL").await),
            "rewritten" => {
                for (table, ..) in &tables {
                    client.run(&format!("UPDATE {table} SET v = v WHERE id % 2 = 0")).await;
                }
            }
            "compacted" => {
                for (table, ..) in &tables {
                    client.run(&format!("FLUSH TABLE {table}; COMPACT TABLE {table}")).await;
                }
            }
            _ => {}
        }
        for (table, kind, rows) in &tables {
            check(&mut client, table, kind, rows, when).await;
        }
    }
}

/// Values that a type cannot hold, as literals or parameters.
const REFUSED: [(&str, &str, ErrorCode); 37] = [
    ("BOOLEAN", "'maybe'", TypeMismatch),
    ("BOOLEAN", "2", TypeMismatch),
    ("SMALLINT", "32768", ValueOutOfRange),
    ("SMALLINT", "-32769", ValueOutOfRange),
    ("INT", "2147483648", ValueOutOfRange),
    ("INT", "1.5", TypeMismatch),
    ("INT", "'one'", TypeMismatch),
    ("INT", "''", TypeMismatch),
    ("BIGINT", "9223372036854775808", ValueOutOfRange),
    ("BIGINT", "-9223372036854775809", ValueOutOfRange),
    ("BIGINT", "'NaN'", TypeMismatch),
    ("FLOAT", "1e39", ValueOutOfRange),
    ("FLOAT", "-3.5e38", ValueOutOfRange),
    ("DOUBLE", "1e309", ValueOutOfRange),
    ("DOUBLE", "'ten'", TypeMismatch),
    ("DECIMAL(5,2)", "1000", ValueOutOfRange),
    ("DECIMAL(5,2)", "-999.999", ValueOutOfRange),
    ("DECIMAL(38,0)", "100000000000000000000000000000000000000", ValueOutOfRange),
    ("DECIMAL(5,2)", "'NaN'", TypeMismatch),
    ("BYTES", "'\\x0'", TypeMismatch),
    ("JSON", "'{'", TypeMismatch),
    ("JSON", "'nothing'", TypeMismatch),
    ("TIMESTAMP", "'2023-02-29T00:00:00Z'", TypeMismatch),
    ("TIMESTAMP", "'noon'", TypeMismatch),
    ("DATE", "'2023-02-29'", TypeMismatch),
    ("DATE", "'2024-13-01'", TypeMismatch),
    ("DATE", "20240101", TypeMismatch),
    ("TIME", "'24:00:01'", TypeMismatch),
    ("TIME", "'noon'", TypeMismatch),
    ("UUID", "'6ba7b810'", TypeMismatch),
    ("UUID", "7", TypeMismatch),
    ("INT[]", "'[1, \"x\"]'", TypeMismatch),
    ("INT[]", "'[3000000000]'", ValueOutOfRange),
    ("INT[]", "5", TypeMismatch),
    ("INT[][]", "'[1]'", TypeMismatch),
    ("TEXT[]", "'{a,b'", TypeMismatch),
    ("DATE[]", "'[\"2023-02-29\"]'", TypeMismatch),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_type_cannot_hold_is_refused_in_every_way_and_nothing_is_stored() {
    let server = Server::start().await;
    let mut client = server.root();
    for (number, (kind, written, code)) in REFUSED.into_iter().enumerate() {
        let table = format!("t{number}");
        client
            .run(&format!(
                "CREATE TABLE {table} (id INT PRIMARY KEY, v {kind}); INSERT INTO {table} (id) VALUES (1)"
            ))
            .await;
        for sql in [
            format!("INSERT INTO {table} VALUES (2, {written})"),
            format!("INSERT INTO {table} VALUES (2, NULL), (3, {written})"),
        ] {
            let error = client.fail(&sql).await;
            assert_eq!(error.code, code, "{sql}: {error}");
        }
        // The same as a parameter; BYTES are base64 there.
        let text = written.trim_matches('\'');
        let value: Value = match written.starts_with('\'') || text.parse::<f64>().is_ok_and(f64::is_infinite)
        {
            true => json!(text),
            false => serde_json::from_str(text).unwrap(),
        };
        let error = client.fail_with(&format!("INSERT INTO {table} VALUES (2, $1)"), &[value]).await;
        assert_eq!(error.code, code, "{kind} {written} as a parameter: {error}");
        let error = client.fail(&format!("UPDATE {table} SET v = {written}")).await;
        assert!(matches!(error.code, TypeMismatch | ValueOutOfRange), "{kind} {written} by UPDATE: {error}");
        assert_eq!(
            client.rows(&format!("SELECT * FROM {table}")).await,
            json!([[1, null]]),
            "{kind} {written}"
        );
    }
}
