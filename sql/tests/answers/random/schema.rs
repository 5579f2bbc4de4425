//! The tables that random statements are about, and values for their columns.

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Type {
    Int,
    Text,
    Float,
    Bool,
    Date,
}

impl Type {
    pub(crate) const ALL: [Self; 5] = [Self::Int, Self::Text, Self::Float, Self::Bool, Self::Date];

    pub(crate) fn sql(self) -> &'static str {
        match self {
            Self::Int => "BIGINT",
            Self::Text => "TEXT",
            Self::Float => "DOUBLE",
            Self::Bool => "BOOLEAN",
            Self::Date => "DATE",
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Column {
    pub(crate) name: String,
    pub(crate) kind: Type,
}

#[derive(Debug, Clone)]
pub(crate) struct Table {
    pub(crate) name: String,
    /// Begins with the key.
    pub(crate) columns: Vec<Column>,
    /// Columns of the key: `id`, or `id` and `k`.
    pub(crate) key: usize,
    /// Columns that were ever added, so that names are new.
    pub(crate) added: usize,
}

impl Table {
    pub(crate) fn random(rng: &mut StdRng, number: usize) -> Self {
        let column = |name: String, kind| Column { name, kind };
        let mut columns = vec![column("id".into(), Type::Int)];
        let key = if rng.random_bool(0.3) { 2 } else { 1 };
        if key == 2 {
            columns.push(column("k".into(), Type::Text));
        }
        for at in 0..rng.random_range(2..6) {
            // The first two are what joins and sums are made of.
            let kind = match at {
                0 => Type::Int,
                1 => Type::Text,
                _ => *Type::ALL.choose(rng).unwrap(),
            };
            columns.push(column(format!("c{at}"), kind));
        }
        Self { name: format!("t{number}"), columns, key, added: 0 }
    }

    pub(crate) fn create(&self) -> String {
        let columns: Vec<String> =
            self.columns.iter().map(|c| format!("{} {}", c.name, c.kind.sql())).collect();
        format!("CREATE TABLE {} ({}, PRIMARY KEY ({}))", self.name, columns.join(", "), self.key_names())
    }

    pub(crate) fn key_names(&self) -> String {
        let names: Vec<&str> = self.columns[..self.key].iter().map(|column| column.name.as_str()).collect();
        names.join(", ")
    }

    pub(crate) fn names(&self) -> String {
        let names: Vec<&str> = self.columns.iter().map(|column| column.name.as_str()).collect();
        names.join(", ")
    }

    /// The columns that are not of the key.
    pub(crate) fn values(&self) -> &[Column] {
        &self.columns[self.key..]
    }
}

/// A constant; half of a kind are from a few, so that they meet again.
pub(crate) fn constant(rng: &mut StdRng, kind: Type) -> String {
    const TEXTS: [&str; 10] =
        ["''", "'a'", "'b'", "'ab'", "'Abc'", "'zz'", "'it''s'", "'%'", "'日本'", "'aab'"];
    match kind {
        Type::Int => rng.random_range(-12..40).to_string(),
        Type::Text => (*TEXTS.choose(rng).unwrap()).to_owned(),
        // Sums of quarters are exact, in whatever order.
        Type::Float => format!("{:?}", f64::from(rng.random_range(-20..40)) / 4.0),
        Type::Bool => rng.random_bool(0.5).to_string(),
        Type::Date => format!(
            "'{}-{:02}-{:02}'",
            rng.random_range(1968..1973),
            rng.random_range(1..13),
            rng.random_range(1..29)
        ),
    }
}

/// A constant or NULL.
pub(crate) fn value(rng: &mut StdRng, kind: Type) -> String {
    if rng.random_bool(0.15) { "NULL".into() } else { constant(rng, kind) }
}
