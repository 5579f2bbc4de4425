//! Exact sums of many groups at once.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, AsArray, BooleanArray, Decimal128Array, PrimitiveArray,
};
use arrow::compute::{not, nullif, prep_null_mask_filter};
use arrow::datatypes::{DataType, Decimal128Type, Int64Type, UInt64Type};
use datafusion::common::{Result, internal_err};
use datafusion::logical_expr::{EmitTo, GroupsAccumulator};

use super::sum::{array, fit, overflow, state_type};

/// One sum per group.
#[derive(Debug)]
pub(super) struct GroupSums {
    data_type: DataType,
    sums: Vec<i128>,
    /// Whether a group has any value: without one, its sum is NULL.
    seen: Vec<bool>,
}

impl GroupSums {
    pub(super) fn new(data_type: DataType) -> Self {
        Self { data_type, sums: Vec::new(), seen: Vec::new() }
    }

    fn add<T: ArrowPrimitiveType<Native: Into<i128>>>(
        &mut self,
        values: &PrimitiveArray<T>,
        groups: &[usize],
        filter: Option<&BooleanArray>,
    ) -> Result<()> {
        if filter.is_none() && values.null_count() == 0 {
            for (value, group) in values.values().iter().zip(groups) {
                self.add_one(*group, (*value).into())?;
            }
            return Ok(());
        }
        for (row, group) in groups.iter().enumerate() {
            if values.is_valid(row) && filter.is_none_or(|filter| filter.is_valid(row) && filter.value(row)) {
                self.add_one(*group, values.value(row).into())?;
            }
        }
        Ok(())
    }

    #[inline]
    fn add_one(&mut self, group: usize, value: i128) -> Result<()> {
        self.seen[group] = true;
        match self.sums[group].checked_add(value) {
            Some(sum) => self.sums[group] = sum,
            None => return Err(overflow().into()),
        }
        Ok(())
    }

    fn add_any(&mut self, values: &ArrayRef, groups: &[usize], filter: Option<&BooleanArray>) -> Result<()> {
        match values.data_type() {
            DataType::Int64 => self.add(values.as_primitive::<Int64Type>(), groups, filter),
            DataType::UInt64 => self.add(values.as_primitive::<UInt64Type>(), groups, filter),
            DataType::Decimal128(..) => self.add(values.as_primitive::<Decimal128Type>(), groups, filter),
            other => internal_err!("sums of {other} are not exact"),
        }
    }

    fn grow(&mut self, groups: usize) {
        self.sums.resize(groups, 0);
        self.seen.resize(groups, false);
    }

    fn take(&mut self, emit_to: EmitTo) -> Vec<Option<i128>> {
        let sums = emit_to.take_needed(&mut self.sums);
        let seen = emit_to.take_needed(&mut self.seen);
        sums.into_iter().zip(seen).map(|(sum, seen)| seen.then_some(sum)).collect()
    }
}

impl GroupsAccumulator for GroupSums {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        opt_filter: Option<&BooleanArray>,
        total_num_groups: usize,
    ) -> Result<()> {
        self.grow(total_num_groups);
        self.add_any(&values[0], group_indices, opt_filter)
    }

    fn merge_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        total_num_groups: usize,
    ) -> Result<()> {
        self.grow(total_num_groups);
        self.add_any(&values[0], group_indices, None)
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        let sums = self.take(emit_to);
        sums.iter().flatten().try_for_each(|sum| fit(*sum, &self.data_type).map(drop))?;
        array(sums, &self.data_type)
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        Ok(vec![array(self.take(emit_to), &state_type(&self.data_type))?])
    }

    fn convert_to_state(
        &self,
        values: &[ArrayRef],
        opt_filter: Option<&BooleanArray>,
    ) -> Result<Vec<ArrayRef>> {
        let wide: Decimal128Array = match values[0].data_type() {
            DataType::Int64 => values[0].as_primitive::<Int64Type>().unary(i128::from),
            DataType::UInt64 => values[0].as_primitive::<UInt64Type>().unary(i128::from),
            _ => values[0].as_primitive::<Decimal128Type>().clone(),
        };
        let wide: ArrayRef = Arc::new(wide.with_data_type(state_type(&self.data_type)));
        Ok(vec![match opt_filter {
            // Rows for which the filter is false or NULL are as if their value were NULL.
            Some(filter) => {
                let kept = match filter.nulls() {
                    Some(_) => prep_null_mask_filter(filter),
                    None => filter.clone(),
                };
                let left_out = not(&kept)?;
                nullif(&wide, &left_out)?
            }
            None => wide,
        }])
    }

    fn size(&self) -> usize {
        self.sums.capacity() * size_of::<i128>() + self.seen.capacity()
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::Int64Array;

    use super::*;

    #[test]
    fn rows_that_a_filter_leaves_out_are_null_in_the_state() {
        let sums = GroupSums::new(DataType::Int64);
        let values: [ArrayRef; 1] = [Arc::new(Int64Array::from(vec![Some(1), Some(2), None]))];
        for (filter, expected) in [
            (None, vec![Some(1), Some(2), None]),
            (Some(BooleanArray::from(vec![true, false, true])), vec![Some(1), None, None]),
            (Some(BooleanArray::from(vec![None, Some(true), Some(true)])), vec![None, Some(2), None]),
        ] {
            let state = sums.convert_to_state(&values, filter.as_ref()).unwrap();
            let state: Vec<Option<i128>> = state[0].as_primitive::<Decimal128Type>().iter().collect();
            assert_eq!(state, expected, "{filter:?}");
        }
    }

    #[test]
    fn groups_without_a_value_have_no_sum_and_a_sum_that_does_not_fit_is_an_error() {
        let mut sums = GroupSums::new(DataType::Int64);
        let values: [ArrayRef; 1] = [Arc::new(Int64Array::from(vec![Some(i64::MAX), None, Some(1)]))];
        sums.update_batch(&values, &[0, 1, 0], None, 2).unwrap();
        assert!(sums.evaluate(EmitTo::First(1)).is_err());
        let last = sums.evaluate(EmitTo::All).unwrap();
        assert!(last.is_null(0));
    }
}
