//! STREAM tables as DataFusion tables: what the buffer held when the statement first looked at it.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{MemTable, Session, TableProvider};
use datafusion::common::{Result as DataFusionResult, internal_datafusion_err};
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_plan::ExecutionPlan;
use kalamdb_engine::{StreamRows, StreamView, Table, TableId};
use parking_lot::Mutex;

use super::shape::Shape;
use crate::error::{Error, Result};
use crate::plan::ScanColumn;
use crate::statement::StatementContext;

/// The buffers that one statement reads: each is looked at once.
#[derive(Debug, Default)]
pub(crate) struct StreamViews(Mutex<HashMap<TableId, Arc<StreamView>>>);

impl StreamViews {
    /// What a stream held when the statement first asked.
    ///
    /// # Errors
    /// [`crate::ErrorCode::TableNotFound`] if the table was dropped meanwhile.
    pub(crate) fn view(&self, ctx: &StatementContext, table: &Table) -> Result<Arc<StreamView>> {
        let mut views = self.0.lock();
        if let Some(view) = views.get(&table.id) {
            return Ok(view.clone());
        }
        let database = ctx.instance.database();
        let view = Arc::new(database.stream(table)?.view(database.clock().now_micros()));
        views.insert(table.id, view.clone());
        Ok(view)
    }
}

/// One reference to a STREAM table in one statement.
#[derive(Debug)]
pub(crate) struct StreamTable {
    ctx: Arc<StatementContext>,
    table: Arc<Table>,
    shape: Arc<Shape>,
}

impl StreamTable {
    /// A reference that shows the columns of `shape`.
    pub(crate) fn new(ctx: Arc<StatementContext>, table: Arc<Table>, shape: Arc<Shape>) -> Self {
        Self { ctx, table, shape }
    }

    /// A chunk of the buffer with the columns of the shape; nothing is copied.
    fn shaped(&self, chunk: &StreamRows) -> DataFusionResult<RecordBatch> {
        let declared = chunk.rows.num_columns();
        let columns = self.shape.columns.iter().map(|column| match *column {
            ScanColumn::Stored(at) if at < declared => Ok(chunk.rows.column(at).clone()),
            ScanColumn::Stored(at) if at == declared => Ok(Arc::new(chunk.seqs.clone()) as ArrayRef),
            ScanColumn::Stored(_) => Ok(Arc::new(chunk.times.clone()) as ArrayRef),
            ScanColumn::User | ScanColumn::RowAddress => {
                Err(internal_datafusion_err!("a stream has no column of kind {column:?}"))
            }
        });
        let options = RecordBatchOptions::new().with_row_count(Some(chunk.rows.num_rows()));
        let columns = columns.collect::<DataFusionResult<Vec<_>>>()?;
        Ok(RecordBatch::try_new_with_options(self.shape.schema.clone(), columns, &options)?)
    }
}

#[async_trait]
impl TableProvider for StreamTable {
    fn schema(&self) -> SchemaRef {
        self.shape.schema.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let view = self.ctx.streams.view(&self.ctx, &self.table).map_err(Error::into_datafusion)?;
        let batches = view.chunks.iter().map(|chunk| self.shaped(chunk)).collect::<DataFusionResult<_>>()?;
        let rows = MemTable::try_new(self.shape.schema.clone(), vec![batches])?;
        rows.scan(state, projection, filters, limit).await
    }
}
