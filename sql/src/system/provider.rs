//! Computed tables as DataFusion sees them.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{MemTable, Session, TableProvider};
use datafusion::common::Result as DataFusionResult;
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_plan::ExecutionPlan;

use super::ComputedTable;
use crate::error::Error;
use crate::statement::StatementContext;

/// A computed table in one statement.
#[derive(Debug)]
pub(super) struct ComputedProvider {
    ctx: Arc<StatementContext>,
    table: Arc<dyn ComputedTable>,
}

impl ComputedProvider {
    pub(super) fn new(ctx: Arc<StatementContext>, table: Arc<dyn ComputedTable>) -> Self {
        Self { ctx, table }
    }
}

#[async_trait]
impl TableProvider for ComputedProvider {
    fn schema(&self) -> SchemaRef {
        self.table.schema()
    }

    fn table_type(&self) -> TableType {
        TableType::View
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let rows = self.table.rows(&self.ctx).await.map_err(Error::into_datafusion)?;
        let table: Arc<dyn TableProvider> =
            Arc::new(MemTable::try_new(self.table.schema(), vec![vec![rows]])?);
        table.scan(state, projection, filters, limit).await
    }
}
