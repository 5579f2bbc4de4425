//! Keys as bytes that are equal where the keys are, and in their order.
//!
//! SQL knows one zero and one NaN, floating-point numbers have several of each. As a part of a key all zeros are `0.0`, and
//! all NaNs the same one: when a key is encoded, which also finds rows that were stored otherwise, and in the rows
//! themselves before they are logged, so that statistics and bloom filters of files know only these.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Float32Type, Float64Type};
use arrow::error::ArrowError;
use arrow::row::{RowConverter, Rows, SortField};

/// Encodes the keys of one table.
#[derive(Debug)]
pub struct KeyEncoder {
    rows: RowConverter,
    /// Whether any part of the key is a floating-point number.
    floating: bool,
}

impl KeyEncoder {
    /// For keys whose parts have these types.
    ///
    /// # Errors
    /// If one of them has no order.
    pub(crate) fn new(types: Vec<DataType>) -> Result<Self, ArrowError> {
        let floating = types.iter().any(DataType::is_floating);
        let rows = RowConverter::new(types.into_iter().map(SortField::new).collect())?;
        Ok(Self { rows, floating })
    }

    /// No keys, with room for so many of so many bytes together.
    pub fn empty_rows(&self, rows: usize, bytes: usize) -> Rows {
        self.rows.empty_rows(rows, bytes)
    }

    /// The keys of some rows; `columns` are the parts in the order of the key.
    ///
    /// # Errors
    /// If the columns are not those of the key.
    pub fn convert_columns(&self, columns: &[ArrayRef]) -> Result<Rows, ArrowError> {
        match self.floating {
            true => self.rows.convert_columns(&columns.iter().map(normal).collect::<Vec<_>>()),
            false => self.rows.convert_columns(columns),
        }
    }

    /// Adds the keys of more rows.
    ///
    /// # Errors
    /// As [`KeyEncoder::convert_columns`].
    pub fn append(&self, keys: &mut Rows, columns: &[ArrayRef]) -> Result<(), ArrowError> {
        match self.floating {
            true => self.rows.append(keys, &columns.iter().map(normal).collect::<Vec<_>>()),
            false => self.rows.append(keys, columns),
        }
    }

    /// A key that was encoded when there were several zeros and NaNs, as it is encoded now.
    pub(crate) fn normal_key(&self, key: Vec<u8>) -> Vec<u8> {
        if !self.floating || key.is_empty() {
            return key;
        }
        let parsed = self.rows.parser();
        let columns = self.rows.convert_rows([parsed.parse(&key)]);
        match columns.and_then(|columns| self.convert_columns(&columns)) {
            Ok(keys) => keys.row(0).as_ref().to_vec(),
            // It came out of a manifest whose checksum is right, so this does not happen; the key is then what it says.
            Err(_) => key,
        }
    }

    /// Rows of a table with this key, whose parts are the columns at `parts`, with these parts as they are stored.
    pub(crate) fn normal_rows(&self, rows: RecordBatch, parts: &[usize]) -> Result<RecordBatch, ArrowError> {
        if !self.floating {
            return Ok(rows);
        }
        let mut columns = rows.columns().to_vec();
        parts.iter().for_each(|part| columns[*part] = normal(&columns[*part]));
        RecordBatch::try_new(rows.schema(), columns)
    }
}

/// A part of keys as it is stored.
fn normal(column: &ArrayRef) -> ArrayRef {
    macro_rules! floats {
        ($type:ty, $nan:expr, $differs:expr) => {{
            let values = column.as_primitive::<$type>();
            match values.values().iter().any($differs) {
                // Adding zero makes `0.0` of `-0.0`, and changes no other number.
                true => Arc::new(values.unary::<_, $type>(|v| if v.is_nan() { $nan } else { v + 0.0 })),
                false => column.clone(),
            }
        }};
    }
    match column.data_type() {
        DataType::Float64 => {
            floats!(Float64Type, f64::NAN, |v| v.is_nan() || v.to_bits() == (-0.0_f64).to_bits())
        }
        DataType::Float32 => {
            floats!(Float32Type, f32::NAN, |v| v.is_nan() || v.to_bits() == (-0.0_f32).to_bits())
        }
        _ => column.clone(),
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Float32Array, Float64Array, Int32Array};

    use super::*;

    #[test]
    fn an_old_key_is_read_as_a_new_one() {
        let encoder = KeyEncoder::new(vec![DataType::Float64]).unwrap();
        let old = RowConverter::new(vec![SortField::new(DataType::Float64)]).unwrap();
        for (was, is) in [(-0.0, 0.0), (0.0, 0.0), (-2.5, -2.5)] {
            let column = |value| -> [ArrayRef; 1] { [Arc::new(Float64Array::from(vec![value]))] };
            let key = old.convert_columns(&column(was)).unwrap().row(0).as_ref().to_vec();
            let expected = encoder.convert_columns(&column(is)).unwrap();
            assert_eq!(encoder.normal_key(key), expected.row(0).as_ref(), "{was}");
        }
    }

    #[test]
    fn there_is_one_zero_and_one_nan_and_numbers_are_in_order() {
        let other_nan = f64::from_bits(f64::NAN.to_bits() | 1 | 1 << 63);
        let values = [f64::NEG_INFINITY, -1.5, -0.0, 0.0, 0.25, f64::INFINITY, f64::NAN, other_nan];
        let wide: ArrayRef = Arc::new(Float64Array::from_iter_values(values));
        let narrow: ArrayRef = Arc::new(Float32Array::from_iter_values(values.map(|v| v as f32)));
        for column in [wide, narrow] {
            let encoder = KeyEncoder::new(vec![column.data_type().clone(), DataType::Int32]).unwrap();
            let second: ArrayRef = Arc::new(Int32Array::from(vec![7; values.len()]));
            let keys = encoder.convert_columns(&[column.clone(), second.clone()]).unwrap();
            let mut appended = encoder.empty_rows(0, 0);
            encoder.append(&mut appended, &[column, second]).unwrap();
            for at in 1..values.len() {
                let equal = at == 3 || at == 7;
                assert_eq!(keys.row(at - 1) == keys.row(at), equal, "{at}");
                assert!(keys.row(at - 1) <= keys.row(at), "{at}");
                assert_eq!(appended.row(at), keys.row(at));
            }
        }
    }
}
