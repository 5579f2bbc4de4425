//! [`JsonFunction`]: a function of a JSON value and a path into it.

use std::sync::{Arc, OnceLock};

use arrow::array::{Array, ArrayRef, AsArray, StringViewArray};
use arrow::datatypes::{DataType as ArrowType, FieldRef, Int64Type};
use arrow::error::ArrowError;
use datafusion::common::{Result, ScalarValue, internal_err};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use kalamdb_engine::TYPE_METADATA_KEY;
use serde::de::IgnoredAny;

use super::get::Asked;
use super::text::{Step, step};
use crate::error::{Error, ErrorCode};

/// A function, or the operator that is short for it.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct JsonFunction {
    asked: Asked,
    /// The sign that it was written with: its column is named like that.
    sign: Option<&'static str>,
    signature: Signature,
}

/// All of them.
pub(super) fn all() -> impl Iterator<Item = Arc<ScalarUDF>> {
    static FUNCTIONS: OnceLock<Vec<Arc<ScalarUDF>>> = OnceLock::new();
    let made = || Asked::ALL.iter().map(|asked| Arc::new(function(*asked, None))).collect();
    FUNCTIONS.get_or_init(made).iter().cloned()
}

/// What is asked for, written as an operator with this sign.
pub(super) fn operator(asked: Asked, sign: &'static str, value: Expr, steps: Vec<Expr>) -> Expr {
    function(asked, Some(sign)).call(std::iter::once(value).chain(steps).collect())
}

fn function(asked: Asked, sign: Option<&'static str>) -> ScalarUDF {
    let signature = Signature::user_defined(Volatility::Immutable);
    ScalarUDF::from(JsonFunction { asked, sign, signature })
}

impl ScalarUDFImpl for JsonFunction {
    fn name(&self) -> &str {
        self.asked.names()[0]
    }

    fn aliases(&self) -> &[String] {
        self.asked.aliases()
    }

    fn display_name(&self, args: &[Expr]) -> Result<String> {
        self.written(args, |arg| arg.to_string())
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        self.written(args, |arg| arg.schema_name().to_string())
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[ArrowType]) -> Result<Vec<ArrowType>> {
        let Some((value, steps)) = types.split_first() else {
            return Err(mismatch(format!("{} takes a JSON value and the steps of a path", self.name())));
        };
        if !is_text(value) {
            return Err(mismatch(format!("{} takes a JSON value first, not {}", self.name(), shown(value))));
        }
        let steps = steps.iter().map(|found| match found {
            text if is_text(text) => Ok(ArrowType::Utf8View),
            number if number.is_integer() && !self.asked.takes_texts() => Ok(ArrowType::Int64),
            other => Err(mismatch(format!(
                "a step of a path into JSON is a key (TEXT) or a place in an array (BIGINT), not {}",
                shown(other)
            ))),
        });
        std::iter::once(Ok(ArrowType::Utf8View)).chain(steps).collect()
    }

    fn return_type(&self, _: &[ArrowType]) -> Result<ArrowType> {
        Ok(self.asked.data_type().arrow())
    }

    fn return_field_from_args(&self, _: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        Ok(Arc::new(self.asked.data_type().field(self.name(), true)))
    }

    fn is_strict(&self) -> bool {
        true
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let constant = args.args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
        let rows = if constant { 1 } else { args.number_rows };
        let Some((value, steps)) = args.args.split_first() else {
            return internal_err!("{} takes a JSON value", self.name());
        };
        let texts = value.to_array(rows)?;
        let texts = texts.as_string_view();
        if args.arg_fields.first().is_none_or(|field| !is_json(field)) {
            check(texts)?;
        }
        let steps = steps.iter().map(|step| Steps::new(step, rows)).collect::<Result<Vec<_>>>()?;
        let loose = self.asked.takes_texts();
        let found = (0..rows).map(|row| {
            let text = texts.is_valid(row).then(|| texts.value(row))?;
            let path = steps.iter().map(|steps| steps.at(row, loose)).collect::<Option<Vec<_>>>()?;
            Some(path.into_iter().try_fold(text, step))
        });
        let result = self.asked.give(found.collect())?;
        Ok(match constant {
            true => ColumnarValue::Scalar(ScalarValue::try_from_array(&result, 0)?),
            false => ColumnarValue::Array(result),
        })
    }
}

impl JsonFunction {
    fn written(&self, args: &[Expr], show: impl Fn(&Expr) -> String) -> Result<String> {
        let text = |arg: &Expr| match arg {
            Expr::Literal(value, _) => match value.try_as_str() {
                Some(Some(text)) => format!("'{}'", text.replace('\'', "''")),
                _ => value.to_string(),
            },
            arg => show(arg),
        };
        let args: Vec<String> = args.iter().map(text).collect();
        Ok(match self.sign {
            Some(sign) => args.join(&format!(" {sign} ")),
            None => format!("{}({})", self.name(), args.join(",")),
        })
    }
}

/// One step of the path in every row.
struct Steps {
    values: ArrayRef,
    constant: bool,
}

impl Steps {
    fn new(step: &ColumnarValue, rows: usize) -> Result<Self> {
        let constant = matches!(step, ColumnarValue::Scalar(_));
        Ok(Self { values: step.to_array(if constant { 1 } else { rows })?, constant })
    }

    /// `None` if it is NULL.
    fn at(&self, row: usize, loose: bool) -> Option<Step<'_>> {
        let row = if self.constant { 0 } else { row };
        if self.values.is_null(row) {
            return None;
        }
        Some(match self.values.as_string_view_opt() {
            Some(keys) if loose => Step::Either(keys.value(row)),
            Some(keys) => Step::Key(keys.value(row)),
            None => Step::Index(self.values.as_primitive::<Int64Type>().value(row)),
        })
    }
}

/// Refuses text that is not JSON.
pub(super) fn check(texts: &StringViewArray) -> Result<()> {
    for text in texts.iter().flatten() {
        serde_json::from_str::<IgnoredAny>(text)
            .map_err(|error| ArrowError::ParseError(format!("this is not JSON: {error}")))?;
    }
    Ok(())
}

/// True for JSON, which is known to be JSON; other text is not.
pub(super) fn is_json(field: &FieldRef) -> bool {
    field.metadata().get(TYPE_METADATA_KEY).is_some_and(|name| name == "JSON")
}

/// Text, or a NULL or parameter that may be.
pub(super) fn is_text(found: &ArrowType) -> bool {
    matches!(found, ArrowType::Utf8 | ArrowType::LargeUtf8 | ArrowType::Utf8View | ArrowType::Null)
}

pub(super) fn mismatch(message: String) -> datafusion::error::DataFusionError {
    Error::new(ErrorCode::TypeMismatch, message).into_datafusion()
}

pub(super) fn shown(found: &ArrowType) -> String {
    crate::types::sql_name(&arrow::datatypes::Field::new("", found.clone(), true))
}
