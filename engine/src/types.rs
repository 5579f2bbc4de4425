//! The column types of the database and how each is held in Arrow and Parquet.

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::{DataType as ArrowType, Field, TimeUnit};
use serde::{Deserialize, Serialize};

/// The field metadata key that tells types apart that share an Arrow type (`JSON` and `UUID` are text in Arrow).
pub const TYPE_METADATA_KEY: &str = "kalamdb.type";

/// The timezone of every timestamp.
pub const TIMEZONE: &str = "UTC";

/// A column type.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names are SQL's own")]
pub enum DataType {
    Boolean,
    SmallInt,
    Int,
    BigInt,
    Float,
    Double,
    Decimal {
        /// Total digits, 1 to 38.
        precision: u8,
        /// Digits after the point, at most `precision`.
        scale: u8,
    },
    Text,
    Bytes,
    Json,
    /// Microseconds since the epoch, UTC.
    Timestamp,
    Date,
    /// Microseconds since midnight.
    Time,
    /// Held as its canonical lower-case text.
    Uuid,
    Array(Box<DataType>),
}

impl DataType {
    /// The Arrow type that holds it, in memory and in Parquet alike.
    pub fn arrow(&self) -> ArrowType {
        match self {
            Self::Boolean => ArrowType::Boolean,
            Self::SmallInt => ArrowType::Int16,
            Self::Int => ArrowType::Int32,
            Self::BigInt => ArrowType::Int64,
            Self::Float => ArrowType::Float32,
            Self::Double => ArrowType::Float64,
            Self::Decimal { precision, scale } => ArrowType::Decimal128(*precision, *scale as i8),
            Self::Text | Self::Json | Self::Uuid => ArrowType::Utf8View,
            Self::Bytes => ArrowType::BinaryView,
            Self::Timestamp => ArrowType::Timestamp(TimeUnit::Microsecond, Some(TIMEZONE.into())),
            Self::Date => ArrowType::Date32,
            Self::Time => ArrowType::Time64(TimeUnit::Microsecond),
            Self::Array(item) => ArrowType::List(Arc::new(item.field("item", true))),
        }
    }

    /// An Arrow field of this type, with the metadata that tells JSON and UUID from TEXT.
    pub fn field(&self, name: &str, nullable: bool) -> Field {
        let field = Field::new(name, self.arrow(), nullable);
        match self {
            Self::Json => field.with_metadata([(TYPE_METADATA_KEY.into(), "JSON".into())].into()),
            Self::Uuid => field.with_metadata([(TYPE_METADATA_KEY.into(), "UUID".into())].into()),
            _ => field,
        }
    }
}

impl fmt::Display for DataType {
    /// The SQL name.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Boolean => "BOOLEAN",
            Self::SmallInt => "SMALLINT",
            Self::Int => "INT",
            Self::BigInt => "BIGINT",
            Self::Float => "FLOAT",
            Self::Double => "DOUBLE",
            Self::Decimal { precision, scale } => return write!(f, "DECIMAL({precision},{scale})"),
            Self::Text => "TEXT",
            Self::Bytes => "BYTES",
            Self::Json => "JSON",
            Self::Timestamp => "TIMESTAMP",
            Self::Date => "DATE",
            Self::Time => "TIME",
            Self::Uuid => "UUID",
            Self::Array(item) => return write!(f, "{item}[]"),
        })
    }
}
