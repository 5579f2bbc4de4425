//! From declared columns to a schema of the engine.

use kalamdb_engine::{Column, ColumnId, DataType, SchemaDef, TableSchema, is_reserved};

use crate::dialect::{ColumnDef, CreateTable};
use crate::error::{Error, ErrorCode, Position, Result};
use crate::statement::StatementContext;
use crate::{functions, names};

/// The key that a table gets that declares none.
const GENERATED_KEY: &str = "id";
const SNOWFLAKE: &str = "SNOWFLAKE_ID()";

/// The schema of a new table.
///
/// # Errors
/// What is wrong with a column, key, default or check, with its place.
pub(super) fn build(ctx: &StatementContext, wanted: &CreateTable) -> Result<SchemaDef> {
    check_names(&wanted.columns)?;
    let mut columns =
        wanted.columns.iter().map(|column| build_column(ctx, column)).collect::<Result<Vec<_>>>()?;
    let mut key = key_names(wanted)?;
    if key.is_empty() {
        columns.insert(0, generated_key(wanted)?);
        key.push((GENERATED_KEY.into(), None));
    }
    for (id, column) in (1..).zip(&mut columns) {
        column.id = ColumnId(id);
    }
    let primary_key =
        key.iter().map(|(name, at)| key_column(wanted, &mut columns, name, *at)).collect::<Result<_>>()?;
    let def = SchemaDef {
        version: 1,
        next_column_id: columns.len() as u32 + 1,
        columns,
        primary_key,
        checks: wanted.checks.iter().map(ToString::to_string).collect(),
    };
    let schema =
        TableSchema::new(def.clone()).map_err(|e| Error::from(e).with_position(wanted.table.position))?;
    for check in &wanted.checks {
        functions::check_expression(ctx, check, schema.rows())?;
    }
    Ok(def)
}

fn check_names(columns: &[ColumnDef]) -> Result<()> {
    let mut seen = std::collections::HashSet::new();
    for column in columns {
        let refuse = |message: String| {
            Err(Error::new(ErrorCode::InvalidStatement, message).with_position(column.position))
        };
        if is_reserved(&column.name) {
            return refuse(format!("column name {} is reserved", column.name));
        }
        if !seen.insert(&column.name) {
            return refuse(format!("column {} is declared twice", column.name));
        }
    }
    Ok(())
}

/// A column as declared, without an id.
pub(super) fn build_column(ctx: &StatementContext, wanted: &ColumnDef) -> Result<Column> {
    let mut generated = false;
    if let Some(default) = &wanted.default {
        let at = wanted.default_position;
        generated = functions::is_snowflake(default);
        if generated && wanted.data_type != DataType::BigInt {
            let message = format!("generated ids are BIGINT, column {} is {}", wanted.name, wanted.data_type);
            return Err(Error::new(ErrorCode::TypeMismatch, message).with_position(at));
        }
        functions::check_default(ctx, default, &wanted.data_type)
            .map_err(|error| about_default(error, wanted))?;
    }
    Ok(Column {
        nullable: wanted.nullable,
        default: wanted.default.as_ref().map(ToString::to_string),
        generated,
        ..Column::new(ColumnId(0), &wanted.name, wanted.data_type.clone())
    })
}

fn about_default(mut error: Error, column: &ColumnDef) -> Error {
    if error.code == ErrorCode::ColumnNotFound {
        error = Error::new(ErrorCode::InvalidStatement, "a default cannot refer to columns")
            .with_position(error.position);
    }
    error.message = format!("the default of column {}: {}", column.name, error.message);
    error.with_position(column.default_position)
}

/// The key as declared, after columns or at the end.
fn key_names(wanted: &CreateTable) -> Result<Vec<(String, Option<Position>)>> {
    let inline: Vec<_> = wanted.columns.iter().filter(|column| column.primary_key).collect();
    let twice = |at| {
        let error =
            Error::new(ErrorCode::InvalidStatement, "the table has two primary keys").with_position(at);
        Err(error.with_hint("a key of several columns is written PRIMARY KEY (a, b) after the columns"))
    };
    match (inline.as_slice(), wanted.primary_key.first()) {
        ([_, second, ..], _) => twice(second.position),
        ([_], Some((_, at))) => twice(*at),
        ([column], None) => Ok(vec![(column.name.clone(), column.position)]),
        ([], _) => Ok(wanted.primary_key.clone()),
    }
}

fn generated_key(wanted: &CreateTable) -> Result<Column> {
    if let Some(column) = wanted.columns.iter().find(|column| column.name == GENERATED_KEY) {
        let message = "a table without a primary key gets a column id, but one of that name is declared";
        return Err(Error::new(ErrorCode::InvalidStatement, message)
            .with_hint("write PRIMARY KEY after it, or after the columns that are the key")
            .with_position(column.position));
    }
    Ok(Column {
        nullable: false,
        default: Some(SNOWFLAKE.into()),
        generated: true,
        ..Column::new(ColumnId(0), GENERATED_KEY, DataType::BigInt)
    })
}

fn key_column(
    wanted: &CreateTable,
    columns: &mut [Column],
    name: &str,
    at: Option<Position>,
) -> Result<ColumnId> {
    let Some(index) = columns.iter().position(|column| column.name == name) else {
        let declared = columns.iter().map(|column| column.name.as_str());
        return Err(names::column_not_found(&wanted.table.name, name, declared, at));
    };
    columns[index].nullable = false;
    Ok(columns[index].id)
}
