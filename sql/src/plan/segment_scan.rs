//! [`SegmentScanExec`]: rows in Parquet segments, read by DataFusion's own Parquet scan.
//!
//! The wrapper adds what only we know: which segments there are and how many the manifest ruled out, which rows are
//! hidden, and where the bytes are. Filters and limits that the optimiser pushes down go on to the inner scan. Executing
//! the inner scan uses it up, so a plan that is to run again must go through `reset_state` first.
//!
//! All segments of a scan are of one schema version, which may be older than the table's. The inner scan then reads the
//! columns that the files have, found by their ids, and its projection makes the table's columns of them; DataFusion
//! rewrites filters through that projection, so that they prune and are pushed down as in any other scan.

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, SchemaRef};
use datafusion::common::config::{ConfigOptions, TableParquetOptions};
use datafusion::common::metadata::FieldMetadata;
use datafusion::common::stats::Precision;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result, ScalarValue, Statistics, internal_datafusion_err};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::parquet::source::ParquetSource;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfig, FileScanConfigBuilder, FileSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::datasource::table_schema::TableSchema;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::Operator;
use datafusion::parquet::arrow::RowNumber;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{BinaryExpr, CastExpr, Column, Literal};
use datafusion::physical_expr::projection::{ProjectionExpr, ProjectionExprs};
use datafusion::physical_plan::execution_plan::ReplaceChildrenOptions;
use datafusion::physical_plan::filter_pushdown::{
    ChildPushdownResult, FilterPushdownPhase, FilterPushdownPropagation, PushedDown,
};
use datafusion::physical_plan::metrics::MetricsSet;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::statistics::StatisticsArgs;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};
use kalamdb_engine::project::{Source, source};
use kalamdb_engine::{Bound, Segment, TableSchema as Version};

use super::dynamic_filter::takes;
use super::pruning::scalar;
use super::segment_files::{Access, ColdChunk, files};
use super::segment_reader::SegmentReaderFactory;
use super::{ScanColumn, show_output};

/// The virtual columns of the inner scan; no statement can name them.
const FIRST_ADDRESS: &str = "_first_address";
const ROW_NUMBER: &str = "_row_number";

/// What EXPLAIN says of a scan besides what the inner scan knows.
#[derive(Debug)]
struct Facts {
    table: Arc<str>,
    segments: usize,
    pruned: usize,
    hidden_rows: usize,
    /// The segments' schema version, if it is not the table's.
    version: Option<u32>,
}

/// What a scan is made of.
pub(crate) struct SegmentScan {
    /// Qualified name of the table.
    pub(crate) table: Arc<str>,
    /// The segments to read.
    pub(crate) chunks: Vec<ColdChunk>,
    /// How many more the manifest's statistics ruled out.
    pub(crate) pruned: usize,
    /// The table's schema.
    pub(crate) current: Arc<Version>,
    /// The schema that the segments were written with.
    pub(crate) written: Arc<Version>,
    /// The output columns.
    pub(crate) columns: Arc<[ScanColumn]>,
    /// Their schema.
    pub(crate) schema: SchemaRef,
    /// Whether soft-deleted rows are read too.
    pub(crate) tombstones: bool,
    /// The most partitions.
    pub(crate) partitions: usize,
    /// How many rows are enough.
    pub(crate) limit: Option<usize>,
}

/// Reads Parquet segments. Rows hidden at the view's snapshot never leave it.
#[derive(Debug)]
pub(crate) struct SegmentScanExec {
    facts: Arc<Facts>,
    inner: Arc<dyn ExecutionPlan>,
}

impl SegmentScanExec {
    /// Opens the segments' footers (which blocks on first use) and plans which rows to read.
    ///
    /// # Errors
    /// The engine's error, as an external one, if a segment is damaged.
    pub(crate) fn new(scan: SegmentScan, options: &ConfigOptions) -> Result<Self> {
        let mut chunks = Vec::with_capacity(scan.chunks.len());
        for chunk in &scan.chunks {
            let segment = &chunk.chunk.segment;
            let parquet =
                segment.parquet_metadata().map_err(|e| crate::error::Error::from(e).into_datafusion())?;
            let live = segment.meta().live_row_groups as usize;
            let access = Access::new(&parquet, live, chunk.chunk.hidden.as_deref(), scan.tombstones);
            chunks.push((chunk.clone(), access));
        }
        let hidden =
            |(chunk, _): &(ColdChunk, Access)| chunk.chunk.hidden.as_ref().map_or(0, |h| h.len() as usize);
        let facts = Facts {
            table: scan.table.clone(),
            segments: chunks.len(),
            pruned: scan.pruned,
            hidden_rows: chunks.iter().map(hidden).sum(),
            version: Some(scan.written.version()).filter(|version| *version != scan.current.version()),
        };
        let inner = DataSourceExec::from_data_source(inner_scan(&scan, &chunks, options)?);
        Ok(Self { facts: Arc::new(facts), inner })
    }

    fn around(&self, inner: Arc<dyn ExecutionPlan>) -> Arc<dyn ExecutionPlan> {
        Arc::new(Self { facts: self.facts.clone(), inner })
    }

    fn config(&self) -> Option<&FileScanConfig> {
        self.inner.downcast_ref::<DataSourceExec>()?.data_source().downcast_ref::<FileScanConfig>()
    }
}

fn inner_scan(
    scan: &SegmentScan,
    chunks: &[(ColdChunk, Access)],
    options: &ConfigOptions,
) -> Result<FileScanConfig> {
    let addressed = scan.columns.contains(&ScanColumn::RowAddress);
    let owned = scan.columns.contains(&ScanColumn::User);
    let table_schema = file_schema(scan, addressed, owned);
    let full = table_schema.table_schema().clone();
    let parquet = TableParquetOptions { global: options.execution.parquet.clone(), ..Default::default() };
    let source = ParquetSource::new(table_schema)
        .with_table_parquet_options(parquet)
        .with_parquet_file_reader_factory(Arc::new(SegmentReaderFactory));
    let projection = projection(scan, &full)?;
    let source = source.try_pushdown_projection(&projection)?;
    let source = source.ok_or_else(|| internal_datafusion_err!("the Parquet scan refused a projection"))?;
    let rows = chunks.iter().map(|(_, access)| access.rows).sum();
    let groups: Vec<Vec<PartitionedFile>> = files(chunks, addressed, owned, scan.partitions);
    let config = FileScanConfigBuilder::new(ObjectStoreUrl::local_filesystem(), source)
        .with_statistics(statistics(scan, chunks, &full, rows))
        .with_file_groups(groups.into_iter().map(FileGroup::new).collect())
        .with_limit(scan.limit)
        .build();
    Ok(config)
}

/// What is known of all rows together, from the manifest alone: how many there are, and as long as none of them is hidden,
/// the bounds of the columns, so that COUNT, MIN and MAX need no file. DataFusion calls them inexact once it has a filter
/// to apply.
fn statistics(
    scan: &SegmentScan,
    chunks: &[(ColdChunk, Access)],
    full: &SchemaRef,
    rows: usize,
) -> Statistics {
    let written = &scan.written;
    let mut statistics = Statistics::new_unknown(full).with_num_rows(Precision::Exact(rows));
    let read: u64 = chunks.iter().map(|(chunk, _)| chunk.chunk.segment.meta().live_rows()).sum();
    // The manifest describes live rows, and none of them is hidden.
    if scan.tombstones || rows == 0 || read != rows as u64 {
        return statistics;
    }
    for (at, known) in statistics.column_statistics.iter_mut().enumerate().take(written.columns().len()) {
        let bounds = chunks.iter().map(|(chunk, _)| exact_bounds(&chunk.chunk.segment, written, at));
        let bounds = bounds.reduce(|a, b| wider(a?, b?)).flatten();
        if let Some((min, max, nulls)) = bounds {
            (known.min_value, known.max_value) = (Precision::Exact(min), Precision::Exact(max));
            known.null_count = Precision::Exact(nulls);
        }
    }
    statistics
}

/// The least and the greatest value of a column of a segment and how many are NULL; `None` if that is not known exactly:
/// statistics of floating-point numbers leave NaN out.
fn exact_bounds(
    segment: &Segment,
    written: &Version,
    at: usize,
) -> Option<(ScalarValue, ScalarValue, usize)> {
    let data_type = written.storage().field(at).data_type();
    if data_type.is_floating() {
        return None;
    }
    let stats = segment.stats(written, at)?;
    let bound = |bound: &Option<Bound>| scalar(bound.as_ref()?, data_type);
    Some((bound(&stats.min)?, bound(&stats.max)?, stats.null_count as usize))
}

fn wider(
    a: (ScalarValue, ScalarValue, usize),
    b: (ScalarValue, ScalarValue, usize),
) -> Option<(ScalarValue, ScalarValue, usize)> {
    let min = if a.0.partial_cmp(&b.0)?.is_le() { a.0 } else { b.0 };
    let max = if a.1.partial_cmp(&b.1)?.is_ge() { a.1 } else { b.1 };
    Some((min, max, a.2 + b.2))
}

/// The stored columns, then those that follow the file, then the row number, as far as they are needed.
fn file_schema(scan: &SegmentScan, addressed: bool, owned: bool) -> TableSchema {
    let mut following: Vec<FieldRef> = Vec::new();
    if addressed {
        following.push(Arc::new(Field::new(FIRST_ADDRESS, DataType::UInt64, false)));
    }
    if owned {
        following.push(Arc::new(Field::new(crate::provider::USER, DataType::Utf8View, true)));
    }
    let mut builder =
        TableSchema::builder(scan.written.storage().clone()).with_table_partition_cols(following);
    if addressed {
        let row_number = Field::new(ROW_NUMBER, DataType::Int64, false).with_extension_type(RowNumber);
        builder = builder.with_virtual_columns(vec![Arc::new(row_number) as FieldRef]);
    }
    builder.build()
}

fn projection(scan: &SegmentScan, full: &SchemaRef) -> Result<ProjectionExprs> {
    let named =
        |name: &str| -> Result<Arc<dyn PhysicalExpr>> { Ok(Arc::new(Column::new_with_schema(name, full)?)) };
    let expressions = scan.columns.iter().zip(scan.schema.fields()).map(|(column, field)| {
        let expression = match *column {
            ScanColumn::Stored(at) => stored_column(scan, at, field)?,
            ScanColumn::User => named(crate::provider::USER)?,
            ScanColumn::RowAddress => {
                let row = Arc::new(CastExpr::new(named(ROW_NUMBER)?, DataType::UInt64, None));
                Arc::new(BinaryExpr::new(named(FIRST_ADDRESS)?, Operator::Plus, row))
            }
        };
        Ok(ProjectionExpr::new(expression, field.name().clone()))
    });
    Ok(ProjectionExprs::from_expressions(expressions.collect::<Result<Vec<_>>>()?))
}

/// The table's stored column at `at`, which is described by `field`, made of what the files have.
fn stored_column(scan: &SegmentScan, at: usize, field: &FieldRef) -> Result<Arc<dyn PhysicalExpr>> {
    let SegmentScan { current, written, .. } = scan;
    let stored = |at: usize| -> Arc<dyn PhysicalExpr> {
        Arc::new(Column::new(written.storage().field(at).name(), at))
    };
    let declared = current.columns().len();
    if at >= declared {
        return Ok(stored(written.columns().len() + at - declared));
    }
    let literal = |value: ScalarValue| -> Arc<dyn PhysicalExpr> {
        Arc::new(Literal::new_with_metadata(value, Some(FieldMetadata::from(field.as_ref()))))
    };
    let source = source(written, current, at).map_err(|e| crate::error::Error::from(e).into_datafusion())?;
    Ok(match source {
        Source::Column(at) if written.storage().field(at).metadata() == field.metadata() => stored(at),
        // JSON and UUID that became TEXT.
        Source::Column(at) => Arc::new(CastExpr::new_with_target_field(stored(at), field.clone(), None)),
        Source::Widened(at, types) => types.iter().fold(stored(at), |expression, data_type| {
            Arc::new(CastExpr::new(expression, data_type.arrow(), None))
        }),
        Source::Value(value) => literal(ScalarValue::try_from_array(&value, 0)?),
        Source::Null => literal(ScalarValue::try_from(field.data_type())?),
    })
}

impl DisplayAs for SegmentScanExec {
    fn fmt_as(&self, t: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Facts { table, segments, pruned, hidden_rows, version } = &*self.facts;
        write!(
            f,
            "SegmentScanExec: table={table}, segments={segments}, pruned={pruned}, hidden_rows={hidden_rows}"
        )?;
        if let Some(version) = version {
            write!(f, ", schema_version={version}")?;
        }
        let config = self.config();
        show_output(f, &self.schema(), config.and_then(|config| config.limit))?;
        config.map_or(Ok(()), |config| config.file_source().fmt_extra(t, f))
    }
}

impl ExecutionPlan for SegmentScanExec {
    fn name(&self) -> &'static str {
        "SegmentScanExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.inner.properties()
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
        self.inner.apply_expressions(f)
    }

    fn reset_state(self: Arc<Self>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self.around(self.inner.clone().reset_state()?))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        self.inner.execute(partition, context)
    }

    fn metrics(&self) -> Option<MetricsSet> {
        self.inner.metrics()
    }

    fn statistics_from_inputs(
        &self,
        inputs: &[Arc<Statistics>],
        args: &StatisticsArgs,
    ) -> Result<Arc<Statistics>> {
        let statistics = self.inner.statistics_from_inputs(inputs, args)?;
        match self.fetch() {
            // A limit says how many rows are enough, not how many come.
            Some(_) => Ok(Arc::new(Arc::unwrap_or_clone(statistics).to_inexact())),
            None => Ok(statistics),
        }
    }

    fn with_fetch(&self, limit: Option<usize>) -> Option<Arc<dyn ExecutionPlan>> {
        self.inner.with_fetch(limit).map(|inner| self.around(inner))
    }

    fn fetch(&self) -> Option<usize> {
        self.inner.fetch()
    }

    fn try_swapping_with_projection(
        &self,
        projection: &ProjectionExec,
    ) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        Ok(self.inner.try_swapping_with_projection(projection)?.map(|inner| self.around(inner)))
    }

    fn handle_child_pushdown_result(
        &self,
        phase: FilterPushdownPhase,
        result: ChildPushdownResult,
        config: &ConfigOptions,
    ) -> Result<FilterPushdownPropagation<Arc<dyn ExecutionPlan>>> {
        let taken: Vec<bool> = result.parent_filters.iter().map(|filter| takes(&filter.filter)).collect();
        let mut offered = result;
        let mut at = taken.iter();
        offered.parent_filters.retain(|_| at.next().is_some_and(|taken| *taken));
        let mut pushed = self.inner.handle_child_pushdown_result(phase, offered, config)?;
        // One answer for each filter: those that were not offered are not applied.
        let mut answers = std::mem::take(&mut pushed.filters).into_iter();
        let answer = |taken: bool| if taken { answers.next() } else { None }.unwrap_or(PushedDown::No);
        pushed.filters = taken.into_iter().map(answer).collect();
        pushed.updated_node = pushed.updated_node.map(|inner| self.around(inner));
        Ok(pushed)
    }
}
