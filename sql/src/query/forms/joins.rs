//! Columns that a join with USING makes one of two, where they are named without a table.
//!
//! DataFusion takes the left of the two wherever it finds one name, and in WHERE calls the name ambiguous. What it is depends
//! on the join: of LEFT the left one, of RIGHT the right one, of FULL the one that is not NULL. Only joins whose left side is one
//! table, or of which an earlier join with USING gave the column, are rewritten: otherwise only the catalog could tell.

use std::collections::HashMap;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Expr, GroupByExpr, Ident, Join, JoinConstraint, JoinOperator, ObjectName, ObjectNamePart, Query, Select,
    SelectItem, TableFactor, VisitMut, VisitorMut,
};

use crate::dialect::call;
use crate::query::system_columns::normal;

/// Names such columns with their tables.
pub(super) fn rewrite(select: &mut Select) {
    let [from] = select.from.as_slice() else { return };
    if !from.joins.iter().any(|join| using(join).is_some()) {
        return;
    }
    let mut columns = Columns::default();
    let mut left = qualifier(&from.relation);
    for join in &from.joins {
        let right = qualifier(&join.relation);
        for name in using(join).into_iter().flatten() {
            columns.join(&join.join_operator, left.as_deref(), right.as_deref(), name);
        }
        left = None;
    }
    if let Some(condition) = &mut select.selection {
        columns.name_in(condition, true);
    }
    for item in &mut select.projection {
        match item {
            SelectItem::UnnamedExpr(expr) => {
                let name = match expr {
                    Expr::Identifier(name) => Some(name.clone()),
                    _ => None,
                };
                let changed = columns.name_in(expr, false);
                if let Some(alias) = name.filter(|_| changed) {
                    *item = SelectItem::ExprWithAlias { expr: expr.clone(), alias };
                }
            }
            SelectItem::ExprWithAlias { expr, .. } => {
                columns.name_in(expr, false);
            }
            _ => {}
        }
    }
    if let GroupByExpr::Expressions(expressions, _) = &mut select.group_by {
        for expr in expressions {
            columns.name_in(expr, false);
        }
    }
    if let Some(condition) = &mut select.having {
        columns.name_in(condition, false);
    }
}

/// The columns that a join makes one of two, as they are written.
fn using(join: &Join) -> Option<Vec<&Ident>> {
    let constraint = match &join.join_operator {
        JoinOperator::Join(constraint)
        | JoinOperator::Inner(constraint)
        | JoinOperator::Left(constraint)
        | JoinOperator::LeftOuter(constraint)
        | JoinOperator::Right(constraint)
        | JoinOperator::RightOuter(constraint)
        | JoinOperator::FullOuter(constraint) => constraint,
        _ => return None,
    };
    let JoinConstraint::Using(names) = constraint else { return None };
    names.iter().map(one_part).collect()
}

fn one_part(name: &ObjectName) -> Option<&Ident> {
    match name.0.as_slice() {
        [part] => part.as_ident(),
        _ => None,
    }
}

/// How the columns of a relation are qualified; `None` if they cannot be.
fn qualifier(relation: &TableFactor) -> Option<Vec<Ident>> {
    match relation {
        TableFactor::Table { alias: Some(alias), .. }
        | TableFactor::Derived { alias: Some(alias), .. }
        | TableFactor::UNNEST { alias: Some(alias), .. } => Some(vec![alias.name.clone()]),
        TableFactor::Table { name, alias: None, args: None, .. } => {
            name.0.iter().map(ObjectNamePart::as_ident).map(Option::<&Ident>::cloned).collect()
        }
        _ => None,
    }
}

/// What the names of columns mean.
#[derive(Default)]
struct Columns {
    meant: HashMap<String, Meant>,
}

struct Meant {
    expr: Expr,
    /// Whether DataFusion would take another one of the two.
    other: bool,
}

impl Columns {
    fn join(
        &mut self,
        operator: &JoinOperator,
        left: Option<&[Ident]>,
        right: Option<&[Ident]>,
        name: &Ident,
    ) {
        let column =
            |table: &[Ident]| Expr::CompoundIdentifier(table.iter().cloned().chain([name.clone()]).collect());
        let before = self.meant.remove(&normal(name));
        // Of three that are one, DataFusion calls the name ambiguous everywhere.
        let other = before.is_some();
        let left = before.map(|before| before.expr).or_else(|| left.map(column));
        let right = right.map(column);
        let meant = match operator {
            JoinOperator::Right(_) | JoinOperator::RightOuter(_) => {
                right.map(|expr| Meant { expr, other: true })
            }
            JoinOperator::FullOuter(_) => left
                .zip(right)
                .map(|(left, right)| Meant { expr: call("coalesce", vec![left, right]), other: true }),
            JoinOperator::Left(_) | JoinOperator::LeftOuter(_) => left.map(|expr| Meant { expr, other }),
            // Both are equal.
            _ => left.or(right).map(|expr| Meant { expr, other }),
        };
        if let Some(meant) = meant {
            self.meant.insert(normal(name), meant);
        }
    }

    /// Puts in what names mean: `all` of them, or only what DataFusion would get wrong. Says whether any was there.
    fn name_in(&self, expr: &mut Expr, all: bool) -> bool {
        let mut naming = Naming { columns: self, all, depth: 0, changed: false };
        let _ = expr.visit(&mut naming);
        naming.changed
    }
}

/// Goes through an expression, but not into its subqueries, where names may mean something else.
struct Naming<'a> {
    columns: &'a Columns,
    all: bool,
    depth: usize,
    changed: bool,
}

impl VisitorMut for Naming<'_> {
    type Break = ();

    fn pre_visit_query(&mut self, _: &mut Query) -> ControlFlow<()> {
        self.depth += 1;
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _: &mut Query) -> ControlFlow<()> {
        self.depth -= 1;
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if let Expr::Identifier(name) = expr
            && self.depth == 0
            && let Some(meant) = self.columns.meant.get(&normal(name))
            && (self.all || meant.other)
        {
            *expr = meant.expr.clone();
            self.changed = true;
        }
        ControlFlow::Continue(())
    }
}

#[cfg(test)]
mod tests {
    use crate::dialect;
    use crate::query::forms::rewrite;

    #[test]
    fn a_column_of_using_is_the_one_that_the_join_keeps() {
        for (written, expected) in [
            (
                "SELECT id FROM a JOIN b USING (id) WHERE id = 1 AND x = (SELECT id FROM c)",
                "SELECT id FROM a JOIN b USING(id) WHERE a.id = 1 AND x = (SELECT id FROM c)",
            ),
            (
                "SELECT id FROM n.a LEFT JOIN b AS y USING (id) JOIN c USING (id) WHERE ID > 1",
                "SELECT n.a.id AS id FROM n.a LEFT JOIN b AS y USING(id) JOIN c USING(id) WHERE n.a.id > 1",
            ),
            (
                "SELECT id, count(*) FROM a RIGHT JOIN b USING (id) GROUP BY id HAVING id > 1",
                "SELECT b.id AS id, count(*) FROM a RIGHT JOIN b USING(id) GROUP BY b.id HAVING b.id > 1",
            ),
            (
                "SELECT id + 1 FROM a FULL JOIN b USING (id) WHERE id IS NOT NULL",
                "SELECT coalesce(a.id, b.id) + 1 FROM a FULL JOIN b USING(id) WHERE coalesce(a.id, b.id) IS NOT NULL",
            ),
            (
                "SELECT id FROM a JOIN b ON a.id = b.id WHERE v = 1",
                "SELECT id FROM a JOIN b ON a.id = b.id WHERE v = 1",
            ),
        ] {
            let mut parsed = dialect::parse_query(written).unwrap();
            rewrite(&mut parsed).unwrap();
            assert_eq!(parsed.to_string(), expected);
        }
    }
}
