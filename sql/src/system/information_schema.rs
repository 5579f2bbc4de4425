//! `information_schema`: the standard's description of what the session may see.

use arrow::datatypes::{Field, Schema};
use kalamdb_engine::DataType::{self, Int, Text};
use kalamdb_engine::system::Cell;
use kalamdb_engine::{Table, TableKind, View};

use super::{INFORMATION_SCHEMA, all, define_table};
use crate::error::Result;
use crate::statement::StatementContext;
use crate::{names, types, views};

/// The standard's outermost level of names; there is one.
const CATALOG: &str = "kalamdb";

define_table!(
    /// `information_schema.tables`.
    Tables,
    INFORMATION_SCHEMA,
    "tables",
    everyone: true,
    [
        "table_catalog": Text,
        "table_schema": Text,
        "table_name": Text,
        "table_type": Text,
        "is_insertable_into": Text,
    ],
    tables
);

async fn tables(ctx: &StatementContext) -> Result<Vec<Vec<Cell>>> {
    let stored = visible(ctx).map(|table| {
        let base = if table.kind == TableKind::System { "SYSTEM TABLE" } else { "BASE TABLE" };
        let writable = crate::provider::check_write(ctx, table).is_ok();
        vec![
            Cell::from(CATALOG),
            Cell::from(table.namespace.as_str()),
            Cell::from(table.name.as_str()),
            Cell::from(base),
            yes_no(writable),
        ]
    });
    let computed = all().filter(|table| shown(ctx, table.as_ref())).map(|table| {
        vec![
            Cell::from(CATALOG),
            Cell::from(table.namespace()),
            Cell::from(table.name()),
            Cell::from("SYSTEM VIEW"),
            yes_no(false),
        ]
    });
    let views = visible_views(ctx).map(|view| {
        vec![
            Cell::from(CATALOG),
            Cell::from(view.namespace.as_str()),
            Cell::from(view.name.as_str()),
            Cell::from("VIEW"),
            yes_no(false),
        ]
    });
    Ok(stored.chain(views).chain(computed).collect())
}

fn visible_views(ctx: &StatementContext) -> impl Iterator<Item = &std::sync::Arc<View>> {
    ctx.catalog.views().filter(|view| views::visible(ctx, view))
}

fn visible(ctx: &StatementContext) -> impl Iterator<Item = &std::sync::Arc<Table>> {
    ctx.catalog.tables().filter(|table| names::visible(ctx, table))
}

/// Computed tables that the session may read and that do not stand for a stored one.
fn shown(ctx: &StatementContext, table: &dyn super::ComputedTable) -> bool {
    (table.everyone() || ctx.is_dba()) && ctx.catalog.table(table.namespace(), table.name()).is_none()
}

fn yes_no(value: bool) -> Cell {
    Cell::from(if value { "YES" } else { "NO" })
}

define_table!(
    /// `information_schema.columns`.
    Columns,
    INFORMATION_SCHEMA,
    "columns",
    everyone: true,
    [
        "table_catalog": Text,
        "table_schema": Text,
        "table_name": Text,
        "column_name": Text,
        "ordinal_position": Int,
        "column_default": Text,
        "is_nullable": Text,
        "data_type": Text,
        "numeric_precision": Int,
        "numeric_scale": Int,
    ],
    columns
);

async fn columns(ctx: &StatementContext) -> Result<Vec<Vec<Cell>>> {
    let mut rows = Vec::new();
    for table in visible(ctx) {
        for (ordinal, column) in (1..).zip(table.schema.columns().iter().filter(|column| !column.secret)) {
            let (precision, scale) = match column.data_type {
                DataType::Decimal { precision, scale } => {
                    (Cell::Int(precision.into()), Cell::Int(scale.into()))
                }
                _ => (Cell::Null, Cell::Null),
            };
            rows.push(vec![
                Cell::from(CATALOG),
                Cell::from(table.namespace.as_str()),
                Cell::from(table.name.as_str()),
                Cell::from(column.name.as_str()),
                Cell::Int(ordinal),
                Cell::from(column.default.clone()),
                yes_no(column.nullable),
                Cell::from(column.data_type.to_string()),
                precision,
                scale,
            ]);
        }
    }
    for view in ctx.catalog.views() {
        // One that the session may not read or that is broken has no columns to show.
        if let Ok(schema) = views::schema(ctx, view) {
            rows.extend(described(view.namespace.as_str(), view.name.as_str(), &schema));
        }
    }
    for table in all().filter(|table| shown(ctx, table.as_ref())) {
        rows.extend(described(table.namespace(), table.name(), &table.schema()));
    }
    Ok(rows)
}

/// The columns of what is no table of the engine.
fn described(namespace: &str, name: &str, schema: &Schema) -> Vec<Vec<Cell>> {
    let column = |(ordinal, field): (i64, &std::sync::Arc<Field>)| {
        vec![
            Cell::from(CATALOG),
            Cell::from(namespace),
            Cell::from(name),
            Cell::from(field.name().as_str()),
            Cell::Int(ordinal),
            Cell::Null,
            yes_no(field.is_nullable()),
            Cell::from(types::sql_name(field)),
        ]
    };
    (1..).zip(schema.fields()).map(column).collect()
}

define_table!(
    /// `information_schema.schemata`: the namespaces.
    Schemata,
    INFORMATION_SCHEMA,
    "schemata",
    everyone: true,
    ["catalog_name": Text, "schema_name": Text, "schema_owner": Text],
    schemata
);

async fn schemata(ctx: &StatementContext) -> Result<Vec<Vec<Cell>>> {
    let namespaces = ctx.catalog.namespaces().map(|namespace| namespace.id.as_str());
    let rows = namespaces.chain([INFORMATION_SCHEMA]).map(|name| vec![Cell::from(CATALOG), Cell::from(name)]);
    Ok(rows.collect())
}

define_table!(
    /// `information_schema.views`.
    Views,
    INFORMATION_SCHEMA,
    "views",
    everyone: true,
    ["table_catalog": Text, "table_schema": Text, "table_name": Text, "view_definition": Text],
    view_rows
);

async fn view_rows(ctx: &StatementContext) -> Result<Vec<Vec<Cell>>> {
    let row = |view: &std::sync::Arc<View>| {
        vec![
            Cell::from(CATALOG),
            Cell::from(view.namespace.as_str()),
            Cell::from(view.name.as_str()),
            Cell::from(view.definition.query.as_str()),
        ]
    };
    Ok(visible_views(ctx).map(row).collect())
}
