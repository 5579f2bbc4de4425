//! Functions and operators that DataFusion has under other names.

use datafusion::sql::sqlparser::ast::{
    BinaryOperator, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, Ident, ObjectName,
    Select, SelectItem, UnaryOperator, Value,
};

use crate::dialect::call;

/// Names of PostgreSQL and of DataFusion.
const NAMES: [(&str, &str); 7] = [
    ("ceiling", "ceil"),
    ("variance", "var_samp"),
    ("every", "bool_and"),
    ("sign", "signum"),
    ("clock_timestamp", "now"),
    ("statement_timestamp", "now"),
    ("transaction_timestamp", "now"),
];

/// Rewrites a call or an operator.
pub(super) fn rewrite(expr: &mut Expr) {
    match expr {
        Expr::Function(function) => {
            let Some(name) = name(function) else { return };
            if let Some((_, known)) = NAMES.iter().find(|(written, _)| *written == name) {
                function.name = ObjectName::from(vec![Ident::new(*known)]);
            } else if name == "mod"
                && let Some([left, right]) = operands(function)
            {
                *expr = Expr::Nested(Box::new(binary(left, BinaryOperator::Modulo, right)));
            }
        }
        Expr::UnaryOp { op, expr: operand } => {
            let name = match op {
                UnaryOperator::PGSquareRoot => "sqrt",
                UnaryOperator::PGCubeRoot => "cbrt",
                UnaryOperator::PGAbs => "abs",
                UnaryOperator::PGPostfixFactorial => "factorial",
                UnaryOperator::BitwiseNot => {
                    let ones = Expr::value(Value::Number("-1".into(), false));
                    let operand = operand.as_ref().clone();
                    *expr = Expr::Nested(Box::new(binary(operand, BinaryOperator::PGBitwiseXor, ones)));
                    return;
                }
                _ => return,
            };
            *expr = call(name, vec![operand.as_ref().clone()]);
        }
        Expr::BinaryOp { left, op, right } => {
            let name = match op {
                BinaryOperator::PGStartsWith => "starts_with",
                BinaryOperator::PGOverlap => "array_has_any",
                _ => return,
            };
            *expr = call(name, vec![left.as_ref().clone(), right.as_ref().clone()]);
        }
        _ => {}
    }
}

/// `SELECT generate_series(1, 3)` gives rows, as it does in FROM.
pub(super) fn rewrite_series(select: &mut Select) {
    for item in &mut select.projection {
        let (expr, alias) = match item {
            SelectItem::UnnamedExpr(expr) => (expr, None),
            SelectItem::ExprWithAlias { expr, alias } => (expr, Some(alias.clone())),
            _ => continue,
        };
        if matches!(expr, Expr::Function(function) if name(function).as_deref() == Some("generate_series")) {
            let alias = alias.unwrap_or_else(|| Ident::new("generate_series"));
            *item = SelectItem::ExprWithAlias { expr: call("unnest", vec![expr.clone()]), alias };
        }
    }
}

/// The name of an ordinary call, in lower case.
fn name(function: &Function) -> Option<String> {
    let [part] = function.name.0.as_slice() else { return None };
    let ident = part.as_ident().filter(|ident| ident.quote_style.is_none())?;
    Some(ident.value.to_ascii_lowercase())
}

/// The operands of a call, if they are so many and nothing but expressions.
fn operands<const N: usize>(function: &Function) -> Option<[Expr; N]> {
    let FunctionArguments::List(list) = &function.args else { return None };
    let operand = |arg: &FunctionArg| match arg {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => Some(expr.clone()),
        _ => None,
    };
    list.args.iter().map(operand).collect::<Option<Vec<_>>>()?.try_into().ok()
}

/// `left op right`; operands keep what binds them.
fn binary(left: Expr, op: BinaryOperator, right: Expr) -> Expr {
    let nested = |expr| Box::new(Expr::Nested(Box::new(expr)));
    Expr::BinaryOp { left: nested(left), op, right: nested(right) }
}
