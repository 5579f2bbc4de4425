//! The database's own tables: their schemas, and the rows that the catalog is made of.
//!
//! They are ordinary engine tables in namespace `system`, with fixed ids and schemas that belong to the program's
//! version, so that the catalog can be read before there is a catalog.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Float64Array, Int32Array, Int64Array, RecordBatch,
    StringViewArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{Float64Type, Int32Type, Int64Type, TimestampMicrosecondType};

use crate::catalog::{Catalog, Namespace, SYSTEM_NAMESPACE, Table, TableKind, TableOptions};
use crate::error::{Error, Result};
use crate::ids::{ColumnId, NamespaceId, TableId, TableName};
use crate::schema::{Column, SchemaDef, TableSchema};
use crate::types::{DataType, TIMEZONE};

/// `system.namespaces`.
pub const NAMESPACES: TableId = TableId(1);
/// `system.tables`.
pub const TABLES: TableId = TableId(2);
/// `system.table_schemas`.
pub const TABLE_SCHEMAS: TableId = TableId(3);
/// `system.users`.
pub const USERS: TableId = TableId(4);
/// `system.storage_locations`.
pub const STORAGE_LOCATIONS: TableId = TableId(5);
/// `system.jobs`.
pub const JOBS: TableId = TableId(6);
/// `system.audit_log`.
pub const AUDIT_LOG: TableId = TableId(7);

/// Ids below this one belong to the database's own tables.
pub(crate) const FIRST_USER_TABLE: u64 = 1_000;

/// Column name, type letter (t text, j JSON, i INT, l BIGINT, d DOUBLE, s TIMESTAMP) and flags (! NOT NULL, * secret).
type Layout = &'static [(&'static str, &'static str)];

const LAYOUTS: &[(TableId, &str, usize, Layout)] = &[
    (
        NAMESPACES,
        "namespaces",
        1,
        &[("namespace_id", "t!"), ("options", "j"), ("created_at", "s!"), ("updated_at", "s!")],
    ),
    (
        TABLES,
        "tables",
        1,
        &[
            ("table_id", "l!"),
            ("namespace_id", "t!"),
            ("table_name", "t!"),
            ("table_type", "t!"),
            ("schema_version", "i!"),
            ("storage_location", "t"),
            ("flush_policy", "j"),
            ("deleted_retention", "t"),
            ("options", "j"),
            ("access", "t"),
            ("created_at", "s!"),
            ("updated_at", "s!"),
            ("path", "t!*"),
        ],
    ),
    (
        TABLE_SCHEMAS,
        "table_schemas",
        2,
        &[
            ("table_id", "l!"),
            ("version", "i!"),
            ("arrow_schema", "j"),
            ("changes", "t"),
            ("created_at", "s!"),
            ("definition", "j!*"),
        ],
    ),
    (
        USERS,
        "users",
        1,
        &[
            ("user_id", "t!"),
            ("username", "t!"),
            ("role", "t!"),
            ("metadata", "j"),
            ("created_at", "s!"),
            ("updated_at", "s!"),
            ("last_login", "s"),
            ("password_hash", "t*"),
        ],
    ),
    (
        STORAGE_LOCATIONS,
        "storage_locations",
        1,
        &[
            ("location_name", "t!"),
            ("location_type", "t!"),
            ("path", "t!"),
            ("credentials_ref", "t"),
            ("created_at", "s!"),
            ("updated_at", "s!"),
        ],
    ),
    (
        JOBS,
        "jobs",
        1,
        &[
            ("job_id", "t!"),
            ("job_type", "t!"),
            ("namespace_id", "t"),
            ("table_name", "t"),
            ("status", "t!"),
            ("parameters", "j"),
            ("progress", "d"),
            ("result", "j"),
            ("error_message", "t"),
            ("trace", "t"),
            ("memory_used_bytes", "l"),
            ("cpu_used_ms", "l"),
            ("bytes_read", "l"),
            ("bytes_written", "l"),
            ("node_id", "t"),
            ("created_at", "s!"),
            ("started_at", "s"),
            ("finished_at", "s"),
        ],
    ),
    (
        AUDIT_LOG,
        "audit_log",
        2,
        &[
            ("time", "s!"),
            ("id", "l!"),
            ("actor", "t"),
            ("subject", "t"),
            ("action", "t!"),
            ("target", "t"),
            ("details", "j"),
            ("address", "t"),
        ],
    ),
];

/// The catalog of a new database: the `system` tables and nothing else.
///
/// # Errors
/// None that a test of this module would not find.
pub(crate) fn bootstrap() -> Result<Catalog> {
    let mut catalog = Catalog { next_table: FIRST_USER_TABLE, ..Catalog::default() };
    let namespace = NamespaceId::new(SYSTEM_NAMESPACE)?;
    for (id, name, keys, layout) in LAYOUTS {
        let def = SchemaDef {
            version: 1,
            columns: layout
                .iter()
                .zip(1..)
                .map(|((name, spec), id)| column(ColumnId(id), name, spec))
                .collect(),
            primary_key: (1..=*keys as u32).map(ColumnId).collect(),
            checks: Vec::new(),
            next_column_id: layout.len() as u32 + 1,
        };
        let name = TableName::new(name)?;
        catalog.add_table(Table {
            id: *id,
            path: Table::path_for(&namespace, &name),
            namespace: namespace.clone(),
            name,
            kind: TableKind::System,
            schema: TableSchema::new(def)?,
            options: TableOptions::default(),
            created_at: 0,
            updated_at: 0,
        });
    }
    Ok(catalog)
}

fn column(id: ColumnId, name: &str, spec: &str) -> Column {
    let data_type = match spec.as_bytes()[0] {
        b'j' => DataType::Json,
        b'i' => DataType::Int,
        b'l' => DataType::BigInt,
        b'd' => DataType::Double,
        b's' => DataType::Timestamp,
        _ => DataType::Text,
    };
    let (nullable, secret) = (!spec.contains('!'), spec.contains('*'));
    Column { nullable, secret, ..Column::new(id, name, data_type) }
}

/// One value of a system row.
#[derive(Debug, Clone, PartialEq)]
pub enum Cell {
    /// NULL.
    Null,
    /// TEXT or JSON.
    Text(String),
    /// INT, BIGINT or TIMESTAMP (microseconds).
    Int(i64),
    /// DOUBLE.
    Double(f64),
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::Text(text.into())
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<i64> for Cell {
    fn from(value: i64) -> Self {
        Self::Int(value)
    }
}

impl From<Option<String>> for Cell {
    fn from(text: Option<String>) -> Self {
        text.map_or(Self::Null, Self::Text)
    }
}

/// A batch of rows of a system table, from cells in column order.
///
/// # Errors
/// [`Error::Internal`] if a row does not fit the schema.
pub fn batch(schema: &TableSchema, rows: &[Vec<Cell>]) -> Result<RecordBatch> {
    let columns = schema.columns().iter().enumerate().map(|(at, column)| {
        let cells = rows.iter().map(|row| row.get(at).unwrap_or(&Cell::Null));
        let ints = cells.clone().map(|cell| if let Cell::Int(value) = cell { Some(*value) } else { None });
        let texts =
            cells.clone().map(|cell| if let Cell::Text(text) = cell { Some(text.as_str()) } else { None });
        let doubles =
            cells.clone().map(|cell| if let Cell::Double(value) = cell { Some(*value) } else { None });
        let array: ArrayRef = match column.data_type {
            DataType::BigInt => Arc::new(Int64Array::from_iter(ints)),
            DataType::Int => Arc::new(ints.map(|v| v.map(|v| v as i32)).collect::<Int32Array>()),
            DataType::Timestamp => {
                Arc::new(ints.collect::<TimestampMicrosecondArray>().with_timezone(TIMEZONE))
            }
            DataType::Double => Arc::new(doubles.collect::<Float64Array>()),
            DataType::Boolean => Arc::new(ints.map(|v| v.map(|v| v != 0)).collect::<BooleanArray>()),
            _ => Arc::new(texts.collect::<StringViewArray>()),
        };
        array
    });
    RecordBatch::try_new(schema.rows().clone(), columns.collect())
        .map_err(|e| Error::internal("build a system row", e))
}

/// Reads the cells of one system row by column name.
#[derive(Debug, Clone, Copy)]
pub struct Row<'a> {
    batch: &'a RecordBatch,
    row: usize,
}

impl<'a> Row<'a> {
    /// Row `row` of a batch.
    pub fn new(batch: &'a RecordBatch, row: usize) -> Self {
        Self { batch, row }
    }

    fn column(&self, name: &str) -> Result<&'a ArrayRef> {
        self.batch
            .column_by_name(name)
            .ok_or_else(|| Error::internal("read a system row", format!("no column {name}")))
    }

    /// A TEXT or JSON value; `None` for NULL.
    pub fn text(&self, name: &str) -> Result<Option<&'a str>> {
        let column = self.column(name)?;
        Ok(column.is_valid(self.row).then(|| column.as_string_view().value(self.row)))
    }

    /// A TEXT or JSON value that is never NULL.
    pub fn required_text(&self, name: &str) -> Result<&'a str> {
        self.text(name)?.ok_or_else(|| Error::Corrupt(format!("a system row has no {name}")))
    }

    /// A value of any type that system tables have.
    pub fn cell(&self, name: &str) -> Result<Cell> {
        let column = self.column(name)?;
        Ok(match column.data_type() {
            _ if column.is_null(self.row) => Cell::Null,
            arrow::datatypes::DataType::Utf8View => Cell::from(column.as_string_view().value(self.row)),
            arrow::datatypes::DataType::Float64 => {
                Cell::Double(column.as_primitive::<Float64Type>().value(self.row))
            }
            arrow::datatypes::DataType::Boolean => Cell::Int(column.as_boolean().value(self.row).into()),
            _ => Cell::Int(self.int(name)?),
        })
    }

    /// A whole number or timestamp; 0 for NULL.
    pub fn int(&self, name: &str) -> Result<i64> {
        let column = self.column(name)?;
        Ok(match column.data_type() {
            _ if column.is_null(self.row) => 0,
            arrow::datatypes::DataType::Int32 => column.as_primitive::<Int32Type>().value(self.row).into(),
            arrow::datatypes::DataType::Timestamp(..) => {
                column.as_primitive::<TimestampMicrosecondType>().value(self.row)
            }
            _ => column.as_primitive::<Int64Type>().value(self.row),
        })
    }
}

pub(crate) fn namespace_row(namespace: &Namespace) -> Vec<Cell> {
    vec![
        namespace.id.as_str().into(),
        namespace.options.clone().into(),
        namespace.created_at.into(),
        namespace.updated_at.into(),
    ]
}

pub(crate) fn namespace_from(row: Row<'_>) -> Result<Namespace> {
    Ok(Namespace {
        id: NamespaceId::new(row.required_text("namespace_id")?)?,
        options: row.text("options")?.unwrap_or("{}").into(),
        created_at: row.int("created_at")?,
        updated_at: row.int("updated_at")?,
    })
}

pub(crate) fn table_row(table: &Table) -> Result<Vec<Cell>> {
    let options = &table.options;
    let mut policy = serde_json::Map::new();
    options.flush_rows.map(|rows| policy.insert("rows".into(), rows.into()));
    options.flush_interval_secs.map(|secs| policy.insert("interval_seconds".into(), secs.into()));
    Ok(vec![
        (table.id.0 as i64).into(),
        table.namespace.as_str().into(),
        table.name.as_str().into(),
        table.kind.to_string().into(),
        i64::from(table.schema.version()).into(),
        options.location.clone().or_else(|| options.location_reference.clone()).into(),
        serde_json::Value::Object(policy).to_string().into(),
        options.deleted_retention.clone().into(),
        json(options)?.into(),
        options.access.to_string().into(),
        table.created_at.into(),
        table.updated_at.into(),
        table.path.clone().into(),
    ])
}

pub(crate) fn table_from(row: Row<'_>, schema: Arc<TableSchema>) -> Result<Table> {
    Ok(Table {
        id: TableId(row.int("table_id")? as u64),
        namespace: NamespaceId::new(row.required_text("namespace_id")?)?,
        name: TableName::new(row.required_text("table_name")?)?,
        kind: row.required_text("table_type")?.parse()?,
        schema,
        options: from_json(row.text("options")?.unwrap_or("{}"))?,
        path: row.required_text("path")?.into(),
        created_at: row.int("created_at")?,
        updated_at: row.int("updated_at")?,
    })
}

pub(crate) fn schema_row(table: TableId, schema: &TableSchema, changes: &str, now: i64) -> Result<Vec<Cell>> {
    let fields = schema.rows().fields().iter().map(|field| {
        serde_json::json!({
            "name": field.name(),
            "data_type": field.data_type().to_string(),
            "nullable": field.is_nullable(),
            "metadata": field.metadata(),
        })
    });
    let arrow = serde_json::json!({ "fields": fields.collect::<Vec<_>>() });
    Ok(vec![
        (table.0 as i64).into(),
        i64::from(schema.version()).into(),
        arrow.to_string().into(),
        changes.into(),
        now.into(),
        json(schema.def())?.into(),
    ])
}

pub(crate) fn schema_from(row: Row<'_>) -> Result<(TableId, Arc<TableSchema>)> {
    let def: SchemaDef = from_json(row.required_text("definition")?)?;
    Ok((TableId(row.int("table_id")? as u64), TableSchema::new(def)?))
}

fn json(value: &impl serde::Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(|e| Error::internal("write a system row", e))
}

fn from_json<T: serde::de::DeserializeOwned>(text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|e| Error::Corrupt(format!("a system row holds bad JSON: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_survives_the_trip_through_its_rows() {
        let catalog = bootstrap().unwrap();
        let users = catalog.table("system", "users").unwrap();
        let rows =
            batch(&catalog.table("system", "tables").unwrap().schema, &[table_row(users).unwrap()]).unwrap();
        let read = table_from(Row::new(&rows, 0), users.schema.clone()).unwrap();
        assert_eq!(
            (read.id, &read.name, read.kind, &read.path),
            (users.id, &users.name, users.kind, &users.path)
        );
        let schemas = &catalog.table("system", "table_schemas").unwrap().schema;
        let rows = batch(schemas, &[schema_row(users.id, &users.schema, "created", 1).unwrap()]).unwrap();
        let (id, schema) = schema_from(Row::new(&rows, 0)).unwrap();
        assert_eq!((id, schema.def()), (users.id, users.schema.def()));
    }
}
