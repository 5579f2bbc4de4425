//! The row codec: a record batch as bytes, column after column, about one byte of overhead per column.
//!
//! A column is one tag byte (all NULL, no NULL, or some NULLs with a validity bitmap after it) and its values: fixed-width
//! ones as raw little-endian bytes for every row, booleans as bits, text and bytes as length and content, arrays as
//! lengths and a child column. The schema is not repeated: the reader must know it (a record names its version).
//!
//! What a damaged record makes the reader allocate is bounded by its length, since a row takes at least one bit: of the
//! key, which is never NULL, or, in the child column of an array, of the validity bitmap that such a column always has
//! when it holds a NULL.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryViewBuilder, BooleanArray, ListArray, PrimitiveArray, RecordBatch,
    RecordBatchOptions, StringViewBuilder, new_null_array,
};
use arrow::buffer::{BooleanBuffer, Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, Date32Type, Decimal128Type, FieldRef, Float32Type, Float64Type, Int16Type,
    Int32Type, Int64Type, SchemaRef, Time64MicrosecondType, TimeUnit, TimestampMicrosecondType,
};

use super::{Input, damaged, put_varint};
use crate::error::{Error, Result};
use crate::segment::find::{hex, unhex};

const ALL_NULL: u8 = 0;
const NO_NULL: u8 = 1;
const SOME_NULL: u8 = 2;

/// Appends all columns of a batch.
///
/// # Errors
/// [`Error::Internal`] for an Arrow type no column of ours has.
pub fn put_batch(out: &mut Vec<u8>, batch: &RecordBatch) -> Result<()> {
    batch.columns().iter().try_for_each(|column| put_column(out, column))
}

/// Reads a batch of `rows` rows that [`put_batch`] wrote under the same schema.
///
/// # Errors
/// [`Error::Corrupt`] if the bytes are no such batch.
pub fn get_batch(input: &mut Input<'_>, schema: &SchemaRef, rows: usize) -> Result<RecordBatch> {
    if rows / 8 > input.remaining() {
        return Err(damaged("ends too early"));
    }
    let columns: Vec<ArrayRef> = schema
        .fields()
        .iter()
        .map(|field| get_column(input, field.data_type(), rows))
        .collect::<Result<_>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(schema.clone(), columns, &options)
        .map_err(|e| damaged(&format!("does not fit its schema: {e}")))
}

/// One value, an array of one row that is not NULL, as text: the row codec's bytes in hexadecimal.
///
/// # Errors
/// [`Error::Internal`] if it is not one such value of this type.
pub fn encode_value(value: &ArrayRef, data_type: &DataType) -> Result<String> {
    if value.len() != 1 || value.is_null(0) || value.data_type() != data_type {
        return Err(Error::internal("encode a value", format!("not one value of type {data_type}")));
    }
    let mut bytes = Vec::new();
    put_column(&mut bytes, value)?;
    Ok(hex(&bytes))
}

/// Reads what [`encode_value`] wrote.
///
/// # Errors
/// [`Error::Corrupt`] if the text is no such value.
pub fn decode_value(text: &str, data_type: &DataType) -> Result<ArrayRef> {
    let bytes = unhex(text);
    let mut input = Input::new(&bytes);
    let value = get_column(&mut input, data_type, 1)?;
    match input.remaining() == 0 && value.is_valid(0) {
        true => Ok(value),
        false => Err(Error::Corrupt(format!("a column's initial value {text:?} is no {data_type}"))),
    }
}

fn put_column(out: &mut Vec<u8>, column: &ArrayRef) -> Result<()> {
    if !column.is_empty() && column.logical_null_count() == column.len() {
        out.push(ALL_NULL);
        return Ok(());
    }
    put_some(out, column)
}

/// A column that is not [`ALL_NULL`], or may not be written so: see the module.
fn put_some(out: &mut Vec<u8>, column: &ArrayRef) -> Result<()> {
    if column.logical_null_count() == 0 {
        out.push(NO_NULL);
    } else {
        out.push(SOME_NULL);
        put_bits(out, column.len(), |row| column.is_valid(row));
    }
    put_values(out, column)
}

fn put_values(out: &mut Vec<u8>, column: &ArrayRef) -> Result<()> {
    match column.data_type() {
        DataType::Boolean => {
            let values = column.as_boolean();
            put_bits(out, values.len(), |row| values.value(row));
        }
        DataType::Int16 => put_fixed::<Int16Type>(out, column),
        DataType::Int32 => put_fixed::<Int32Type>(out, column),
        DataType::Int64 => put_fixed::<Int64Type>(out, column),
        DataType::Float32 => put_fixed::<Float32Type>(out, column),
        DataType::Float64 => put_fixed::<Float64Type>(out, column),
        DataType::Decimal128(..) => put_fixed::<Decimal128Type>(out, column),
        DataType::Timestamp(TimeUnit::Microsecond, _) => put_fixed::<TimestampMicrosecondType>(out, column),
        DataType::Date32 => put_fixed::<Date32Type>(out, column),
        DataType::Time64(TimeUnit::Microsecond) => put_fixed::<Time64MicrosecondType>(out, column),
        DataType::Utf8View => {
            column.as_string_view().iter().for_each(|value| put_bytes(out, value.unwrap_or("").as_bytes()))
        }
        DataType::BinaryView => {
            column.as_binary_view().iter().for_each(|value| put_bytes(out, value.unwrap_or(&[])))
        }
        DataType::List(_) => put_list(out, column.as_list::<i32>())?,
        other => return Err(Error::internal("encode a row", format!("unexpected type {other}"))),
    }
    Ok(())
}

fn put_list(out: &mut Vec<u8>, list: &ListArray) -> Result<()> {
    let mut pieces = Vec::new();
    for row in 0..list.len() {
        let length = if list.is_valid(row) { list.value_length(row) as usize } else { 0 };
        put_varint(out, length as u64);
        if length > 0 {
            pieces.push(list.value(row));
        }
    }
    if pieces.is_empty() {
        return Ok(());
    }
    let pieces: Vec<&dyn Array> = pieces.iter().map(AsRef::as_ref).collect();
    let child = arrow::compute::concat(&pieces).map_err(|e| Error::internal("encode an array", e))?;
    put_some(out, &child)
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn put_bits(out: &mut Vec<u8>, len: usize, bit: impl Fn(usize) -> bool) {
    let start = out.len();
    out.resize(start + len.div_ceil(8), 0);
    for row in (0..len).filter(|row| bit(*row)) {
        out[start + row / 8] |= 1 << (row % 8);
    }
}

/// All our targets are little-endian, as is Arrow in memory, so the values are copied as they stand.
fn put_fixed<T: ArrowPrimitiveType>(out: &mut Vec<u8>, column: &ArrayRef) {
    out.extend_from_slice(column.as_primitive::<T>().values().inner().as_slice());
}

fn get_column(input: &mut Input<'_>, data_type: &DataType, rows: usize) -> Result<ArrayRef> {
    let nulls = match input.byte()? {
        ALL_NULL => return Ok(new_null_array(data_type, rows)),
        NO_NULL => None,
        SOME_NULL => Some(NullBuffer::new(get_bits(input, rows)?)),
        _ => return Err(damaged("has an unknown column tag")),
    };
    Ok(match data_type {
        DataType::Boolean => Arc::new(BooleanArray::new(get_bits(input, rows)?, nulls)),
        DataType::Int16 => get_fixed::<Int16Type>(input, data_type, rows, nulls)?,
        DataType::Int32 => get_fixed::<Int32Type>(input, data_type, rows, nulls)?,
        DataType::Int64 => get_fixed::<Int64Type>(input, data_type, rows, nulls)?,
        DataType::Float32 => get_fixed::<Float32Type>(input, data_type, rows, nulls)?,
        DataType::Float64 => get_fixed::<Float64Type>(input, data_type, rows, nulls)?,
        DataType::Decimal128(..) => get_fixed::<Decimal128Type>(input, data_type, rows, nulls)?,
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            get_fixed::<TimestampMicrosecondType>(input, data_type, rows, nulls)?
        }
        DataType::Date32 => get_fixed::<Date32Type>(input, data_type, rows, nulls)?,
        DataType::Time64(TimeUnit::Microsecond) => {
            get_fixed::<Time64MicrosecondType>(input, data_type, rows, nulls)?
        }
        DataType::Utf8View => get_text(input, rows, nulls.as_ref())?,
        DataType::BinaryView => get_binary(input, rows, nulls.as_ref())?,
        DataType::List(item) => get_list(input, item, rows, nulls)?,
        other => return Err(Error::internal("decode a row", format!("unexpected type {other}"))),
    })
}

fn get_bits(input: &mut Input<'_>, len: usize) -> Result<BooleanBuffer> {
    Ok(BooleanBuffer::new(Buffer::from(input.take(len.div_ceil(8))?), 0, len))
}

fn get_fixed<T: ArrowPrimitiveType>(
    input: &mut Input<'_>,
    data_type: &DataType,
    rows: usize,
    nulls: Option<NullBuffer>,
) -> Result<ArrayRef> {
    let length =
        rows.checked_mul(size_of::<T::Native>()).ok_or_else(|| damaged("holds an impossible size"))?;
    // Copied into an aligned buffer; the log's bytes have no alignment.
    let values = ScalarBuffer::<T::Native>::new(Buffer::from(input.take(length)?), 0, rows);
    let array = PrimitiveArray::<T>::try_new(values, nulls).map_err(|e| damaged(&e.to_string()))?;
    Ok(Arc::new(array.with_data_type(data_type.clone())))
}

fn var_values<'a>(input: &mut Input<'a>, rows: usize) -> Result<(Vec<&'a [u8]>, usize)> {
    if rows > input.remaining() {
        return Err(damaged("ends too early"));
    }
    let mut values = Vec::with_capacity(rows);
    let mut total = 0;
    for _ in 0..rows {
        let length = input.size(input.remaining())?;
        values.push(input.take(length)?);
        total += length;
    }
    Ok((values, total))
}

/// The size of a view array's one data block: just what these values need, since the default block is large for one row.
fn block_size(total: usize) -> u32 {
    u32::try_from(total).unwrap_or(u32::MAX / 2).max(16)
}

fn get_text(input: &mut Input<'_>, rows: usize, nulls: Option<&NullBuffer>) -> Result<ArrayRef> {
    let (values, total) = var_values(input, rows)?;
    let mut builder = StringViewBuilder::with_capacity(rows).with_fixed_block_size(block_size(total));
    for (row, value) in values.into_iter().enumerate() {
        if nulls.is_some_and(|nulls| nulls.is_null(row)) {
            builder.append_null();
        } else {
            builder.append_value(
                std::str::from_utf8(value).map_err(|_| damaged("holds text that is not UTF-8"))?,
            );
        }
    }
    Ok(Arc::new(builder.finish()))
}

fn get_binary(input: &mut Input<'_>, rows: usize, nulls: Option<&NullBuffer>) -> Result<ArrayRef> {
    let (values, total) = var_values(input, rows)?;
    let mut builder = BinaryViewBuilder::with_capacity(rows).with_fixed_block_size(block_size(total));
    for (row, value) in values.into_iter().enumerate() {
        if nulls.is_some_and(|nulls| nulls.is_null(row)) {
            builder.append_null();
        } else {
            builder.append_value(value);
        }
    }
    Ok(Arc::new(builder.finish()))
}

fn get_list(
    input: &mut Input<'_>,
    item: &FieldRef,
    rows: usize,
    nulls: Option<NullBuffer>,
) -> Result<ArrayRef> {
    let mut lengths = Vec::new();
    let mut total = 0usize;
    for _ in 0..rows {
        let length = input.size(u32::MAX as usize)?;
        total = total
            .checked_add(length)
            .filter(|t| *t <= i32::MAX as usize)
            .ok_or_else(|| damaged("holds an impossible size"))?;
        lengths.push(length);
    }
    if total / 8 > input.remaining() {
        return Err(damaged("ends too early"));
    }
    let child = match total {
        0 => new_null_array(item.data_type(), 0),
        n => get_column(input, item.data_type(), n)?,
    };
    let offsets = OffsetBuffer::from_lengths(lengths);
    let list =
        ListArray::try_new(item.clone(), offsets, child, nulls).map_err(|e| damaged(&e.to_string()))?;
    Ok(Arc::new(list))
}
