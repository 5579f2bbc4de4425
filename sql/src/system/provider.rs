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
        let rows = match projection {
            Some(wanted) => self.table.columns(&self.ctx, wanted).await,
            None => self.table.rows(&self.ctx).await,
        };
        let rows = rows.map_err(Error::into_datafusion)?;
        MemTable::try_new(rows.schema(), vec![vec![rows]])?.scan(state, None, filters, limit).await
    }
}
