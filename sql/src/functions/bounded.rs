//! Functions whose result can be far larger than what they are given: they fail before they make more than a statement
//! has any use for, where DataFusion's would take the memory and the process with it.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, FieldRef, Int64Type, IntervalMonthDayNanoType, TimeUnit};
use datafusion::common::{DataFusionError, Result};
use datafusion::execution::FunctionRegistry;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::{
    ColumnarValue, Documentation, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
};

use crate::error::{Error, ErrorCode};

/// Bytes that one call makes at most, for all rows that it is given at once.
const MOST_BYTES: u128 = 256 << 20;
/// What an element of an array takes, at least.
const ELEMENT: u128 = 8;
const DAY_NANOS: i128 = 86_400_000_000_000;

/// How much a function makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Growth {
    /// All arguments, one after the other.
    Joined,
    /// The same, with the first one between the others.
    Separated,
    /// The first argument as often as the second says.
    Repeated,
    /// As many characters as the second argument says.
    Padded,
    /// The first argument with every occurrence of the second as the third.
    Replaced,
    /// As many elements as the second argument says.
    Elements,
    /// The elements from one argument to another.
    Series,
}

const GROWING: [(&str, Growth); 10] = [
    ("concat", Growth::Joined),
    ("concat_ws", Growth::Separated),
    ("repeat", Growth::Repeated),
    ("lpad", Growth::Padded),
    ("rpad", Growth::Padded),
    ("replace", Growth::Replaced),
    ("array_repeat", Growth::Elements),
    ("array_resize", Growth::Elements),
    ("range", Growth::Series),
    ("generate_series", Growth::Series),
];

/// Puts a bound on those of the registered functions that have none.
///
/// # Errors
/// If the registry does not take them.
pub(crate) fn bound_functions(state: &mut SessionState) -> Result<()> {
    for (name, growth) in GROWING {
        let inner = state.udf(name)?;
        state.register_udf(Arc::new(ScalarUDF::from(Bounded { inner, growth })))?;
    }
    Ok(())
}

/// A function of DataFusion's, bounded.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Bounded {
    inner: Arc<ScalarUDF>,
    growth: Growth,
}

impl ScalarUDFImpl for Bounded {
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

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        self.inner.return_field_from_args(args)
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        self.inner.coerce_types(types)
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.inner.documentation()
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let bytes = self.growth.bytes(&args.args, args.number_rows)?;
        if bytes > MOST_BYTES {
            let message = format!(
                "{} would make {bytes} bytes; a function makes at most {} MiB at once",
                self.name(),
                MOST_BYTES >> 20
            );
            return Err(Error::new(ErrorCode::ValueOutOfRange, message).into_datafusion());
        }
        self.inner.invoke_with_args(args)
    }
}

impl Growth {
    fn bytes(self, args: &[ColumnarValue], rows: usize) -> Result<u128> {
        let rows = if args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_))) { 1 } else { rows };
        let Some(sizes) = Sizes::new(self, args)? else { return Ok(0) };
        Ok((0..rows).map(|row| sizes.of(row)).fold(0, u128::saturating_add))
    }
}

/// An argument: a value for each row, or one for all.
struct Argument {
    values: ArrayRef,
    one: bool,
}

impl Argument {
    fn new(value: &ColumnarValue) -> Result<Self> {
        Ok(match value {
            ColumnarValue::Array(values) => Self { values: values.clone(), one: false },
            ColumnarValue::Scalar(value) => Self { values: value.to_array()?, one: true },
        })
    }

    /// The same as whole numbers; nothing for what is none.
    fn number(value: &ColumnarValue) -> Result<Self> {
        let argument = Self::new(value)?;
        Ok(Self { values: cast(&argument.values, &DataType::Int64)?, ..argument })
    }

    /// Where its value for a row is, unless that is NULL.
    fn at(&self, row: usize) -> Option<usize> {
        let at = if self.one { 0 } else { row };
        self.values.is_valid(at).then_some(at)
    }

    fn count(&self, row: usize) -> Option<i64> {
        Some(self.values.as_primitive::<Int64Type>().value(self.at(row)?))
    }

    fn text(&self, row: usize) -> Option<&str> {
        let at = self.at(row)?;
        match self.values.data_type() {
            DataType::Utf8 => Some(self.values.as_string::<i32>().value(at)),
            DataType::LargeUtf8 => Some(self.values.as_string::<i64>().value(at)),
            DataType::Utf8View => Some(self.values.as_string_view().value(at)),
            _ => None,
        }
    }
}

/// What decides how much is made.
enum Sizes {
    Joined {
        separator: Option<Argument>,
        parts: Vec<Argument>,
    },
    Repeated {
        text: Argument,
        times: Argument,
    },
    Counted {
        count: Argument,
        each: u128,
    },
    Replaced {
        text: Argument,
        from: Argument,
        to: Argument,
    },
    /// `None` stands for 0, or for steps of one.
    Series {
        from: Option<Argument>,
        to: Argument,
        step: Option<Step>,
    },
}

enum Step {
    Number(Argument),
    Interval(Argument),
}

impl Sizes {
    /// `None` if the arguments are not those that the function takes, which it says itself.
    fn new(growth: Growth, args: &[ColumnarValue]) -> Result<Option<Self>> {
        let joined = |separator, parts: &[ColumnarValue]| {
            let parts = parts.iter().map(Argument::new).collect::<Result<_>>()?;
            Ok::<_, DataFusionError>(Self::Joined { separator, parts })
        };
        Ok(Some(match (growth, args) {
            (Growth::Joined, parts) => joined(None, parts)?,
            (Growth::Separated, [separator, parts @ ..]) => joined(Some(Argument::new(separator)?), parts)?,
            (Growth::Repeated, [text, times, ..]) => {
                Self::Repeated { text: Argument::new(text)?, times: Argument::number(times)? }
            }
            (Growth::Padded, [_, count, ..]) => Self::Counted { count: Argument::number(count)?, each: 1 },
            (Growth::Elements, [_, count, ..]) => {
                Self::Counted { count: Argument::number(count)?, each: ELEMENT }
            }
            (Growth::Replaced, [text, from, to]) => {
                let [text, from, to] = [Argument::new(text)?, Argument::new(from)?, Argument::new(to)?];
                Self::Replaced { text, from, to }
            }
            (Growth::Series, [to]) => Self::Series { from: None, to: moment(to)?, step: None },
            (Growth::Series, [from, to]) => {
                Self::Series { from: Some(moment(from)?), to: moment(to)?, step: None }
            }
            (Growth::Series, [from, to, step]) => {
                let step = match step.data_type() {
                    DataType::Interval(_) => {
                        let step = Argument::new(step)?;
                        let exact = DataType::Interval(arrow::datatypes::IntervalUnit::MonthDayNano);
                        Step::Interval(Argument { values: cast(&step.values, &exact)?, ..step })
                    }
                    _ => Step::Number(Argument::number(step)?),
                };
                Self::Series { from: Some(moment(from)?), to: moment(to)?, step: Some(step) }
            }
            _ => return Ok(None),
        }))
    }

    /// Bytes that a row makes; 0 if an argument is NULL.
    fn of(&self, row: usize) -> u128 {
        self.known(row).unwrap_or_default()
    }

    fn known(&self, row: usize) -> Option<u128> {
        let count = |argument: &Argument| Some(argument.count(row)?.max(0) as u128);
        Some(match self {
            Self::Joined { separator, parts } => {
                let between =
                    separator.as_ref().and_then(|separator| separator.text(row)).map_or(0, str::len);
                let parts = parts.iter().filter_map(|part| part.text(row));
                parts.map(|part| part.len() as u128 + between as u128).sum()
            }
            Self::Repeated { text, times } => text.text(row)?.len() as u128 * count(times)?,
            Self::Counted { count: argument, each } => count(argument)? * each,
            Self::Replaced { text, from, to } => {
                let (text, from, to) = (text.text(row)?, from.text(row)?, to.text(row)?);
                let most = (text.len() as u128 + 1) * (to.len() as u128 + 1);
                // Counting takes time, and most texts are short.
                match most <= MOST_BYTES {
                    true => 0,
                    false => text.len() as u128 + text.matches(from).count() as u128 * to.len() as u128,
                }
            }
            Self::Series { from, to, step } => {
                let from = from.as_ref().map_or(Some(0), |from| from.count(row))?;
                let span = i128::from(to.count(row)?) - i128::from(from);
                let (span, step) = match step {
                    None => (span, 1),
                    Some(Step::Number(step)) => (span, i128::from(step.count(row)?)),
                    Some(Step::Interval(step)) => {
                        let step =
                            step.values.as_primitive::<IntervalMonthDayNanoType>().value(step.at(row)?);
                        let days = i128::from(step.months) * 28 + i128::from(step.days);
                        (span * 1_000, days * DAY_NANOS + i128::from(step.nanoseconds))
                    }
                };
                // A step of nothing is an error of the function, one that leads away an empty result.
                if step == 0 || (span < 0) != (step < 0) {
                    0
                } else {
                    (span / step).unsigned_abs().saturating_mul(ELEMENT)
                }
            }
        })
    }
}

/// A number, or a day or moment as its microseconds.
fn moment(value: &ColumnarValue) -> Result<Argument> {
    match value.data_type() {
        DataType::Date32 | DataType::Date64 | DataType::Timestamp(..) => {
            let argument = Argument::new(value)?;
            let micros = cast(&argument.values, &DataType::Timestamp(TimeUnit::Microsecond, None))?;
            Ok(Argument { values: cast(&micros, &DataType::Int64)?, ..argument })
        }
        _ => Argument::number(value),
    }
}
