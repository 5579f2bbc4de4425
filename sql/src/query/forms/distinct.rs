//! `SELECT DISTINCT upper(name) AS n ... ORDER BY upper(name)`: what is selected under another name is meant by its place.

use datafusion::sql::sqlparser::ast::{
    Distinct, Expr, OrderByKind, Query, SelectItem, SetExpr, Value, ValueWithSpan,
};
use datafusion::sql::sqlparser::tokenizer::Span;

/// Orders by the place of a selected expression instead of the expression.
pub(super) fn rewrite(query: &mut Query) {
    let SetExpr::Select(select) = query.body.as_ref() else { return };
    let Some(OrderByKind::Expressions(order)) = query.order_by.as_mut().map(|order| &mut order.kind) else {
        return;
    };
    let places = select.projection.iter().map(|item| match item {
        SelectItem::UnnamedExpr(expr) => Some((expr, false)),
        SelectItem::ExprWithAlias { expr, .. } => Some((expr, true)),
        // How many columns it stands for is not known here.
        _ => None,
    });
    let Some(places) = places.collect::<Option<Vec<_>>>() else { return };
    if !matches!(select.distinct, Some(Distinct::Distinct)) {
        return;
    }
    for by in order {
        let selected = places.iter().position(|(expr, named)| *named && **expr == by.expr);
        if let Some(at) = selected {
            let place = Value::Number((at + 1).to_string(), false);
            by.expr = Expr::Value(ValueWithSpan { value: place, span: Span::empty() });
        }
    }
}
