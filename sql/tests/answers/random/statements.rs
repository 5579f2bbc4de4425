//! Random statements about the tables there are.

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};

use super::expressions::{Scope, condition, filter, value};
use super::schema::{Column, Table, Type, constant, value as field};

/// One step of a run.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    /// For both databases; the rows are compared in their order if it is total.
    Query { sql: String, ordered: bool },
    /// For both; how many rows it changed is compared, and what is in the table then.
    Change { sql: String, table: Table },
    /// For both.
    Definition(String),
    /// For ours alone.
    Storage(String),
}

pub(crate) fn step(rng: &mut StdRng, tables: &mut [Table]) -> Step {
    let at = rng.random_range(0..tables.len());
    let other = tables[rng.random_range(0..tables.len())].clone();
    let table = tables[at].clone();
    // SQLite's UPDATE and DELETE may see in a subquery what they have changed already; ours never do.
    let foreign = tables[(at + 1) % tables.len()].clone();
    match rng.random_range(0..100) {
        0..25 => Step::Change { sql: insert(rng, &table), table },
        25..36 => Step::Change { sql: update(rng, &table, &foreign), table },
        36..43 => Step::Change { sql: delete(rng, &table, &foreign), table },
        43..50 => Step::Storage(format!("FLUSH TABLE {}", table.name)),
        50..53 => Step::Storage(format!("COMPACT TABLE {}", table.name)),
        53..57 => Step::Definition(alter(rng, &mut tables[at])),
        _ => query(rng, &table, &other),
    }
}

fn row(rng: &mut StdRng, table: &Table, id: i64) -> String {
    let mut fields = vec![id.to_string()];
    if table.key == 2 {
        fields.push(constant(rng, Type::Text));
    }
    fields.extend(table.values().iter().map(|column| field(rng, column.kind)));
    format!("({})", fields.join(", "))
}

fn insert(rng: &mut StdRng, table: &Table) -> String {
    let (name, columns, key) = (&table.name, table.names(), table.key_names());
    let count = rng.random_range(1..9);
    // Different within the statement: SQLite would let a later row of it meet an earlier one.
    let first = rng.random_range(0..60);
    let rows: Vec<String> = (0..count).map(|at| row(rng, table, first + at * 7)).collect();
    let insert = format!("INSERT INTO {name} ({columns}) VALUES {}", rows.join(", "));
    match rng.random_range(0..10) {
        0..4 => insert,
        4..7 => format!("{insert} ON CONFLICT ({key}) DO NOTHING"),
        7..9 => {
            let column = table.values().choose(rng).expect("tables have values");
            let new = match column.kind {
                Type::Int => {
                    format!("coalesce({name}.{0}, 0) % 500 + coalesce(EXCLUDED.{0}, 1)", column.name)
                }
                Type::Text => format!("substr({name}.{0} || EXCLUDED.{0}, 1, 4)", column.name),
                _ => format!("EXCLUDED.{}", column.name),
            };
            let update = format!("{insert} ON CONFLICT ({key}) DO UPDATE SET {} = {new}", column.name);
            if rng.random_bool(0.4) { format!("{update} WHERE {name}.id % 3 <> 1") } else { update }
        }
        _ => {
            let selected: Vec<String> = table.columns[1..].iter().map(|column| column.name.clone()).collect();
            let limit = rng.random_range(0..30);
            format!(
                "INSERT INTO {name} ({columns}) SELECT id + 100, {} FROM {name} WHERE id < {limit}",
                selected.join(", ")
            )
        }
    }
}

fn update(rng: &mut StdRng, table: &Table, other: &Table) -> String {
    let scope = Scope::of(&[(&table.name, table)]);
    let mut columns: Vec<&Column> = table.values().iter().collect();
    let from_other = rng.random_bool(0.2) && other.key == 1;
    if from_other && let Some(source) = other.values().iter().find(|column| column.kind == columns[0].kind) {
        // A row meets one of the other table's at most.
        let (set, name, other_name) = (&columns[0].name, &table.name, &other.name);
        let within = condition(rng, &scope, 1);
        return format!(
            "UPDATE {name} SET {set} = {other_name}.{} FROM {other_name} WHERE {other_name}.id = {name}.id AND {within}",
            source.name
        );
    }
    let count = rng.random_range(1..3).min(columns.len());
    let mut sets = Vec::new();
    for _ in 0..count {
        let column = columns.swap_remove(rng.random_range(0..columns.len()));
        let new = match rng.random_bool(0.6) {
            true if column.kind == Type::Text => {
                format!("substr({}, 1, 8)", value(rng, &scope, column.kind, 1))
            }
            true => value(rng, &scope, column.kind, 1),
            false => field(rng, column.kind),
        };
        sets.push(format!("{} = {new}", column.name));
    }
    if rng.random_bool(0.06) {
        sets.push("id = id + 1000".into());
    }
    format!("UPDATE {} SET {} WHERE {}", table.name, sets.join(", "), filter(rng, &scope, other))
}

fn delete(rng: &mut StdRng, table: &Table, other: &Table) -> String {
    let scope = Scope::of(&[(&table.name, table)]);
    let filter = filter(rng, &scope, other);
    // Some rows should be left.
    match rng.random_bool(0.2) {
        true => format!("DELETE FROM {} WHERE {filter}", table.name),
        false => format!("DELETE FROM {} WHERE {}.id % 3 = 0 AND ({filter})", table.name, table.name),
    }
}

fn alter(rng: &mut StdRng, table: &mut Table) -> String {
    let name = table.name.clone();
    table.added += 1;
    match rng.random_range(0..3) {
        0 if table.values().len() > 2 => {
            let dropped = table.columns.pop().expect("more than two");
            format!("ALTER TABLE {name} DROP COLUMN {}", dropped.name)
        }
        1 => {
            let at = rng.random_range(table.key..table.columns.len());
            let new = format!("r{}", table.added);
            let old = std::mem::replace(&mut table.columns[at].name, new.clone());
            format!("ALTER TABLE {name} RENAME COLUMN {old} TO {new}")
        }
        _ => {
            let kind = *Type::ALL.choose(rng).expect("there are types");
            let column = Column { name: format!("a{}", table.added), kind };
            let default = if rng.random_bool(0.6) {
                format!(" DEFAULT {}", constant(rng, kind))
            } else {
                String::new()
            };
            let sql = format!("ALTER TABLE {name} ADD COLUMN {} {}{default}", column.name, kind.sql());
            table.columns.push(column);
            sql
        }
    }
}

fn query(rng: &mut StdRng, table: &Table, other: &Table) -> Step {
    if rng.random_bool(0.15) {
        return top(rng, table, other);
    }
    let kinds = [select, select, join, join, group, group, union, distinct, window, nested];
    let sql = kinds.choose(rng).expect("there are kinds")(rng, table, other);
    // Rows that are alike in all columns may change places.
    let columns = sql.columns;
    let order =
        |direction: &str| (1..=columns).map(|at| format!("{at} {direction}")).collect::<Vec<_>>().join(", ");
    match rng.random_range(0..4) {
        0 => Step::Query { sql: format!("{} ORDER BY {}", sql.text, order("NULLS FIRST")), ordered: true },
        1 => {
            let (limit, offset) = (rng.random_range(0..12), rng.random_range(0..4));
            let order = order("DESC NULLS LAST");
            Step::Query {
                sql: format!("{} ORDER BY {order} LIMIT {limit} OFFSET {offset}", sql.text),
                ordered: true,
            }
        }
        _ => Step::Query { sql: sql.text, ordered: false },
    }
}

/// The first rows by values that are computed from one another's.
fn top(rng: &mut StdRng, table: &Table, other: &Table) -> Step {
    let scope = Scope::of(&[("t", table)]);
    let column = scope.pick_of(rng, Type::Int).expect("keys are numbers").name.clone();
    let more = value(rng, &scope, Type::Int, 1);
    let mut values = vec![
        column.clone(),
        format!("({column} + {more}) % 997"),
        format!("abs({column})"),
        format!("-{column}"),
    ];
    values.shuffle(rng);
    values.truncate(rng.random_range(2..=4));
    let selected: Vec<String> =
        values.iter().enumerate().map(|(at, value)| format!("{value} AS v{at}")).collect();
    values.shuffle(rng);
    let order = values.iter().map(|value| {
        format!(
            "{value} {}",
            ["ASC NULLS FIRST", "DESC NULLS LAST"].choose(rng).expect("there are directions")
        )
    });
    let order = order.collect::<Vec<_>>().join(", ");
    let (selected, limit) = (selected.join(", "), rng.random_range(1..12));
    let filter = filter(rng, &scope, other);
    let sql =
        format!("SELECT {selected} FROM {} t WHERE {filter} ORDER BY {order} LIMIT {limit}", table.name);
    Step::Query { sql, ordered: true }
}

/// A query, and how many columns it has.
struct Selected {
    text: String,
    columns: usize,
}

fn values(rng: &mut StdRng, scope: &Scope) -> Vec<String> {
    (0..rng.random_range(1..4))
        .map(|at| {
            let kind = scope.pick(rng).kind;
            (at, value(rng, scope, kind, 2))
        })
        .map(|(at, value)| format!("{value} AS v{at}"))
        .collect()
}

fn select(rng: &mut StdRng, table: &Table, other: &Table) -> Selected {
    let scope = Scope::of(&[("t", table)]);
    let values = values(rng, &scope);
    let text =
        format!("SELECT {} FROM {} t WHERE {}", values.join(", "), table.name, filter(rng, &scope, other));
    Selected { text, columns: values.len() }
}

fn join(rng: &mut StdRng, table: &Table, other: &Table) -> Selected {
    let scope = Scope::of(&[("a", table), ("b", other)]);
    let (left, right) = (Scope::of(&[("a", table)]), Scope::of(&[("b", other)]));
    let kind = if rng.random_bool(0.7) { Type::Int } else { Type::Text };
    let on = match (left.pick_of(rng, kind), right.pick_of(rng, kind)) {
        (Some(a), Some(b)) if rng.random_bool(0.85) => format!("{} = {}", a.name, b.name),
        _ => "a.id < b.id".into(),
    };
    let on = if rng.random_bool(0.2) { format!("{on} AND {}", condition(rng, &right, 1)) } else { on };
    let how = ["JOIN", "JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN"].choose(rng).expect("there are joins");
    // SQLite's outer joins take equalities, as ours do best.
    let how = if on.contains('<') && *how == "FULL JOIN" { &"LEFT JOIN" } else { how };
    let within = if rng.random_bool(0.5) { condition(rng, &scope, 2) } else { "1 = 1".into() };
    let values = values(rng, &scope);
    let from = format!("FROM {} a {how} {} b ON {on} WHERE {within}", table.name, other.name);
    match rng.random_bool(0.4) {
        true => Selected {
            text: format!("SELECT count(*), count(a.id), count(b.id), sum(a.id), min(b.id) {from}"),
            columns: 5,
        },
        false => Selected { text: format!("SELECT {} {from}", values.join(", ")), columns: values.len() },
    }
}

fn group(rng: &mut StdRng, table: &Table, other: &Table) -> Selected {
    let scope = Scope::of(&[("t", table)]);
    let (ints, texts) = (scope.pick_of(rng, Type::Int), scope.pick_of(rng, Type::Text));
    let int = ints.map_or("t.id".into(), |column| column.name.clone());
    let text = texts.map_or("'x'".into(), |column| column.name.clone());
    let float = scope.pick_of(rng, Type::Float).map_or("0.5".into(), |column| column.name.clone());
    let by_kind = scope.pick(rng).kind;
    let by = value(rng, &scope, by_kind, 1);
    let inside = condition(rng, &scope, 1);
    let aggregates = format!(
        "count(*) AS n, sum({int}), min({text}), max({int}), sum({float}), count(DISTINCT {text}), avg({int}), count(CASE WHEN {inside} THEN 1 END)"
    );
    let within = filter(rng, &scope, other);
    if rng.random_bool(0.3) {
        return Selected {
            text: format!("SELECT {aggregates} FROM {} t WHERE {within}", table.name),
            columns: 8,
        };
    }
    let having = if rng.random_bool(0.3) { " HAVING count(*) > 1" } else { "" };
    // In a subquery, so that a constant is a value and not a column's place.
    let from = format!("(SELECT t.*, {by} AS g FROM {} t WHERE {within}) t", table.name);
    Selected { text: format!("SELECT g, {aggregates} FROM {from} GROUP BY g{having}"), columns: 9 }
}

fn union(rng: &mut StdRng, table: &Table, other: &Table) -> Selected {
    let (left, right) = (Scope::of(&[("t", table)]), Scope::of(&[("t", other)]));
    let kind = [Type::Int, Type::Text, Type::Bool].choose(rng).expect("there are kinds");
    let how = ["UNION", "UNION ALL", "INTERSECT", "EXCEPT"].choose(rng).expect("there are operations");
    let (a, b) = (value(rng, &left, *kind, 1), value(rng, &right, *kind, 1));
    let (inside, within) = (condition(rng, &left, 1), condition(rng, &right, 1));
    let text = format!(
        "SELECT {a} AS v FROM {} t WHERE {inside} {how} SELECT {b} FROM {} t WHERE {within}",
        table.name, other.name
    );
    Selected { text, columns: 1 }
}

fn distinct(rng: &mut StdRng, table: &Table, other: &Table) -> Selected {
    let scope = Scope::of(&[("t", table)]);
    let values = values(rng, &scope);
    let text = format!(
        "SELECT DISTINCT {} FROM {} t WHERE {}",
        values.join(", "),
        table.name,
        filter(rng, &scope, other)
    );
    Selected { text, columns: values.len() }
}

fn window(rng: &mut StdRng, table: &Table, _: &Table) -> Selected {
    let scope = Scope::of(&[("t", table)]);
    let by = scope.pick(rng).name.clone();
    let order = format!("t.id{}", if table.key == 2 { ", t.k" } else { "" });
    let int = scope.pick_of(rng, Type::Int).map_or("t.id".into(), |column| column.name.clone());
    let frames = [
        "",
        " ROWS BETWEEN 1 PRECEDING AND 1 FOLLOWING",
        " ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW",
    ];
    let frame = frames.choose(rng).expect("there are frames");
    let functions = [
        format!("sum({int}) OVER (PARTITION BY {by} ORDER BY {order}{frame})"),
        format!("row_number() OVER (PARTITION BY {by} ORDER BY {order})"),
        format!("lag({int}) OVER (ORDER BY {order})"),
        format!("count(*) OVER (PARTITION BY {by})"),
        format!(
            "min({int}) OVER (PARTITION BY {by} ORDER BY {order} ROWS BETWEEN 2 PRECEDING AND CURRENT ROW)"
        ),
    ];
    let function = functions.choose(rng).expect("there are functions");
    let within = condition(rng, &scope, 1);
    Selected {
        text: format!("SELECT t.id, {function} AS w FROM {} t WHERE {within}", table.name),
        columns: 2,
    }
}

fn nested(rng: &mut StdRng, table: &Table, other: &Table) -> Selected {
    let scope = Scope::of(&[("t", table)]);
    let within = filter(rng, &scope, other);
    let inner = format!(
        "SELECT t.id AS i, {} AS v FROM {} t WHERE {within}",
        value(rng, &scope, Type::Int, 1),
        table.name
    );
    let text = format!(
        "WITH q AS ({inner}) SELECT q.v, count(*), sum(q.i) FROM q JOIN q p ON q.i = p.i WHERE q.v IS NOT NULL GROUP BY q.v"
    );
    Selected { text, columns: 3 }
}
