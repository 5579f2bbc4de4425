//! Column statistics as the manifest keeps them.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute;
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Float32Type, Float64Type, Int16Type, Int32Type, Int64Type,
    Time64MicrosecondType, TimeUnit, TimestampMicrosecondType,
};
use serde::{Deserialize, Serialize};

use crate::ids::ColumnId;
use crate::types::DataType as ColumnType;

/// Text longer than this is not kept as a bound.
const MAX_TEXT: usize = 64;

/// One bound. Dates are days and times and timestamps microseconds since their origin.
#[derive(Debug, Clone, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Bound {
    /// BOOLEAN.
    Bool(bool),
    /// Whole numbers, dates, times, timestamps.
    Int(i64),
    /// FLOAT and DOUBLE.
    Float(f64),
    /// TEXT.
    Text(String),
}

/// What is known of one column of one segment's live rows. A missing bound says nothing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ColumnStats {
    /// The column.
    pub id: ColumnId,
    /// How many rows are NULL.
    pub null_count: u64,
    /// Lower bound of the values.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<Bound>,
    /// Upper bound of the values.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<Bound>,
}

impl ColumnStats {
    /// What is known of a column that the rows do not have, of which each therefore shows its initial value, or NULL.
    pub(crate) fn of_initial(id: ColumnId, initial: Option<&ArrayRef>, rows: u64) -> Self {
        let mut gather = Gather::new(id);
        match initial {
            Some(value) => gather.update(value),
            None => gather.stats.null_count = rows,
        }
        gather.finish()
    }

    /// The same for the values that widening makes of these; bounds of types that order otherwise say nothing.
    pub(crate) fn widened(&self, from: &ColumnType, to: &ColumnType) -> Self {
        let bound = |bound: &Option<Bound>| bound.as_ref().and_then(|bound| bound.widened(from, to));
        Self { id: self.id, null_count: self.null_count, min: bound(&self.min), max: bound(&self.max) }
    }
}

impl Bound {
    fn widened(&self, from: &ColumnType, to: &ColumnType) -> Option<Self> {
        use ColumnType::*;
        /// Microseconds.
        const DAY: i64 = 86_400_000_000;
        let scaled =
            |value: i64, digits: u8| Some(Self::Int(value.checked_mul(10i64.checked_pow(digits.into())?)?));
        match (from, to, self) {
            (SmallInt | Int, Int | BigInt, bound) | (Float, Double, bound) => Some(bound.clone()),
            // Exact: these have at most 32 bits.
            (SmallInt | Int, Float | Double, Self::Int(value)) => Some(Self::Float(*value as f64)),
            (SmallInt | Int | BigInt, Decimal { scale, .. }, Self::Int(value)) => scaled(*value, *scale),
            (Decimal { scale: s1, .. }, Decimal { scale: s2, .. }, Self::Int(value)) => {
                scaled(*value, s2.checked_sub(*s1)?)
            }
            (Date, Timestamp, Self::Int(days)) => days.checked_mul(DAY).map(Self::Int),
            _ => None,
        }
    }
}

/// Gathers [`ColumnStats`] from batches.
#[derive(Debug, Clone)]
pub struct Gather {
    stats: ColumnStats,
    bounded: bool,
}

impl Gather {
    /// Begins for a column.
    pub fn new(id: ColumnId) -> Self {
        Self { stats: ColumnStats { id, null_count: 0, min: None, max: None }, bounded: true }
    }

    /// Takes in more values.
    pub fn update(&mut self, column: &ArrayRef) {
        self.stats.null_count += column.logical_null_count() as u64;
        if column.logical_null_count() == column.len() || !self.bounded {
            return;
        }
        let Some((min, max)) = bounds(column) else {
            self.bounded = false;
            return;
        };
        if self.stats.min.as_ref().is_none_or(|old| min < *old) {
            self.stats.min = Some(min);
        }
        if self.stats.max.as_ref().is_none_or(|old| max > *old) {
            self.stats.max = Some(max);
        }
    }

    /// The result.
    pub fn finish(mut self) -> ColumnStats {
        if !self.bounded {
            (self.stats.min, self.stats.max) = (None, None);
        }
        self.stats
    }
}

/// Bounds of the non-NULL values; `None` where the type has none, or a value (NaN, long text) cannot be kept as one.
fn bounds(column: &ArrayRef) -> Option<(Bound, Bound)> {
    macro_rules! ints {
        ($type:ty) => {{
            let values = column.as_primitive::<$type>();
            (Bound::Int(compute::min(values)?.into()), Bound::Int(compute::max(values)?.into()))
        }};
    }
    macro_rules! floats {
        ($type:ty) => {{
            let values = column.as_primitive::<$type>();
            let (min, max) = (f64::from(compute::min(values)?), f64::from(compute::max(values)?));
            if !min.is_finite() || !max.is_finite() {
                return None;
            }
            (Bound::Float(min), Bound::Float(max))
        }};
    }
    Some(match column.data_type() {
        DataType::Boolean => {
            let values = column.as_boolean();
            (Bound::Bool(compute::min_boolean(values)?), Bound::Bool(compute::max_boolean(values)?))
        }
        DataType::Int16 => ints!(Int16Type),
        DataType::Int32 => ints!(Int32Type),
        DataType::Int64 => ints!(Int64Type),
        DataType::Date32 => ints!(Date32Type),
        DataType::Time64(TimeUnit::Microsecond) => ints!(Time64MicrosecondType),
        DataType::Timestamp(TimeUnit::Microsecond, _) => ints!(TimestampMicrosecondType),
        DataType::Float32 => floats!(Float32Type),
        DataType::Float64 => floats!(Float64Type),
        DataType::Decimal128(..) => {
            let values = column.as_primitive::<Decimal128Type>();
            let narrow = |value: i128| i64::try_from(value).ok().map(Bound::Int);
            (narrow(compute::min(values)?)?, narrow(compute::max(values)?)?)
        }
        DataType::Utf8View => {
            let values = column.as_string_view();
            let (min, max) = (compute::min_string_view(values)?, compute::max_string_view(values)?);
            if min.len() > MAX_TEXT || max.len() > MAX_TEXT {
                return None;
            }
            (Bound::Text(min.into()), Bound::Text(max.into()))
        }
        _ => return None,
    })
}
