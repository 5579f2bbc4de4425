//! Views in the catalog: a name for the text of a query.
//!
//! A view is a row of `system.tables` of type `view` and nothing else: the text is SQL, which this layer does not read.
//! Names of views and tables are one set. What a view's query refers to may be dropped; that is found when it is used.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::catalog::Catalog;
use crate::error::{Error, Result};
use crate::ids::{NamespaceId, TableId, TableName};
use crate::system::{Cell, Row};

/// The type of a view in `system.tables`.
pub(crate) const VIEW: &str = "view";

/// A view as of one catalog version.
#[derive(Debug, Clone)]
pub struct View {
    /// Lasting identity, of the same numbers as those of tables.
    pub id: TableId,
    /// Where it belongs, and where unqualified names of its query are looked up.
    pub namespace: NamespaceId,
    /// Its name there.
    pub name: TableName,
    /// What it says.
    pub definition: ViewDefinition,
    /// Creation time, microseconds since the epoch.
    pub created_at: i64,
    /// Time of the last change, microseconds since the epoch.
    pub updated_at: i64,
}

/// What `CREATE VIEW` says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ViewDefinition {
    /// The query, as SQL.
    pub query: String,
    /// The names of its columns; empty for those that the query gives.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub columns: Vec<String>,
}

/// A view to be created.
#[derive(Debug, Clone)]
pub struct NewView {
    /// Where it belongs.
    pub namespace: NamespaceId,
    /// Its name there.
    pub name: TableName,
    /// What it says.
    pub definition: ViewDefinition,
    /// Whether it takes the place of a view of its name.
    pub replace: bool,
}

impl View {
    /// `namespace.name`.
    pub fn qualified_name(&self) -> String {
        format!("{}.{}", self.namespace, self.name)
    }

    /// The view that `new` makes, in the place of `old` if there is one.
    pub(crate) fn new(new: NewView, old: Option<&Self>, next: u64, now: i64) -> Self {
        Self {
            id: old.map_or(TableId(next), |old| old.id),
            namespace: new.namespace,
            name: new.name,
            definition: new.definition,
            created_at: old.map_or(now, |old| old.created_at),
            updated_at: now,
        }
    }

    /// Its row of `system.tables`.
    ///
    /// # Errors
    /// None in practice: a definition can be written as JSON.
    pub(crate) fn row(&self) -> Result<Vec<Cell>> {
        let definition = serde_json::to_string(&self.definition)
            .map_err(|e| Error::internal("write the definition of a view", e))?;
        Ok(vec![
            (self.id.0 as i64).into(),
            self.namespace.as_str().into(),
            self.name.as_str().into(),
            VIEW.into(),
            1.into(),
            Cell::Null,
            Cell::Null,
            Cell::Null,
            definition.into(),
            Cell::Null,
            self.created_at.into(),
            self.updated_at.into(),
            // It has no directory.
            "".into(),
        ])
    }

    /// The view of a row of `system.tables`.
    ///
    /// # Errors
    /// [`Error::Corrupt`].
    pub(crate) fn from_row(row: Row<'_>) -> Result<Self> {
        let definition = serde_json::from_str(row.required_text("options")?)
            .map_err(|e| Error::Corrupt(format!("the definition of a view is damaged: {e}")))?;
        Ok(Self {
            id: TableId(row.int("table_id")? as u64),
            namespace: NamespaceId::new(row.required_text("namespace_id")?)?,
            name: TableName::new(row.required_text("table_name")?)?,
            definition,
            created_at: row.int("created_at")?,
            updated_at: row.int("updated_at")?,
        })
    }
}

impl Catalog {
    /// A view by name.
    pub fn view(&self, namespace: &str, name: &str) -> Option<&Arc<View>> {
        self.views.get(namespace)?.get(name)
    }

    /// All views by namespace and name.
    pub fn views(&self) -> impl Iterator<Item = &Arc<View>> {
        self.views.values().flat_map(|views| views.values())
    }

    /// The views of a namespace by name.
    pub fn views_in(&self, namespace: &str) -> impl Iterator<Item = &Arc<View>> {
        self.views.get(namespace).into_iter().flat_map(|views| views.values())
    }

    /// Adds a view, or puts it in the place of the one of its name.
    pub(crate) fn add_view(&mut self, view: View) {
        self.next_table = self.next_table.max(view.id.0 + 1);
        let namespace = self.views.entry(view.namespace.as_str().into()).or_default();
        namespace.insert(view.name.as_str().into(), Arc::new(view));
    }

    pub(crate) fn remove_view(&mut self, namespace: &str, name: &str) -> Option<Arc<View>> {
        self.views.get_mut(namespace)?.remove(name)
    }
}
