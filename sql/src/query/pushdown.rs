//! DataFusion's pushdown of filters, kept from columns that share a name.
//!
//! It finds a filter's columns in the input of a node by their names alone, and takes the first that has it. The rows of a
//! join have two of a name as soon as both tables have an `id`: a filter on one of them was applied to the other, and rows
//! were missing or too many. While filters are pushed down, a fence ([`Passing::Fenced`]) stands above every node whose columns share
//! names. It takes no filter; those that were not pushed down stay where they are, which costs time and no rows.

use std::collections::HashSet;
use std::sync::Arc;

use datafusion::common::Result;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_optimizer::filter_pushdown::FilterPushdown;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::execution_plan::{ChildrenPropertiesMode, ReplaceChildrenOptions};

use crate::plan::{Passing, PassingExec};

type Rule = Arc<dyn PhysicalOptimizerRule + Send + Sync>;

/// DataFusion's rules, of which those that push filters down are fenced.
pub(super) fn fenced(rules: Vec<Rule>) -> impl Iterator<Item = Rule> {
    let pushes = [FilterPushdown::new(), FilterPushdown::new_post_optimization()];
    rules.into_iter().map(move |rule| match pushes.iter().any(|push| push.name() == rule.name()) {
        true => Arc::new(FencedPushdown(rule)) as Rule,
        false => rule,
    })
}

#[derive(Debug)]
struct FencedPushdown(Rule);

impl PhysicalOptimizerRule for FencedPushdown {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        config: &ConfigOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let plan = plan.transform_up(|node| {
            Ok(match shares_names(&node) {
                true => Transformed::yes(Arc::new(PassingExec::new(node, Passing::Fenced)) as _),
                false => Transformed::no(node),
            })
        });
        without_fences(&self.0.optimize(plan.data()?, config)?)
    }

    fn schema_check(&self) -> bool {
        self.0.schema_check()
    }
}

fn shares_names(node: &Arc<dyn ExecutionPlan>) -> bool {
    let schema = node.schema();
    let mut names = HashSet::new();
    !schema.fields().iter().all(|field| names.insert(field.name()))
}

fn without_fences(node: &Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    if let Some(fenced) = node.downcast_ref::<PassingExec>().and_then(PassingExec::fenced) {
        return without_fences(fenced);
    }
    let children = node.children();
    let free = children.iter().map(|child| without_fences(child)).collect::<Result<Vec<_>>>()?;
    if children.iter().zip(&free).all(|(old, new)| Arc::ptr_eq(old, new)) {
        return Ok(node.clone());
    }
    // A fence has the properties of what is behind it. Computed anew, nodes would lose filters that leaves hold by now.
    node.clone().replace_children(free, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Keep))
}
