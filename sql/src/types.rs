//! The three faces of a type: as written in SQL, as the engine holds it, as a result names it.

use std::sync::Arc;

use arrow::datatypes::{DataType as ArrowType, Field, Schema};
use datafusion::sql::sqlparser::ast::{ArrayElemTypeDef, DataType as SqlType, ExactNumberInfo, TimezoneInfo};
use kalamdb_engine::DataType;
use kalamdb_engine::TYPE_METADATA_KEY;

use crate::error::{Error, ErrorCode, Result};
use crate::names;
use crate::session::ColumnInfo;

/// The digits of a DECIMAL written without any.
const DEFAULT_DECIMAL: (u8, u8) = (38, 10);

/// The engine's type for one written in a column definition or a cast.
///
/// # Errors
/// [`ErrorCode::Unsupported`] naming the types there are; [`ErrorCode::InvalidParameter`] for digits out of range.
pub(crate) fn from_sql(sql: &SqlType) -> Result<DataType> {
    Ok(match sql {
        SqlType::Boolean | SqlType::Bool => DataType::Boolean,
        SqlType::SmallInt(_) | SqlType::Int2(_) => DataType::SmallInt,
        SqlType::Int(_) | SqlType::Integer(_) | SqlType::Int4(_) => DataType::Int,
        SqlType::BigInt(_) | SqlType::Int8(_) => DataType::BigInt,
        SqlType::Real | SqlType::Float4 => DataType::Float,
        SqlType::Float(ExactNumberInfo::Precision(digits)) if *digits > 24 => DataType::Double,
        SqlType::Float(_) => DataType::Float,
        SqlType::Double(_) | SqlType::DoublePrecision | SqlType::Float8 => DataType::Double,
        SqlType::Decimal(digits) | SqlType::Numeric(digits) | SqlType::Dec(digits) => decimal(digits)?,
        SqlType::Text
        | SqlType::String(_)
        | SqlType::Varchar(_)
        | SqlType::Nvarchar(_)
        | SqlType::CharVarying(_)
        | SqlType::CharacterVarying(_)
        | SqlType::Char(_)
        | SqlType::Character(_) => DataType::Text,
        SqlType::Bytea
        | SqlType::Bytes(_)
        | SqlType::Blob(_)
        | SqlType::Varbinary(_)
        | SqlType::Binary(_) => DataType::Bytes,
        SqlType::JSON | SqlType::JSONB => DataType::Json,
        SqlType::Timestamp(..) | SqlType::TimestampNtz(_) | SqlType::Datetime(_) => DataType::Timestamp,
        SqlType::Date => DataType::Date,
        SqlType::Time(_, TimezoneInfo::None | TimezoneInfo::WithoutTimeZone) => DataType::Time,
        SqlType::Uuid => DataType::Uuid,
        SqlType::Array(element) => array(element, sql)?,
        SqlType::Custom(name, modifiers) => {
            named(&name.to_string(), modifiers).ok_or_else(|| unknown(sql))?
        }
        other => return Err(unknown(other)),
    })
}

/// Types that the parser has no word for.
fn named(name: &str, modifiers: &[String]) -> Option<DataType> {
    match name.to_ascii_lowercase().as_str() {
        "string" | "text" => Some(DataType::Text),
        "bytes" if modifiers.is_empty() => Some(DataType::Bytes),
        _ => None,
    }
}

fn array(element: &ArrayElemTypeDef, whole: &SqlType) -> Result<DataType> {
    match element {
        ArrayElemTypeDef::AngleBracket(item)
        | ArrayElemTypeDef::SquareBracket(item, _)
        | ArrayElemTypeDef::Parenthesis(item) => Ok(DataType::Array(Box::new(from_sql(item)?))),
        ArrayElemTypeDef::None => {
            Err(unknown(whole).with_hint("write the element type: INT[] or ARRAY<INT>"))
        }
    }
}

fn decimal(digits: &ExactNumberInfo) -> Result<DataType> {
    let (precision, scale) = match digits {
        ExactNumberInfo::None => {
            return Ok(DataType::Decimal { precision: DEFAULT_DECIMAL.0, scale: DEFAULT_DECIMAL.1 });
        }
        ExactNumberInfo::Precision(precision) => (*precision, 0),
        ExactNumberInfo::PrecisionAndScale(precision, scale) => (*precision, *scale),
    };
    match (u8::try_from(precision), u8::try_from(scale)) {
        (Ok(precision @ 1..=38), Ok(scale)) if scale <= precision => {
            Ok(DataType::Decimal { precision, scale })
        }
        _ => Err(Error::new(
            ErrorCode::InvalidParameter,
            format!(
                "DECIMAL({precision},{scale}) is not possible: 1 to 38 digits, at most as many after the point"
            ),
        )),
    }
}

/// The types without their modifiers.
const NAMES: [&str; 14] = [
    "BOOLEAN",
    "SMALLINT",
    "INT",
    "BIGINT",
    "FLOAT",
    "DOUBLE",
    "DECIMAL",
    "TEXT",
    "BYTES",
    "JSON",
    "TIMESTAMP",
    "DATE",
    "TIME",
    "UUID",
];

fn unknown(sql: &SqlType) -> Error {
    let types = format!("the types are {} and arrays of them", NAMES.join(", "));
    let hint = match names::nearest(&sql.to_string(), NAMES) {
        Some(near) => format!("did you mean {near}? {types}"),
        None => types,
    };
    Error::new(ErrorCode::Unsupported, format!("there is no type {sql}")).with_hint(hint)
}

/// The SQL name of a result column's type.
pub(crate) fn sql_name(field: &Field) -> String {
    if let Some(name) = field.metadata().get(TYPE_METADATA_KEY) {
        return name.clone();
    }
    arrow_name(field.data_type())
}

fn arrow_name(arrow: &ArrowType) -> String {
    let name = match arrow {
        ArrowType::Null => "NULL",
        ArrowType::Boolean => "BOOLEAN",
        ArrowType::Int8 | ArrowType::Int16 | ArrowType::UInt8 => "SMALLINT",
        ArrowType::Int32 | ArrowType::UInt16 => "INT",
        ArrowType::Int64 | ArrowType::UInt32 | ArrowType::UInt64 => "BIGINT",
        ArrowType::Float16 | ArrowType::Float32 => "FLOAT",
        ArrowType::Float64 => "DOUBLE",
        ArrowType::Decimal32(p, s)
        | ArrowType::Decimal64(p, s)
        | ArrowType::Decimal128(p, s)
        | ArrowType::Decimal256(p, s) => return format!("DECIMAL({p},{s})"),
        ArrowType::Utf8 | ArrowType::LargeUtf8 | ArrowType::Utf8View => "TEXT",
        ArrowType::Binary
        | ArrowType::LargeBinary
        | ArrowType::BinaryView
        | ArrowType::FixedSizeBinary(_) => "BYTES",
        ArrowType::Timestamp(..) => "TIMESTAMP",
        ArrowType::Date32 | ArrowType::Date64 => "DATE",
        ArrowType::Time32(_) | ArrowType::Time64(_) => "TIME",
        ArrowType::Interval(_) | ArrowType::Duration(_) => "INTERVAL",
        ArrowType::Struct(_) | ArrowType::Map(..) | ArrowType::Union(..) => "JSON",
        ArrowType::Dictionary(_, value) => return arrow_name(value),
        ArrowType::RunEndEncoded(_, value) => return sql_name(value),
        ArrowType::List(item)
        | ArrowType::LargeList(item)
        | ArrowType::ListView(item)
        | ArrowType::LargeListView(item)
        | ArrowType::FixedSizeList(item, _) => return format!("{}[]", sql_name(item)),
    };
    name.into()
}

/// The columns of a result, as answers describe them.
pub(crate) fn column_infos(schema: &Schema) -> Arc<[ColumnInfo]> {
    let info = |field: &Arc<Field>| ColumnInfo {
        name: field.name().clone(),
        type_name: sql_name(field),
        nullable: field.is_nullable(),
    };
    schema.fields().iter().map(info).collect()
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
    use datafusion::sql::sqlparser::parser::Parser;

    use super::*;

    fn parse(text: &str) -> Result<DataType> {
        let mut parser = Parser::new(&PostgreSqlDialect {}).try_with_sql(text).unwrap();
        from_sql(&parser.parse_data_type().unwrap())
    }

    #[test]
    fn every_type_of_the_reference_is_understood_and_named() {
        let cases = [
            ("boolean", "BOOLEAN"),
            ("bool", "BOOLEAN"),
            ("smallint", "SMALLINT"),
            ("int2", "SMALLINT"),
            ("int", "INT"),
            ("INTEGER", "INT"),
            ("int4", "INT"),
            ("bigint", "BIGINT"),
            ("int8", "BIGINT"),
            ("float", "FLOAT"),
            ("real", "FLOAT"),
            ("float(53)", "DOUBLE"),
            ("double", "DOUBLE"),
            ("double precision", "DOUBLE"),
            ("decimal(10,2)", "DECIMAL(10,2)"),
            ("numeric(5)", "DECIMAL(5,0)"),
            ("text", "TEXT"),
            ("string", "TEXT"),
            ("varchar", "TEXT"),
            ("varchar(10)", "TEXT"),
            ("char(3)", "TEXT"),
            ("bytes", "BYTES"),
            ("bytea", "BYTES"),
            ("json", "JSON"),
            ("jsonb", "JSON"),
            ("timestamp", "TIMESTAMP"),
            ("timestamptz", "TIMESTAMP"),
            ("timestamp with time zone", "TIMESTAMP"),
            ("date", "DATE"),
            ("time", "TIME"),
            ("uuid", "UUID"),
            ("int[]", "INT[]"),
            ("array<text>", "TEXT[]"),
            ("int[][]", "INT[][]"),
            ("json[]", "JSON[]"),
        ];
        for (written, name) in cases {
            let parsed = parse(written).unwrap_or_else(|e| panic!("{written}: {e}"));
            assert_eq!(parsed.to_string(), name, "{written}");
            assert_eq!(sql_name(&parsed.field("c", true)), name, "{written}");
        }
    }

    #[test]
    fn an_unknown_type_is_refused_with_the_list_of_types() {
        let error = parse("money").unwrap_err();
        assert_eq!(error.code, ErrorCode::Unsupported);
        assert!(error.hint.unwrap().contains("DECIMAL"));
        assert_eq!(parse("decimal(40,2)").unwrap_err().code, ErrorCode::InvalidParameter);
        assert_eq!(parse("decimal(4,6)").unwrap_err().code, ErrorCode::InvalidParameter);
    }
}
