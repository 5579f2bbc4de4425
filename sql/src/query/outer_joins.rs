//! Puts an [`OptionalSideExec`] under each outer join where its rows may be missing.

use std::sync::Arc;

use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{JoinType, Result};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::execution_plan::{ChildrenPropertiesMode, ReplaceChildrenOptions};
use datafusion::physical_plan::joins::{HashJoinExec, NestedLoopJoinExec, SortMergeJoinExec};

use crate::plan::OptionalSideExec;

/// Comes before DataFusion's own rules. [`super::bounding`] takes out what it puts in.
#[derive(Debug)]
pub(super) struct OptionalSides;

impl PhysicalOptimizerRule for OptionalSides {
    fn name(&self) -> &str {
        "optional_sides"
    }

    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        plan.transform_up(|node| {
            let optional = match join_type(&node) {
                Some(JoinType::Left) => [false, true],
                Some(JoinType::Right) => [true, false],
                Some(JoinType::Full) => [true, true],
                _ => return Ok(Transformed::no(node)),
            };
            let sides = node.children().into_iter().zip(optional);
            let sides = sides.map(|(side, optional)| match optional {
                true => Arc::new(OptionalSideExec::new(side.clone())),
                false => side.clone(),
            });
            let sides = sides.collect();
            let anew = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
            Ok(Transformed::yes(node.replace_children(sides, anew)?))
        })
        .data()
    }

    fn schema_check(&self) -> bool {
        true
    }
}

fn join_type(node: &Arc<dyn ExecutionPlan>) -> Option<JoinType> {
    let hash = || node.downcast_ref::<HashJoinExec>().map(|join| *join.join_type());
    let loops = || node.downcast_ref::<NestedLoopJoinExec>().map(|join| *join.join_type());
    let merge = || node.downcast_ref::<SortMergeJoinExec>().map(|join| join.join_type());
    hash().or_else(loops).or_else(merge)
}
