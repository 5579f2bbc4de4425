//! `@>`: whether a JSON value has another in it, as PostgreSQL's `jsonb` means it.
//!
//! An object has another in it if it has each of its members; an array another if it has each of its elements, in any order
//! and number; an array also has a string, number or truth value that is its element. Everything else has what is equal.

use std::sync::{Arc, OnceLock};

use arrow::array::{Array, AsArray, BooleanArray, StringViewArray};
use arrow::datatypes::DataType as ArrowType;
use arrow::error::ArrowError;
use datafusion::common::{Result, ScalarValue, internal_err};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use serde_json::Value;

use super::function::{is_text, mismatch, shown};

/// The function.
pub(super) fn function() -> Arc<ScalarUDF> {
    static FUNCTION: OnceLock<Arc<ScalarUDF>> = OnceLock::new();
    let signature = || Signature::user_defined(Volatility::Immutable);
    FUNCTION.get_or_init(|| Arc::new(ScalarUDF::from(Includes { signature: signature() }))).clone()
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Includes {
    signature: Signature,
}

impl ScalarUDFImpl for Includes {
    fn name(&self) -> &str {
        "jsonb_contains"
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        let [whole, part] = args else { return internal_err!("{} takes two values", self.name()) };
        Ok(format!("{} @> {}", whole.schema_name(), part.schema_name()))
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[ArrowType]) -> Result<Vec<ArrowType>> {
        match types {
            [whole, part] if is_text(whole) && is_text(part) => Ok(vec![ArrowType::Utf8View; 2]),
            [whole, part] => {
                Err(mismatch(format!("@> takes two JSON values, not {} and {}", shown(whole), shown(part))))
            }
            _ => Err(mismatch(format!("{} takes two JSON values", self.name()))),
        }
    }

    fn return_type(&self, _: &[ArrowType]) -> Result<ArrowType> {
        Ok(ArrowType::Boolean)
    }

    fn is_strict(&self) -> bool {
        true
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [whole, part] = args.args.as_slice() else {
            return internal_err!("{} takes two values", self.name());
        };
        let rows = match (whole, part) {
            (ColumnarValue::Scalar(_), ColumnarValue::Scalar(_)) => 1,
            _ => args.number_rows,
        };
        let wholes = Parsed::new(whole, rows)?;
        let parts = Parsed::new(part, rows)?;
        let both = |row| -> Result<Option<bool>> {
            Ok(match (wholes.at(row)?, parts.at(row)?) {
                (Some(whole), Some(part)) => Some(includes(whole.get(), part.get())),
                _ => None,
            })
        };
        let result = (0..rows).map(both).collect::<Result<BooleanArray>>()?;
        Ok(match (whole, part) {
            (ColumnarValue::Scalar(_), ColumnarValue::Scalar(_)) => {
                ColumnarValue::Scalar(ScalarValue::try_from_array(&result, 0)?)
            }
            _ => ColumnarValue::Array(Arc::new(result)),
        })
    }
}

/// The JSON values of an operand; one that is the same in all rows is parsed once.
enum Parsed {
    Constant(Option<Value>),
    Each(StringViewArray),
}

enum Held<'a> {
    Borrowed(&'a Value),
    Owned(Value),
}

impl Held<'_> {
    fn get(&self) -> &Value {
        match self {
            Self::Borrowed(value) => value,
            Self::Owned(value) => value,
        }
    }
}

impl Parsed {
    fn new(operand: &ColumnarValue, rows: usize) -> Result<Self> {
        let constant = matches!(operand, ColumnarValue::Scalar(_));
        let texts = operand.to_array(if constant { 1 } else { rows })?;
        let texts = texts.as_string_view();
        Ok(match constant {
            true => Self::Constant(texts.iter().flatten().next().map(parse).transpose()?),
            false => Self::Each(texts.clone()),
        })
    }

    fn at(&self, row: usize) -> Result<Option<Held<'_>>> {
        Ok(match self {
            Self::Constant(value) => value.as_ref().map(Held::Borrowed),
            Self::Each(texts) if texts.is_null(row) => None,
            Self::Each(texts) => Some(Held::Owned(parse(texts.value(row))?)),
        })
    }
}

fn parse(text: &str) -> Result<Value> {
    Ok(serde_json::from_str(text)
        .map_err(|error| ArrowError::ParseError(format!("this is not JSON: {error}")))?)
}

fn includes(whole: &Value, part: &Value) -> bool {
    match (whole, part) {
        (Value::Array(_), Value::Array(_)) | (Value::Object(_), Value::Object(_)) => has(whole, part),
        (Value::Array(elements), part) if !part.is_object() => elements.iter().any(|e| has(e, part)),
        _ => has(whole, part),
    }
}

/// The same below the top, where an array is not searched for what is no array.
fn has(whole: &Value, part: &Value) -> bool {
    match (whole, part) {
        (Value::Object(whole), Value::Object(part)) => {
            part.iter().all(|(key, part)| whole.get(key).is_some_and(|whole| has(whole, part)))
        }
        (Value::Array(whole), Value::Array(part)) => {
            part.iter().all(|part| whole.iter().any(|whole| has(whole, part)))
        }
        (Value::Number(whole), Value::Number(part)) => whole == part || whole.as_f64() == part.as_f64(),
        _ => whole == part,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_in_what() {
        let whole = json!({"a": 1, "b": [1, {"c": "x", "d": null}], "e": {}});
        for part in [
            json!({}),
            json!({"a": 1.0}),
            json!({"b": []}),
            json!({"b": [1, 1]}),
            json!({"b": [{"c": "x"}]}),
            json!({"e": {}, "a": 1}),
        ] {
            assert!(includes(&whole, &part), "{part}");
        }
        for part in
            [json!({"a": 2}), json!({"b": 1}), json!({"b": [{"c": "y"}]}), json!({"x": null}), json!([])]
        {
            assert!(!includes(&whole, &part), "{part}");
        }
        assert!(includes(&json!([1, "x"]), &json!("x")));
        assert!(!includes(&json!([1, "x"]), &json!({})));
        assert!(!includes(&json!([[1]]), &json!(1)));
        assert!(includes(&json!(null), &json!(null)));
    }
}
