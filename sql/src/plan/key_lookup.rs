//! [`KeyLookupExec`]: the rows that have some keys, wherever they are, read one by one.
//!
//! Which rows these are was found in the key index when the plan was made; executing it reads them, so its cost is that of
//! the rows and not of the chunks that hold them.

use std::fmt;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, UInt64Array};
use arrow::datatypes::SchemaRef;
use datafusion::common::stats::Precision;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result, ScalarValue, Statistics};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{
    Boundedness, EmissionType, ReplaceChildrenOptions, SchedulingType,
};
use datafusion::physical_plan::metrics::{
    BaselineMetrics, ExecutionPlanMetricsSet, MetricsSet, RecordOutput,
};
use datafusion::physical_plan::statistics::StatisticsArgs;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties};
use kalamdb_engine::{PartitionView, Picked, UserId};

use super::{ScanColumn, show_output};
use crate::error::Error;

/// Rows of one partition.
#[derive(Debug, Clone)]
pub(crate) struct FoundRows {
    /// The partition as the statement sees it.
    pub(crate) view: Arc<PartitionView>,
    /// Its owner.
    pub(crate) user: Option<UserId>,
    /// Addresses in ascending order, none twice.
    pub(crate) addresses: Vec<u64>,
}

/// What lookups in one table with the same columns have in common: made once, and kept with a cached plan.
#[derive(Debug)]
pub(crate) struct LookupShape {
    table: Arc<str>,
    columns: Arc<[ScanColumn]>,
    /// The stored ones among the columns, as the engine reads them.
    stored: Vec<usize>,
    properties: Arc<PlanProperties>,
}

impl LookupShape {
    /// A lookup in `table` of the columns `columns`, which `schema` describes.
    pub(crate) fn new(table: Arc<str>, columns: Arc<[ScanColumn]>, schema: SchemaRef) -> Self {
        let stored = columns.iter().filter_map(|column| match column {
            ScanColumn::Stored(at) => Some(*at),
            ScanColumn::User | ScanColumn::RowAddress => None,
        });
        let stored = stored.collect();
        let properties = PlanProperties::new(
            EquivalenceProperties::new(schema),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Incremental,
            Boundedness::Bounded,
        )
        // A lookup is short: it never keeps a thread for as long as a scan can.
        .with_scheduling_type(SchedulingType::Cooperative);
        Self { table, columns, stored, properties: Arc::new(properties) }
    }

    /// The columns of rows that were read.
    fn batch(&self, picked: Picked, user: Option<&UserId>) -> Result<RecordBatch> {
        let rows = picked.addresses.len();
        let mut stored = picked.columns.into_iter();
        let columns = self.columns.iter().map(|column| -> Result<ArrayRef> {
            match column {
                ScanColumn::Stored(_) => {
                    stored.next().ok_or_else(|| Error::internal("a column was not read").into_datafusion())
                }
                ScanColumn::User => {
                    ScalarValue::Utf8View(user.map(|user| user.as_str().to_owned())).to_array_of_size(rows)
                }
                ScanColumn::RowAddress => Ok(Arc::new(UInt64Array::from(picked.addresses.clone()))),
            }
        });
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let schema = self.properties.eq_properties.schema().clone();
        Ok(RecordBatch::try_new_with_options(schema, columns.collect::<Result<_>>()?, &options)?)
    }

    fn read(&self, found: &FoundRows) -> Result<Vec<RecordBatch>> {
        let picked = found.view.pick(&found.addresses, &self.stored);
        let picked = picked.map_err(|error| Error::from(error).into_datafusion())?;
        picked.into_iter().map(|picked| self.batch(picked, found.user.as_ref())).collect()
    }
}

/// Reads rows by their addresses.
#[derive(Debug)]
pub(crate) struct KeyLookupExec {
    shape: Arc<LookupShape>,
    found: Arc<[FoundRows]>,
    limit: Option<usize>,
    metrics: ExecutionPlanMetricsSet,
}

impl KeyLookupExec {
    /// A lookup of rows that the key index named.
    pub(crate) fn new(shape: Arc<LookupShape>, found: Arc<[FoundRows]>, limit: Option<usize>) -> Self {
        Self { shape, found, limit, metrics: ExecutionPlanMetricsSet::new() }
    }

    /// What it has in common with others.
    pub(crate) fn shape(&self) -> &Arc<LookupShape> {
        &self.shape
    }

    fn rows(&self) -> usize {
        self.found.iter().map(|found| found.addresses.len()).sum()
    }

    fn renewed(&self, limit: Option<usize>) -> Self {
        Self::new(self.shape.clone(), self.found.clone(), limit)
    }
}

impl DisplayAs for KeyLookupExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyLookupExec: table={}, rows={}", self.shape.table, self.rows())?;
        show_output(f, self.shape.properties.eq_properties.schema(), self.limit)
    }
}

impl ExecutionPlan for KeyLookupExec {
    fn name(&self) -> &'static str {
        "KeyLookupExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.shape.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn replace_children(
        self: Arc<Self>,
        _: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn with_new_children(self: Arc<Self>, _: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn reset_state(self: Arc<Self>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(Arc::new(self.renewed(self.limit)))
    }

    fn execute(&self, partition: usize, _: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let metrics = BaselineMetrics::new(&self.metrics, partition);
        let (shape, found) = (self.shape.clone(), self.found.clone());
        let mut remaining = self.limit.unwrap_or(usize::MAX);
        let batches = (0..found.len()).flat_map(move |at| {
            let _timer = metrics.elapsed_compute().timer();
            let batches = match shape.read(&found[at]) {
                Ok(batches) => batches.into_iter().map(Ok).collect(),
                Err(error) => vec![Err(error)],
            };
            let metrics = metrics.clone();
            batches.into_iter().map(move |batch| batch.map(|batch| batch.record_output(&metrics)))
        });
        let limited = batches.map_while(move |batch: Result<RecordBatch>| {
            let Ok(batch) = batch else { return Some(batch) };
            let batch = batch.slice(0, batch.num_rows().min(remaining));
            remaining -= batch.num_rows();
            (batch.num_rows() > 0).then_some(Ok(batch))
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), futures::stream::iter(limited))))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }

    fn statistics_from_inputs(&self, _: &[Arc<Statistics>], _: &StatisticsArgs) -> Result<Arc<Statistics>> {
        let rows = match self.limit {
            Some(limit) => Precision::Inexact(self.rows().min(limit)),
            None => Precision::Exact(self.rows()),
        };
        Ok(Arc::new(Statistics::new_unknown(&self.schema()).with_num_rows(rows)))
    }

    fn with_fetch(&self, limit: Option<usize>) -> Option<Arc<dyn ExecutionPlan>> {
        Some(Arc::new(self.renewed(limit)))
    }

    fn fetch(&self) -> Option<usize> {
        self.limit
    }
}
