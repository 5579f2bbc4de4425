//! [`Binder`]: resolves the names in one statement for DataFusion's SQL planner, with the session's rights.

use std::sync::Arc;

use arrow::datatypes::{DataType, SchemaRef};
use datafusion::catalog::{TableFunctionArgs, TableProvider};
use datafusion::common::TableReference;
use datafusion::common::config::ConfigOptions;
use datafusion::common::{DFSchema, DataFusionError, Result as DataFusionResult, plan_datafusion_err};
use datafusion::datasource::cte_worktable::CteWorkTable;
use datafusion::datasource::{ViewTable, provider_as_source};
use datafusion::logical_expr::planner::{ContextProvider, ExprPlanner, RelationPlanner, TypePlanner};
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::{
    AggregateUDF, Expr, HigherOrderUDF, LogicalPlanBuilder, ScalarUDF, TableSource, WindowUDF,
};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::prelude::{col, lit};
use kalamdb_engine::{Table, TableId, TableKind};

use super::access::{Readable, check_read};
use super::scan::Scans;
use super::shape::{Extension, Shape};
use super::stream::StreamTable;
use super::table::EngineTable;
use crate::dialect::TableRef;
use crate::error::{Error, ErrorCode, Result};
use crate::query::QueryEngine;
use crate::statement::StatementContext;
use crate::{functions, names, system, views};

/// Which hidden columns a statement names anywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Naming {
    /// `_seq`, `_updated` or `_deleted`.
    pub(crate) system: bool,
    /// `_user`.
    pub(crate) user: bool,
    /// `_row_address`, which only our rewrites of UPDATE and DELETE use.
    pub(crate) address: bool,
}

impl Naming {
    /// True if a table shows more than its declared columns.
    pub(crate) fn extends(self) -> bool {
        self.system || self.user || self.address
    }

    /// The columns a table shows.
    pub(crate) fn extension(self) -> Extension {
        Extension { system: self.extends(), user: self.user, address: self.address }
    }
}

/// Resolves the names of one statement.
pub(crate) struct Binder<'a> {
    ctx: &'a Arc<StatementContext>,
    engine: &'a QueryEngine,
    naming: Naming,
    scans: Arc<Scans>,
    stand_in: Option<(Arc<Table>, Arc<dyn TableProvider>)>,
    named: &'a [(String, Arc<dyn TableProvider>)],
    inside_views: &'a [TableId],
}

impl<'a> Binder<'a> {
    /// A binder for a statement that names the hidden columns of `naming`.
    pub(crate) fn new(
        ctx: &'a Arc<StatementContext>,
        engine: &'a QueryEngine,
        naming: Naming,
        scans: Arc<Scans>,
    ) -> Self {
        Self { ctx, engine, naming, scans, stand_in: None, named: &[], inside_views: &[] }
    }

    /// Gives names to rows that are no table's.
    pub(crate) fn named(&mut self, named: &'a [(String, Arc<dyn TableProvider>)]) {
        self.named = named;
    }

    /// Says which views led to the statement, which is the text of the last of them.
    pub(crate) fn inside_views(&mut self, views: &'a [TableId]) {
        self.inside_views = views;
    }

    /// Lets a name stand for other rows than the table's: those a statement with RETURNING has just written.
    pub(crate) fn stand_in(&mut self, table: &Arc<Table>, rows: Arc<dyn TableProvider>) {
        self.stand_in = Some((table.clone(), rows));
    }

    /// The columns that a table shows to this statement.
    pub(crate) fn shape(&self, table: &Table) -> Arc<Shape> {
        self.engine.shapes().shape(table, self.naming.extension())
    }

    /// The engine's table that a name means; `None` if it means another kind of table, or nothing.
    pub(crate) fn engine_table(&self, name: &TableReference) -> Option<&Arc<Table>> {
        let namespace = name.schema().unwrap_or(&self.ctx.namespace);
        match system::computed(namespace, name.table()) {
            Some(_) => None,
            None => self.ctx.catalog.table(namespace, name.table()),
        }
    }

    fn source(&self, name: &TableReference) -> Result<Arc<dyn TableSource>> {
        if name.catalog().is_some() {
            return Err(Error::new(ErrorCode::TableNotFound, format!("table {name} does not exist"))
                .with_hint("a table's name has at most two parts: namespace.table"));
        }
        if name.schema().is_none()
            && let Some((_, rows)) = self.named.iter().find(|(known, _)| known == name.table())
        {
            return Ok(provider_as_source(rows.clone()));
        }
        let namespace = name.schema().unwrap_or(&self.ctx.namespace);
        if let Some((table, rows)) = &self.stand_in
            && table.namespace.as_str() == namespace
            && table.name.as_str() == name.table()
        {
            return Ok(provider_as_source(rows.clone()));
        }
        if let Some(table) = system::computed_table(self.ctx, namespace, name.table())? {
            return Ok(provider_as_source(table));
        }
        if let Some(view) = self.ctx.catalog.view(namespace, name.table()) {
            let table = views::table(self.ctx, &self.scans, view, self.inside_views)?;
            return Ok(provider_as_source(table));
        }
        let (schema, table) = (name.schema().map(str::to_owned), name.table().to_owned());
        let written = TableRef { namespace: schema, name: table, position: None };
        self.table(name, &names::engine_table(self.ctx, &written)?)
    }

    fn table(&self, name: &TableReference, table: &Arc<Table>) -> Result<Arc<dyn TableSource>> {
        let readable = check_read(self.ctx, table)?;
        if table.kind == TableKind::Stream {
            let stream = StreamTable::new(self.ctx.clone(), table.clone(), self.shape(table));
            return Ok(provider_as_source(Arc::new(stream)));
        }
        let own_rows = readable == Readable::OwnRows;
        let shape = if own_rows {
            self.engine.shapes().shape(table, Extension::default())
        } else {
            self.shape(table)
        };
        let (ctx, scans) = (self.ctx.clone(), self.scans.clone());
        let provider = Arc::new(EngineTable::new(ctx, scans, table.clone(), shape, self.naming.user));
        let source = provider_as_source(provider);
        if !own_rows {
            return Ok(source);
        }
        let own = col("user_id").eq(lit(self.ctx.identity.user.as_str()));
        let plan = LogicalPlanBuilder::scan(name.clone(), source, None)?.filter(own)?.build()?;
        Ok(provider_as_source(Arc::new(ViewTable::new(plan, None))))
    }
}

impl ContextProvider for Binder<'_> {
    fn get_table_source(&self, name: TableReference) -> DataFusionResult<Arc<dyn TableSource>> {
        self.source(&name).map_err(Error::into_datafusion)
    }

    fn get_table_function_source(
        &self,
        name: &str,
        args: Vec<Expr>,
    ) -> DataFusionResult<Arc<dyn TableSource>> {
        let state = self.engine.state();
        let function = state.table_functions().get(name);
        let function =
            function.ok_or_else(|| plan_datafusion_err!("table function {name} does not exist"))?;
        let context = SimplifyContext::builder().with_config_options(state.config_options().clone()).build();
        let simplifier = ExprSimplifier::new(context);
        let schema = DFSchema::empty();
        let args = args
            .into_iter()
            .map(|arg| simplifier.coerce(arg, &schema).and_then(|arg| simplifier.simplify(arg)));
        let args = args.collect::<Result<Vec<_>, DataFusionError>>()?;
        Ok(provider_as_source(
            function.create_table_provider_with_args(TableFunctionArgs::new(&args, state))?,
        ))
    }

    fn create_cte_work_table(&self, name: &str, schema: SchemaRef) -> DataFusionResult<Arc<dyn TableSource>> {
        Ok(provider_as_source(Arc::new(CteWorkTable::new(name, schema))))
    }

    fn get_expr_planners(&self) -> &[Arc<dyn ExprPlanner>] {
        self.engine.state().expr_planners()
    }

    fn get_relation_planners(&self) -> &[Arc<dyn RelationPlanner>] {
        self.engine.state().relation_planners()
    }

    fn get_type_planner(&self) -> Option<Arc<dyn TypePlanner>> {
        Some(self.engine.types())
    }

    fn get_function_meta(&self, name: &str) -> Option<Arc<ScalarUDF>> {
        functions::lookup(self.ctx, name)
            .or_else(|| self.engine.state().scalar_functions().get(name).cloned())
    }

    fn get_higher_order_meta(&self, name: &str) -> Option<Arc<HigherOrderUDF>> {
        self.engine.state().higher_order_functions().get(name).cloned()
    }

    fn get_aggregate_meta(&self, name: &str) -> Option<Arc<AggregateUDF>> {
        self.engine.state().aggregate_functions().get(name).cloned()
    }

    fn get_window_meta(&self, name: &str) -> Option<Arc<WindowUDF>> {
        self.engine.state().window_functions().get(name).cloned()
    }

    fn get_variable_type(&self, _: &[String]) -> Option<DataType> {
        None
    }

    fn options(&self) -> &ConfigOptions {
        self.engine.state().config_options()
    }

    fn udf_names(&self) -> Vec<String> {
        self.engine.state().scalar_functions().keys().cloned().collect()
    }

    fn higher_order_function_names(&self) -> Vec<String> {
        self.engine.state().higher_order_functions().keys().cloned().collect()
    }

    fn udaf_names(&self) -> Vec<String> {
        self.engine.state().aggregate_functions().keys().cloned().collect()
    }

    fn udwf_names(&self) -> Vec<String> {
        self.engine.state().window_functions().keys().cloned().collect()
    }
}
