//! One value of any Arrow type as JSON.

use std::io::Write as _;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryViewArray, BooleanArray, Date32Array, Decimal128Array, Float32Array,
    Float64Array, GenericListArray, Int16Array, Int32Array, Int64Array, OffsetSizeTrait, StringArray,
    StringViewArray, StructArray, Time64MicrosecondArray, TimestampMicrosecondArray,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType as ArrowType, Field, TimeUnit};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kalamdb_engine::TYPE_METADATA_KEY;

use super::time;

/// The largest integer that every JSON reader keeps exact.
const MAX_EXACT: u64 = (1 << 53) - 1;

/// True for columns whose text is JSON itself.
pub(super) fn is_json(field: &Field) -> bool {
    field.metadata().get(TYPE_METADATA_KEY).is_some_and(|name| name == "JSON")
}

/// Writes one row of an array column.
type WriteRow<'a> = Box<dyn Fn(usize, &mut Vec<u8>) + 'a>;

/// A column, downcast.
pub(super) enum Cell<'a> {
    Null,
    Boolean(&'a BooleanArray),
    Int16(&'a Int16Array),
    Int32(&'a Int32Array),
    Int64(&'a Int64Array),
    Float32(&'a Float32Array),
    Float64(&'a Float64Array),
    Decimal(&'a Decimal128Array),
    View(&'a StringViewArray),
    Text(&'a StringArray),
    Json(&'a StringViewArray),
    Bytes(&'a BinaryViewArray),
    Timestamp(&'a TimestampMicrosecondArray),
    Date(&'a Date32Array),
    Time(&'a Time64MicrosecondArray),
    /// Per row the values of the list, as a cell over all of them.
    List(WriteRow<'a>, &'a dyn Array),
    Struct(&'a StructArray, Vec<(Vec<u8>, Cell<'a>)>),
    /// A column that was converted to one of the types above.
    Owned(Box<OwnedCell>),
    /// Anything else, as text.
    Display(ArrayFormatter<'a>, &'a dyn Array),
    /// A type that cannot be written.
    Unwritable,
}

/// A converted column; its cell is made anew for each value, which only rare types pay for.
pub(super) struct OwnedCell {
    column: ArrayRef,
    json: bool,
}

impl<'a> Cell<'a> {
    /// Prepares a column; `json` says that its text is JSON.
    pub(super) fn new(column: &'a ArrayRef, json: bool) -> Self {
        match column.data_type() {
            ArrowType::Null => Self::Null,
            ArrowType::Boolean => Self::Boolean(column.as_boolean()),
            ArrowType::Int16 => Self::Int16(column.as_primitive()),
            ArrowType::Int32 => Self::Int32(column.as_primitive()),
            ArrowType::Int64 => Self::Int64(column.as_primitive()),
            ArrowType::Float32 => Self::Float32(column.as_primitive()),
            ArrowType::Float64 => Self::Float64(column.as_primitive()),
            ArrowType::Decimal128(..) => Self::Decimal(column.as_primitive()),
            ArrowType::Utf8View if json => Self::Json(column.as_string_view()),
            ArrowType::Utf8View => Self::View(column.as_string_view()),
            ArrowType::Utf8 if !json => Self::Text(column.as_string()),
            ArrowType::BinaryView => Self::Bytes(column.as_binary_view()),
            ArrowType::Timestamp(TimeUnit::Microsecond, _) => Self::Timestamp(column.as_primitive()),
            ArrowType::Date32 => Self::Date(column.as_primitive()),
            ArrowType::Time64(TimeUnit::Microsecond) => Self::Time(column.as_primitive()),
            ArrowType::List(item) => list(column.as_list::<i32>(), is_json(item)),
            ArrowType::LargeList(item) => list(column.as_list::<i64>(), is_json(item)),
            ArrowType::Struct(_) => structure(column.as_struct()),
            other => match plain(other).and_then(|plain| cast(column, &plain).ok()) {
                Some(column) => Self::Owned(Box::new(OwnedCell { column, json })),
                None => display(column),
            },
        }
    }

    /// Appends the value of one row.
    pub(super) fn write(&self, row: usize, out: &mut Vec<u8>) {
        if self.is_null(row) {
            return out.extend_from_slice(b"null");
        }
        match self {
            Self::Null | Self::Unwritable => out.extend_from_slice(b"null"),
            Self::Boolean(a) => out.extend_from_slice(if a.value(row) { b"true" } else { b"false" }),
            Self::Int16(a) => write_int(a.value(row).into(), out),
            Self::Int32(a) => write_int(a.value(row).into(), out),
            Self::Int64(a) => write_int(a.value(row), out),
            Self::Float32(a) => write_f32(a.value(row), out),
            Self::Float64(a) => write_f64(a.value(row), out),
            Self::Decimal(a) => quoted(out, |out| out.extend_from_slice(a.value_as_string(row).as_bytes())),
            Self::View(a) => write_str(a.value(row), out),
            Self::Text(a) => write_str(a.value(row), out),
            Self::Json(a) => write_json(a.value(row), out),
            Self::Bytes(a) => write_bytes(a.value(row), out),
            Self::Timestamp(a) => quoted(out, |out| time::write_timestamp(a.value(row), out)),
            Self::Date(a) => quoted(out, |out| time::write_date(a.value(row).into(), out)),
            Self::Time(a) => quoted(out, |out| time::write_time_of_day(a.value(row), out)),
            Self::List(write, _) => write(row, out),
            Self::Struct(_, fields) => write_struct(fields, row, out),
            Self::Owned(owned) => Cell::new(&owned.column, owned.json).write(row, out),
            Self::Display(formatter, _) => write_str(&formatter.value(row).to_string(), out),
        }
    }

    fn is_null(&self, row: usize) -> bool {
        match self {
            Self::Null | Self::Unwritable => true,
            Self::Boolean(a) => a.is_null(row),
            Self::Int16(a) => a.is_null(row),
            Self::Int32(a) => a.is_null(row),
            Self::Int64(a) => a.is_null(row),
            Self::Float32(a) => a.is_null(row),
            Self::Float64(a) => a.is_null(row),
            Self::Decimal(a) => a.is_null(row),
            Self::View(a) | Self::Json(a) => a.is_null(row),
            Self::Text(a) => a.is_null(row),
            Self::Bytes(a) => a.is_null(row),
            Self::Timestamp(a) => a.is_null(row),
            Self::Date(a) => a.is_null(row),
            Self::Time(a) => a.is_null(row),
            Self::Struct(a, _) => a.is_null(row),
            Self::Owned(owned) => owned.column.is_null(row),
            Self::List(_, a) | Self::Display(_, a) => a.is_null(row),
        }
    }
}

/// The type above that a rarer type is converted to.
fn plain(arrow: &ArrowType) -> Option<ArrowType> {
    Some(match arrow {
        ArrowType::Int8 | ArrowType::UInt8 => ArrowType::Int16,
        ArrowType::UInt16 => ArrowType::Int32,
        ArrowType::UInt32 => ArrowType::Int64,
        // Its own upper half does not fit BIGINT; as a decimal it is exact, and a string like all large integers.
        ArrowType::UInt64 => ArrowType::Decimal128(20, 0),
        ArrowType::Float16 => ArrowType::Float32,
        ArrowType::Utf8 | ArrowType::LargeUtf8 => ArrowType::Utf8View,
        ArrowType::Binary | ArrowType::LargeBinary | ArrowType::FixedSizeBinary(_) => ArrowType::BinaryView,
        ArrowType::Timestamp(..) => ArrowType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        ArrowType::Date64 => ArrowType::Date32,
        ArrowType::Time32(_) | ArrowType::Time64(_) => ArrowType::Time64(TimeUnit::Microsecond),
        ArrowType::Dictionary(_, value) => value.as_ref().clone(),
        ArrowType::RunEndEncoded(_, value) => value.data_type().clone(),
        ArrowType::FixedSizeList(item, _) | ArrowType::ListView(item) => ArrowType::List(Arc::clone(item)),
        ArrowType::LargeListView(item) => ArrowType::LargeList(Arc::clone(item)),
        _ => return None,
    })
}

fn list<O: OffsetSizeTrait>(array: &GenericListArray<O>, json: bool) -> Cell<'_> {
    let values = Cell::new(array.values(), json);
    let write = move |row: usize, out: &mut Vec<u8>| {
        let offsets = array.value_offsets();
        let (start, end) = (offsets[row].as_usize(), offsets[row + 1].as_usize());
        out.push(b'[');
        for value in start..end {
            if value > start {
                out.push(b',');
            }
            values.write(value, out);
        }
        out.push(b']');
    };
    Cell::List(Box::new(write), array)
}

fn structure(array: &StructArray) -> Cell<'_> {
    let fields = array.fields().iter().zip(array.columns()).enumerate().map(|(i, (field, column))| {
        let mut key = if i == 0 { Vec::new() } else { vec![b','] };
        write_str(field.name(), &mut key);
        key.push(b':');
        (key, Cell::new(column, is_json(field)))
    });
    Cell::Struct(array, fields.collect())
}

fn write_struct(fields: &[(Vec<u8>, Cell<'_>)], row: usize, out: &mut Vec<u8>) {
    out.push(b'{');
    for (key, cell) in fields {
        out.extend_from_slice(key);
        cell.write(row, out);
    }
    out.push(b'}');
}

fn display(column: &ArrayRef) -> Cell<'_> {
    let options = const { &FormatOptions::new() };
    match ArrayFormatter::try_new(column.as_ref(), options) {
        Ok(formatter) => Cell::Display(formatter, column.as_ref()),
        Err(_) => Cell::Unwritable,
    }
}

fn quoted(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    out.push(b'"');
    write(out);
    out.push(b'"');
}

fn write_int(value: i64, out: &mut Vec<u8>) {
    let exact = value.unsigned_abs() <= MAX_EXACT;
    if exact {
        serde_json::to_writer(out, &value).expect("writing to a Vec cannot fail");
    } else {
        write!(out, "\"{value}\"").expect("writing to a Vec cannot fail");
    }
}

fn write_f64(value: f64, out: &mut Vec<u8>) {
    if value.is_finite() {
        serde_json::to_writer(out, &value).expect("writing to a Vec cannot fail");
    } else {
        write_not_finite(value.is_nan(), value > 0.0, out);
    }
}

fn write_f32(value: f32, out: &mut Vec<u8>) {
    if value.is_finite() {
        serde_json::to_writer(out, &value).expect("writing to a Vec cannot fail");
    } else {
        write_not_finite(value.is_nan(), value > 0.0, out);
    }
}

fn write_not_finite(nan: bool, positive: bool, out: &mut Vec<u8>) {
    let text: &[u8] = match (nan, positive) {
        (true, _) => b"\"NaN\"",
        (false, true) => b"\"Infinity\"",
        (false, false) => b"\"-Infinity\"",
    };
    out.extend_from_slice(text);
}

/// Appends a JSON string.
pub(super) fn write_str(text: &str, out: &mut Vec<u8>) {
    // Most texts are copied as they are. All bytes are looked at, many at a time: faster than to stop at the first.
    let as_it_is = text.bytes().fold(true, |so_far, b| so_far & (b >= 0x20) & (b != b'"') & (b != b'\\'));
    if as_it_is {
        out.reserve(text.len() + 2);
        quoted(out, |out| out.extend_from_slice(text.as_bytes()));
    } else {
        serde_json::to_writer(out, text).expect("writing to a Vec cannot fail");
    }
}

fn write_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    quoted(out, |out| {
        let start = out.len();
        out.resize(start + bytes.len().div_ceil(3) * 4, 0);
        let written =
            STANDARD.encode_slice(bytes, &mut out[start..]).expect("the space for it was just made");
        out.truncate(start + written);
    });
}

/// Embeds JSON text. What is not JSON after all (the text of a computed column) is written as a string, so that an
/// answer is never malformed; line breaks between tokens become spaces, so that a row stays one line.
fn write_json(text: &str, out: &mut Vec<u8>) {
    if serde_json::from_str::<serde::de::IgnoredAny>(text).is_err() {
        return write_str(text, out);
    }
    let start = out.len();
    out.extend_from_slice(text.as_bytes());
    for byte in &mut out[start..] {
        if matches!(byte, b'\n' | b'\r') {
            *byte = b' ';
        }
    }
}
