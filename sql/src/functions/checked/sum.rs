//! `sum` of integers and decimals, exact in 128 bits; an error if the result does not fit its type.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Decimal128Array, PrimitiveArray};
use arrow::datatypes::{
    DECIMAL128_MAX_PRECISION, DataType, Decimal128Type, DecimalType, Field, FieldRef, Int64Type, UInt64Type,
};
use arrow::error::ArrowError;
use datafusion::common::{Result, ScalarValue, internal_err};
use datafusion::functions_aggregate::sum::Sum;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::{AggregateOrderSensitivity, format_state_name};
use datafusion::logical_expr::{
    Accumulator, AggregateUDFImpl, GroupsAccumulator, ReversedUDAF, SetMonotonicity, Signature,
    StatisticsArgs,
};

use super::finite::{Finite, FiniteGroups, is_fraction};
use super::groups::GroupSums;

/// DataFusion's `sum` with other accumulators: exact ones for whole numbers and decimals, checked ones for fractions.
/// Durations and intervals are left to it.
#[derive(Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct ExactSum {
    inner: Sum,
}

/// Types whose sums are exact: those that 128 bits are wide enough for.
fn is_exact(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Int64 | DataType::UInt64 | DataType::Decimal128(..))
}

/// What partial sums are passed on as: wide enough for any sum of the type.
pub(super) fn state_type(data_type: &DataType) -> DataType {
    let scale = if let DataType::Decimal128(_, scale) = data_type { *scale } else { 0 };
    DataType::Decimal128(DECIMAL128_MAX_PRECISION, scale)
}

impl AggregateUDFImpl for ExactSum {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.inner.return_type(types)
    }

    fn accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        let data_type = args.return_field.data_type();
        if is_fraction(data_type) {
            return Ok(Finite::wrap(self.inner.accumulator(args)?));
        }
        if !is_exact(data_type) {
            return self.inner.accumulator(args);
        }
        Ok(match args.is_distinct {
            true => Box::new(DistinctTotal { data_type: data_type.clone(), counts: HashMap::new() }),
            false => Box::new(Total { data_type: data_type.clone(), sum: 0, count: 0 }),
        })
    }

    fn create_sliding_accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        let data_type = args.return_field.data_type();
        if is_fraction(data_type) {
            return Ok(Finite::wrap(self.inner.create_sliding_accumulator(args)?));
        }
        match is_exact(data_type) {
            true => self.accumulator(args),
            false => self.inner.create_sliding_accumulator(args),
        }
    }

    fn state_fields(&self, args: StateFieldsArgs<'_>) -> Result<Vec<FieldRef>> {
        if args.is_distinct || !is_exact(args.return_type()) {
            return self.inner.state_fields(args);
        }
        let name = format_state_name(args.name, "sum");
        Ok(vec![Arc::new(Field::new(name, state_type(args.return_type()), true))])
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs<'_>) -> bool {
        self.inner.groups_accumulator_supported(args)
    }

    fn create_groups_accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn GroupsAccumulator>> {
        if is_fraction(args.return_field.data_type()) {
            return Ok(FiniteGroups::wrap(self.inner.create_groups_accumulator(args)?));
        }
        match is_exact(args.return_field.data_type()) {
            true => Ok(Box::new(GroupSums::new(args.return_field.data_type().clone()))),
            false => self.inner.create_groups_accumulator(args),
        }
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        self.inner.reverse_expr()
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        self.inner.order_sensitivity()
    }

    fn set_monotonicity(&self, data_type: &DataType) -> SetMonotonicity {
        self.inner.set_monotonicity(data_type)
    }

    fn value_from_stats(&self, args: &StatisticsArgs<'_>) -> Option<ScalarValue> {
        self.inner.value_from_stats(args)
    }
}

/// A sum as a value of its type.
///
/// # Errors
/// [`ArrowError::ArithmeticOverflow`] if it does not fit.
pub(super) fn fit(sum: i128, data_type: &DataType) -> Result<i128> {
    let fits = match data_type {
        DataType::Int64 => i64::try_from(sum).is_ok(),
        DataType::UInt64 => u64::try_from(sum).is_ok(),
        DataType::Decimal128(precision, _) => Decimal128Type::is_valid_decimal_precision(sum, *precision),
        _ => return internal_err!("sums of {data_type} are not exact"),
    };
    if fits { Ok(sum) } else { Err(overflow().into()) }
}

/// The error of a sum that is too large.
pub(super) fn overflow() -> ArrowError {
    ArrowError::ArithmeticOverflow("a sum is out of range of its type".into())
}

/// Sums, each of which [`fit`]s, as an array of the type.
pub(super) fn array(sums: Vec<Option<i128>>, data_type: &DataType) -> Result<ArrayRef> {
    Ok(match data_type {
        DataType::Int64 => Arc::new(
            sums.into_iter().map(|sum| sum.map(|sum| sum as i64)).collect::<PrimitiveArray<Int64Type>>(),
        ),
        DataType::UInt64 => Arc::new(
            sums.into_iter().map(|sum| sum.map(|sum| sum as u64)).collect::<PrimitiveArray<UInt64Type>>(),
        ),
        other => Arc::new(sums.into_iter().collect::<Decimal128Array>().with_data_type(other.clone())),
    })
}

fn scalar(sum: Option<i128>, data_type: &DataType) -> Result<ScalarValue> {
    ScalarValue::try_from_array(&array(vec![sum], data_type)?, 0)
}

/// Calls `add` with every value that is not NULL.
fn each(values: &ArrayRef, mut add: impl FnMut(i128) -> Result<()>) -> Result<()> {
    match values.data_type() {
        DataType::Int64 => {
            values.as_primitive::<Int64Type>().iter().flatten().try_for_each(|v| add(v.into()))
        }
        DataType::UInt64 => {
            values.as_primitive::<UInt64Type>().iter().flatten().try_for_each(|v| add(v.into()))
        }
        DataType::Decimal128(..) => {
            values.as_primitive::<Decimal128Type>().iter().flatten().try_for_each(add)
        }
        other => internal_err!("sums of {other} are not exact"),
    }
}

/// The sum of all values of an array that are not NULL.
fn total(values: &ArrayRef) -> Result<i128> {
    if let DataType::Int64 = values.data_type() {
        let array = values.as_primitive::<Int64Type>();
        return Ok(match array.nulls() {
            None => integers(array.values()),
            Some(nulls) => nulls.valid_slices().map(|(from, to)| integers(&array.values()[from..to])).sum(),
        });
    }
    let mut sum = 0_i128;
    each(values, |value| {
        sum = sum.checked_add(value).ok_or_else(overflow)?;
        Ok(())
    })?;
    Ok(sum)
}

/// The sum of the upper and of the lower halves, each of which 64 bits are enough for: the compiler vectorises both.
fn integers(values: &[i64]) -> i128 {
    let block = |block: &[i64]| {
        let (high, low) = block
            .iter()
            .fold((0_i64, 0_i64), |(high, low), value| (high + (value >> 32), low + (value & 0xffff_ffff)));
        (i128::from(high) << 32) + i128::from(low)
    };
    values.chunks(1 << 20).map(block).sum()
}

/// The sum of one group or window frame.
#[derive(Debug)]
struct Total {
    data_type: DataType,
    sum: i128,
    /// Values in it: without any, the sum is NULL.
    count: usize,
}

impl Total {
    fn value(&self) -> Option<i128> {
        (self.count > 0).then_some(self.sum)
    }

    fn add(&mut self, values: &ArrayRef) -> Result<()> {
        self.sum = self.sum.checked_add(total(values)?).ok_or_else(overflow)?;
        self.count += values.len() - values.null_count();
        Ok(())
    }
}

impl Accumulator for Total {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.add(&values[0])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.add(&states[0])
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.sum = self.sum.checked_sub(total(&values[0])?).ok_or_else(overflow)?;
        self.count -= values[0].len() - values[0].null_count();
        Ok(())
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let sum = self.value().map(|sum| fit(sum, &self.data_type)).transpose()?;
        scalar(sum, &self.data_type)
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok(vec![scalar(self.value(), &state_type(&self.data_type))?])
    }

    fn size(&self) -> usize {
        size_of_val(self)
    }
}

/// The sum of the distinct values of one group or window frame.
#[derive(Debug)]
struct DistinctTotal {
    data_type: DataType,
    /// How often each value is in the frame.
    counts: HashMap<i128, usize>,
}

impl Accumulator for DistinctTotal {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        each(&values[0], |value| {
            *self.counts.entry(value).or_default() += 1;
            Ok(())
        })
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        states[0].as_list::<i32>().iter().flatten().try_for_each(|values| self.update_batch(&[values]))
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        each(&values[0], |value| {
            if let Some(count) = self.counts.get_mut(&value) {
                *count -= 1;
                if *count == 0 {
                    self.counts.remove(&value);
                }
            }
            Ok(())
        })
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        if self.counts.is_empty() {
            return scalar(None, &self.data_type);
        }
        let sum = self.counts.keys().try_fold(0_i128, |sum, value| sum.checked_add(*value));
        scalar(Some(fit(sum.ok_or_else(overflow)?, &self.data_type)?), &self.data_type)
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        let values = array(self.counts.keys().map(|value| Some(*value)).collect(), &self.data_type)?;
        let field = Arc::new(Field::new_list_field(self.data_type.clone(), true));
        let offsets = arrow::buffer::OffsetBuffer::from_lengths([values.len()]);
        Ok(vec![ScalarValue::List(Arc::new(arrow::array::ListArray::new(field, offsets, values, None)))])
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.counts.capacity() * (size_of::<(i128, usize)>() + 1)
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::Int64Array;

    use super::*;

    #[test]
    fn integers_are_summed_exactly_with_and_without_nulls() {
        let values: Vec<i64> = vec![i64::MAX, i64::MAX, i64::MIN, -1, 5, i64::MIN];
        let expected: i128 = values.iter().map(|v| i128::from(*v)).sum();
        assert_eq!(integers(&values), expected);
        let array: ArrayRef =
            Arc::new(Int64Array::from(vec![Some(i64::MAX), None, Some(i64::MAX), Some(-3)]));
        assert_eq!(total(&array).unwrap(), 2 * i128::from(i64::MAX) - 3);
    }

    #[test]
    fn a_sum_may_leave_its_range_on_the_way_but_not_at_the_end() {
        let mut sum = Total { data_type: DataType::Int64, sum: 0, count: 0 };
        let batch = |values: Vec<i64>| -> [ArrayRef; 1] { [Arc::new(Int64Array::from(values))] };
        sum.update_batch(&batch(vec![i64::MAX, 1])).unwrap();
        assert!(sum.evaluate().is_err());
        sum.update_batch(&batch(vec![-5])).unwrap();
        assert_eq!(sum.evaluate().unwrap(), ScalarValue::Int64(Some(i64::MAX - 4)));
        sum.retract_batch(&batch(vec![-5, i64::MAX])).unwrap();
        assert_eq!(sum.evaluate().unwrap(), ScalarValue::Int64(Some(1)));
        sum.retract_batch(&batch(vec![1])).unwrap();
        assert_eq!(sum.evaluate().unwrap(), ScalarValue::Int64(None));
    }
}
