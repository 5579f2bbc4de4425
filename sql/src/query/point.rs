//! [`Point`]: reading a row by its key, with a plan that is executable as it is but for its leaf.
//!
//! A kept plan whose condition is `key = value` for every column of the key, and nothing else, needs neither the planner
//! nor the condition: the key index names the row, and a [`KeyLookupExec`] is put under the projection that was made
//! once.

use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::ScalarValue;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::datasource::provider_as_source;
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{
    BinaryExpr, Expr, FetchType, LogicalPlan, Operator, SkipType, TableScan, TableType,
};
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::{ChildrenPropertiesMode, ExecutionPlan, ReplaceChildrenOptions};
use kalamdb_engine::TableKind;

use super::prepared::reference;
use super::{QueryEngine, RowShape, execute};
use crate::error::Result;
use crate::plan::{FoundRows, KeyLookupExec, LookupShape};
use crate::provider::{Reference, find_keys};
use crate::session::RowSet;
use crate::statement::StatementContext;

/// A query for the row that has a key.
#[derive(Debug)]
pub(super) struct Point {
    reference: Arc<Reference>,
    /// What each column of the key has to be, in the order of the key.
    key: Vec<KeyPart>,
    leaf: Arc<LookupShape>,
    /// Projections over a leaf that finds nothing.
    plan: Arc<dyn ExecutionPlan>,
    rows: RowShape,
}

#[derive(Debug, Clone, PartialEq)]
enum KeyPart {
    /// `$n`, from 0.
    Parameter(usize),
    Value(ScalarValue),
}

impl Point {
    /// What a kept plan is as a lookup; `None` if it is none.
    ///
    /// # Errors
    /// Planning errors.
    pub(super) async fn new(
        queries: &QueryEngine,
        plan: &LogicalPlan,
        never_null: &[bool],
    ) -> Result<Option<Self>> {
        let Some(parts) = Parts::of(plan) else { return Ok(None) };
        let reference = reference(parts.scan)?;
        if reference.all_users || reference.shows_deleted() {
            return Ok(None);
        }
        let Some(key) = key(&reference, parts.condition) else { return Ok(None) };
        if parts.has_open_values()? {
            return Ok(None);
        }
        let plan = queries.executable(&parts.unconditional(&reference)?).await?;
        let rows = RowShape::new(plan.schema(), never_null);
        let leaf = leaf_of(&plan).downcast_ref::<KeyLookupExec>().map(|leaf| leaf.shape().clone());
        Ok(leaf.map(|leaf| Self { reference, key, leaf, plan, rows }))
    }

    /// Reads the row; `None` if only a scan can tell which it is.
    ///
    /// # Errors
    /// The engine's, if the partition is damaged.
    pub(super) async fn run(
        &self,
        ctx: &Arc<StatementContext>,
        values: &[ScalarValue],
    ) -> Result<Option<RowSet>> {
        let Some(key) = self.key_columns(values) else { return Ok(None) };
        if ctx.transaction.is_some() {
            return Ok(None);
        }
        let table = &self.reference.table;
        let user = (table.kind == TableKind::User).then(|| ctx.identity.user.clone());
        let view = ctx.instance.database().view(&ctx.snapshot, table, user.as_ref()).await?;
        let view = Arc::new(view);
        let Some(found) = find_keys(ctx, &view, key).await? else { return Ok(None) };
        let addresses: Vec<u64> = found.into_iter().flatten().collect();
        let found: Vec<FoundRows> = match addresses.is_empty() {
            true => Vec::new(),
            false => vec![FoundRows { view, user, addresses }],
        };
        let leaf: Arc<dyn ExecutionPlan> =
            Arc::new(KeyLookupExec::new(self.leaf.clone(), found.into(), None));
        Ok(Some(self.rows.row_set(ctx, execute(ctx, with_leaf(&self.plan, leaf)?)?)))
    }

    fn key_columns(&self, values: &[ScalarValue]) -> Option<Vec<ArrayRef>> {
        let types = self.reference.table.schema.key_indices().iter();
        let types = types.map(|at| self.reference.table.schema.columns()[*at].data_type.arrow());
        let column = |(part, data_type): (&KeyPart, arrow::datatypes::DataType)| {
            let value = match part {
                KeyPart::Parameter(at) => values.get(*at)?,
                KeyPart::Value(value) => value,
            };
            let fits = !value.is_null() && value.data_type() == data_type;
            fits.then(|| value.to_array().ok())?
        };
        self.key.iter().zip(types).map(column).collect()
    }
}

/// What some projections stand over.
fn leaf_of(plan: &Arc<dyn ExecutionPlan>) -> &Arc<dyn ExecutionPlan> {
    match plan.downcast_ref::<ProjectionExec>() {
        Some(projection) => leaf_of(projection.input()),
        None => plan,
    }
}

/// The same projections over another leaf.
fn with_leaf(
    plan: &Arc<dyn ExecutionPlan>,
    leaf: Arc<dyn ExecutionPlan>,
) -> datafusion::common::Result<Arc<dyn ExecutionPlan>> {
    let Some(projection) = plan.downcast_ref::<ProjectionExec>() else { return Ok(leaf) };
    // All leaves of one shape share their properties.
    let same = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Keep);
    plan.clone().replace_children(vec![with_leaf(projection.input(), leaf)?], same)
}

/// A plan of the form of a lookup.
struct Parts<'a> {
    /// The whole, but for a limit.
    plan: &'a LogicalPlan,
    /// The expressions of all projections.
    projection: Vec<&'a Expr>,
    condition: &'a Expr,
    scan: &'a TableScan,
}

impl<'a> Parts<'a> {
    fn of(mut plan: &'a LogicalPlan) -> Option<Self> {
        if let LogicalPlan::Limit(limit) = plan {
            // A key has one row at most.
            let some = matches!(limit.get_fetch_type(), Ok(FetchType::Literal(fetch)) if fetch != Some(0));
            let from_the_first = matches!(limit.get_skip_type(), Ok(SkipType::Literal(0)));
            if !some || !from_the_first {
                return None;
            }
            plan = &limit.input;
        }
        let (mut projection, mut below) = (Vec::new(), named(plan));
        while let LogicalPlan::Projection(next) = below {
            projection.extend(&next.expr);
            below = named(&next.input);
        }
        let LogicalPlan::Filter(filter) = below else { return None };
        match named(&filter.input) {
            LogicalPlan::TableScan(scan) if scan.fetch != Some(0) => {
                Some(Self { plan, projection, condition: &filter.predicate, scan })
            }
            _ => None,
        }
    }

    /// True if the projection cannot be computed from the row alone.
    fn has_open_values(&self) -> Result<bool> {
        let open = |expr: &Expr| {
            Ok(matches!(
                expr,
                Expr::Placeholder(_)
                    | Expr::ScalarSubquery(_)
                    | Expr::Exists(_)
                    | Expr::InSubquery(_)
                    | Expr::SetComparison(_)
            ))
        };
        for expr in &self.projection {
            if expr.exists(open)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The same without its condition, over a table that reads nothing.
    fn unconditional(&self, reference: &Arc<Reference>) -> Result<LogicalPlan> {
        let bare = self.plan.clone().transform_down(|node| match node {
            LogicalPlan::Filter(filter) => Ok(Transformed::yes(Arc::unwrap_or_clone(filter.input))),
            other => Ok(Transformed::no(other)),
        })?;
        let bare = bare.data.transform_down(|node| match node {
            LogicalPlan::TableScan(scan) => {
                let source = provider_as_source(Arc::new(Template(reference.clone())));
                let scan = TableScan { source, filters: Vec::new(), fetch: None, ..scan };
                Ok(Transformed::yes(LogicalPlan::TableScan(scan)))
            }
            other => Ok(Transformed::no(other)),
        })?;
        Ok(bare.data)
    }
}

/// A table of which no row is found: what is planned over it is planned for any row.
#[derive(Debug)]
struct Template(Arc<Reference>);

#[async_trait]
impl TableProvider for Template {
    fn schema(&self) -> SchemaRef {
        self.0.shape.schema.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        _: &dyn Session,
        projection: Option<&Vec<usize>>,
        _: &[Expr],
        _: Option<usize>,
    ) -> datafusion::common::Result<Arc<dyn ExecutionPlan>> {
        let shape = &self.0.shape;
        let (columns, schema) = match projection {
            None => (shape.columns.clone(), shape.schema.clone()),
            Some(projection) => {
                let columns = projection.iter().map(|at| shape.columns[*at]).collect();
                (columns, Arc::new(shape.schema.project(projection)?))
            }
        };
        let shape = LookupShape::new(self.0.table.qualified_name().into(), columns.into(), schema);
        Ok(Arc::new(KeyLookupExec::new(Arc::new(shape), Vec::new().into(), None)))
    }
}

/// What an alias names: with one table, columns are known by their names alone.
fn named(plan: &LogicalPlan) -> &LogicalPlan {
    match plan {
        LogicalPlan::SubqueryAlias(alias) => named(&alias.input),
        other => other,
    }
}

/// What a condition wants of each column of the key; `None` if it says anything else.
fn key(reference: &Reference, condition: &Expr) -> Option<Vec<KeyPart>> {
    let schema = &reference.table.schema;
    let conditions = split_conjunction(condition);
    if conditions.len() != schema.key_indices().len() {
        return None;
    }
    let parts = schema.key_indices().iter().map(|at| {
        let name = &schema.columns()[*at].name;
        conditions.iter().find_map(|condition| equal_to(condition, name))
    });
    parts.collect()
}

fn equal_to(condition: &Expr, column: &str) -> Option<KeyPart> {
    let Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq, right }) = condition else { return None };
    let is_column = |expr: &Expr| matches!(expr, Expr::Column(found) if found.name == column);
    let value = match (is_column(left), is_column(right)) {
        (true, false) => right,
        (false, true) => left,
        _ => return None,
    };
    match value.as_ref() {
        Expr::Literal(value, _) => Some(KeyPart::Value(value.clone())),
        Expr::Placeholder(placeholder) => {
            let number = placeholder.id.strip_prefix('$')?.parse::<usize>().ok()?;
            Some(KeyPart::Parameter(number.checked_sub(1)?))
        }
        _ => None,
    }
}
