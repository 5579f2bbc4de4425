//! DEFAULT expressions: constants and functions, evaluated for every inserted row that lacks the column.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, RecordBatchOptions, TimestampMicrosecondArray};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType as ArrowType, Schema};
use datafusion::common::DFSchema;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::execution::FunctionRegistry;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::{Expr, ExprSchemable, Volatility};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::sql::sqlparser::ast::{Expr as SqlExpr, ExprWithAlias, FunctionArguments};
use kalamdb_engine::{Column, DataType, TIMEZONE};

use super::{Kind, udfs};
use crate::error::{Error, ErrorCode, Result};
use crate::query::rewrite_forms;
use crate::statement::StatementContext;
use crate::{dialect, params};

/// The values of a column's default for `rows` new rows, of exactly the column's type; NULLs without a default.
///
/// # Errors
/// [`ErrorCode::ValueOutOfRange`] if a computed value does not fit the column.
pub(crate) fn evaluate_default(ctx: &StatementContext, column: &Column, rows: usize) -> Result<ArrayRef> {
    let Some(text) = &column.default else {
        return Ok(arrow::array::new_null_array(&column.data_type.arrow(), rows));
    };
    if let Some(kind) = simple_call(text).and_then(Kind::named) {
        return fit(&kind.values(&ctx.instance, &ctx.identity, rows), &column.data_type);
    }
    if is_now(text) && column.data_type == DataType::Timestamp {
        let now = TimestampMicrosecondArray::from(vec![ctx.now_micros; rows]).with_timezone(TIMEZONE);
        return Ok(Arc::new(now));
    }
    let expr = dialect::parse_expression(text)?;
    evaluate(ctx, &expr, &column.data_type, rows)
}

/// Refuses a default that is not a constant expression of the column's type.
///
/// # Errors
/// [`ErrorCode::TypeMismatch`], [`ErrorCode::ValueOutOfRange`]; [`ErrorCode::InvalidStatement`] if it refers to columns.
pub(crate) fn check_default(ctx: &StatementContext, expr: &SqlExpr, target: &DataType) -> Result<()> {
    evaluate(ctx, expr, target, 1).map(drop)
}

/// The one value that a default gives to rows that are there already; `None` for NULL.
///
/// # Errors
/// [`ErrorCode::InvalidStatement`] if it would have to be another one for each row, or depends on whose row it is.
pub(crate) fn constant_default(ctx: &StatementContext, column: &Column) -> Result<Option<ArrayRef>> {
    let Some(text) = &column.default else { return Ok(None) };
    let planned = plan(&state(ctx)?, &dialect::parse_expression(text)?, &DFSchema::empty())?;
    let differs = |expr: &Expr| {
        Ok(matches!(expr, Expr::ScalarFunction(call) if Kind::named(call.name()).is_some()
            || call.func.signature().volatility == Volatility::Volatile))
    };
    if planned.exists(differs)? {
        let message = format!("the default {text} of column {} has no one value for the rows", column.name);
        return Err(Error::new(ErrorCode::InvalidStatement, message).with_hint(format!(
            "add the column without a default, then ALTER COLUMN {} SET DEFAULT {text} for rows to come",
            column.name
        )));
    }
    let value = evaluate_default(ctx, column, 1)?;
    Ok(Some(value).filter(|value| value.logical_null_count() == 0))
}

fn evaluate(ctx: &StatementContext, expr: &SqlExpr, target: &DataType, rows: usize) -> Result<ArrayRef> {
    if let Some(value) = params::literal(expr, &[], target)? {
        return Ok(value.to_array_of_size(rows)?);
    }
    let state = state(ctx)?;
    let schema = DFSchema::empty();
    let expr = plan(&state, expr, &schema)?;
    check_assignable(&expr.get_type(&schema)?, target)?;
    let physical = state.create_physical_expr(simplified(&state, expr, &schema)?, &schema)?;
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    let batch = RecordBatch::try_new_with_options(Arc::new(Schema::empty()), Vec::new(), &options)?;
    fit(&physical.evaluate(&batch)?.into_array(rows)?, target)
}

/// Plans an expression over these columns, to see that it can be: a CHECK is a condition.
///
/// # Errors
/// What the planner says of it; [`ErrorCode::TypeMismatch`] if it is not BOOLEAN.
pub(crate) fn check_expression(ctx: &StatementContext, expr: &SqlExpr, columns: &Schema) -> Result<()> {
    let state = state(ctx)?;
    let schema = DFSchema::try_from(columns.clone())?;
    let planned = rewritten(&state, plan(&state, expr, &schema)?, &schema)?;
    let found = planned.get_type(&schema)?;
    if !matches!(found, ArrowType::Boolean | ArrowType::Null) {
        return Err(Error::new(ErrorCode::TypeMismatch, format!("CHECK ({expr}) is not a condition")));
    }
    state.create_physical_expr(planned, &schema)?;
    Ok(())
}

fn plan(state: &SessionState, expr: &SqlExpr, schema: &DFSchema) -> Result<Expr> {
    let mut expr = expr.clone();
    rewrite_forms(&mut expr)?;
    let expr = ExprWithAlias { expr, alias: None };
    Ok(state.create_logical_expr_from_sql_expr(expr, schema)?)
}

/// With `NOW()` and constant parts replaced by their values; functions that differ from row to row stay.
fn simplified(state: &SessionState, expr: Expr, schema: &DFSchema) -> Result<Expr> {
    let context = SimplifyContext::builder()
        .with_schema(Arc::new(schema.clone()))
        .with_config_options(state.config_options().clone())
        .with_query_execution_start_time(state.execution_props().query_execution_start_time)
        .build();
    let simplifier = ExprSimplifier::new(context);
    let expr = rewritten(state, expr, schema)?;
    Ok(simplifier.simplify(simplifier.coerce(expr, schema)?)?)
}

/// An expression with our functions in place of operators, before its types are coerced and constants are folded, as in a
/// plan.
///
/// # Errors
/// What the rewrites say of it.
pub(crate) fn rewritten(state: &SessionState, expr: Expr, schema: &DFSchema) -> Result<Expr> {
    let rewrites = state.analyzer().function_rewrites();
    let rewritten = expr.transform_up(|expr| {
        rewrites.iter().try_fold(Transformed::no(expr), |expr, rewrite| {
            expr.transform_data(|expr| rewrite.rewrite(expr, schema, state.config_options()))
        })
    });
    Ok(rewritten?.data)
}

/// The instance's planner with the functions and the time of this statement.
fn state(ctx: &StatementContext) -> Result<SessionState> {
    let mut state = ctx.instance.queries().state().clone();
    for function in udfs(ctx) {
        state.register_udf(function)?;
    }
    state.execution_props_mut().query_execution_start_time =
        chrono::DateTime::from_timestamp_micros(ctx.now_micros);
    Ok(state)
}

/// Whether a computed value may be stored in a column: numbers in numbers, text in text, moments in moments.
fn check_assignable(found: &ArrowType, target: &DataType) -> Result<()> {
    let column = target.arrow();
    let text = |t: &ArrowType| matches!(t, ArrowType::Utf8 | ArrowType::LargeUtf8 | ArrowType::Utf8View);
    let moment =
        |t: &ArrowType| matches!(t, ArrowType::Timestamp(..) | ArrowType::Date32 | ArrowType::Date64);
    let ok = *found == column
        || found.is_null()
        || (found.is_numeric() && column.is_numeric())
        || (text(found) && (text(&column) || moment(&column)))
        || (moment(found) && moment(&column))
        || (found.is_nested() && column.is_nested())
        || matches!((found, target), (ArrowType::Time64(_) | ArrowType::Time32(_), DataType::Time))
        || matches!((found, target), (ArrowType::Timestamp(..), DataType::Time))
        || matches!((found, target), (ArrowType::Binary | ArrowType::LargeBinary, DataType::Bytes));
    if ok {
        return Ok(());
    }
    let shown = crate::types::sql_name(&arrow::datatypes::Field::new("", found.clone(), true));
    Err(Error::new(ErrorCode::TypeMismatch, format!("a {shown} is not a {target}")))
}

fn fit(values: &ArrayRef, target: &DataType) -> Result<ArrayRef> {
    let arrow = target.arrow();
    if *values.data_type() == arrow {
        return Ok(values.clone());
    }
    let options = CastOptions { safe: false, ..CastOptions::default() };
    Ok(cast_with_options(values, &arrow, &options)?)
}

/// `name` for `name()` or, of the functions that need no parentheses, `name`.
fn simple_call(text: &str) -> Option<&str> {
    let text = text.trim();
    match text.strip_suffix("()") {
        Some(name) => Some(name),
        None => ["current_user", "current_role", "session_user"]
            .into_iter()
            .find(|name| text.eq_ignore_ascii_case(name)),
    }
}

fn is_now(text: &str) -> bool {
    let text = text.trim();
    ["now()", "current_timestamp", "current_timestamp()"].iter().any(|name| text.eq_ignore_ascii_case(name))
}

/// True if a default is `SNOWFLAKE_ID()`: the key it makes is new without looking.
pub(crate) fn is_snowflake(expr: &SqlExpr) -> bool {
    match expr {
        SqlExpr::Function(function) => {
            let no_arguments = match &function.args {
                FunctionArguments::None => true,
                FunctionArguments::List(list) => list.args.is_empty(),
                FunctionArguments::Subquery(_) => false,
            };
            no_arguments && function.name.to_string().eq_ignore_ascii_case(Kind::SnowflakeId.name())
        }
        _ => false,
    }
}
