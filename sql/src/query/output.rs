//! Results in the database's own types: window functions and some others count in unsigned integers, which SQL does not
//! have; their columns become BIGINT.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use crate::error::Result;

/// The schema of a result in the database's types; `None` if it already is.
pub(super) fn signed(schema: &Schema) -> Option<SchemaRef> {
    let unsigned = |field: &Arc<Field>| *field.data_type() == DataType::UInt64;
    if !schema.fields().iter().any(unsigned) {
        return None;
    }
    let fields = schema.fields().iter().map(|field| match unsigned(field) {
        true => Arc::new(field.as_ref().clone().with_data_type(DataType::Int64)),
        false => field.clone(),
    });
    Some(Arc::new(Schema::new(fields.collect::<Vec<_>>())))
}

/// A batch with the schema that [`signed`] gave.
///
/// # Errors
/// [`crate::ErrorCode::ValueOutOfRange`] for a number beyond BIGINT.
pub(super) fn convert(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    let checked = CastOptions { safe: false, ..CastOptions::default() };
    let columns = batch.columns().iter().zip(schema.fields()).map(|(column, field)| -> Result<ArrayRef> {
        match column.data_type() == field.data_type() {
            true => Ok(column.clone()),
            false => Ok(cast_with_options(column, field.data_type(), &checked)?),
        }
    });
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    Ok(RecordBatch::try_new_with_options(schema.clone(), columns.collect::<Result<_>>()?, &options)?)
}

#[cfg(test)]
mod tests {
    use arrow::array::{AsArray, UInt64Array};
    use arrow::datatypes::Int64Type;

    use super::*;
    use crate::error::ErrorCode;

    #[test]
    fn unsigned_numbers_become_bigint_or_are_out_of_range() {
        let batch = |value: u64| {
            let column: ArrayRef = Arc::new(UInt64Array::from(vec![value]));
            RecordBatch::try_from_iter([("n", column)]).unwrap()
        };
        let schema = signed(&batch(1).schema()).unwrap();
        let converted = convert(&batch(7), &schema).unwrap();
        assert_eq!(converted.column(0).as_primitive::<Int64Type>().values(), &[7]);
        assert_eq!(convert(&batch(u64::MAX), &schema).unwrap_err().code, ErrorCode::ValueOutOfRange);
        assert!(signed(&schema).is_none());
    }
}
