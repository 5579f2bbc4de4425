use datafusion::sql::sqlparser::ast::Expr;
use serde_json::json;

use super::*;

fn expr(text: &str) -> Expr {
    crate::dialect::parse_expression(text).unwrap()
}

fn text(value: &str) -> ScalarValue {
    ScalarValue::Utf8View(Some(value.into()))
}

#[test]
fn every_type_takes_the_form_that_results_have() {
    let decimal = DataType::Decimal { precision: 10, scale: 2 };
    let cases = [
        (json!(true), DataType::Boolean, ScalarValue::Boolean(Some(true))),
        (json!(-5), DataType::SmallInt, ScalarValue::Int16(Some(-5))),
        (json!("7"), DataType::Int, ScalarValue::Int32(Some(7))),
        (json!(3.0), DataType::Int, ScalarValue::Int32(Some(3))),
        (json!("9223372036854775807"), DataType::BigInt, ScalarValue::Int64(Some(i64::MAX))),
        (json!(1.5), DataType::Float, ScalarValue::Float32(Some(1.5))),
        (json!(2), DataType::Double, ScalarValue::Float64(Some(2.0))),
        (json!("-Infinity"), DataType::Double, ScalarValue::Float64(Some(f64::NEG_INFINITY))),
        (json!("12.30"), decimal.clone(), ScalarValue::Decimal128(Some(1_230), 10, 2)),
        (json!(-0.05), decimal.clone(), ScalarValue::Decimal128(Some(-5), 10, 2)),
        (json!("1e3"), decimal, ScalarValue::Decimal128(Some(100_000), 10, 2)),
        (json!("é"), DataType::Text, text("é")),
        (json!("AP8="), DataType::Bytes, ScalarValue::BinaryView(Some(vec![0, 255]))),
        (json!({"a": [1, null]}), DataType::Json, text(r#"{"a":[1,null]}"#)),
        (json!("{\"a\": 1}"), DataType::Json, text("{\"a\": 1}")),
        (json!("2024-02-29"), DataType::Date, ScalarValue::Date32(Some(19_782))),
        (json!("12:34:56.000001"), DataType::Time, ScalarValue::Time64Microsecond(Some(45_296_000_001))),
        (
            json!("6F9619FF-8B86-D011-B42D-00C04FC964FF"),
            DataType::Uuid,
            text("6f9619ff-8b86-d011-b42d-00c04fc964ff"),
        ),
    ];
    for (value, target, expected) in cases {
        let found = typed(&value, &target).unwrap_or_else(|e| panic!("{value} as {target}: {e}"));
        assert_eq!(found, expected, "{value} as {target}");
        assert_eq!(found.data_type(), target.arrow(), "{value} as {target}");
    }
}

#[test]
fn timestamps_are_read_with_any_offset_and_without_one() {
    for written in [
        "2024-02-29T12:34:56.5Z",
        "2024-02-29T14:34:56.5+02:00",
        "2024-02-29 12:34:56.5",
        "2024-02-29 12:34:56.500000+00",
    ] {
        let value = typed(&json!(written), &DataType::Timestamp).unwrap_or_else(|e| panic!("{written}: {e}"));
        assert_eq!(
            value,
            ScalarValue::TimestampMicrosecond(Some(1_709_210_096_500_000), Some("UTC".into())),
            "{written}"
        );
    }
    let midnight = typed(&json!("2024-02-29"), &DataType::Timestamp).unwrap();
    assert_eq!(midnight, ScalarValue::TimestampMicrosecond(Some(1_709_164_800_000_000), Some("UTC".into())));
    assert!(typed(&json!("2024-02-29T00:00:00.0000001Z"), &DataType::Timestamp).is_err());
}

#[test]
fn arrays_have_exactly_the_type_of_their_column() {
    for item in [DataType::Int, DataType::Json, DataType::Text, DataType::Array(Box::new(DataType::Int))] {
        let target = DataType::Array(Box::new(item.clone()));
        let inner =
            if matches!(item, DataType::Array(_)) { json!([[1, null], []]) } else { json!(["1", null]) };
        for value in [json!([]), json!(null), inner] {
            let found = typed(&value, &target).unwrap_or_else(|e| panic!("{value} as {target}: {e}"));
            assert_eq!(found.data_type(), target.arrow(), "{value} as {target}");
        }
    }
}

#[test]
fn what_does_not_fit_is_refused_and_never_rounded() {
    let small = DataType::Decimal { precision: 3, scale: 1 };
    let cases = [
        (json!(32_768), DataType::SmallInt, ErrorCode::ValueOutOfRange),
        (json!(2_147_483_648_i64), DataType::Int, ErrorCode::ValueOutOfRange),
        (json!("9223372036854775808"), DataType::BigInt, ErrorCode::ValueOutOfRange),
        (json!("1e400"), DataType::Double, ErrorCode::ValueOutOfRange),
        (json!(1e39), DataType::Float, ErrorCode::ValueOutOfRange),
        (json!("100.0"), small.clone(), ErrorCode::ValueOutOfRange),
        (json!("1.25"), small, ErrorCode::ValueOutOfRange),
        (json!(1.5), DataType::Int, ErrorCode::TypeMismatch),
        (json!("abc"), DataType::Int, ErrorCode::TypeMismatch),
        (json!(""), DataType::Int, ErrorCode::TypeMismatch),
        (json!("0x10"), DataType::Int, ErrorCode::TypeMismatch),
        (json!(true), DataType::Int, ErrorCode::TypeMismatch),
        (json!([1]), DataType::Int, ErrorCode::TypeMismatch),
        (json!({}), DataType::Text, ErrorCode::TypeMismatch),
        (json!(1), DataType::Boolean, ErrorCode::TypeMismatch),
        (json!("%%%"), DataType::Bytes, ErrorCode::TypeMismatch),
        (json!("{"), DataType::Json, ErrorCode::TypeMismatch),
        (json!("yesterday"), DataType::Timestamp, ErrorCode::TypeMismatch),
        (json!("2023-02-29"), DataType::Date, ErrorCode::TypeMismatch),
        (json!("25:00:00"), DataType::Time, ErrorCode::TypeMismatch),
        (json!("not-a-uuid"), DataType::Uuid, ErrorCode::TypeMismatch),
    ];
    for (value, target, code) in cases {
        let error = typed(&value, &target).expect_err(&format!("{value} as {target}"));
        assert_eq!(error.code, code, "{value} as {target}: {error}");
    }
}

#[test]
fn untyped_parameters_have_the_natural_type_of_the_value() {
    assert_eq!(scalar(&json!(1)).unwrap(), ScalarValue::Int64(Some(1)));
    assert_eq!(scalar(&json!(1.5)).unwrap(), ScalarValue::Float64(Some(1.5)));
    assert_eq!(scalar(&json!("a")).unwrap(), text("a"));
    assert_eq!(scalar(&json!(null)).unwrap(), ScalarValue::Null);
    assert!(matches!(scalar(&json!([1, null, 2.5])).unwrap(), ScalarValue::List(_)));
    assert!(matches!(scalar(&json!([])).unwrap(), ScalarValue::List(_)));
    assert_eq!(scalar(&json!([1, "a"])).unwrap_err().code, ErrorCode::TypeMismatch);
    assert_eq!(scalar(&json!(u64::MAX)).unwrap_err().code, ErrorCode::ValueOutOfRange);
}

#[test]
fn literals_and_parameters_of_a_statement_need_no_planner() {
    let params = [json!(5), json!("AP8=")];
    let value = |text: &str, target: &DataType| literal(&expr(text), &params, target);
    assert_eq!(value("-32768", &DataType::SmallInt).unwrap(), Some(ScalarValue::Int16(Some(i16::MIN))));
    assert_eq!(value("$1", &DataType::BigInt).unwrap(), Some(ScalarValue::Int64(Some(5))));
    assert_eq!(value("$2", &DataType::Bytes).unwrap(), Some(ScalarValue::BinaryView(Some(vec![0, 255]))));
    assert_eq!(
        value("'abc'", &DataType::Bytes).unwrap(),
        Some(ScalarValue::BinaryView(Some(b"abc".to_vec())))
    );
    assert_eq!(
        value(r"'\x00ff'", &DataType::Bytes).unwrap(),
        Some(ScalarValue::BinaryView(Some(vec![0, 255])))
    );
    assert_eq!(value("NULL", &DataType::Int).unwrap(), Some(ScalarValue::Int32(None)));
    assert_eq!(value("('x')", &DataType::Text).unwrap(), Some(text("x")));
    assert_eq!(value("1 + 1", &DataType::Int).unwrap(), None);
    assert_eq!(value("now()", &DataType::Timestamp).unwrap(), None);
}

#[test]
fn a_missing_parameter_is_named_with_its_place() {
    let error = literal(&expr("  $3"), &[json!(1)], &DataType::Int).unwrap_err();
    assert_eq!(error.code, ErrorCode::InvalidParameter);
    assert_eq!(error.position.map(|at| at.column), Some(3));
    assert!(literal(&expr("$0"), &[json!(1)], &DataType::Int).is_err());
}

#[test]
fn more_than_a_thousand_parameters_are_too_many() {
    assert!(check_count(&vec![json!(1); 1_000]).is_ok());
    assert_eq!(check_count(&vec![json!(1); 1_001]).unwrap_err().code, ErrorCode::TooLarge);
}
