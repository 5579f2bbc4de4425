use std::sync::Arc;

use arrow::array::{
    Array as _, ArrayRef, BinaryViewArray, BooleanArray, Date32Array, Decimal128Array, DictionaryArray,
    Float32Array, Float64Array, Int16Array, Int32Array, Int64Array, IntervalYearMonthArray, ListArray,
    NullArray, StringArray, StringViewArray, StructArray, Time64MicrosecondArray, TimestampMicrosecondArray,
    TimestampNanosecondArray, UInt64Array,
};
use arrow::datatypes::{DataType as ArrowType, Field, Int32Type, Int64Type};
use kalamdb_engine::DataType;

use super::*;

fn batch(columns: Vec<(Field, ArrayRef)>) -> RecordBatch {
    let (fields, arrays): (Vec<_>, Vec<_>) = columns.into_iter().unzip();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).unwrap()
}

fn of(field: Field, array: impl arrow::array::Array + 'static) -> String {
    let batch = batch(vec![(field, Arc::new(array))]);
    let mut out = Vec::new();
    RowEncoder::new(&batch.schema(), RowFormat::Arrays).encode_rows(&batch, &mut out);
    String::from_utf8(out).unwrap()
}

fn plain(array: impl arrow::array::Array + 'static) -> String {
    of(Field::new("c", array.data_type().clone(), true), array)
}

#[test]
fn objects_and_arrays_have_the_same_values() {
    let batch = batch(vec![
        (Field::new("id", ArrowType::Int64, false), Arc::new(Int64Array::from(vec![1, 2]))),
        (
            Field::new("te\"xt", ArrowType::Utf8View, true),
            Arc::new(StringViewArray::from(vec![Some("Hello"), None])),
        ),
    ]);
    let encode = |format| {
        let mut out = Vec::new();
        RowEncoder::new(&batch.schema(), format).encode_rows(&batch, &mut out);
        String::from_utf8(out).unwrap()
    };
    assert_eq!(encode(RowFormat::Objects), r#"{"id":1,"te\"xt":"Hello"},{"id":2,"te\"xt":null}"#);
    assert_eq!(encode(RowFormat::Arrays), r#"[1,"Hello"],[2,null]"#);
}

#[test]
fn rows_are_written_one_by_one_and_up_to_a_size() {
    let batch = batch(vec![(
        Field::new("id", ArrowType::Int64, false),
        Arc::new(Int64Array::from(vec![1, 2, 3])) as ArrayRef,
    )]);
    let encoder = RowEncoder::new(&batch.schema(), RowFormat::Arrays);
    let rows = encoder.of(&batch);
    let mut row = Vec::new();
    rows.write(1, &mut row);
    assert_eq!(row, b"[2]");
    for (bytes, expected) in [(0, "[1]"), (3, "[1]"), (4, "[1],[2]"), (100, "[1],[2],[3]")] {
        let mut out = Vec::new();
        let written = rows.write_until(b",", bytes, &mut out);
        assert_eq!((String::from_utf8(out).unwrap().as_str(), written), (expected, expected.len() / 4 + 1));
    }
}

#[test]
fn texts_are_escaped_wherever_they_have_to_be() {
    for byte in 0..=0x7f_u8 {
        for text in [String::from(byte as char), format!("before{}after, é", byte as char)] {
            let array = StringViewArray::from(vec![text.as_str()]);
            assert_eq!(plain(array), format!("[{}]", serde_json::to_string(&text).unwrap()), "{byte}");
        }
    }
}

#[test]
fn integers_that_a_double_cannot_hold_are_strings() {
    let edge = (1_i64 << 53) - 1;
    let array = Int64Array::from(vec![edge, edge + 1, -edge, -edge - 1, i64::MIN, 0]);
    assert_eq!(
        plain(array),
        r#"[9007199254740991],["9007199254740992"],[-9007199254740991],["-9007199254740992"],["-9223372036854775808"],[0]"#
    );
    assert_eq!(plain(UInt64Array::from(vec![u64::MAX])), r#"["18446744073709551615"]"#);
}

#[test]
fn floats_are_shortest_and_special_values_are_strings() {
    let array = Float64Array::from(vec![0.1, -0.0, 1e300, f64::NAN, f64::INFINITY, f64::NEG_INFINITY]);
    assert_eq!(plain(array), r#"[0.1],[-0.0],[1e+300],["NaN"],["Infinity"],["-Infinity"]"#);
    assert_eq!(plain(Float32Array::from(vec![0.1, f32::NAN])), r#"[0.1],["NaN"]"#);
}

#[test]
fn every_column_type_has_its_form() {
    let decimal = Decimal128Array::from(vec![Some(-12_345), None]).with_precision_and_scale(10, 2).unwrap();
    assert_eq!(plain(decimal), r#"["-123.45"],[null]"#);
    assert_eq!(plain(BooleanArray::from(vec![Some(true), Some(false), None])), "[true],[false],[null]");
    assert_eq!(plain(Int16Array::from(vec![-1])), "[-1]");
    assert_eq!(plain(Int32Array::from(vec![7])), "[7]");
    assert_eq!(plain(BinaryViewArray::from(vec![b"\x00\xffa".as_slice(), b""])), r#"["AP9h"],[""]"#);
    let timestamp = TimestampMicrosecondArray::from(vec![1_500_000]).with_timezone("UTC");
    assert_eq!(plain(timestamp), r#"["1970-01-01T00:00:01.500000Z"]"#);
    assert_eq!(plain(TimestampNanosecondArray::from(vec![1_500])), r#"["1970-01-01T00:00:00.000001Z"]"#);
    assert_eq!(plain(Date32Array::from(vec![19_782])), r#"["2024-02-29"]"#);
    assert_eq!(plain(Time64MicrosecondArray::from(vec![45_296_000_001])), r#"["12:34:56.000001"]"#);
    assert_eq!(plain(NullArray::new(1)), "[null]");
    assert_eq!(plain(IntervalYearMonthArray::from(vec![14])), r#"["1 years 2 mons"]"#);
    assert_eq!(plain(StringArray::from(vec!["é\n\"\u{1}"])), r#"["é\n\"\u0001"]"#);
}

#[test]
fn json_is_embedded_on_one_line_and_broken_json_is_a_string() {
    let array = StringViewArray::from(vec![
        "{\n  \"a\": [1, 18446744073709551616]\r\n}",
        "not json",
        "\"x\\ny\"",
        "null",
    ]);
    let expected = "[{   \"a\": [1, 18446744073709551616]  }],[\"not json\"],[\"x\\ny\"],[null]";
    assert_eq!(of(DataType::Json.field("c", true), array), expected);
}

#[test]
fn lists_structs_and_dictionaries_nest() {
    let list = ListArray::from_iter_primitive::<Int64Type, _, _>(vec![
        Some(vec![Some(1), None, Some(1 << 60)]),
        None,
        Some(vec![]),
    ]);
    assert_eq!(plain(list), r#"[[1,null,"1152921504606846976"]],[null],[[]]"#);
    let dictionary: DictionaryArray<Int32Type> = vec![Some("a"), None, Some("a")].into_iter().collect();
    assert_eq!(plain(dictionary), r#"["a"],[null],["a"]"#);
    let field = Arc::new(Field::new("n", ArrowType::Int32, true));
    let structure =
        StructArray::from(vec![(field, Arc::new(Int32Array::from(vec![Some(1), None])) as ArrayRef)]);
    assert_eq!(plain(structure), r#"[{"n":1}],[{"n":null}]"#);
}

#[test]
fn a_sliced_batch_writes_its_own_rows() {
    let list = ListArray::from_iter_primitive::<Int64Type, _, _>(vec![
        Some(vec![Some(1)]),
        Some(vec![Some(2), Some(3)]),
    ]);
    let batch = batch(vec![(Field::new("c", list.data_type().clone(), true), Arc::new(list))]).slice(1, 1);
    let mut out = Vec::new();
    RowEncoder::new(&batch.schema(), RowFormat::Arrays).encode_rows(&batch, &mut out);
    assert_eq!(out, b"[[2,3]]");
}
