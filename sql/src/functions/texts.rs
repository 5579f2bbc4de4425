//! Casts to UUID and JSON, which are text in Arrow: a text that is neither is an error, and TEXT made of them is only text.
//! And casts of text to what is written more freely in literals than Arrow reads it: `'2024-01-01 10:00'::TIMESTAMP`,
//! `'\x00ff'::BYTES`, `'[1, 2]'::INT[]`.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, StringViewBuilder, new_empty_array};
use arrow::compute::{CastOptions, cast, cast_with_options};
use arrow::datatypes::{DataType as ArrowType, Field, FieldRef};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, Result, ScalarValue, internal_err};
use datafusion::logical_expr::expr::Cast;
use datafusion::logical_expr::expr_rewriter::FunctionRewrite;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ExprSchemable, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl,
    Signature, Volatility,
};
use kalamdb_engine::{DataType, TYPE_METADATA_KEY};

use super::unary;
use crate::error::{Error, ErrorCode};
use crate::params;
use crate::query::engine_type;

/// Replaces casts between TEXT, UUID and JSON by functions that know which is which.
#[derive(Debug)]
pub(crate) struct CheckedTexts;

impl FunctionRewrite for CheckedTexts {
    fn name(&self) -> &str {
        "checked_texts"
    }

    fn rewrite(&self, expr: Expr, schema: &DFSchema, _: &ConfigOptions) -> Result<Transformed<Expr>> {
        let Expr::Cast(Cast { expr: operand, field }) = expr else { return Ok(Transformed::no(expr)) };
        let from = text_type(&operand.to_field(schema)?.1);
        let changed = |operand: Expr, to| Transformed::yes(as_type(operand, to));
        Ok(match (from, text_type(&field)) {
            (Some(from), Some(to)) if from != to => changed(*operand, to),
            (None, Some(to)) if to != DataType::Text => {
                let text = Expr::Cast(Cast::new(operand, ArrowType::Utf8View));
                changed(text, to)
            }
            (Some(DataType::Text), None) => match engine_type(&field).filter(is_written_freely) {
                Some(to) => changed(*operand, to),
                None => Transformed::no(Expr::Cast(Cast { expr: operand, field })),
            },
            _ => Transformed::no(Expr::Cast(Cast { expr: operand, field })),
        })
    }
}

fn is_written_freely(to: &DataType) -> bool {
    matches!(to, DataType::Timestamp | DataType::Time | DataType::Bytes | DataType::Array(_))
}

/// An expression of text as a UUID or JSON, which each value is checked to be.
pub(super) fn as_type(text: Expr, to: DataType) -> Expr {
    let signature = Signature::any(1, Volatility::Immutable);
    ScalarUDF::from(TextCast { to, signature }).call(vec![text])
}

/// Which of the types that are text in Arrow a field is of.
fn text_type(field: &Field) -> Option<DataType> {
    match (field.metadata().get(TYPE_METADATA_KEY).map(String::as_str), field.data_type()) {
        (Some("UUID"), _) => Some(DataType::Uuid),
        (Some("JSON"), _) => Some(DataType::Json),
        (_, ArrowType::Utf8 | ArrowType::LargeUtf8 | ArrowType::Utf8View) => Some(DataType::Text),
        _ => None,
    }
}

/// A cast as a function. Its column is named like the operand, as casts are.
#[derive(Debug, PartialEq, Eq, Hash)]
struct TextCast {
    to: DataType,
    signature: Signature,
}

impl ScalarUDFImpl for TextCast {
    fn name(&self) -> &str {
        match self.to {
            DataType::Uuid => "checked_uuid",
            DataType::Json => "checked_json",
            DataType::Text => "plain_text",
            _ => "read_text",
        }
    }

    fn display_name(&self, args: &[Expr]) -> Result<String> {
        let operand = unary::operand(self.name(), args)?;
        Ok(format!("CAST({operand} AS {})", self.to))
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        let operand = unary::operand(self.name(), args)?;
        Ok(operand.schema_name().to_string())
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[ArrowType]) -> Result<ArrowType> {
        Ok(self.to.arrow())
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        let nullable = args.arg_fields.iter().any(|field| field.is_nullable());
        Ok(Arc::new(self.to.field(self.name(), nullable)))
    }

    fn is_strict(&self) -> bool {
        true
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        unary::apply(self.name(), &args.args, |array| self.convert(array))
    }
}

impl TextCast {
    fn convert(&self, texts: &ArrayRef) -> Result<ArrayRef> {
        let texts = cast(texts, &ArrowType::Utf8View)?;
        match self.to {
            DataType::Text => return Ok(texts),
            DataType::Uuid | DataType::Json => {}
            _ => return self.read(&texts),
        }
        let mut converted = StringViewBuilder::with_capacity(texts.len());
        for text in texts.as_string_view() {
            match text {
                None => converted.append_null(),
                Some(text) => match params::from_text(text, &self.to) {
                    Ok(ScalarValue::Utf8View(Some(value))) => converted.append_value(value),
                    Ok(other) => return internal_err!("{} is no text", other.data_type()),
                    Err(error) => {
                        let error = Error::new(ErrorCode::ValueOutOfRange, error.message);
                        return Err(error.into_datafusion());
                    }
                },
            }
        }
        Ok(Arc::new(converted.finish()))
    }

    /// Texts as values of another type than text.
    fn read(&self, texts: &ArrayRef) -> Result<ArrayRef> {
        if texts.is_empty() {
            return Ok(new_empty_array(&self.to.arrow()));
        }
        let values = texts.as_string_view().iter().enumerate().map(|(row, text)| match text {
            None => params::null(&self.to).map_err(Error::into_datafusion),
            Some(text) => match params::from_literal(text, &self.to) {
                Ok(value) => Ok(value),
                // What only Arrow reads, or its word on what nobody does.
                Err(_) if !matches!(self.to, DataType::Array(_)) => {
                    let options = CastOptions { safe: false, ..CastOptions::default() };
                    let value = cast_with_options(&texts.slice(row, 1), &self.to.arrow(), &options)?;
                    ScalarValue::try_from_array(&value, 0)
                }
                Err(error) => Err(Error::new(ErrorCode::ValueOutOfRange, error.message).into_datafusion()),
            },
        });
        ScalarValue::iter_to_array(values.collect::<Result<Vec<_>>>()?)
    }
}
