//! [`MemtableScanExec`]: rows in memory, as record batches without copies unless some of their rows are hidden.

use std::fmt;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, RecordBatch, RecordBatchOptions, UInt64Array};
use arrow::compute::filter_record_batch;
use arrow::datatypes::SchemaRef;
use datafusion::common::config::ConfigOptions;
use datafusion::common::stats::Precision;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result, ScalarValue, Statistics, exec_datafusion_err};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr, conjunction};
use datafusion::physical_plan::apply_expression_roots;
use datafusion::physical_plan::execution_plan::{
    Boundedness, EmissionType, ReplaceChildrenOptions, SchedulingType,
};
use datafusion::physical_plan::filter_pushdown::{
    ChildFilterPushdownResult, ChildPushdownResult, FilterPushdownPhase, FilterPushdownPropagation,
};
use datafusion::physical_plan::metrics::{
    BaselineMetrics, ExecutionPlanMetricsSet, MetricBuilder, MetricsSet, RecordOutput,
};
use datafusion::physical_plan::statistics::StatisticsArgs;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties};
use kalamdb_engine::{PartitionView, RowsChunk, UserId};

use super::dynamic_filter::{DynamicFilter, is_dynamic, takes};
use super::{ScanColumn, show_output};

/// Rows worth a partition of their own.
const ROWS_PER_PARTITION: usize = 16_384;

/// One chunk of rows in memory and what its virtual columns hold.
#[derive(Debug, Clone)]
pub(crate) struct HotChunk {
    /// The rows.
    pub(crate) rows: RowsChunk,
    /// The chunk's place in its view.
    pub(crate) chunk: usize,
    /// The owner of its partition.
    pub(crate) user: Option<UserId>,
}

impl HotChunk {
    fn visible_rows(&self) -> usize {
        self.rows.num_rows() - self.rows.hidden_rows() as usize
    }

    /// The scan's columns of all rows of the chunk, hidden ones included.
    fn columns(&self, columns: &[ScanColumn]) -> Result<Vec<ArrayRef>> {
        let rows = &self.rows;
        let declared = rows.num_columns();
        let mut versions = None;
        columns
            .iter()
            .map(|column| {
                let array: ArrayRef = match *column {
                    ScanColumn::Stored(at) if at < declared => rows.column(at),
                    ScanColumn::Stored(at) => {
                        let (seqs, updated) = versions.get_or_insert_with(|| self.rows.versions());
                        match at - declared {
                            0 => Arc::new(seqs.clone()) as ArrayRef,
                            1 => Arc::new(updated.clone()),
                            _ => Arc::new(BooleanArray::from(vec![self.rows.tombstones; rows.num_rows()])),
                        }
                    }
                    ScanColumn::User => {
                        let user = self.user.as_ref().map(|user| user.as_str().to_owned());
                        ScalarValue::Utf8View(user).to_array_of_size(rows.num_rows())?
                    }
                    ScanColumn::RowAddress => {
                        let address = |row| PartitionView::address(self.chunk, row as u32);
                        Arc::new(UInt64Array::from_iter_values((0..rows.num_rows()).map(address)))
                    }
                };
                Ok(array)
            })
            .collect()
    }
}

/// Reads chunks in memory. Rows hidden at the view's snapshot never leave it.
#[derive(Debug)]
pub(crate) struct MemtableScanExec {
    table: Arc<str>,
    partitions: Arc<[Vec<HotChunk>]>,
    columns: Arc<[ScanColumn]>,
    properties: Arc<PlanProperties>,
    limit: Option<usize>,
    /// What a TopK or a join above leaves out anyway.
    filters: Arc<[Arc<dyn PhysicalExpr>]>,
    metrics: ExecutionPlanMetricsSet,
}

impl MemtableScanExec {
    /// A scan of `chunks` with the columns `columns`, which `schema` describes, over at most `partitions` partitions.
    pub(crate) fn new(
        table: Arc<str>,
        chunks: Vec<HotChunk>,
        columns: Arc<[ScanColumn]>,
        schema: SchemaRef,
        partitions: usize,
        limit: Option<usize>,
    ) -> Self {
        let partitions = spread(chunks, partitions);
        let properties = PlanProperties::new(
            EquivalenceProperties::new(schema),
            Partitioning::UnknownPartitioning(partitions.len()),
            EmissionType::Incremental,
            Boundedness::Bounded,
        )
        .with_scheduling_type(SchedulingType::Cooperative);
        Self {
            table,
            partitions: partitions.into(),
            columns,
            properties: Arc::new(properties),
            limit,
            filters: Arc::default(),
            metrics: ExecutionPlanMetricsSet::new(),
        }
    }

    fn rows_of(&self, partition: Option<usize>) -> usize {
        let rows = |chunks: &Vec<HotChunk>| chunks.iter().map(HotChunk::visible_rows).sum::<usize>();
        match partition {
            Some(partition) => self.partitions.get(partition).map_or(0, rows),
            None => self.partitions.iter().map(rows).sum(),
        }
    }

    fn renewed(&self, limit: Option<usize>, filters: Arc<[Arc<dyn PhysicalExpr>]>) -> Self {
        Self {
            table: self.table.clone(),
            partitions: self.partitions.clone(),
            columns: self.columns.clone(),
            properties: self.properties.clone(),
            limit,
            filters,
            metrics: ExecutionPlanMetricsSet::new(),
        }
    }
}

/// Chunks in order over as many partitions as their rows are worth, the fullest never far above the emptiest.
fn spread(chunks: Vec<HotChunk>, most: usize) -> Vec<Vec<HotChunk>> {
    let total: usize = chunks.iter().map(HotChunk::visible_rows).sum();
    let count = (total / ROWS_PER_PARTITION).clamp(1, most.max(1)).min(chunks.len().max(1));
    let mut partitions: Vec<(usize, Vec<HotChunk>)> = vec![(0, Vec::new()); count];
    for chunk in chunks {
        if let Some((rows, emptiest)) = partitions.iter_mut().min_by_key(|(rows, _)| *rows) {
            *rows += chunk.visible_rows();
            emptiest.push(chunk);
        }
    }
    partitions.into_iter().map(|(_, chunks)| chunks).collect()
}

impl DisplayAs for MemtableScanExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let chunks: usize = self.partitions.iter().map(Vec::len).sum();
        write!(f, "MemtableScanExec: table={}, chunks={chunks}, rows={}", self.table, self.rows_of(None))?;
        show_output(f, self.properties.eq_properties.schema(), self.limit)?;
        match self.filters.is_empty() {
            true => Ok(()),
            false => write!(f, ", predicate={}", conjunction(self.filters.iter().cloned())),
        }
    }
}

impl ExecutionPlan for MemtableScanExec {
    fn name(&self) -> &'static str {
        "MemtableScanExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
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
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        apply_expression_roots(self.filters.iter(), f)
    }

    fn reset_state(self: Arc<Self>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(Arc::new(self.renewed(self.limit, self.filters.clone())))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let chunks = self.partitions.get(partition);
        let chunks =
            chunks.ok_or_else(|| exec_datafusion_err!("MemtableScanExec has no partition {partition}"))?;
        let schema = self.schema();
        let metrics = BaselineMetrics::new(&self.metrics, partition);
        let pruned = || MetricBuilder::new(&self.metrics).counter("dynamic_filter_rows_pruned", partition);
        let mut batches = Batches {
            chunks: chunks.clone().into_iter(),
            current: None,
            columns: self.columns.clone(),
            schema: schema.clone(),
            batch_size: context.session_config().batch_size().max(1),
            remaining: self.limit.unwrap_or(usize::MAX),
            filter: (!self.filters.is_empty())
                .then(|| DynamicFilter::new(self.filters.iter().cloned(), pruned())),
        };
        let measured = std::iter::from_fn(move || {
            let _timer = metrics.elapsed_compute().timer();
            batches.next().map(|batch| batch.map(|batch| batch.record_output(&metrics)))
        });
        let stream = RecordBatchStreamAdapter::new(schema, futures::stream::iter(measured));
        Ok(datafusion::physical_plan::coop::make_cooperative(Box::pin(stream)))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }

    fn statistics_from_inputs(
        &self,
        _: &[Arc<Statistics>],
        args: &StatisticsArgs,
    ) -> Result<Arc<Statistics>> {
        let rows = self.rows_of(args.partition());
        let rows = match self.limit {
            Some(limit) => Precision::Inexact(rows.min(limit)),
            None if self.filters.is_empty() => Precision::Exact(rows),
            None => Precision::Inexact(rows),
        };
        Ok(Arc::new(Statistics::new_unknown(&self.schema()).with_num_rows(rows)))
    }

    fn with_fetch(&self, limit: Option<usize>) -> Option<Arc<dyn ExecutionPlan>> {
        Some(Arc::new(self.renewed(limit, self.filters.clone())))
    }

    fn fetch(&self) -> Option<usize> {
        self.limit
    }

    /// Takes filters that change while the statement runs. All others are evaluated above, which costs the same, and so
    /// are those on top of a limit: which rows it takes would depend on them.
    fn handle_child_pushdown_result(
        &self,
        phase: FilterPushdownPhase,
        result: ChildPushdownResult,
        _: &ConfigOptions,
    ) -> Result<FilterPushdownPropagation<Arc<dyn ExecutionPlan>>> {
        let dynamic =
            |filter: &&ChildFilterPushdownResult| is_dynamic(&filter.filter) && takes(&filter.filter);
        let taken: Vec<_> =
            result.parent_filters.iter().filter(dynamic).map(|taken| taken.filter.clone()).collect();
        // A leaf that promises nothing.
        let none = FilterPushdownPropagation::if_all(result);
        if phase != FilterPushdownPhase::Post || self.limit.is_some() || taken.is_empty() {
            return Ok(none);
        }
        let filters = self.filters.iter().cloned().chain(taken).collect();
        // Rows that it is not worth to leave out do pass, so that the filters are never promised to be applied.
        Ok(none.with_updated_node(Arc::new(self.renewed(None, filters))))
    }
}

/// The batches of one partition, at most `batch_size` rows each before hidden ones are left out.
struct Batches {
    chunks: std::vec::IntoIter<HotChunk>,
    current: Option<Open>,
    columns: Arc<[ScanColumn]>,
    schema: SchemaRef,
    batch_size: usize,
    remaining: usize,
    filter: Option<DynamicFilter>,
}

/// A chunk that is being read.
struct Open {
    batch: RecordBatch,
    visible: Option<BooleanArray>,
    at: usize,
}

impl Batches {
    fn next(&mut self) -> Option<Result<RecordBatch>> {
        self.try_next().transpose()
    }

    fn try_next(&mut self) -> Result<Option<RecordBatch>> {
        while self.remaining > 0 {
            let open = match &mut self.current {
                Some(open) => open,
                None => match self.chunks.next() {
                    Some(chunk) => self.current.insert(Open::new(&chunk, &self.columns, &self.schema)?),
                    None => return Ok(None),
                },
            };
            let Some(mut batch) = open.next(self.batch_size)? else {
                self.current = None;
                continue;
            };
            if let Some(filter) = &mut self.filter {
                batch = filter.apply(batch)?;
            }
            if batch.num_rows() > 0 {
                let batch = batch.slice(0, batch.num_rows().min(self.remaining));
                self.remaining -= batch.num_rows();
                return Ok(Some(batch));
            }
        }
        Ok(None)
    }
}

impl Open {
    fn new(chunk: &HotChunk, columns: &[ScanColumn], schema: &SchemaRef) -> Result<Self> {
        let options = RecordBatchOptions::new().with_row_count(Some(chunk.rows.num_rows()));
        let columns = chunk.columns(columns)?;
        let batch = RecordBatch::try_new_with_options(schema.clone(), columns, &options)?;
        Ok(Self { batch, visible: chunk.rows.visible(), at: 0 })
    }

    /// The rows that are not hidden among the next `most`; `None` at the end.
    fn next(&mut self, most: usize) -> Result<Option<RecordBatch>> {
        let (at, rows) = (self.at, most.min(self.batch.num_rows() - self.at));
        if rows == 0 {
            return Ok(None);
        }
        self.at += rows;
        let slice = self.batch.slice(at, rows);
        Ok(Some(match &self.visible {
            Some(visible) => filter_record_batch(&slice, &visible.slice(at, rows))?,
            None => slice,
        }))
    }
}
