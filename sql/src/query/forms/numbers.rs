//! Numbers that a DOUBLE would not keep.

use datafusion::sql::sqlparser::ast::{
    CastKind, DataType as SqlType, ExactNumberInfo, Expr, UnaryOperator, Value, ValueWithSpan,
};

/// The digits that a DOUBLE always keeps.
const EXACT_DIGITS: usize = 15;
/// The digits of the widest DECIMAL.
const MOST_DIGITS: usize = 38;

/// Rewrites an expression that is a number.
pub(super) fn rewrite(expr: &mut Expr) {
    match expr {
        Expr::Value(ValueWithSpan { value: Value::Number(..), .. }) => {
            if let Some(exact) = long_number(expr) {
                *expr = exact;
            }
        }
        // The least BIGINT is no BIGINT without its sign.
        Expr::UnaryOp { op: UnaryOperator::Minus, expr: number } => {
            if let Expr::Value(ValueWithSpan { value: Value::Number(digits, long), span }) = number.as_ref()
                && format!("-{digits}").parse() == Ok(i64::MIN)
            {
                let value = Value::Number(format!("-{digits}"), *long);
                *expr = Expr::Value(ValueWithSpan { value, span: *span });
            }
        }
        _ => {}
    }
}

/// A number with more digits than a DOUBLE keeps as the DECIMAL that it is; `None` for others.
fn long_number(number: &Expr) -> Option<Expr> {
    let Expr::Value(ValueWithSpan { value: Value::Number(written, _), span }) = number else { return None };
    if written.len() <= EXACT_DIGITS {
        return None;
    }
    let text = written.replace('_', "");
    let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
    let whole = whole.trim_start_matches('0');
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(fraction) {
        return None;
    }
    let significant = format!("{whole}{fraction}").trim_start_matches('0').len();
    let (scale, precision) = (fraction.len(), (whole.len() + fraction.len()).max(1));
    let kept = match text.contains('.') {
        true => significant <= EXACT_DIGITS,
        false => text.parse::<i64>().is_ok(),
    };
    if kept || precision > MOST_DIGITS {
        return None;
    }
    let value = Value::SingleQuotedString(text.clone());
    Some(Expr::Cast {
        kind: CastKind::Cast,
        expr: Box::new(Expr::Value(ValueWithSpan { value, span: *span })),
        data_type: SqlType::Decimal(ExactNumberInfo::PrecisionAndScale(precision as u64, scale as i64)),
        array: false,
        format: None,
    })
}
