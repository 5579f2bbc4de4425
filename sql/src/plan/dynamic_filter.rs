//! Filters that become narrower while a statement runs: the bounds of a TopK, the keys of a hash join.
//!
//! Whoever made such a filter takes what passes and what does not as it comes, so a leaf that leaves rows out by it only
//! saves work. It must do so after hidden rows are gone and before anybody counts rows for a limit.
//!
//! DataFusion writes such a filter in terms of expressions that are given when it is made (what TopK sorts by, the keys of
//! a join), and puts a scan's columns in their place wherever they occur. Where one of them contains another, as in
//! `ORDER BY a + b, a`, it exchanges part of the outer one first and no longer knows it: what is left reads whatever
//! columns have these places in the scan. A leaf must not take such a filter ([`takes`]).

use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::{filter_record_batch, prep_null_mask_filter};
use datafusion::common::Result;
use datafusion::common::tree_node::TreeNode;
use datafusion::physical_expr::expressions::DynamicFilterPhysicalExpr;
use datafusion::physical_expr::{DynamicFilterTracking, PhysicalExpr, conjunction};
use datafusion::physical_plan::metrics::Count;

/// Rows after which a filter has shown what it is worth.
const TRIAL: usize = 32_768;
/// A filter that leaves out fewer than one row in so many costs more than it saves.
const WORTH: usize = 20;

/// True if a filter can change while a statement runs.
pub(super) fn is_dynamic(filter: &Arc<dyn PhysicalExpr>) -> bool {
    DynamicFilterTracking::classify(filter).contains_dynamic_filter()
}

/// True if a leaf may evaluate a filter; see the module for when it may not.
pub(super) fn takes(filter: &Arc<dyn PhysicalExpr>) -> bool {
    let mixed_up = |expr: &Arc<dyn PhysicalExpr>| {
        Ok(expr.downcast_ref::<DynamicFilterPhysicalExpr>().is_some_and(|filter| {
            let operands = filter.children();
            operands.iter().any(|outer| operands.iter().any(|inner| contains(outer, inner)))
        }))
    };
    !filter.exists(mixed_up).unwrap_or(true)
}

/// True if an expression is part of another, and not all of it.
fn contains(outer: &Arc<dyn PhysicalExpr>, inner: &Arc<dyn PhysicalExpr>) -> bool {
    outer.children().into_iter().any(|child| child == inner || contains(child, inner))
}

/// Leaves rows out by a filter that changes, as long as that is worth it.
pub(super) struct DynamicFilter {
    predicate: Arc<dyn PhysicalExpr>,
    tracking: DynamicFilterTracking,
    seen: usize,
    kept: usize,
    pruned: Count,
}

impl DynamicFilter {
    /// Applies all of `filters`; counts what they leave out.
    pub(super) fn new(filters: impl Iterator<Item = Arc<dyn PhysicalExpr>>, pruned: Count) -> Self {
        let predicate = conjunction(filters);
        let tracking = DynamicFilterTracking::classify(&predicate);
        Self { predicate, tracking, seen: 0, kept: 0, pruned }
    }

    /// The rows of a batch that pass.
    ///
    /// # Errors
    /// Those of evaluating the filter.
    pub(super) fn apply(&mut self, batch: RecordBatch) -> Result<RecordBatch> {
        if self.tracking.watcher().is_some_and(|watcher| watcher.changed()) {
            (self.seen, self.kept) = (0, 0);
        }
        if self.seen >= TRIAL && (self.seen - self.kept) * WORTH < self.seen {
            return Ok(batch);
        }
        let passing = self.predicate.evaluate(&batch)?.into_array(batch.num_rows())?;
        // What is unknown does not pass.
        let passing = match passing.as_boolean() {
            passing if passing.null_count() > 0 => prep_null_mask_filter(passing),
            passing => passing.clone(),
        };
        let kept = passing.true_count();
        self.seen += batch.num_rows();
        self.kept += kept;
        self.pruned.add(batch.num_rows() - kept);
        match kept == batch.num_rows() {
            true => Ok(batch),
            false => Ok(filter_record_batch(&batch, &passing)?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{ArrayRef, Int64Array};
    use datafusion::logical_expr::Operator;
    use datafusion::physical_expr::expressions::{BinaryExpr, Column, lit};

    fn batch(rows: i64) -> RecordBatch {
        let numbers = (0..rows).map(|n| (n % 10 != 9).then_some(n));
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter(numbers));
        RecordBatch::try_from_iter_with_nullable([("n", numbers, true)]).unwrap()
    }

    fn changing() -> (Arc<DynamicFilterPhysicalExpr>, DynamicFilter, Count) {
        let column: Arc<dyn PhysicalExpr> = Arc::new(Column::new("n", 0));
        let changing = Arc::new(DynamicFilterPhysicalExpr::new(vec![column], lit(true)));
        let pruned = Count::new();
        let filter: Arc<dyn PhysicalExpr> = changing.clone();
        assert!(is_dynamic(&filter) && !is_dynamic(&lit(true)));
        (changing, DynamicFilter::new([filter].into_iter(), pruned.clone()), pruned)
    }

    fn below(bound: i64) -> Arc<dyn PhysicalExpr> {
        Arc::new(BinaryExpr::new(Arc::new(Column::new("n", 0)), Operator::Lt, lit(bound)))
    }

    #[test]
    fn rows_are_left_out_by_what_the_filter_is_at_the_moment() {
        let (changing, mut filter, pruned) = changing();
        assert_eq!(filter.apply(batch(100)).unwrap().num_rows(), 100);
        changing.update(below(50)).unwrap();
        // Five of the fifty are NULL, and so is what is said of them.
        assert_eq!(filter.apply(batch(100)).unwrap().num_rows(), 45);
        changing.update(below(0)).unwrap();
        assert_eq!(filter.apply(batch(100)).unwrap().num_rows(), 0);
        assert_eq!(pruned.value(), 155);
    }

    #[test]
    fn a_filter_that_leaves_nothing_out_is_not_asked_until_it_changes() {
        let (changing, mut filter, pruned) = changing();
        filter.apply(batch(TRIAL as i64)).unwrap();
        assert_eq!((filter.seen, filter.kept), (TRIAL, TRIAL));
        filter.apply(batch(100)).unwrap();
        assert_eq!(filter.seen, TRIAL, "it was not asked");
        changing.update(below(0)).unwrap();
        assert_eq!(filter.apply(batch(100)).unwrap().num_rows(), 0);
        assert_eq!(pruned.value(), 100);
    }

    #[test]
    fn a_filter_of_expressions_that_contain_one_another_is_not_taken() {
        let column = |name, at| -> Arc<dyn PhysicalExpr> { Arc::new(Column::new(name, at)) };
        let sum: Arc<dyn PhysicalExpr> =
            Arc::new(BinaryExpr::new(column("n", 0), Operator::Plus, column("m", 1)));
        let taken = |children| {
            let changing: Arc<dyn PhysicalExpr> =
                Arc::new(DynamicFilterPhysicalExpr::new(children, lit(true)));
            assert_eq!(takes(&changing), takes(&conjunction([below(5), changing.clone()])));
            takes(&changing)
        };
        assert!(taken(vec![column("n", 0), column("m", 1), column("n", 0)]));
        assert!(taken(vec![sum.clone(), sum.clone(), column("o", 2)]));
        assert!(!taken(vec![sum.clone(), column("m", 1)]));
        assert!(!taken(vec![column("n", 0), sum]));
        assert!(takes(&below(5)));
    }
}
