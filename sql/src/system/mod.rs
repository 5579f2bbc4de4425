//! Tables whose rows are computed when they are read: what runs, what is where, and the standard's description of all.
//!
//! Every table is one small struct that yields one batch. Those of `system` need the role `dba`, except where a plain
//! user sees its own rows; `information_schema` is for everyone and shows what the session may see.

mod catalog;
mod information_schema;
mod live_queries;
mod operations;
mod partitions;
mod provider;
pub(crate) mod store;

use std::fmt;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::TableProvider;

use crate::error::{Error, ErrorCode, Result};
use crate::statement::StatementContext;

pub(crate) use partitions::{PartitionFacts, partitions_of};

/// The namespace of the standard's tables.
pub(crate) const INFORMATION_SCHEMA: &str = "information_schema";

/// A table whose rows are computed when it is read.
#[async_trait]
pub(crate) trait ComputedTable: fmt::Debug + Send + Sync {
    /// `system` or `information_schema`.
    fn namespace(&self) -> &'static str;

    /// Its name there.
    fn name(&self) -> &'static str;

    /// Its columns.
    fn schema(&self) -> SchemaRef;

    /// True if it shows every session what that session may see, rather than being for `dba` alone.
    fn everyone(&self) -> bool {
        false
    }

    /// Its rows now, as far as this session may see them.
    async fn rows(&self, ctx: &StatementContext) -> Result<RecordBatch>;

    /// The same with only these columns, by place.
    async fn columns(&self, ctx: &StatementContext, wanted: &[usize]) -> Result<RecordBatch> {
        Ok(self.rows(ctx).await?.project(wanted)?)
    }
}

/// All computed tables.
pub(crate) fn all() -> impl Iterator<Item = Arc<dyn ComputedTable>> {
    let tables: [Arc<dyn ComputedTable>; 13] = [
        Arc::new(catalog::Namespaces),
        Arc::new(catalog::Columns),
        Arc::new(catalog::StorageLocations),
        Arc::new(partitions::Partitions),
        Arc::new(partitions::Segments),
        Arc::new(live_queries::LiveQueries),
        Arc::new(operations::Queries),
        Arc::new(operations::Settings),
        Arc::new(operations::Metrics),
        Arc::new(information_schema::Tables),
        Arc::new(information_schema::Columns),
        Arc::new(information_schema::Schemata),
        Arc::new(information_schema::Views),
    ];
    tables.into_iter()
}

/// A computed table by name.
pub(crate) fn computed(namespace: &str, name: &str) -> Option<Arc<dyn ComputedTable>> {
    if namespace != INFORMATION_SCHEMA && namespace != kalamdb_engine::SYSTEM_NAMESPACE {
        return None;
    }
    all().find(|table| table.namespace() == namespace && table.name() == name)
}

/// A computed table for DataFusion. To be asked before the catalog: `system.namespaces` shows more than what is stored.
///
/// # Errors
/// [`ErrorCode::PermissionDenied`] if the session may not read it.
pub(crate) fn computed_table(
    ctx: &Arc<StatementContext>,
    namespace: &str,
    name: &str,
) -> Result<Option<Arc<dyn TableProvider>>> {
    let Some(table) = computed(namespace, name) else {
        return Ok(None);
    };
    if !table.everyone() && !ctx.is_dba() {
        return Err(Error::new(
            ErrorCode::PermissionDenied,
            format!("you may not read table {namespace}.{name}"),
        ));
    }
    Ok(Some(Arc::new(provider::ComputedProvider::new(ctx.clone(), table))))
}

/// Implements what every computed table says in the same way; the schema is built once.
macro_rules! define_table {
    ($(#[$doc:meta])* $table:ident, $namespace:expr, $name:literal, everyone: $everyone:literal, [$($column:literal: $type:expr),* $(,)?], $rows:path) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub(super) struct $table;

        #[async_trait::async_trait]
        impl crate::system::ComputedTable for $table {
            fn namespace(&self) -> &'static str {
                $namespace
            }

            fn name(&self) -> &'static str {
                $name
            }

            fn schema(&self) -> arrow::datatypes::SchemaRef {
                static SCHEMA: std::sync::OnceLock<arrow::datatypes::SchemaRef> = std::sync::OnceLock::new();
                SCHEMA.get_or_init(|| crate::grid::schema(&[$(($column, $type)),*])).clone()
            }

            fn everyone(&self) -> bool {
                $everyone
            }

            async fn rows(&self, ctx: &crate::statement::StatementContext) -> crate::error::Result<arrow::array::RecordBatch> {
                crate::grid::batch(&self.schema(), &$rows(ctx).await?)
            }
        }
    };
}
use define_table;
