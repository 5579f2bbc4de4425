//! Replays the corpora of the fuzz targets, so that what they once found stays found.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, ListArray, RecordBatch, TimestampMicrosecondArray, new_null_array};
use arrow::buffer::OffsetBuffer;
use arrow::compute::cast;
use arrow::datatypes::DataType;
use kalamdb_engine::codec::columns::put_batch;
use kalamdb_engine::codec::record::{self, OldRows, PartBody, Replaced, Target as Address};
use kalamdb_engine::sim::fuzz;
use kalamdb_engine::{PartitionId, RealDisk, TIMEZONE, TableId, UserId, delete_vector};
use kalamdb_wal::durable;
use kalamdb_wal::sim::SimRandom;

/// A target's name and what it runs.
type Target = (&'static str, fn(&[u8]));

const TARGETS: [Target; 5] = [
    ("row_codec", fuzz::row_codec),
    ("commit_record", fuzz::commit_record),
    ("manifest", fuzz::manifest),
    ("delete_vector", fuzz::delete_vector),
    ("engine_ops", fuzz::engine_ops),
];

fn corpus(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target)
}

fn inputs(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let paths = std::fs::read_dir(corpus(target)).expect("a corpus").map(|e| e.expect("readable").path());
    let inputs: Vec<_> = paths.map(|path| (path.clone(), std::fs::read(&path).expect("readable"))).collect();
    assert!(inputs.len() >= 4, "the corpus of {target} has gone missing");
    inputs
}

#[test]
fn every_input_of_every_corpus_passes() {
    for (target, run) in TARGETS {
        for (path, input) in inputs(target) {
            assert!(std::panic::catch_unwind(|| run(&input)).is_ok(), "{}", path.display());
        }
    }
}

/// A poor man's fuzzer for machines without one: deterministic, brief.
#[test]
fn inputs_with_a_few_changed_bytes_pass() {
    for (target, run) in &TARGETS[..4] {
        for (path, input) in inputs(target) {
            for seed in 0..200 {
                let (mut random, mut changed) = (SimRandom::new(seed), input.clone());
                for _ in 0..1 + random.below(3) {
                    let at = random.below(changed.len() as u64 + 1) as usize;
                    match random.below(3) {
                        0 => changed.truncate(at),
                        1 => changed.insert(at, random.next_u64() as u8),
                        _ => changed.iter_mut().skip(at).take(1).for_each(|b| *b = random.next_u64() as u8),
                    }
                }
                assert!(std::panic::catch_unwind(|| run(&changed)).is_ok(), "{} {seed}", path.display());
            }
        }
    }
}

#[test]
fn random_scripts_of_operations_pass() {
    for seed in 0..10 {
        let mut random = SimRandom::new(seed);
        let script: Vec<u8> = (0..80).map(|_| random.next_u64() as u8).collect();
        assert!(std::panic::catch_unwind(|| fuzz::engine_ops(&script)).is_ok(), "seed {seed}: {script:?}");
    }
}

/// Once written in one byte, so that the reader took the array for a damaged one: the log could not be opened again.
#[test]
fn an_array_of_many_nulls_reads_back() {
    let schema = fuzz::schema().rows();
    let rows = sample(1, 0);
    let columns = schema.fields().iter().zip(rows.columns()).map(|(field, column)| match field.data_type() {
        DataType::List(item) => {
            let nulls = new_null_array(item.data_type(), 1_000);
            Arc::new(ListArray::new(item.clone(), OffsetBuffer::from_lengths([1_000]), nulls, None))
                as ArrayRef
        }
        _ => column.clone(),
    });
    let batch = RecordBatch::try_new(schema.clone(), columns.collect()).expect("the schema's columns");
    let mut bytes = Vec::new();
    put_batch(&mut bytes, &batch).expect("columns of ours");
    let mut input = kalamdb_engine::codec::Input::new(&bytes);
    assert_eq!(kalamdb_engine::codec::columns::get_batch(&mut input, schema, 1).expect("readable"), batch);
}

#[test]
fn a_record_of_format_1_is_read_without_what_its_tombstones_held() {
    let bytes = std::fs::read(corpus("commit_record").join("update-format-1")).expect("readable");
    assert_eq!((bytes[0], record::FORMAT), (1, 2));
    let commit = record::decode(&bytes.into()).expect("an old record");
    let body = commit.parts[0].decode(fuzz::schema()).expect("its rows");
    assert_eq!((body.replaced.targets.len(), body.replaced.old.is_none()), (3, true));
    assert_eq!(body.updated.expect("an update").2, sample(3, 0));
}

/// Rows of every type; each `gap`-th value is NULL where that may be (0: none).
fn sample(rows: i64, gap: i64) -> RecordBatch {
    let schema = fuzz::schema().rows();
    let column = |nullable: bool, data_type: &DataType| -> ArrayRef {
        let value = |n: i64| (!nullable || gap == 0 || n % gap != 0).then_some(n * 37);
        let numbers: Int64Array = (1..=rows).map(value).collect();
        match data_type {
            DataType::BinaryView => cast(&cast(&numbers, &DataType::Utf8View).expect("text"), data_type),
            DataType::Date32 => cast(&cast(&numbers, &DataType::Int32).expect("small"), data_type),
            _ => cast(&numbers, data_type),
        }
        .expect("castable")
    };
    let columns =
        schema.fields().iter().map(|field| column(field.is_nullable(), field.data_type())).collect();
    RecordBatch::try_new(schema.clone(), columns).expect("the schema's columns")
}

fn old(rows: i64) -> OldRows {
    let count = |n: i64| (0..n).collect::<Vec<_>>();
    let updated = TimestampMicrosecondArray::from(count(rows)).with_timezone(TIMEZONE);
    OldRows { rows: sample(rows, 3), seqs: count(rows).into(), updated }
}

/// Writes the seeds anew, in case a format changes.
#[test]
#[ignore = "writes into the source tree"]
fn regenerate_the_seeds() {
    let put = |target: &str, name: &str, bytes: &[u8]| {
        std::fs::create_dir_all(corpus(target)).expect("created");
        durable::replace_file(&RealDisk, &corpus(target).join(name), bytes).expect("written");
    };
    for (name, rows, gap) in [("one", 1, 0), ("gaps", 9, 2), ("nulls", 5, 1), ("many", 40, 7)] {
        let mut bytes = (rows as u16).to_le_bytes().to_vec();
        put_batch(&mut bytes, &sample(rows, gap)).expect("columns of ours");
        put("row_codec", name, &bytes);
    }
    let targets = vec![
        Address::Live { seq: 9, index: 0 },
        Address::Tombstone { seq: 900, index: 7 },
        Address::Segment { id: 3, row: 70_000 },
    ];
    let insert = PartBody {
        inserted: Some(sample(4, 3)),
        replaced: Replaced::default(),
        updated: None,
        deleted: None,
    };
    let update = PartBody {
        inserted: None,
        replaced: Replaced { targets: targets.clone(), old: Some(old(3)) },
        updated: Some((targets.clone(), old(3), sample(3, 0))),
        deleted: None,
    };
    let delete = PartBody {
        deleted: Some((targets, old(3))),
        inserted: None,
        replaced: Replaced::default(),
        updated: None,
    };
    let shared = PartitionId { table: TableId(1_000), user: None };
    let user = PartitionId { user: Some(UserId::new("ann").expect("a name")), ..shared.clone() };
    for (name, parts) in [
        ("insert", vec![(shared.clone(), 1, &insert)]),
        ("update", vec![(user.clone(), 1, &update)]),
        ("delete", vec![(shared.clone(), 1, &delete)]),
        ("two", vec![(shared, 1, &insert), (user, 1, &delete)]),
    ] {
        put("commit_record", name, &record::encode(1_800_000_000_000_000, &parts).expect("columns of ours"));
    }
    for (name, rows) in [
        ("none", Vec::new()),
        ("few", vec![1, 5, 70_000]),
        ("run", (0..5_000).collect()),
        ("last", vec![u32::MAX]),
    ] {
        let bytes = delete_vector::encode(&rows.into_iter().collect());
        put("delete_vector", name, &bytes);
        put("delete_vector", &format!("{name}.bitmap"), &bytes[8..bytes.len() - 4]);
    }
    for (name, script) in SCRIPTS {
        put("engine_ops", name, script);
    }
    put_manifests(&put);
}

/// Each operation: what, first key, how many, value.
const SCRIPTS: [(&str, &[u8]); 5] = [
    ("insert-flush-update", &[0, 1, 9, 1, 6, 0, 0, 0, 3, 3, 4, 2, 7, 0, 0, 0, 5, 1, 2, 0, 6, 0, 0, 0]),
    ("delete-insert", &[0, 1, 9, 1, 5, 1, 9, 0, 6, 0, 0, 0, 0, 1, 9, 3, 6, 0, 0, 0, 10, 0, 0, 0]),
    ("held-snapshots", &[0, 1, 9, 1, 7, 0, 0, 0, 3, 1, 9, 2, 7, 0, 0, 0, 6, 0, 0, 0, 5, 2, 3, 0, 6, 0, 0, 0]),
    ("freeze-in-a-flush", &[0, 1, 9, 1, 9, 0, 0, 4, 6, 0, 0, 0, 3, 1, 9, 2, 9, 0, 0, 9, 6, 0, 0, 0]),
    ("crashes", &[0, 1, 9, 1, 11, 0, 0, 0, 0, 20, 9, 1, 11, 0, 0, 1, 6, 0, 0, 0, 3, 1, 9, 9, 11, 0, 0, 2]),
];

/// Manifests of a real partition: empty, of one segment, and with a delete vector.
fn put_manifests(put: &dyn Fn(&str, &str, &[u8])) {
    let table = TableId(1_000);
    let empty =
        kalamdb_engine::Manifest::empty(table, UserId::new("ann").ok(), 1, 5).encode().expect("written");
    let text = String::from_utf8(empty.clone()).expect("JSON");
    let body = text.rfind("\n  \"crc32\"").expect("a checksum");
    let segment = r#""segments": [{"id": 1, "path": "batch-1.parquet", "level": 0, "rows": 9, "live_row_groups": 1,
        "tombstones": 2, "bytes": 999, "min_seq": 1, "max_seq": 7, "schema_version": 1, "created_at": 5, "crc32": 77,
        "min_key": "80", "max_key": "ff", "columns": []}]"#;
    put("manifest", "empty", &empty);
    put("manifest", "empty.body", &text.as_bytes()[..body]);
    put("manifest", "segment.body", text[..body].replace("\"segments\": []", segment).as_bytes());
    let deletes =
        segment.replace("\"columns\": []", "\"columns\": [], \"deletes_path\": \"d\", \"deleted_rows\": 3");
    put("manifest", "deletes.body", text[..body].replace("\"segments\": []", &deletes).as_bytes());
}
