//! [`JsonOperators`]: signs become functions when a statement is planned.

use datafusion::common::{DFSchema, Result};
use datafusion::logical_expr::planner::{ExprPlanner, PlannerResult, RawBinaryExpr, RawFieldAccessExpr};
use datafusion::logical_expr::{Expr, ExprSchemable, GetFieldAccess, lit};
use datafusion::sql::sqlparser::ast::BinaryOperator;

use super::contains;
use super::function::{self, is_json, is_text, mismatch};
use super::get::Asked;

/// Plans `->`, `->>`, `#>`, `#>>`, `@>`, `<@` and subscripts of JSON.
#[derive(Debug)]
pub(crate) struct JsonOperators;

impl ExprPlanner for JsonOperators {
    fn plan_binary_op(&self, expr: RawBinaryExpr, schema: &DFSchema) -> Result<PlannerResult<RawBinaryExpr>> {
        let RawBinaryExpr { op, left, right } = expr;
        let one = |asked, sign, left, right| function::operator(asked, sign, left, vec![right]);
        let planned = match op {
            BinaryOperator::Arrow => one(Asked::Json, "->", left, right),
            BinaryOperator::LongArrow => one(Asked::Text, "->>", left, right),
            BinaryOperator::HashArrow => function::operator(Asked::JsonByTexts, "#>", left, path(right)?),
            BinaryOperator::HashLongArrow => {
                function::operator(Asked::TextByTexts, "#>>", left, path(right)?)
            }
            BinaryOperator::AtArrow if is_text(&left.get_type(schema)?) => {
                contains::function().call(vec![left, right])
            }
            BinaryOperator::ArrowAt if is_text(&right.get_type(schema)?) => {
                contains::function().call(vec![right, left])
            }
            op => return Ok(PlannerResult::Original(RawBinaryExpr { op, left, right })),
        };
        Ok(PlannerResult::Planned(planned))
    }

    fn plan_field_access(
        &self,
        expr: RawFieldAccessExpr,
        schema: &DFSchema,
    ) -> Result<PlannerResult<RawFieldAccessExpr>> {
        let RawFieldAccessExpr { field_access, expr } = expr;
        let step = match field_access {
            GetFieldAccess::NamedStructField { name } if json(&expr, schema)? => Expr::Literal(name, None),
            GetFieldAccess::ListIndex { key } if json(&expr, schema)? => *key,
            field_access => return Ok(PlannerResult::Original(RawFieldAccessExpr { field_access, expr })),
        };
        Ok(PlannerResult::Planned(function::operator(Asked::Json, "->", expr, vec![step])))
    }
}

fn json(expr: &Expr, schema: &DFSchema) -> Result<bool> {
    Ok(is_json(&expr.to_field(schema)?.1))
}

/// The steps of a path that is written `'{a,0,b}'`.
fn path(written: Expr) -> Result<Vec<Expr>> {
    let text = match &written {
        Expr::Literal(value, _) => value.try_as_str().flatten(),
        _ => None,
    };
    let steps = text.and_then(|text| text.trim().strip_prefix('{')?.strip_suffix('}'));
    let Some(steps) = steps else {
        return Err(mismatch(format!("a path into JSON is written '{{key,0,key}}', not {written}")));
    };
    if steps.trim().is_empty() {
        return Ok(Vec::new());
    }
    let unquoted = |step: &str| {
        let step = step.trim();
        step.strip_prefix('"').and_then(|step| step.strip_suffix('"')).unwrap_or(step).to_owned()
    };
    Ok(steps.split(',').map(|step| lit(unquoted(step))).collect())
}
