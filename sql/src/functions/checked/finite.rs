//! `sum` and `avg` of fractions: an error if finite values add up to more than a floating-point number can be.
//!
//! DataFusion's accumulators do the work; these wrappers look whether a result became infinite though no value was.

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Float64Array};
use arrow::datatypes::{DataType, FieldRef, Float64Type};
use datafusion::common::{Result, ScalarValue};
use datafusion::functions_aggregate::average::Avg;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::{
    Accumulator, AggregateUDFImpl, EmitTo, GroupsAccumulator, ReversedUDAF, Signature,
};

use super::sum::overflow;

/// DataFusion's `avg`, checked over fractions. Decimals are added up in 256 bits there, and whole numbers as fractions that
/// are wide enough for any number of them.
#[derive(Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct CheckedAvg {
    inner: Avg,
}

impl AggregateUDFImpl for CheckedAvg {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn aliases(&self) -> &[String] {
        self.inner.aliases()
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.inner.return_type(types)
    }

    fn accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        let checked = is_fraction(args.return_field.data_type());
        let inner = self.inner.accumulator(args)?;
        Ok(if checked { Finite::wrap(inner) } else { inner })
    }

    fn create_sliding_accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        let checked = is_fraction(args.return_field.data_type());
        let inner = self.inner.create_sliding_accumulator(args)?;
        Ok(if checked { Finite::wrap(inner) } else { inner })
    }

    fn state_fields(&self, args: StateFieldsArgs<'_>) -> Result<Vec<FieldRef>> {
        self.inner.state_fields(args)
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs<'_>) -> bool {
        self.inner.groups_accumulator_supported(args)
    }

    fn create_groups_accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn GroupsAccumulator>> {
        let checked = is_fraction(args.return_field.data_type());
        let inner = self.inner.create_groups_accumulator(args)?;
        Ok(if checked { FiniteGroups::wrap(inner) } else { inner })
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        self.inner.reverse_expr()
    }
}

/// Types whose sums are checked here.
pub(super) fn is_fraction(data_type: &DataType) -> bool {
    *data_type == DataType::Float64
}

/// The fractions among the columns of values or of a state.
fn fractions(columns: &[ArrayRef]) -> impl Iterator<Item = &Float64Array> {
    columns.iter().filter_map(|column| column.as_primitive_opt::<Float64Type>())
}

/// Whether any value is infinite; what is below a NULL may count.
fn any_infinite(columns: &[ArrayRef]) -> bool {
    fractions(columns).any(|column| column.values().iter().fold(false, |any, v| any | v.is_infinite()))
}

fn is_infinite(column: &Float64Array, row: usize) -> bool {
    column.is_valid(row) && column.value(row).is_infinite()
}

/// One group or window frame.
#[derive(Debug)]
pub(super) struct Finite {
    inner: Box<dyn Accumulator>,
    /// Whether an infinite value went in, so that an infinite result is right.
    infinite: bool,
}

impl Finite {
    pub(super) fn wrap(inner: Box<dyn Accumulator>) -> Box<dyn Accumulator> {
        Box::new(Self { inner, infinite: false })
    }

    fn check(&self, value: ScalarValue) -> Result<ScalarValue> {
        match value {
            ScalarValue::Float64(Some(result)) if result.is_infinite() && !self.infinite => {
                Err(overflow().into())
            }
            value => Ok(value),
        }
    }
}

impl Accumulator for Finite {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.infinite |= any_infinite(values);
        self.inner.update_batch(values)
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        // Partial results are infinite only where a value was. Those of DISTINCT are lists, whose values are checked again
        // by nobody: they count as infinite if any is.
        self.infinite |= any_infinite(states);
        for lists in states.iter().filter_map(|state| state.as_list_opt::<i32>()) {
            self.infinite |= any_infinite(std::slice::from_ref(lists.values()));
        }
        self.inner.merge_batch(states)
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.inner.retract_batch(values)
    }

    fn supports_retract_batch(&self) -> bool {
        self.inner.supports_retract_batch()
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let result = self.inner.evaluate()?;
        self.check(result)
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        let state = self.inner.state()?;
        state.into_iter().map(|value| self.check(value)).collect()
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.inner.size()
    }
}

/// Many groups at once.
pub(super) struct FiniteGroups {
    inner: Box<dyn GroupsAccumulator>,
    /// The groups that an infinite value went into; empty as long as none did.
    infinite: Vec<bool>,
}

impl FiniteGroups {
    pub(super) fn wrap(inner: Box<dyn GroupsAccumulator>) -> Box<dyn GroupsAccumulator> {
        Box::new(Self { inner, infinite: Vec::new() })
    }

    /// Notes which groups get infinite values.
    fn note(&mut self, columns: &[ArrayRef], groups: &[usize], total: usize) {
        if !any_infinite(columns) {
            return;
        }
        self.infinite.resize(total.max(self.infinite.len()), false);
        for column in fractions(columns) {
            for (row, group) in groups.iter().enumerate() {
                self.infinite[*group] |= is_infinite(column, row);
            }
        }
    }

    /// Takes the notes about the groups that leave.
    fn leave(&mut self, emit_to: EmitTo) -> Vec<bool> {
        match emit_to {
            EmitTo::First(groups) if groups >= self.infinite.len() => std::mem::take(&mut self.infinite),
            emit_to => emit_to.take_needed(&mut self.infinite),
        }
    }
}

fn check(columns: &[ArrayRef], infinite: &[bool]) -> Result<()> {
    let expected = |row: usize| infinite.get(row).copied().unwrap_or(false);
    let overflowed = |column: &Float64Array| {
        column.values().iter().any(|value| value.is_infinite())
            && (0..column.len()).any(|row| is_infinite(column, row) && !expected(row))
    };
    if fractions(columns).any(overflowed) { Err(overflow().into()) } else { Ok(()) }
}

impl GroupsAccumulator for FiniteGroups {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        opt_filter: Option<&BooleanArray>,
        total_num_groups: usize,
    ) -> Result<()> {
        self.note(values, group_indices, total_num_groups);
        self.inner.update_batch(values, group_indices, opt_filter, total_num_groups)
    }

    fn merge_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        total_num_groups: usize,
    ) -> Result<()> {
        self.note(values, group_indices, total_num_groups);
        self.inner.merge_batch(values, group_indices, total_num_groups)
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        let result = self.inner.evaluate(emit_to)?;
        check(std::slice::from_ref(&result), &self.leave(emit_to))?;
        Ok(result)
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        let state = self.inner.state(emit_to)?;
        check(&state, &self.leave(emit_to))?;
        Ok(state)
    }

    fn convert_to_state(
        &self,
        values: &[ArrayRef],
        opt_filter: Option<&BooleanArray>,
    ) -> Result<Vec<ArrayRef>> {
        self.inner.convert_to_state(values, opt_filter)
    }

    fn size(&self) -> usize {
        self.inner.size() + self.infinite.capacity()
    }
}
