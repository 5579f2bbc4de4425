//! From a planned SELECT to a [`Program`].
//!
//! The plan comes from the same planner and the same analysis as every other query (name resolution, rights, type
//! coercion), so that a condition means the same live as it does in a SELECT. What is taken from it are the filter and the
//! projection; they become physical expressions over the few columns they name.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{Field, FieldRef, Schema, SchemaRef};
use chrono::{DateTime, Utc};
use datafusion::common::tree_node::TreeNode;
use datafusion::common::{Column, DFSchema, DFSchemaRef};
use datafusion::config::ConfigOptions;
use datafusion::execution::context::ExecutionProps;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::{Expr, LogicalPlan, Volatility};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::physical_expr::{PhysicalExpr, create_physical_expr};
use kalamdb_engine::{DELETED, SEQ, TS, TableSchema, UPDATED, UserId};

use crate::error::{Error, ErrorCode, Result};
use crate::json::{RowEncoder, RowFormat};
use crate::live::program::{Input, Program, ProgramKey};

/// The virtual column with which privileged statements see all partitions of a USER table.
const USER: &str = "_user";

/// What is compiled for whom.
#[derive(Debug)]
pub(crate) struct Subject<'a> {
    /// The table's schema.
    pub(crate) schema: &'a Arc<TableSchema>,
    /// Whose session it is.
    pub(crate) user: &'a UserId,
    /// What `NOW()` is: the time the feed began.
    pub(crate) now: DateTime<Utc>,
    /// The configuration of queries.
    pub(crate) config: &'a Arc<ConfigOptions>,
    /// What queries' expressions are made with.
    pub(crate) properties: &'a ExecutionProps,
}

/// Compiles an analysed plan, which must be a projection and a filter over one table.
///
/// # Errors
/// [`ErrorCode::Unsupported`] for plans of another shape, random functions and `_user`.
pub(crate) fn compile(plan: &LogicalPlan, subject: &Subject<'_>) -> Result<Program> {
    let parts = Parts::of(plan)?;
    let written: Vec<&Expr> = parts.projection.iter().chain(parts.filter.as_ref()).collect();
    if written.iter().any(|e| e.is_volatile()) {
        return Err(unsupported("functions that give something else at every call"));
    }
    let sees_deleted = written.iter().any(|e| names(e, DELETED));
    if written.iter().any(|e| names(e, USER)) {
        return Err(
            unsupported(USER).with_hint("a live query on a USER table sees the session's own partition")
        );
    }
    let context = SimplifyContext::builder()
        .with_schema(parts.input.clone())
        .with_config_options(subject.config.clone())
        .with_query_execution_start_time(Some(subject.now))
        .build();
    let simplifier = ExprSimplifier::new(context);
    let simplify = |expr: Expr| simplifier.simplify(expr).map_err(Error::from);
    let projection = parts.projection.into_iter().map(simplify).collect::<Result<Vec<_>>>()?;
    let filter = parts.filter.map(simplify).transpose()?;
    let inputs = Inputs::of(projection.iter().chain(&filter), &parts.input, subject.schema)?;
    // What depends on the session but could not be reduced to a constant must not be shared between users.
    let personal = projection.iter().chain(&filter).any(is_stable);
    let output = parts.output.inner().clone();
    Ok(Program {
        projected: nullable(output.fields().iter()),
        encoder: RowEncoder::new(&output, RowFormat::Objects),
        output,
        filter: filter.as_ref().map(|e| inputs.physical(e, subject)).transpose()?,
        projection: projection.iter().map(|e| inputs.physical(e, subject)).collect::<Result<_>>()?,
        inputs: inputs.inputs,
        input: inputs.nullable,
        schema: subject.schema.clone(),
        sees_deleted,
        key: Arc::new(ProgramKey {
            schema_version: subject.schema.version(),
            output: parts.output.field_names(),
            projection,
            filter,
            user: personal.then(|| subject.user.clone()),
        }),
    })
}

fn unsupported(what: &str) -> Error {
    Error::new(ErrorCode::Unsupported, format!("a live query cannot have {what}"))
}

fn names(expr: &Expr, column: &str) -> bool {
    expr.column_refs().iter().any(|c| c.name == column)
}

fn is_stable(expr: &Expr) -> bool {
    let stable = |e: &Expr| matches!(e, Expr::ScalarFunction(f) if f.func.signature().volatility != Volatility::Immutable);
    expr.exists(|e| Ok(stable(e))).unwrap_or(true)
}

/// The same fields, all nullable: rows of older schema versions may lack columns.
fn nullable<'a>(fields: impl Iterator<Item = &'a FieldRef>) -> SchemaRef {
    Arc::new(Schema::new(fields.map(|f| f.as_ref().clone().with_nullable(true)).collect::<Vec<_>>()))
}

/// What a live query's plan consists of.
struct Parts {
    projection: Vec<Expr>,
    filter: Option<Expr>,
    /// What both refer to.
    input: DFSchemaRef,
    output: DFSchemaRef,
}

impl Parts {
    fn of(plan: &LogicalPlan) -> Result<Self> {
        let output = plan.schema().clone();
        let (projection, mut rest) = match plan {
            LogicalPlan::Projection(p) => (p.expr.clone(), p.input.as_ref()),
            other => (other.schema().columns().into_iter().map(Expr::Column).collect(), other),
        };
        let input = rest.schema().clone();
        let mut filter: Option<Expr> = None;
        let mut and = |expr: Expr| filter = Some(filter.take().map_or(expr.clone(), |f| f.and(expr)));
        loop {
            rest = match rest {
                LogicalPlan::Filter(f) => {
                    and(f.predicate.clone());
                    f.input.as_ref()
                }
                LogicalPlan::SubqueryAlias(alias) => alias.input.as_ref(),
                LogicalPlan::TableScan(scan) if scan.filters.is_empty() && scan.fetch.is_none() => break,
                LogicalPlan::Aggregate(_) => return Err(unsupported("aggregates")),
                LogicalPlan::Window(_) => return Err(unsupported("window functions")),
                LogicalPlan::Join(_) => return Err(unsupported("joins")),
                _ => return Err(unsupported("anything but a filter and a projection over one table")),
            };
        }
        Ok(Self { projection, filter, input, output })
    }
}

/// The columns that expressions name, as the schema they are compiled against.
struct Inputs {
    inputs: Vec<Input>,
    schema: DFSchema,
    nullable: SchemaRef,
}

impl Inputs {
    fn of<'a>(
        expressions: impl Iterator<Item = &'a Expr>,
        whole: &DFSchemaRef,
        table: &TableSchema,
    ) -> Result<Self> {
        let mut used: Vec<usize> = Vec::new();
        for expression in expressions {
            for column in expression.column_refs() {
                used.push(whole.index_of_column(column)?);
            }
        }
        used.sort_unstable();
        used.dedup();
        let fields: Vec<_> = used
            .iter()
            .map(|&i| {
                let (qualifier, field) = whole.qualified_field(i);
                (qualifier.cloned(), field.clone())
            })
            .collect();
        let inputs = fields.iter().map(|(_, field)| input(field, table)).collect::<Result<_>>()?;
        let nullable = nullable(fields.iter().map(|(_, field)| field));
        let schema = DFSchema::new_with_metadata(fields, HashMap::new())?;
        Ok(Self { inputs, schema, nullable })
    }

    fn physical(&self, expr: &Expr, subject: &Subject<'_>) -> Result<Arc<dyn PhysicalExpr>> {
        Ok(create_physical_expr(expr, &self.schema, subject.properties, &Default::default())?)
    }
}

fn input(field: &Field, table: &TableSchema) -> Result<Input> {
    match field.name().as_str() {
        SEQ => Ok(Input::Seq),
        // A STREAM table has the time of an insert under another name.
        UPDATED | TS => Ok(Input::Updated),
        DELETED => Ok(Input::Deleted),
        name => {
            let index =
                table.index_of(name).ok_or_else(|| unsupported(&Column::from_name(name).flat_name()))?;
            Ok(Input::Column { id: table.columns()[index].id, index })
        }
    }
}
