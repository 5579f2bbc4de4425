//! `system.namespaces` and `system.columns`, from the catalog in memory.

use kalamdb_engine::DataType::{BigInt, Boolean, Int, Json, Text, Timestamp};
use kalamdb_engine::SYSTEM_NAMESPACE;
use kalamdb_engine::system::{self, Cell};

use super::{define_table, store};
use crate::error::Result;
use crate::statement::StatementContext;
use crate::{grid, locations};

define_table!(
    /// `system.namespaces`: what is stored, and how many tables each has.
    Namespaces,
    SYSTEM_NAMESPACE,
    "namespaces",
    everyone: false,
    ["namespace_id": Text, "options": Json, "table_count": BigInt, "created_at": Timestamp, "updated_at": Timestamp],
    namespaces
);

async fn namespaces(ctx: &StatementContext) -> Result<Vec<Vec<Cell>>> {
    let rows = ctx.catalog.namespaces().map(|namespace| {
        vec![
            Cell::from(namespace.id.as_str()),
            Cell::from(namespace.options.as_str()),
            grid::count(ctx.catalog.tables_in(namespace.id.as_str()).count() as u64),
            Cell::Int(namespace.created_at),
            Cell::Int(namespace.updated_at),
        ]
    });
    Ok(rows.collect())
}

define_table!(
    /// `system.storage_locations`: what is stored, and how many tables use each.
    StorageLocations,
    SYSTEM_NAMESPACE,
    "storage_locations",
    everyone: false,
    [
        "location_name": Text,
        "location_type": Text,
        "path": Text,
        "credentials_ref": Text,
        "usage_count": BigInt,
        "created_at": Timestamp,
        "updated_at": Timestamp,
    ],
    storage_locations
);

async fn storage_locations(ctx: &StatementContext) -> Result<Vec<Vec<Cell>>> {
    let mut rows = Vec::new();
    store::each(ctx.instance.database(), system::STORAGE_LOCATIONS, |row| {
        let name = row.required_text("location_name")?;
        rows.push(vec![
            Cell::from(name),
            row.cell("location_type")?,
            row.cell("path")?,
            row.cell("credentials_ref")?,
            grid::count(locations::users_of(&ctx.catalog, name).count() as u64),
            row.cell("created_at")?,
            row.cell("updated_at")?,
        ]);
        Ok(())
    })
    .await?;
    Ok(rows)
}

define_table!(
    /// `system.columns`: the columns of the current version of every table.
    Columns,
    SYSTEM_NAMESPACE,
    "columns",
    everyone: false,
    [
        "table_id": BigInt,
        "column_id": Int,
        "name": Text,
        "ordinal": Int,
        "type": Text,
        "nullable": Boolean,
        "default": Text,
        "primary_key": Boolean,
    ],
    columns
);

async fn columns(ctx: &StatementContext) -> Result<Vec<Vec<Cell>>> {
    let mut rows = Vec::new();
    for table in ctx.catalog.tables() {
        let def = table.schema.def();
        for (ordinal, column) in (1..).zip(def.columns.iter().filter(|column| !column.secret)) {
            rows.push(vec![
                grid::count(table.id.0),
                Cell::Int(column.id.0.into()),
                Cell::from(column.name.as_str()),
                Cell::Int(ordinal),
                Cell::from(column.data_type.to_string()),
                grid::flag(column.nullable),
                Cell::from(column.default.clone()),
                grid::flag(def.primary_key.contains(&column.id)),
            ]);
        }
    }
    Ok(rows)
}
