//! The schemas that a table shows to a statement, built once per table version and shared.
//!
//! A statement that names no system column sees the declared columns alone, so nothing can bring a system column into
//! its result. One that names some sees them behind the declared columns, and wildcards are expanded without them (see
//! [`crate::query`]). Columns that only the database may read are in no shape.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use kalamdb_engine::{Table, TableId, TableKind, stream_fields};
use parking_lot::Mutex;

use super::{ROW_ADDRESS, USER};
use crate::plan::ScanColumn;

/// Tables whose shapes are kept; beyond it the cache starts over.
const KEPT: usize = 10_000;

/// Which columns a statement can name besides the declared ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Extension {
    /// `_seq`, `_updated`, `_deleted`; of STREAM tables `_seq`, `_ts`.
    pub(crate) system: bool,
    /// `_user`, on USER tables.
    pub(crate) user: bool,
    /// `_row_address`.
    pub(crate) address: bool,
}

impl Extension {
    fn slot(self) -> usize {
        usize::from(self.system) | usize::from(self.user) << 1 | usize::from(self.address) << 2
    }
}

/// A schema with where each of its columns comes from.
#[derive(Debug)]
pub(crate) struct Shape {
    /// The schema.
    pub(crate) schema: SchemaRef,
    /// The columns' sources, in the same order.
    pub(crate) columns: Vec<ScanColumn>,
    /// How many of them are declared columns; they come first.
    pub(crate) declared: usize,
}

impl Shape {
    fn new(table: &Table, extension: Extension) -> Self {
        let columns = table.schema.columns();
        let storage = table.schema.storage();
        let mut fields: Vec<FieldRef> = Vec::new();
        let mut sources = Vec::new();
        for (at, column) in columns.iter().enumerate().filter(|(_, column)| !column.secret) {
            debug_assert_eq!(storage.field(at).name(), &column.name);
            fields.push(storage.fields()[at].clone());
            sources.push(ScanColumn::Stored(at));
        }
        let declared = fields.len();
        if extension.system {
            let stored = storage.fields()[columns.len()..].to_vec();
            let system = match table.kind {
                TableKind::Stream => stream_fields().map(Arc::new).to_vec(),
                _ => stored,
            };
            sources.extend((columns.len()..).take(system.len()).map(ScanColumn::Stored));
            fields.extend(system);
        }
        if extension.user {
            fields.push(Arc::new(Field::new(USER, DataType::Utf8View, true)));
            sources.push(ScanColumn::User);
        }
        if extension.address {
            fields.push(Arc::new(Field::new(ROW_ADDRESS, DataType::UInt64, false)));
            sources.push(ScanColumn::RowAddress);
        }
        let schema = match fields.len() == columns.len() && declared == columns.len() {
            true => table.schema.rows().clone(),
            false => Arc::new(Schema::new(fields)),
        };
        Self { schema, columns: sources, declared }
    }

    /// The names of the columns that `*` leaves out.
    pub(crate) fn system_names(&self) -> impl Iterator<Item = &str> {
        self.schema.fields()[self.declared..].iter().map(|field| field.name().as_str())
    }
}

type Slots = [OnceLock<Arc<Shape>>; 8];

/// The shapes in use.
#[derive(Debug, Default)]
pub(crate) struct ShapeCache {
    tables: Mutex<HashMap<(TableId, u32), Arc<Slots>>>,
}

impl ShapeCache {
    /// The shape of a table for statements that name what `extension` says.
    pub(crate) fn shape(&self, table: &Table, extension: Extension) -> Arc<Shape> {
        let extension = Extension { user: extension.user && table.kind == TableKind::User, ..extension };
        let slots = {
            let mut tables = self.tables.lock();
            if tables.len() >= KEPT {
                tables.clear();
            }
            tables.entry((table.id, table.schema.version())).or_default().clone()
        };
        slots[extension.slot()].get_or_init(|| Arc::new(Shape::new(table, extension))).clone()
    }
}
