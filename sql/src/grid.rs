//! Small results that are made of cells rather than of columns: SHOW, DESCRIBE, computed tables.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Float64Array, Int32Array, Int64Array, RecordBatch, RecordBatchOptions,
    StringViewArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{Field, Schema, SchemaRef};
use kalamdb_engine::system::Cell;
use kalamdb_engine::{DataType, TIMEZONE};

use crate::error::Result;

/// A schema of nullable columns.
pub(crate) fn schema(columns: &[(&str, DataType)]) -> SchemaRef {
    let fields: Vec<Field> = columns.iter().map(|(name, data_type)| data_type.field(name, true)).collect();
    Arc::new(Schema::new(fields))
}

/// Rows of cells in column order; missing cells are NULL.
///
/// # Errors
/// None for schemas of [`schema`].
pub(crate) fn batch(schema: &SchemaRef, rows: &[Vec<Cell>]) -> Result<RecordBatch> {
    let columns = schema.fields().iter().enumerate().map(|(at, field)| column(field, rows, at)).collect();
    let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
    Ok(RecordBatch::try_new_with_options(schema.clone(), columns, &options)?)
}

fn column(field: &Field, rows: &[Vec<Cell>], at: usize) -> ArrayRef {
    use arrow::datatypes::DataType as ArrowType;
    let cells = || rows.iter().map(move |row| row.get(at).unwrap_or(&Cell::Null));
    let ints = || cells().map(|cell| if let Cell::Int(value) = cell { Some(*value) } else { None });
    match field.data_type() {
        ArrowType::Int64 => Arc::new(Int64Array::from_iter(ints())),
        ArrowType::Int32 => {
            Arc::new(ints().map(|v| v.and_then(|v| i32::try_from(v).ok())).collect::<Int32Array>())
        }
        ArrowType::Boolean => Arc::new(ints().map(|v| v.map(|v| v != 0)).collect::<BooleanArray>()),
        ArrowType::Timestamp(..) => {
            Arc::new(ints().collect::<TimestampMicrosecondArray>().with_timezone(TIMEZONE))
        }
        ArrowType::Float64 => {
            let doubles =
                cells().map(|cell| if let Cell::Double(value) = cell { Some(*value) } else { None });
            Arc::new(doubles.collect::<Float64Array>())
        }
        _ => {
            let texts =
                cells().map(|cell| if let Cell::Text(text) = cell { Some(text.as_str()) } else { None });
            Arc::new(texts.collect::<StringViewArray>())
        }
    }
}

/// A number that counts something.
pub(crate) fn count(value: u64) -> Cell {
    Cell::Int(i64::try_from(value).unwrap_or(i64::MAX))
}

/// TRUE or FALSE.
pub(crate) fn flag(value: bool) -> Cell {
    Cell::Int(value.into())
}
