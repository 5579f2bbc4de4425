//! Operators of DataFusion that would hold a thread or memory without bound get their rows in a way that bounds them.
//!
//! - Operators give control back when a leaf has given many batches. A join of everything with everything, or by a key that
//!   most rows share, reads its leaves to the end and then works on pairs for minutes; if a filter rejects the pairs, it does
//!   not even give rows. It gets the rows of one side in small parts, with pauses between them: a pause is where a statement
//!   that timed out, or whose client is gone, ends.
//! - A sort counts the memory of the batches it keeps, so these must not be slices of something larger; and it can spill
//!   only what it could take. A merge of what was sorted gets batches whose texts are in as many others as were merged before.
//! - A window over whole partitions keeps its rows and does not count them.

use std::sync::Arc;

use datafusion::common::Result;
use datafusion::common::config::ConfigOptions;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::execution_plan::{ChildrenPropertiesMode, ReplaceChildrenOptions};
use datafusion::physical_plan::joins::{CrossJoinExec, HashJoinExec, NestedLoopJoinExec};
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::sorts::sort_preserving_merge::SortPreservingMergeExec;
use datafusion::physical_plan::windows::WindowAggExec;

use crate::plan::{OptionalSideExec, Pace, Passing, PassingExec};

/// Rows that a join gets at first if each meets all of the other side.
const OF_ALL_PAIRS: usize = 1;
/// The same if each meets the rows with its key, which are few most of the time.
const BY_KEY: usize = 64;

/// Comes after DataFusion's own rules.
#[derive(Debug)]
pub(super) struct BoundedOperators;

impl PhysicalOptimizerRule for BoundedOperators {
    fn name(&self) -> &str {
        "bounded_operators"
    }

    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        bounded(&plan)
    }

    fn schema_check(&self) -> bool {
        true
    }
}

fn bounded(node: &Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    if let Some(side) = node.downcast_ref::<OptionalSideExec>() {
        // It was there for the optimizer.
        return bounded(side.input());
    }
    let pace = |first| Pace::new(first, node.properties().partitioning.partition_count());
    let (left, right, above) = match node {
        _ if node.is::<NestedLoopJoinExec>() || node.is::<CrossJoinExec>() => {
            let pace = pace(OF_ALL_PAIRS);
            (Some(Passing::Compact), Some(Passing::Paused(pace.clone())), Some(Passing::Timed(pace)))
        }
        _ if node.is::<HashJoinExec>() => {
            let pace = pace(BY_KEY);
            (None, Some(Passing::Paused(pace.clone())), Some(Passing::Timed(pace)))
        }
        _ if node.downcast_ref::<SortExec>().is_some_and(|sort| sort.fetch().is_none()) => {
            (Some(Passing::Compact), None, None)
        }
        _ if node.is::<SortPreservingMergeExec>() && node.fetch().is_none() => {
            (Some(Passing::Compact), None, None)
        }
        _ if node.is::<WindowAggExec>() => (Some(Passing::Held), None, None),
        _ => (None, None, None),
    };
    let passing = [left, right].into_iter().chain(std::iter::repeat(None));
    let children = node.children().into_iter().zip(passing);
    let children = children.map(|(child, passing)| Ok(passed(bounded(child)?, passing)));
    let children = children.collect::<Result<Vec<_>>>()?;
    let same = node.children().into_iter().zip(&children).all(|(old, new)| Arc::ptr_eq(old, new));
    // What passes has the properties it had: nothing may be computed anew, least of all dynamic filters that leaves hold.
    let keep = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Keep);
    let node = if same { node.clone() } else { node.clone().replace_children(children, keep)? };
    Ok(passed(node, above))
}

fn passed(node: Arc<dyn ExecutionPlan>, passing: Option<Passing>) -> Arc<dyn ExecutionPlan> {
    match passing {
        Some(passing) => Arc::new(PassingExec::new(node, passing)),
        None => node,
    }
}
