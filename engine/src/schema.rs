//! A table's columns at one version, with everything derived from them built once.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::datatypes::{DataType as ArrowType, Field, Schema, SchemaRef, TimeUnit};
use serde::{Deserialize, Serialize};

use crate::codec::columns::{decode_value, encode_value};
use crate::error::{Error, Result};
use crate::ids::ColumnId;
use crate::keys::KeyEncoder;
use crate::types::{DataType, TIMEZONE};

/// System column: the commit sequence that wrote this version of the row.
pub const SEQ: &str = "_seq";
/// System column: commit time.
pub const UPDATED: &str = "_updated";
/// System column: soft-delete flag.
pub const DELETED: &str = "_deleted";
/// System column of STREAM tables: the time of the insert.
pub const TS: &str = "_ts";

/// The most columns a table can have.
pub const MAX_COLUMNS: usize = 1_024;

/// One column. Identified by `id`, so that a rename or a drop never confuses old segments.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    /// Lasting identity.
    pub id: ColumnId,
    /// Current name, case-sensitive.
    pub name: String,
    /// Type.
    #[serde(rename = "type")]
    pub data_type: DataType,
    /// False for `NOT NULL` and for key columns.
    pub nullable: bool,
    /// The DEFAULT expression as SQL text; evaluated by the SQL layer for every inserted row that lacks the column.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<String>,
    /// True for AUTO_INCREMENT-like generated keys (`SNOWFLAKE_ID()` defaults).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub generated: bool,
    /// True if only the database itself may read it (password hashes): no query can name it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub secret: bool,
    /// What rows written before the column was added hold, as [`Column::with_initial`] encodes it; absent for NULL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initial: Option<String>,
    /// True if the column became NOT NULL after it was created: every row that is visible now has a value, but old
    /// versions and deleted rows may hold NULL, so the stored type stays nullable.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub held_nulls: bool,
    /// The types it had before, oldest first: an old value becomes each of them in turn, so that what a reader gets
    /// does not depend on when the row was rewritten.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub former_types: Vec<DataType>,
}

impl Column {
    /// A nullable column without a default.
    pub fn new(id: ColumnId, name: impl Into<String>, data_type: DataType) -> Self {
        Self {
            id,
            name: name.into(),
            data_type,
            nullable: true,
            default: None,
            generated: false,
            secret: false,
            initial: None,
            held_nulls: false,
            former_types: Vec::new(),
        }
    }

    /// The same with the value, an array of one row, that rows written before the column was added hold.
    ///
    /// # Errors
    /// [`Error::Internal`] if the array is not one value of the column's type.
    pub fn with_initial(mut self, value: Option<&ArrayRef>) -> Result<Self> {
        let value = value.filter(|value| value.logical_null_count() == 0);
        self.initial = value.map(|value| encode_value(value, &self.data_type.arrow())).transpose()?;
        Ok(self)
    }

    /// Whether NULL may be found in stored rows; a wider question than whether one may be written.
    pub fn may_hold_nulls(&self) -> bool {
        self.nullable || self.held_nulls
    }
}

/// The stored part of a schema; [`TableSchema`] adds what is derived.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SchemaDef {
    /// Counts up with every change, from 1.
    pub version: u32,
    /// In declaration order.
    pub columns: Vec<Column>,
    /// The key columns, in key order; never empty.
    pub primary_key: Vec<ColumnId>,
    /// CHECK expressions as SQL text.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub checks: Vec<String>,
    /// The id the next added column gets.
    pub next_column_id: u32,
}

/// A validated schema with its Arrow forms, built once per version and shared.
#[derive(Debug)]
pub struct TableSchema {
    def: SchemaDef,
    by_id: HashMap<ColumnId, usize>,
    initial: Vec<Option<ArrayRef>>,
    key_indices: Vec<usize>,
    rows: SchemaRef,
    storage: SchemaRef,
    keys: KeyEncoder,
}

impl TableSchema {
    /// Validates a definition and derives the Arrow schemas.
    ///
    /// # Errors
    /// [`Error::InvalidSchema`] for no or too many columns, duplicate or reserved names, or a bad key;
    /// [`Error::Corrupt`] for a stored value that is none of its column's type.
    pub fn new(def: SchemaDef) -> Result<Arc<Self>> {
        validate(&def)?;
        let key_indices = key_indices(&def)?;
        let fields: Vec<Field> =
            def.columns.iter().map(|c| c.data_type.field(&c.name, c.may_hold_nulls())).collect();
        let initial = def.columns.iter().zip(&fields).map(|(column, field)| {
            column.initial.as_deref().map(|text| decode_value(text, field.data_type())).transpose()
        });
        let mut stored = fields.clone();
        stored.extend(system_fields());
        let parts = key_indices.iter().map(|&i| fields[i].data_type().clone()).collect();
        let keys = KeyEncoder::new(parts).map_err(|e| Error::InvalidSchema(format!("primary key: {e}")))?;
        Ok(Arc::new(Self {
            by_id: def.columns.iter().enumerate().map(|(at, column)| (column.id, at)).collect(),
            initial: initial.collect::<Result<_>>()?,
            def,
            key_indices,
            rows: Arc::new(Schema::new(fields)),
            storage: Arc::new(Schema::new(stored)),
            keys,
        }))
    }

    /// The stored definition.
    pub fn def(&self) -> &SchemaDef {
        &self.def
    }

    /// The version number.
    pub fn version(&self) -> u32 {
        self.def.version
    }

    /// The columns in declaration order.
    pub fn columns(&self) -> &[Column] {
        &self.def.columns
    }

    /// A column's position by name.
    pub fn index_of(&self, name: &str) -> Option<usize> {
        self.def.columns.iter().position(|c| c.name == name)
    }

    /// A column's position by identity.
    pub fn position(&self, id: ColumnId) -> Option<usize> {
        self.by_id.get(&id).copied()
    }

    /// What rows hold in the column at a position that were written before it was added: one value, or `None` for NULL.
    pub fn initial(&self, at: usize) -> Option<&ArrayRef> {
        self.initial.get(at)?.as_ref()
    }

    /// The positions of the key columns, in key order.
    pub fn key_indices(&self) -> &[usize] {
        &self.key_indices
    }

    /// The Arrow schema of a row: the declared columns alone. A field is nullable if stored rows may hold NULL, see
    /// [`Column::may_hold_nulls`].
    pub fn rows(&self) -> &SchemaRef {
        &self.rows
    }

    /// The Arrow schema of a stored row: the declared columns, then [`SEQ`], [`UPDATED`], [`DELETED`].
    pub fn storage(&self) -> &SchemaRef {
        &self.storage
    }

    /// The encoder of key columns as order-preserving bytes.
    pub fn keys(&self) -> &KeyEncoder {
        &self.keys
    }
}

/// The fields of the system columns, in storage order.
pub fn system_fields() -> [Field; 3] {
    [
        Field::new(SEQ, ArrowType::Int64, false),
        Field::new(UPDATED, ArrowType::Timestamp(TimeUnit::Microsecond, Some(TIMEZONE.into())), false),
        Field::new(DELETED, ArrowType::Boolean, false),
    ]
}

/// The fields of the system columns of STREAM tables.
pub fn stream_fields() -> [Field; 2] {
    let [seq, time, _] = system_fields();
    [seq, time.with_name(TS)]
}

fn validate(def: &SchemaDef) -> Result<()> {
    if def.columns.is_empty() {
        return Err(Error::InvalidSchema("a table needs at least one column".into()));
    }
    if def.columns.len() > MAX_COLUMNS {
        return Err(Error::InvalidSchema(format!("a table can have at most {MAX_COLUMNS} columns")));
    }
    let mut names = std::collections::HashSet::new();
    let mut ids = std::collections::HashSet::new();
    for column in &def.columns {
        if column.id.0 >= def.next_column_id || !ids.insert(column.id) {
            return Err(Error::InvalidSchema(format!("column {:?} has no identity of its own", column.name)));
        }
        if column.name.is_empty() || column.name.len() > 128 || column.name.chars().any(char::is_control) {
            return Err(Error::InvalidSchema(format!("{:?} is not a usable column name", column.name)));
        }
        if column.name.starts_with('_') && is_reserved(&column.name) {
            return Err(Error::InvalidSchema(format!("column name {:?} is reserved", column.name)));
        }
        if !names.insert(&column.name) {
            return Err(Error::InvalidSchema(format!("column {:?} is declared twice", column.name)));
        }
        if let DataType::Decimal { precision, scale } = column.data_type
            && (precision == 0 || precision > 38 || scale > precision)
        {
            return Err(Error::InvalidSchema(format!(
                "DECIMAL({precision},{scale}): 1 to 38 digits, scale within them"
            )));
        }
    }
    Ok(())
}

/// True for names the database gives meaning to.
pub fn is_reserved(name: &str) -> bool {
    matches!(name, SEQ | UPDATED | DELETED | TS | "_user" | "_state" | "_row_address" | "_row_number")
}

fn key_indices(def: &SchemaDef) -> Result<Vec<usize>> {
    if def.primary_key.is_empty() {
        return Err(Error::InvalidSchema("a table needs a primary key".into()));
    }
    let mut indices = Vec::with_capacity(def.primary_key.len());
    for id in &def.primary_key {
        let index = def.columns.iter().position(|c| c.id == *id);
        let index =
            index.ok_or_else(|| Error::InvalidSchema("the primary key names a missing column".into()))?;
        let column = &def.columns[index];
        if column.nullable {
            return Err(Error::InvalidSchema(format!("key column {:?} must be NOT NULL", column.name)));
        }
        if matches!(column.data_type, DataType::Array(_) | DataType::Json) {
            return Err(Error::InvalidSchema(format!("{} cannot be a key column", column.data_type)));
        }
        if indices.contains(&index) {
            return Err(Error::InvalidSchema(format!("column {:?} is in the key twice", column.name)));
        }
        indices.push(index);
    }
    Ok(indices)
}
