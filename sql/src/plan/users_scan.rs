//! [`UsersScanExec`]: a USER table across its users, as far as they have no segments of their own: those in memory and those
//! in packs, many to a batch, none of them loaded for it.

use std::fmt;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::datatypes::SchemaRef;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result, Statistics, exec_datafusion_err, internal_err};
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
use kalamdb_engine::{SmallUsers, SmallUsersReader, UsersBatch};

use super::{ScanColumn, show_output};
use crate::error::Error;

/// Reads the small users of a table. Rows hidden at the snapshot never leave it.
#[derive(Debug)]
pub(crate) struct UsersScanExec {
    table: Arc<str>,
    users: Arc<SmallUsers>,
    columns: Arc<[ScanColumn]>,
    tombstones: bool,
    properties: Arc<PlanProperties>,
    limit: Option<usize>,
    metrics: ExecutionPlanMetricsSet,
}

impl UsersScanExec {
    /// A scan with the columns `columns`, which `schema` describes, over at most `partitions` partitions; with soft-deleted
    /// rows on demand.
    ///
    /// # Errors
    /// An internal one if rows are to be addressed: they are in no view.
    pub(crate) fn new(
        table: Arc<str>,
        users: Arc<SmallUsers>,
        columns: Arc<[ScanColumn]>,
        schema: SchemaRef,
        tombstones: bool,
        partitions: usize,
        limit: Option<usize>,
    ) -> Result<Self> {
        if columns.contains(&ScanColumn::RowAddress) {
            return internal_err!("rows of many users at once have no addresses");
        }
        let count = users.parts().clamp(1, partitions.max(1));
        let properties = PlanProperties::new(
            EquivalenceProperties::new(schema),
            Partitioning::UnknownPartitioning(count),
            EmissionType::Incremental,
            Boundedness::Bounded,
        )
        .with_scheduling_type(SchedulingType::Cooperative);
        let (properties, metrics) = (Arc::new(properties), ExecutionPlanMetricsSet::new());
        Ok(Self { table, users, columns, tombstones, properties, limit, metrics })
    }

    fn renewed(&self, limit: Option<usize>) -> Self {
        Self {
            table: self.table.clone(),
            users: self.users.clone(),
            columns: self.columns.clone(),
            tombstones: self.tombstones,
            properties: self.properties.clone(),
            limit,
            metrics: ExecutionPlanMetricsSet::new(),
        }
    }

    fn batches(&self, partition: usize) -> Batches {
        let step = self.properties.output_partitioning().partition_count();
        let mut stored: Vec<usize> = Vec::new();
        let places = self.columns.iter().map(|column| match *column {
            ScanColumn::Stored(at) => {
                Some(stored.iter().position(|known| *known == at).unwrap_or_else(|| {
                    stored.push(at);
                    stored.len() - 1
                }))
            }
            ScanColumn::User | ScanColumn::RowAddress => None,
        });
        let places = places.collect();
        Batches {
            users: self.users.clone(),
            parts: (partition..self.users.parts()).step_by(step).collect::<Vec<_>>().into_iter(),
            reader: None,
            stored,
            places,
            tombstones: self.tombstones,
            schema: self.schema(),
            remaining: self.limit.unwrap_or(usize::MAX),
        }
    }
}

impl DisplayAs for UsersScanExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (loaded, packs) = self.users.sources();
        write!(f, "UsersScanExec: table={}, loaded={loaded}, packs={packs}", self.table)?;
        show_output(f, self.properties.eq_properties.schema(), self.limit)
    }
}

impl ExecutionPlan for UsersScanExec {
    fn name(&self) -> &'static str {
        "UsersScanExec"
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
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn reset_state(self: Arc<Self>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(Arc::new(self.renewed(self.limit)))
    }

    fn execute(&self, partition: usize, _: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        if partition >= self.properties.output_partitioning().partition_count() {
            return Err(exec_datafusion_err!("UsersScanExec has no partition {partition}"));
        }
        let metrics = BaselineMetrics::new(&self.metrics, partition);
        let mut batches = self.batches(partition);
        let measured = std::iter::from_fn(move || {
            let _timer = metrics.elapsed_compute().timer();
            batches.next().map(|batch| batch.map(|batch| batch.record_output(&metrics)))
        });
        let stream = RecordBatchStreamAdapter::new(self.schema(), futures::stream::iter(measured));
        Ok(datafusion::physical_plan::coop::make_cooperative(Box::pin(stream)))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }

    fn statistics_from_inputs(&self, _: &[Arc<Statistics>], _: &StatisticsArgs) -> Result<Arc<Statistics>> {
        Ok(Arc::new(Statistics::new_unknown(&self.schema())))
    }

    fn with_fetch(&self, limit: Option<usize>) -> Option<Arc<dyn ExecutionPlan>> {
        Some(Arc::new(self.renewed(limit)))
    }

    fn fetch(&self) -> Option<usize> {
        self.limit
    }
}

/// The batches of one partition.
struct Batches {
    users: Arc<SmallUsers>,
    parts: std::vec::IntoIter<usize>,
    reader: Option<SmallUsersReader>,
    /// The stored columns to read, each once.
    stored: Vec<usize>,
    /// Per output column its place among them; `None` is the owner.
    places: Vec<Option<usize>>,
    tombstones: bool,
    schema: SchemaRef,
    remaining: usize,
}

impl Batches {
    fn next(&mut self) -> Option<Result<RecordBatch>> {
        while self.remaining > 0 {
            let reader = match &mut self.reader {
                Some(reader) => reader,
                None => {
                    let part = self.parts.next()?;
                    self.reader.insert(self.users.read(part, &self.stored, self.tombstones))
                }
            };
            match reader.next() {
                Some(Ok(rows)) => {
                    let batch = self.batch(&rows);
                    if let Ok(batch) = &batch {
                        self.remaining -= batch.num_rows();
                    }
                    return Some(batch);
                }
                Some(Err(error)) => return Some(Err(Error::from(error).into_datafusion())),
                None => self.reader = None,
            }
        }
        None
    }

    fn batch(&self, rows: &UsersBatch) -> Result<RecordBatch> {
        let column = |place: &Option<usize>| -> ArrayRef {
            match *place {
                Some(at) => rows.columns[at].clone(),
                None => rows.users.clone(),
            }
        };
        let columns = self.places.iter().map(column).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(rows.users.len()));
        let batch = RecordBatch::try_new_with_options(self.schema.clone(), columns, &options)?;
        Ok(batch.slice(0, batch.num_rows().min(self.remaining)))
    }
}
