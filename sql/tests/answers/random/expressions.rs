//! Random expressions that mean the same in both databases: no division, no overflow, no order of evaluation.

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

use super::schema::{Column, Table, Type, constant};

/// The columns that an expression may name, as it names them.
#[derive(Debug, Clone)]
pub(crate) struct Scope {
    columns: Vec<Column>,
}

impl Scope {
    pub(crate) fn of(tables: &[(&str, &Table)]) -> Self {
        let named = |alias: &str, column: &Column| Column {
            name: format!("{alias}.{}", column.name),
            kind: column.kind,
        };
        let columns =
            tables.iter().flat_map(|(alias, table)| table.columns.iter().map(move |c| named(alias, c)));
        Self { columns: columns.collect() }
    }

    pub(crate) fn pick(&self, rng: &mut StdRng) -> &Column {
        self.columns.choose(rng).expect("a table has columns")
    }

    pub(crate) fn pick_of(&self, rng: &mut StdRng, kind: Type) -> Option<&Column> {
        let fitting: Vec<&Column> = self.columns.iter().filter(|column| column.kind == kind).collect();
        fitting.choose(rng).copied()
    }
}

/// A value of a type.
pub(crate) fn value(rng: &mut StdRng, scope: &Scope, kind: Type, depth: usize) -> String {
    let column = scope.pick_of(rng, kind).map(|column| column.name.clone());
    if depth == 0 || rng.random_bool(0.4) {
        return column.filter(|_| rng.random_bool(0.8)).unwrap_or_else(|| constant(rng, kind));
    }
    let mut of = |kind| value(rng, scope, kind, depth - 1);
    match kind {
        Type::Int => {
            let (a, b) = (of(Type::Int), of(Type::Int));
            let text = of(Type::Text);
            match rng.random_range(0..7) {
                0 => format!("({a} + {b}) % 997"),
                1 => format!("({a} - {b}) % 997"),
                2 => format!("({a} % 31 * 3)"),
                3 => format!("abs({a})"),
                4 => format!("length({text})"),
                5 => format!("coalesce({a}, {b})"),
                _ => format!("CASE WHEN {} THEN {a} ELSE {b} END", condition(rng, scope, depth - 1)),
            }
        }
        Type::Text => {
            let (a, b) = (of(Type::Text), of(Type::Text));
            match rng.random_range(0..6) {
                0 => format!("substr({a} || {b}, 1, 6)"),
                1 => format!("upper({a})"),
                2 => format!("replace({a}, 'a', 'x')"),
                3 => format!("nullif({a}, {b})"),
                4 => format!("coalesce({a}, {b})"),
                _ => format!("CASE WHEN {} THEN {a} END", condition(rng, scope, depth - 1)),
            }
        }
        Type::Float => {
            let (a, b) = (of(Type::Float), of(Type::Float));
            match rng.random_range(0..3) {
                0 => format!("({a} + {b})"),
                1 => format!("({a} - {b})"),
                _ => format!("coalesce({a}, {b})"),
            }
        }
        Type::Bool => format!("({})", condition(rng, scope, depth - 1)),
        Type::Date => column.unwrap_or_else(|| constant(rng, kind)),
    }
}

/// A condition without subqueries.
pub(crate) fn condition(rng: &mut StdRng, scope: &Scope, depth: usize) -> String {
    if depth > 0 && rng.random_bool(0.45) {
        let (a, b) = (condition(rng, scope, depth - 1), condition(rng, scope, depth - 1));
        return match rng.random_range(0..5) {
            0 | 1 => format!("({a} AND {b})"),
            2 | 3 => format!("({a} OR {b})"),
            _ => format!("NOT ({a})"),
        };
    }
    let Column { name, kind } = scope.pick(rng).clone();
    let operators = ["=", "<>", "<", "<=", ">", ">="];
    let operator = *operators.choose(rng).unwrap();
    match rng.random_range(0..8) {
        0 => format!("{name} IS NULL"),
        1 => format!("{name} IS NOT NULL"),
        2 if kind == Type::Text => {
            let pattern = ["'a%'", "'%b'", "'_'", "'%a%'", "'%'", "''"].choose(rng).unwrap();
            format!("{name} {}LIKE {pattern}", if rng.random_bool(0.3) { "NOT " } else { "" })
        }
        3 => {
            let list: Vec<String> =
                (0..rng.random_range(1..4)).map(|_| super::schema::value(rng, kind)).collect();
            format!("{name} {}IN ({})", if rng.random_bool(0.3) { "NOT " } else { "" }, list.join(", "))
        }
        4 => format!("{name} BETWEEN {} AND {}", constant(rng, kind), constant(rng, kind)),
        5 if kind != Type::Date => format!("{name} {operator} {}", value(rng, scope, kind, depth.min(1))),
        6 if kind == Type::Bool => name,
        _ => format!("{name} {operator} {}", constant(rng, kind)),
    }
}

/// A condition that may have a subquery over `other`.
pub(crate) fn filter(rng: &mut StdRng, scope: &Scope, other: &Table) -> String {
    let plain = condition(rng, scope, 2);
    if rng.random_bool(0.65) {
        return plain;
    }
    let inside = Scope::of(&[("o", other)]);
    let within = condition(rng, &inside, 1);
    let kind = if rng.random_bool(0.5) { Type::Int } else { Type::Text };
    let (Some(outer), Some(inner)) = (scope.pick_of(rng, kind), inside.pick_of(rng, kind)) else {
        return plain;
    };
    let (outer, inner, from) = (&outer.name, &inner.name, format!("FROM {} o", other.name));
    let subquery = match rng.random_range(0..6) {
        0 => format!("{outer} IN (SELECT {inner} {from} WHERE {within})"),
        1 => format!("{outer} NOT IN (SELECT {inner} {from} WHERE {within})"),
        2 => format!("EXISTS (SELECT 1 {from} WHERE {inner} = {outer} AND {within})"),
        3 => format!("NOT EXISTS (SELECT 1 {from} WHERE {inner} = {outer})"),
        4 => format!("{outer} >= (SELECT max({inner}) {from} WHERE {within})"),
        _ => format!("(SELECT count(*) {from} WHERE {inner} = {outer}) > {}", rng.random_range(0..3)),
    };
    format!("{subquery} {} {plain}", if rng.random_bool(0.7) { "AND" } else { "OR" })
}
