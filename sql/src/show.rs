//! SHOW and DESCRIBE.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{Field, Schema};
use kalamdb_engine::read::live_rows;
use kalamdb_engine::system::{Cell, Row, TABLE_SCHEMAS};
use kalamdb_engine::{DataType, Table, TableKind};

use crate::auth::Role;
use crate::dialect::TableRef;
use crate::error::{Error, ErrorCode, Position, Result};
use crate::names::{self, Resolved};
use crate::provider;
use crate::session::Outcome;
use crate::statement::StatementContext;
use crate::system::{PartitionFacts, partitions_of};
use crate::{grid, types, views};

/// `SHOW NAMESPACES`.
pub(crate) fn namespaces(ctx: &StatementContext) -> Result<Outcome> {
    let schema = grid::schema(&[
        ("namespace_id", DataType::Text),
        ("table_count", DataType::BigInt),
        ("created_at", DataType::Timestamp),
        ("updated_at", DataType::Timestamp),
    ]);
    let rows = ctx.catalog.namespaces().map(|namespace| {
        let tables =
            ctx.catalog.tables_in(namespace.id.as_str()).filter(|table| names::visible(ctx, table)).count();
        vec![
            Cell::from(namespace.id.as_str()),
            grid::count(tables as u64),
            Cell::Int(namespace.created_at),
            Cell::Int(namespace.updated_at),
        ]
    });
    Ok(Outcome::batch(grid::batch(&schema, &rows.collect::<Vec<_>>())?))
}

/// `SHOW TABLES [IN ns]`: those that the session may read.
///
/// # Errors
/// [`ErrorCode::NamespaceNotFound`].
pub(crate) fn tables(
    ctx: &StatementContext,
    namespace: Option<&str>,
    at: Option<Position>,
) -> Result<Outcome> {
    let namespace = namespace.unwrap_or(&ctx.namespace);
    if !names::namespace_exists(&ctx.catalog, namespace) {
        return Err(names::namespace_not_found(ctx, namespace, at));
    }
    let schema = grid::schema(&[
        ("namespace_id", DataType::Text),
        ("table_name", DataType::Text),
        ("table_type", DataType::Text),
        ("schema_version", DataType::Int),
        ("access", DataType::Text),
        ("created_at", DataType::Timestamp),
        ("updated_at", DataType::Timestamp),
    ]);
    let stored = ctx.catalog.tables_in(namespace).filter(|table| names::visible(ctx, table)).map(|table| {
        let access = if matches!(table.kind, TableKind::Shared | TableKind::Stream) {
            Cell::from(table.options.access.to_string())
        } else {
            Cell::Null
        };
        vec![
            Cell::from(table.namespace.as_str()),
            Cell::from(table.name.as_str()),
            Cell::from(table.kind.to_string()),
            Cell::Int(table.schema.version().into()),
            access,
            Cell::Int(table.created_at),
            Cell::Int(table.updated_at),
        ]
    });
    let computed = crate::system::all().filter(|table| {
        table.namespace() == namespace
            && (table.everyone() || ctx.is_dba())
            && ctx.catalog.table(namespace, table.name()).is_none()
    });
    let computed = computed.map(|table| {
        vec![Cell::from(table.namespace()), Cell::from(table.name()), Cell::from("system"), Cell::Int(1)]
    });
    let views = ctx.catalog.views_in(namespace).filter(|view| views::visible(ctx, view)).map(|view| {
        vec![
            Cell::from(view.namespace.as_str()),
            Cell::from(view.name.as_str()),
            Cell::from("view"),
            Cell::Int(1),
            Cell::Null,
            Cell::Int(view.created_at),
            Cell::Int(view.updated_at),
        ]
    });
    let mut rows: Vec<Vec<Cell>> = stored.chain(views).chain(computed).collect();
    rows.sort_by(|a, b| name_of(a).cmp(name_of(b)));
    Ok(Outcome::batch(grid::batch(&schema, &rows)?))
}

fn name_of(row: &[Cell]) -> &str {
    match row.get(1) {
        Some(Cell::Text(name)) => name,
        _ => "",
    }
}

/// `DESCRIBE t`, `SHOW COLUMNS FROM t`.
///
/// # Errors
/// [`ErrorCode::TableNotFound`], [`ErrorCode::PermissionDenied`].
pub(crate) fn columns(ctx: &StatementContext, written: &TableRef) -> Result<Outcome> {
    let schema = grid::schema(&[
        ("name", DataType::Text),
        ("ordinal", DataType::Int),
        ("type", DataType::Text),
        ("nullable", DataType::Boolean),
        ("default", DataType::Text),
        ("primary_key", DataType::Boolean),
    ]);
    let rows: Vec<Vec<Cell>> = match names::resolve(ctx, written)? {
        Resolved::Table(table) => {
            check_read(ctx, &table, written)?;
            (1..).zip(declared(&table)).map(|(ordinal, cells)| with_ordinal(cells, ordinal)).collect()
        }
        Resolved::View(view) => described(views::schema(ctx, &view)?.as_ref()),
        Resolved::Computed(table) => described(&table.schema()),
    };
    Ok(Outcome::batch(grid::batch(&schema, &rows)?))
}

/// The columns of what is no table of the engine.
fn described(schema: &Schema) -> Vec<Vec<Cell>> {
    let column = |(ordinal, field): (i64, &Arc<Field>)| {
        vec![
            Cell::from(field.name().as_str()),
            Cell::Int(ordinal),
            Cell::from(types::sql_name(field)),
            grid::flag(field.is_nullable()),
            Cell::Null,
            grid::flag(false),
        ]
    };
    (1..).zip(schema.fields()).map(column).collect()
}

/// Per column: name, type, nullable, default, key. Columns that nobody may read are left out.
fn declared(table: &Table) -> impl Iterator<Item = [Cell; 5]> + '_ {
    let def = table.schema.def();
    def.columns.iter().filter(|column| !column.secret).map(|column| {
        [
            Cell::from(column.name.as_str()),
            Cell::from(column.data_type.to_string()),
            grid::flag(column.nullable),
            Cell::from(column.default.clone()),
            grid::flag(def.primary_key.contains(&column.id)),
        ]
    })
}

fn with_ordinal(cells: [Cell; 5], ordinal: i64) -> Vec<Cell> {
    let [name, data_type, nullable, default, key] = cells;
    vec![name, Cell::Int(ordinal), data_type, nullable, default, key]
}

/// `DESCRIBE t HISTORY`: every version of the schema.
///
/// # Errors
/// As [`columns`].
pub(crate) async fn history(ctx: &StatementContext, written: &TableRef) -> Result<Outcome> {
    let table = names::engine_table(ctx, written)?;
    check_read(ctx, &table, written)?;
    let schema = grid::schema(&[
        ("version", DataType::Int),
        ("changes", DataType::Text),
        ("created_at", DataType::Timestamp),
        ("columns", DataType::Json),
    ]);
    let mut changes = changes_of(ctx, &table).await?;
    let rows = ctx.catalog.schema_history(table.id).map(|version| {
        let columns = version.columns().iter().filter(|column| !column.secret).map(|column| {
            serde_json::json!({
                "column_id": column.id.0,
                "name": column.name,
                "type": column.data_type.to_string(),
                "nullable": column.nullable,
                "default": column.default,
            })
        });
        let columns = serde_json::Value::Array(columns.collect());
        let number = i64::from(version.version());
        let (words, created_at) = changes.remove(&number).unwrap_or((Cell::Null, Cell::Null));
        vec![Cell::Int(number), words, created_at, Cell::from(columns.to_string())]
    });
    Ok(Outcome::batch(grid::batch(&schema, &rows.collect::<Vec<_>>())?))
}

/// What each schema version of a table changed, in words, and when. The tables of the system have no such record.
async fn changes_of(ctx: &StatementContext, table: &Table) -> Result<HashMap<i64, (Cell, Cell)>> {
    let mut changes = HashMap::new();
    let Some(schemas) = ctx.catalog.table_by_id(TABLE_SCHEMAS) else { return Ok(changes) };
    let view = ctx.instance.database().view(&ctx.snapshot, schemas, None).await?;
    for located in live_rows(&view)? {
        for row in 0..located.addresses.len() {
            let row = Row::new(&located.rows.rows, row);
            if row.int("table_id")? == table.id.0 as i64 {
                let words = row.text("changes")?.map_or(Cell::Null, Cell::from);
                changes.insert(row.int("version")?, (words, Cell::Int(row.int("created_at")?)));
            }
        }
    }
    Ok(changes)
}

/// `SHOW STATS FOR TABLE t`: where its rows are. Without the role `dba` a USER table is the session's own partition.
///
/// # Errors
/// As [`columns`].
pub(crate) async fn stats(ctx: &StatementContext, written: &TableRef) -> Result<Outcome> {
    let table = names::engine_table(ctx, written)?;
    check_read(ctx, &table, written)?;
    let partitions = partitions_of(ctx, &table).await?;
    let mut facts = partitions
        .iter()
        .fold(PartitionFacts::default(), |sum, (_, version)| sum + PartitionFacts::of(version));
    if table.kind == TableKind::Stream {
        let held = ctx.instance.database().stream(&table)?.stats();
        (facts.hot_rows, facts.hot_bytes) = (held.rows, held.bytes as u64);
    }
    let schema = grid::schema(&[
        ("table_name", DataType::Text),
        ("table_type", DataType::Text),
        ("partitions", DataType::BigInt),
        ("hot_rows", DataType::BigInt),
        ("hot_bytes", DataType::BigInt),
        ("segments", DataType::BigInt),
        ("segment_rows", DataType::BigInt),
        ("segment_bytes", DataType::BigInt),
        ("deleted_rows", DataType::BigInt),
        ("flushed_seq", DataType::BigInt),
    ]);
    let row = vec![
        Cell::from(table.qualified_name()),
        Cell::from(table.kind.to_string()),
        grid::count(partitions.len() as u64),
        grid::count(facts.hot_rows),
        grid::count(facts.hot_bytes),
        grid::count(facts.segments),
        grid::count(facts.segment_rows),
        grid::count(facts.segment_bytes),
        grid::count(facts.deleted_rows),
        grid::count(facts.flushed_seq),
    ];
    Ok(Outcome::batch(grid::batch(&schema, &[row])?))
}

/// `SHOW MANIFEST FOR t`: the manifest of every partition.
///
/// # Errors
/// As [`columns`]; [`ErrorCode::PermissionDenied`] without the role `dba`.
pub(crate) async fn manifest(ctx: &StatementContext, written: &TableRef) -> Result<Outcome> {
    ctx.require(Role::Dba, "SHOW MANIFEST")?;
    let table = names::engine_table(ctx, written)?;
    let schema = grid::schema(&[
        ("user_id", DataType::Text),
        ("version", DataType::BigInt),
        ("flushed_seq", DataType::BigInt),
        ("segments", DataType::BigInt),
        ("updated_at", DataType::Timestamp),
        ("manifest", DataType::Json),
    ]);
    let mut rows = Vec::new();
    for (user, version) in partitions_of(ctx, &table).await? {
        let manifest = &version.manifest;
        let text = serde_json::to_string(manifest.as_ref()).map_err(Error::internal)?;
        rows.push(vec![
            Cell::from(user.map(|user| user.to_string())),
            grid::count(manifest.version),
            grid::count(manifest.flushed_seq),
            grid::count(manifest.segments.len() as u64),
            Cell::Int(manifest.updated_at),
            Cell::from(text),
        ]);
    }
    Ok(Outcome::batch(grid::batch(&schema, &rows)?))
}

fn check_read(ctx: &StatementContext, table: &Table, written: &TableRef) -> Result<()> {
    let readable = provider::check_read(ctx, table).map(drop);
    readable.map_err(|error: Error| match error.code {
        ErrorCode::PermissionDenied => error.with_position(written.position),
        _ => error,
    })
}
