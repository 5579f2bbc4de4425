//! Parameters: JSON values become the types that the statement gives to `$1`, `$2`, ...

use arrow::datatypes::{DataType as ArrowType, Field, TimeUnit};
use datafusion::common::ParamValues;
use datafusion::common::ScalarValue;
use datafusion::common::metadata::ScalarAndMetadata;
use datafusion::logical_expr::LogicalPlan;
use kalamdb_engine::{DataType, TYPE_METADATA_KEY};
use serde_json::Value;

use crate::error::{Error, ErrorCode, Result};
use crate::params;

/// The types of the parameters `$1`, `$2`, ... of a plan; `None` if the statement leaves the type of one open, or says one
/// that values do not have.
///
/// # Errors
/// None in practice: the walk itself cannot fail.
pub(super) fn types(plan: &LogicalPlan) -> Result<Option<Vec<DataType>>> {
    let fields = plan.get_parameter_fields()?;
    let known = (1..=fields.len()).map(|number| {
        let field = fields.get(&format!("${number}"))?.as_ref()?;
        engine_type(field).filter(|known| known.arrow() == *field.data_type())
    });
    Ok(known.collect())
}

/// The values of parameters of exactly these types; `None` if they are not.
pub(super) fn values(params: &[Value], types: &[DataType]) -> Option<Vec<ScalarValue>> {
    if params.len() != types.len() {
        return None;
    }
    params.iter().zip(types).map(|(value, data_type)| params::typed(value, data_type).ok()).collect()
}

/// Replaces every parameter of a plan by its value. `all` refuses values that the plan does not use.
///
/// # Errors
/// [`ErrorCode::InvalidParameter`] for a missing or superfluous parameter; [`ErrorCode::TypeMismatch`] and
/// [`ErrorCode::ValueOutOfRange`] for one that does not fit where it stands.
pub(super) fn bind(plan: LogicalPlan, params: &[Value], all: bool) -> Result<LogicalPlan> {
    let fields = plan.get_parameter_fields()?;
    let mut used = 0;
    for name in fields.keys() {
        let number = name.strip_prefix('$').and_then(|digits| digits.parse::<usize>().ok());
        let number = number.ok_or_else(|| {
            Error::new(ErrorCode::InvalidParameter, format!("parameter {name} has no number"))
                .with_hint("write $1, $2, ...")
        })?;
        used = used.max(number);
    }
    if used > params.len() || (all && used < params.len()) {
        return Err(count_mismatch(used, params.len()));
    }
    if used == 0 {
        return Ok(plan);
    }
    let values = params.iter().enumerate().map(|(at, value)| {
        let field = fields.get(&format!("${}", at + 1)).and_then(Option::as_ref);
        let scalar = scalar(value, field.map(AsRef::as_ref));
        scalar.map(ScalarAndMetadata::from).map_err(|mut error| {
            error.message = format!("parameter ${}: {}", at + 1, error.message);
            error
        })
    });
    Ok(plan.with_param_values(ParamValues::List(values.collect::<Result<_>>()?))?)
}

/// The error for a statement that uses `used` parameters and got `given`.
pub(crate) fn count_mismatch(used: usize, given: usize) -> Error {
    Error::new(
        ErrorCode::InvalidParameter,
        format!("the statement has {used} parameters, but {given} values were given"),
    )
}

/// A value for a place of a known type. A number that the type cannot hold keeps its own type: comparing with it is
/// still right.
fn scalar(value: &Value, field: Option<&Field>) -> Result<ScalarValue> {
    match field.and_then(engine_type) {
        Some(data_type) => match params::typed(value, &data_type) {
            Err(_) if value.is_number() && is_number(&data_type) => params::scalar(value),
            typed => typed,
        },
        None => params::scalar(value),
    }
}

fn is_number(data_type: &DataType) -> bool {
    matches!(
        data_type,
        DataType::SmallInt | DataType::Int | DataType::BigInt | DataType::Float | DataType::Double
    ) || matches!(data_type, DataType::Decimal { .. })
}

/// The database's type that an Arrow field holds; `None` if there is none.
pub(crate) fn engine_type(field: &Field) -> Option<DataType> {
    match field.metadata().get(TYPE_METADATA_KEY).map(String::as_str) {
        Some("JSON") => return Some(DataType::Json),
        Some("UUID") => return Some(DataType::Uuid),
        _ => {}
    }
    Some(match field.data_type() {
        ArrowType::Boolean => DataType::Boolean,
        ArrowType::Int8 | ArrowType::Int16 => DataType::SmallInt,
        ArrowType::Int32 => DataType::Int,
        ArrowType::Int64 => DataType::BigInt,
        ArrowType::Float32 => DataType::Float,
        ArrowType::Float64 => DataType::Double,
        ArrowType::Decimal128(precision, scale) => {
            DataType::Decimal { precision: *precision, scale: u8::try_from(*scale).ok()? }
        }
        ArrowType::Utf8 | ArrowType::LargeUtf8 | ArrowType::Utf8View => DataType::Text,
        ArrowType::Binary | ArrowType::LargeBinary | ArrowType::BinaryView => DataType::Bytes,
        ArrowType::Timestamp(_, _) => DataType::Timestamp,
        ArrowType::Date32 => DataType::Date,
        ArrowType::Time64(TimeUnit::Microsecond) => DataType::Time,
        ArrowType::List(item) => DataType::Array(Box::new(engine_type(item)?)),
        _ => return None,
    })
}
