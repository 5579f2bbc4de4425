//! [`PassingExec`]: lets the rows of another node pass unchanged, and changes how they come.

use std::fmt;
use std::sync::Arc;

use arrow::array::RecordBatch;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result, Statistics};
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryLimit};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::execution_plan::{
    CardinalityEffect, ChildrenPropertiesMode, ReplaceChildrenOptions,
};
use datafusion::physical_plan::statistics::{ChildStats, StatisticsArgs};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};
use futures::{StreamExt, TryStreamExt};

use super::compact::{bytes_of, compacted};
use super::pace::Pace;

/// A batch takes at most one in so many bytes of what its statement may hold.
const BATCHES_IN_MEMORY: usize = 64;
/// What a batch may have in any case, and at most.
const BATCH_BYTES: std::ops::RangeInclusive<usize> = 64 << 10..=4 << 20;

/// How rows pass.
#[derive(Debug, Clone)]
pub(crate) enum Passing {
    /// Few at a time where each makes much work, with pauses: for joins, which would otherwise work on all pairs of a batch
    /// without letting others run.
    Paused(Arc<Pace>),
    /// While the join below, whose rows they are, is timed for that.
    Timed(Arc<Pace>),
    /// In batches of bounded size that own their memory: for those who keep batches and count them.
    Compact,
    /// The same, and counted here until the last is gone: for those who keep batches and do not count them.
    Held,
    /// As they are. As with all of these, no filter passes down: for the time in which filters are pushed down.
    Fenced,
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct PassingExec {
    input: Arc<dyn ExecutionPlan>,
    passing: Passing,
}

impl PassingExec {
    /// Lets the rows of `input` pass.
    pub(crate) fn new(input: Arc<dyn ExecutionPlan>, passing: Passing) -> Self {
        Self { input, passing }
    }

    /// What is behind it, if it is there to keep filters from it.
    pub(crate) fn fenced(&self) -> Option<&Arc<dyn ExecutionPlan>> {
        matches!(self.passing, Passing::Fenced).then_some(&self.input)
    }
}

impl DisplayAs for PassingExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl ExecutionPlan for PassingExec {
    fn name(&self) -> &'static str {
        match self.passing {
            Passing::Paused(_) => "PausingExec",
            Passing::Timed(_) => "TimingExec",
            Passing::Compact => "CompactExec",
            Passing::Held => "HoldingExec",
            Passing::Fenced => "FencingExec",
        }
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.input.properties()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn replace_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(Arc::new(Self::new(children.swap_remove(0), self.passing.clone())))
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        self.replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let rows = self.input.execute(partition, context.clone())?;
        Ok(match &self.passing {
            Passing::Paused(pace) => pace.clone().paused(partition, rows),
            Passing::Timed(pace) => pace.clone().timed(partition, rows),
            Passing::Compact => compact(rows, &context),
            Passing::Held => held(compact(rows, &context), &context),
            Passing::Fenced => rows,
        })
    }

    fn child_stats_requests(&self, partition: Option<usize>) -> Vec<ChildStats> {
        vec![ChildStats::At(partition)]
    }

    fn statistics_from_inputs(
        &self,
        inputs: &[Arc<Statistics>],
        _: &StatisticsArgs,
    ) -> Result<Arc<Statistics>> {
        Ok(inputs[0].clone())
    }

    fn cardinality_effect(&self) -> CardinalityEffect {
        CardinalityEffect::Equal
    }
}

fn compact(rows: SendableRecordBatchStream, context: &TaskContext) -> SendableRecordBatchStream {
    let most = match context.memory_pool().memory_limit() {
        MemoryLimit::Finite(bytes) => bytes / BATCHES_IN_MEMORY,
        _ => usize::MAX,
    };
    let most = most.clamp(*BATCH_BYTES.start(), *BATCH_BYTES.end());
    let schema = rows.schema();
    let parts = rows.map(move |batch| -> Result<_> {
        Ok(futures::stream::iter(compacted(batch?, most)?.into_iter().map(Ok)))
    });
    let parts = parts.try_flatten();
    Box::pin(RecordBatchStreamAdapter::new(schema, parts))
}

fn held(rows: SendableRecordBatchStream, context: &TaskContext) -> SendableRecordBatchStream {
    let memory = MemoryConsumer::new("rows that are held").register(context.memory_pool());
    let schema = rows.schema();
    let counted = rows.map(move |batch| {
        let batch: RecordBatch = batch?;
        // They are there twice while they are put together.
        memory.try_grow(2 * batch.columns().iter().map(bytes_of).sum::<usize>())?;
        Ok(batch)
    });
    Box::pin(RecordBatchStreamAdapter::new(schema, counted))
}
