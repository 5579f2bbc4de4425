//! RETURNING: a projection over the rows a statement wrote, or over the last values of those it deleted.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Int64Array, RecordBatch, RecordBatchOptions, StringViewArray,
    TimestampMicrosecondArray,
};
use datafusion::datasource::MemTable;
use datafusion::sql::sqlparser::ast::{SelectItem, Statement, TableWithJoins};
use kalamdb_engine::{Committed, TIMEZONE, Table, UserId};

use super::select::select;
use crate::error::Result;
use crate::plan::ScanColumn;
use crate::provider::Shape;
use crate::query::{self, Planner};
use crate::session::Outcome;
use crate::statement::StatementContext;

/// The rows that a statement wrote.
pub(super) struct Written {
    /// New rows, or deleted ones as they were.
    pub(super) rows: RecordBatch,
    /// Whose they are, if the statement says so.
    pub(super) owners: Option<ArrayRef>,
    /// Whose they are otherwise.
    pub(super) user: Option<UserId>,
    /// Whether they were deleted.
    pub(super) deleted: bool,
}

impl Written {
    /// No rows.
    pub(super) fn nothing(table: &Table) -> Result<Self> {
        let rows = RecordBatch::new_empty(table.schema.rows().clone());
        Ok(Self { rows, owners: None, user: None, deleted: false })
    }

    /// The rows with the columns of a shape.
    fn shaped(&self, shape: &Shape, committed: Option<Committed>) -> Result<RecordBatch> {
        let count = self.rows.num_rows();
        let declared = self.rows.num_columns();
        let committed = committed.unwrap_or(Committed { seq: 0, time_us: 0 });
        let columns = shape.columns.iter().map(|column| -> ArrayRef {
            match *column {
                ScanColumn::Stored(at) if at < declared => self.rows.column(at).clone(),
                ScanColumn::Stored(at) if at == declared => {
                    Arc::new(Int64Array::from_value(committed.seq as i64, count))
                }
                ScanColumn::Stored(at) if at == declared + 1 => Arc::new(
                    TimestampMicrosecondArray::from_value(committed.time_us, count).with_timezone(TIMEZONE),
                ),
                ScanColumn::Stored(_) => Arc::new(BooleanArray::from(vec![self.deleted; count])),
                ScanColumn::User => self.owners.clone().unwrap_or_else(|| {
                    let user = self.user.as_ref().map(UserId::as_str);
                    Arc::new((0..count).map(|_| user).collect::<StringViewArray>())
                }),
                // No statement with RETURNING can name it.
                ScanColumn::RowAddress => Arc::new(arrow::array::UInt64Array::from_value(0, count)),
            }
        });
        let options = RecordBatchOptions::new().with_row_count(Some(count));
        Ok(RecordBatch::try_new_with_options(shape.schema.clone(), columns.collect(), &options)?)
    }
}

/// A RETURNING clause that was found to be valid; or none.
pub(super) struct Returning {
    table: Arc<Table>,
    select: Option<Statement>,
}

impl Returning {
    /// Plans the clause over no rows, so that its errors come before anything is written.
    ///
    /// # Errors
    /// Planning errors.
    pub(super) fn new(
        ctx: &Arc<StatementContext>,
        table: &Arc<Table>,
        from: TableWithJoins,
        items: Option<&[SelectItem]>,
    ) -> Result<Self> {
        let select = items.map(|items| select(items.to_vec(), vec![from], None)).transpose()?;
        let returning = Self { table: table.clone(), select };
        if let Some(select) = &returning.select {
            returning.plan(ctx, select, &Written::nothing(table)?, None)?;
        }
        Ok(returning)
    }

    /// True if there is a clause.
    pub(super) fn wanted(&self) -> bool {
        self.select.is_some()
    }

    fn plan(
        &self,
        ctx: &Arc<StatementContext>,
        select: &Statement,
        written: &Written,
        committed: Option<Committed>,
    ) -> Result<datafusion::logical_expr::LogicalPlan> {
        let shape = query::shape_for(ctx, &self.table, select);
        let rows = written.shaped(&shape, committed)?;
        let rows = Arc::new(MemTable::try_new(shape.schema.clone(), vec![vec![rows]])?);
        Planner::new(ctx).with_stand_in(&self.table, rows).plan(select, &[])
    }

    /// The statement's outcome: with rows if there is a clause.
    ///
    /// # Errors
    /// Errors of evaluating the clause; the rows are written nevertheless.
    pub(super) async fn outcome(
        &self,
        ctx: &Arc<StatementContext>,
        written: Written,
        committed: Option<Committed>,
    ) -> Result<Outcome> {
        let mut outcome = Outcome::affected(0, committed.map(|committed| committed.seq));
        if let Some(select) = &self.select {
            let plan = self.plan(ctx, select, &written, committed)?;
            let plan = query::physical_plan(ctx, plan).await?;
            outcome.rows = Some(query::row_set(ctx, query::execute(ctx, plan)?));
        }
        Ok(outcome)
    }
}
