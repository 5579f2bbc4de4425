//! Reading only the rows that have some keys.
//!
//! A scan whose filters fix every key column, and a statement that looks rows up by key, read the rows that the key index
//! names and nothing else. The filters are checked again above the scan, so a key that is found is never more than a
//! hint; where the index cannot say, because somebody changed a row since the snapshot, all rows are read.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::ArrayRef;
use datafusion::logical_expr::{BinaryExpr, Expr, Operator};
use datafusion::scalar::ScalarValue;
use kalamdb_engine::{PartitionView, Table, UserId};

use crate::error::{Error, Result};
use crate::statement::StatementContext;

/// The most keys of one scan that are looked up; for more, reading everything is not slower.
const MAX_KEYS: usize = 1_000;

/// Which partitions a scan reads, and of each which rows: all, or those of some addresses.
#[derive(Debug, Default)]
pub(crate) struct Narrowed {
    partitions: BTreeMap<Option<UserId>, Option<Vec<u64>>>,
}

impl Narrowed {
    /// Adds a partition.
    pub(crate) fn add(&mut self, user: Option<UserId>, addresses: Option<Vec<u64>>) {
        let in_order = |mut addresses: Vec<u64>| {
            addresses.sort_unstable();
            addresses.dedup();
            addresses
        };
        self.partitions.insert(user, addresses.map(in_order));
    }

    /// True if no row at all is read.
    pub(crate) fn is_empty(&self) -> bool {
        self.partitions.values().all(|addresses| addresses.as_ref().is_some_and(Vec::is_empty))
    }

    /// The owners of the partitions.
    pub(super) fn owners(&self) -> Vec<Option<UserId>> {
        self.partitions.keys().cloned().collect()
    }

    /// The addresses of a partition's rows; `None` for all.
    pub(super) fn addresses(&self, user: Option<&UserId>) -> Option<&[u64]> {
        self.partitions.get(&user.cloned()).and_then(Option::as_deref)
    }
}

/// The addresses of the rows with some keys, `None` for keys that no row has; `None` as a whole if only a scan can tell.
///
/// # Errors
/// The engine's, if a segment is damaged.
pub(crate) async fn find_keys(
    ctx: &StatementContext,
    view: &Arc<PartitionView>,
    keys: Vec<ArrayRef>,
) -> Result<Option<Vec<Option<u64>>>> {
    // The key index does not know what a transaction has written so far.
    if ctx.transaction.is_some() {
        return Ok(None);
    }
    // To hand it over to another thread takes longer than the lookup.
    if view.finds_in_memory(&keys)? {
        return Ok(view.find(&keys)?);
    }
    let view = view.clone();
    let found = tokio::task::spawn_blocking(move || view.find(&keys)).await;
    Ok(found.map_err(Error::internal)??)
}

/// The keys that filters leave, as columns in the order of the key: of `a = 1 AND b = 2`, or of `a IN (1, 2)`. `None` if
/// they do not fix the key.
pub(super) fn fixed_by(table: &Table, filters: &[Expr]) -> Option<Vec<ArrayRef>> {
    let columns = table.schema.columns();
    let indices = table.schema.key_indices();
    let fixed = indices.iter().map(|at| {
        let (name, arrow) = (columns[*at].name.as_str(), columns[*at].data_type.arrow());
        let values = filters.iter().find_map(|filter| values(filter, name, indices.len() == 1))?;
        let exact = |value: &ScalarValue| {
            let same = value.data_type() == arrow || value.try_as_str().is_some() && arrow == TEXT;
            if !same || value.is_null() {
                return None;
            }
            value.cast_to(&arrow).ok()
        };
        let values: Vec<ScalarValue> = values.into_iter().map(exact).collect::<Option<_>>()?;
        ScalarValue::iter_to_array(values).ok()
    });
    fixed.collect()
}

const TEXT: arrow::datatypes::DataType = arrow::datatypes::DataType::Utf8View;

/// The values that a filter leaves for a column; lists only if `lists`.
fn values<'a>(filter: &'a Expr, column: &str, lists: bool) -> Option<Vec<&'a ScalarValue>> {
    let is_column = |expr: &Expr| matches!(expr, Expr::Column(found) if found.name == column);
    let literal = |expr: &'a Expr| match expr {
        Expr::Literal(value, _) => Some(value),
        _ => None,
    };
    match filter {
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq, right }) if is_column(left) => {
            literal(right).map(|value| vec![value])
        }
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq, right }) if is_column(right) => {
            literal(left).map(|value| vec![value])
        }
        Expr::InList(list)
            if lists
                && !list.negated
                && is_column(&list.expr)
                && (1..=MAX_KEYS).contains(&list.list.len()) =>
        {
            list.list.iter().map(literal).collect()
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use datafusion::prelude::{col, lit};

    use super::*;

    fn number(filter: &Expr, lists: bool) -> Option<usize> {
        values(filter, "a", lists).map(|values| values.len())
    }

    #[test]
    fn equality_and_lists_fix_a_column_and_nothing_else_does() {
        assert_eq!(number(&col("a").eq(lit(1)), false), Some(1));
        assert_eq!(number(&lit(1).eq(col("a")), false), Some(1));
        assert_eq!(number(&col("a").in_list(vec![lit(1), lit(2)], false), true), Some(2));
        assert_eq!(number(&col("a").in_list(vec![lit(1), lit(2)], false), false), None);
        assert_eq!(number(&col("a").in_list(vec![lit(1)], true), true), None);
        assert_eq!(number(&col("a").gt(lit(1)), true), None);
        assert_eq!(number(&col("b").eq(lit(1)), true), None);
        assert_eq!(number(&col("a").eq(col("b")), true), None);
        assert_eq!(number(&col("a").eq(lit(1)).or(col("a").eq(lit(2))), true), None);
    }
}
