//! The catalog: which namespaces, tables and schema versions exist, as one immutable value behind an atomic swap.
//!
//! What is durable of it are rows of the `system` tables (see [`crate::system`]); this module is the form they take in
//! memory. A lookup is a pointer read and never builds an Arrow schema.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::alter::AlterTable;
use crate::error::{Error, Result};
use crate::ids::{ColumnId, NamespaceId, TableId, TableName, path_component};
use crate::schema::{SchemaDef, TableSchema};
use crate::views::{NewView, View};

/// The namespace that unqualified names resolve in when a request names none.
pub const DEFAULT_NAMESPACE: &str = "default";
/// The namespace of the database's own tables.
pub const SYSTEM_NAMESPACE: &str = "system";

/// What kind of table, which decides how its rows are partitioned and kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TableKind {
    /// One private partition for every user.
    User,
    /// One partition that all users share.
    Shared,
    /// Memory only.
    Stream,
    /// A table of the database itself.
    System,
}

impl fmt::Display for TableKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::User => "user",
            Self::Shared => "shared",
            Self::Stream => "stream",
            Self::System => "system",
        })
    }
}

impl FromStr for TableKind {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "user" => Ok(Self::User),
            "shared" => Ok(Self::Shared),
            "stream" => Ok(Self::Stream),
            "system" => Ok(Self::System),
            other => Err(Error::Corrupt(format!("system.tables: unknown table type {other:?}"))),
        }
    }
}

/// Who may use a SHARED table besides `dba` and above.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Access {
    /// Everyone reads and writes.
    #[default]
    Public,
    /// Everyone reads.
    Read,
    /// Nobody else.
    Private,
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Public => "public",
            Self::Read => "read",
            Self::Private => "private",
        })
    }
}

/// What `CREATE TABLE` and `ALTER TABLE ... SET` can say about a table. Absent means the default.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct TableOptions {
    /// Rows in memory at which a partition is flushed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flush_rows: Option<u64>,
    /// Seconds after which a partition's hot rows are flushed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flush_interval_secs: Option<u64>,
    /// How long soft-deleted rows are kept, as written (`7d`, `off`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deleted_retention: Option<String>,
    /// Parquet compression: `zstd`, `snappy` or `none`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compression: Option<String>,
    /// Who may use a SHARED table.
    pub access: Access,
    /// The LOCATION clause as written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
    /// The storage location that `LOCATION REFERENCE` names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub location_reference: Option<String>,
    /// The object store that the files are in, by the name that [`crate::store::Stores`] knows it by; none is the local disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store: Option<String>,
    /// STREAM: seconds (as milliseconds) a row is kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retention_millis: Option<u64>,
    /// STREAM: rows are dropped at once when nobody listens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ephemeral: Option<bool>,
    /// STREAM: the most rows kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_buffer: Option<u64>,
}

impl TableOptions {
    /// The Parquet compression: `zstd` unless the table says otherwise.
    pub fn compression(&self) -> &str {
        self.compression.as_deref().unwrap_or("zstd")
    }
}

/// A table as of one catalog version.
#[derive(Debug)]
pub struct Table {
    /// Lasting identity.
    pub id: TableId,
    /// Where it belongs.
    pub namespace: NamespaceId,
    /// Its name there.
    pub name: TableName,
    /// How its rows are partitioned and kept.
    pub kind: TableKind,
    /// The current schema.
    pub schema: Arc<TableSchema>,
    /// What the user set.
    pub options: TableOptions,
    /// Its directory below `DATA/tables`, given at creation and kept through renames.
    pub path: String,
    /// Creation time, microseconds since the epoch.
    pub created_at: i64,
    /// Time of the last change, microseconds since the epoch.
    pub updated_at: i64,
}

impl Table {
    /// `namespace.name`.
    pub fn qualified_name(&self) -> String {
        format!("{}.{}", self.namespace, self.name)
    }

    /// The directory a new table of these names gets.
    pub(crate) fn path_for(namespace: &NamespaceId, name: &TableName) -> String {
        format!("{}/{}", path_component(namespace.as_str()), path_component(name.as_str()))
    }
}

/// A namespace.
#[derive(Debug, Clone)]
pub struct Namespace {
    /// Its name.
    pub id: NamespaceId,
    /// Options, a JSON object.
    pub options: String,
    /// Creation time, microseconds since the epoch.
    pub created_at: i64,
    /// Time of the last change, microseconds since the epoch.
    pub updated_at: i64,
}

/// A table to be created.
#[derive(Debug, Clone)]
pub struct NewTable {
    /// Where it belongs.
    pub namespace: NamespaceId,
    /// Its name there.
    pub name: TableName,
    /// How its rows are partitioned and kept.
    pub kind: TableKind,
    /// Its schema, version 1.
    pub schema: SchemaDef,
    /// What the user set.
    pub options: TableOptions,
}

/// One atomic change of the catalog.
#[derive(Debug, Clone)]
pub enum Ddl {
    /// Adds a namespace.
    CreateNamespace {
        /// Its name.
        name: NamespaceId,
        /// Options, a JSON object.
        options: String,
    },
    /// Replaces a namespace's options.
    AlterNamespace {
        /// Its name.
        name: NamespaceId,
        /// Options, a JSON object.
        options: String,
    },
    /// Removes a namespace; with `cascade` its tables too, otherwise tables are [`Error::InUse`].
    DropNamespace {
        /// Its name.
        name: NamespaceId,
        /// Whether its tables go with it.
        cascade: bool,
    },
    /// Adds a table.
    CreateTable(Box<NewTable>),
    /// Changes a table.
    AlterTable(Box<AlterTable>),
    /// Removes a table and all its rows.
    DropTable {
        /// Which one.
        id: TableId,
    },
    /// Adds a view, or replaces one.
    CreateView(Box<NewView>),
    /// Removes a view.
    DropView {
        /// Where it belongs.
        namespace: NamespaceId,
        /// Its name there.
        name: TableName,
    },
}

/// An immutable snapshot of the catalog.
#[derive(Debug, Clone, Default)]
pub struct Catalog {
    pub(crate) version: u64,
    pub(crate) namespaces: BTreeMap<String, Arc<Namespace>>,
    pub(crate) tables: HashMap<TableId, Arc<Table>>,
    pub(crate) names: BTreeMap<String, BTreeMap<String, Arc<Table>>>,
    pub(crate) views: BTreeMap<String, BTreeMap<String, Arc<View>>>,
    pub(crate) schemas: HashMap<TableId, BTreeMap<u32, Arc<TableSchema>>>,
    pub(crate) next_table: u64,
    /// What writers of a table that is being altered must heed. Never durable.
    pub(crate) guard: Option<(TableId, Guard)>,
}

/// What holds for writers while the rows of a table are looked through before a change of it; see
/// [`crate::row_checks`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Guard {
    /// No new row may hold NULL in these columns.
    NotNull(Vec<ColumnId>),
    /// No commit may touch the table.
    Closed,
}

impl Catalog {
    /// Counts up with every change.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// A namespace by name.
    pub fn namespace(&self, name: &str) -> Option<&Arc<Namespace>> {
        self.namespaces.get(name)
    }

    /// All namespaces by name, `default` and `system` included.
    pub fn namespaces(&self) -> impl Iterator<Item = &Arc<Namespace>> {
        self.namespaces.values()
    }

    /// A table by name.
    pub fn table(&self, namespace: &str, name: &str) -> Option<&Arc<Table>> {
        self.names.get(namespace)?.get(name)
    }

    /// A table by id.
    pub fn table_by_id(&self, id: TableId) -> Option<&Arc<Table>> {
        self.tables.get(&id)
    }

    /// All tables by namespace and name, those of `system` included.
    pub fn tables(&self) -> impl Iterator<Item = &Arc<Table>> {
        self.names.values().flat_map(BTreeMap::values)
    }

    /// The tables of a namespace by name.
    pub fn tables_in(&self, namespace: &str) -> impl Iterator<Item = &Arc<Table>> {
        self.names.get(namespace).into_iter().flat_map(BTreeMap::values)
    }

    /// A table's schema at one version; also of dropped tables, so that the log can be read.
    pub fn schema_at(&self, id: TableId, version: u32) -> Option<&Arc<TableSchema>> {
        self.schemas.get(&id)?.get(&version)
    }

    /// All versions of a table's schema, oldest first.
    pub fn schema_history(&self, id: TableId) -> impl Iterator<Item = &Arc<TableSchema>> {
        self.schemas.get(&id).into_iter().flat_map(BTreeMap::values)
    }

    pub(crate) fn add_namespace(&mut self, namespace: Namespace) {
        self.namespaces.insert(namespace.id.as_str().into(), Arc::new(namespace));
    }

    pub(crate) fn add_schema(&mut self, table: TableId, schema: Arc<TableSchema>) {
        self.next_table = self.next_table.max(table.0 + 1);
        self.schemas.entry(table).or_default().insert(schema.version(), schema);
    }

    pub(crate) fn add_table(&mut self, table: Table) -> Arc<Table> {
        let table = Arc::new(table);
        self.add_schema(table.id, table.schema.clone());
        self.tables.insert(table.id, table.clone());
        let namespace = self.names.entry(table.namespace.as_str().into()).or_default();
        namespace.insert(table.name.as_str().into(), table.clone());
        table
    }

    /// Puts a changed table in the place of the one with its id.
    pub(crate) fn replace_table(&mut self, table: Table) -> Arc<Table> {
        self.remove_table(table.id);
        self.add_table(table)
    }

    pub(crate) fn remove_table(&mut self, id: TableId) -> Option<Arc<Table>> {
        let table = self.tables.remove(&id)?;
        if let Some(namespace) = self.names.get_mut(table.namespace.as_str()) {
            namespace.remove(table.name.as_str());
        }
        Some(table)
    }

    pub(crate) fn remove_namespace(&mut self, name: &NamespaceId) {
        self.namespaces.remove(name.as_str());
        self.names.remove(name.as_str());
        self.views.remove(name.as_str());
    }
}
