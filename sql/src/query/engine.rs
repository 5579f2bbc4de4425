//! [`QueryEngine`]: what all statements of an instance share for planning and running.

use std::collections::HashMap;
use std::sync::Arc;

use chrono::DateTime;
use datafusion::common::DataFusionError;
use datafusion::config::ConfigOptions;
use datafusion::execution::disk_manager::DiskManagerBuilder;
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::execution::{FunctionRegistry, SessionState, SessionStateBuilder, TaskContext};
use datafusion::logical_expr::planner::TypePlanner;
use datafusion::logical_expr::{AggregateUDF, LogicalPlan};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_optimizer::optimizer::PhysicalOptimizer;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::prelude::SessionConfig;

use super::bounding::BoundedOperators;
use super::cache::PlanCache;
use super::memory::{AllMemory, SpillFiles, SpillOptions};
use super::not_in::ExactNotIn;
use super::optimizing::Optimizing;
use super::outer_joins::OptionalSides;
use super::pushdown::fenced;
use super::types::EngineTypes;
use crate::dialect::Texts;
use crate::dml::Turns;
use crate::error::{Error, ErrorCode, Result};
use crate::functions::{
    CheckedAvg, CheckedOperators, CheckedTexts, ExactSum, FittingConstants, JsonOperators, RightSubqueries,
    bound_functions, json_udfs,
};
use crate::provider::ShapeCache;

/// Rows of a batch, as DataFusion has it by default.
const BATCH_ROWS: usize = 8192;
/// The memory of a statement with which it has batches of that size.
const FOR_WHOLE_BATCHES: usize = 256 << 20;
/// What a sort has apart for merging, if a statement's memory allows for it.
const MERGE_BYTES: usize = 10 << 20;
/// Rows of so many bytes are sorted in one piece and not batch by batch, as DataFusion does by default.
const SORTED_IN_ONE_PIECE: usize = 1 << 20;

/// How queries are run.
#[derive(Debug, Clone)]
pub(crate) struct QueryOptions {
    /// Bytes that all running statements together may hold.
    pub(crate) memory_limit: usize,
    /// Bytes that one statement may hold.
    pub(crate) statement_memory: usize,
    /// Where statements spill to.
    pub(crate) spill: SpillOptions,
    /// Partitions a plan is cut into; 0 for as many as there are cores.
    pub(crate) partitions: usize,
}

/// Functions, rules, configuration and memory of an instance's queries.
pub(crate) struct QueryEngine {
    state: SessionState,
    memory: Arc<AllMemory>,
    runtime: Arc<RuntimeEnv>,
    types: Arc<EngineTypes>,
    shapes: ShapeCache,
    texts: Texts,
    plans: PlanCache,
    turns: Turns,
}

impl std::fmt::Debug for QueryEngine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("QueryEngine").finish_non_exhaustive()
    }
}

impl QueryEngine {
    /// Builds it; done once per instance.
    ///
    /// # Errors
    /// If the spill directory cannot be emptied or made.
    pub(crate) fn new(options: &QueryOptions) -> Result<Self> {
        let QueryOptions { spill, memory_limit, statement_memory, .. } = options;
        let files = SpillFiles::new(spill.clone())
            .map_err(|e| Error::internal(format!("empty {}: {e}", spill.dir.display())))?;
        let memory = Arc::new(AllMemory::new(*memory_limit, *statement_memory));
        let runtime = RuntimeEnvBuilder::new()
            .with_memory_pool(memory.statement())
            .with_disk_manager_builder(DiskManagerBuilder::default().with_temp_file_factory(Arc::new(files)))
            .build_arc()?;
        let types = Arc::new(EngineTypes);
        let mut rules: Vec<Arc<dyn PhysicalOptimizerRule + Send + Sync>> = vec![Arc::new(OptionalSides)];
        rules.extend(fenced(PhysicalOptimizer::new().rules));
        rules.push(Arc::new(BoundedOperators));
        let mut state = SessionStateBuilder::new()
            .with_session_id("kalamdb".into())
            .with_config(config(options, memory.each()))
            .with_runtime_env(runtime.clone())
            // Before DataFusion's own, which take every subscript for a field of a structure.
            .with_expr_planners(vec![Arc::new(JsonOperators)])
            .with_default_features()
            .with_type_planner(types.clone())
            .with_analyzer_rule(Arc::new(ExactNotIn))
            .with_physical_optimizer_rules(rules)
            .build();
        state.register_function_rewrite(Arc::new(FittingConstants))?;
        state.register_function_rewrite(Arc::new(CheckedOperators))?;
        state.register_function_rewrite(Arc::new(CheckedTexts))?;
        state.register_function_rewrite(Arc::new(RightSubqueries))?;
        state.register_udaf(Arc::new(AggregateUDF::from(ExactSum::default())))?;
        state.register_udaf(Arc::new(AggregateUDF::from(CheckedAvg::default())))?;
        bound_functions(&mut state)?;
        for function in json_udfs() {
            state.register_udf(function)?;
        }
        Ok(Self {
            state,
            memory,
            runtime,
            types,
            shapes: ShapeCache::default(),
            texts: Texts::default(),
            plans: PlanCache::default(),
            turns: Turns::default(),
        })
    }

    /// Functions, rules and configuration.
    pub(crate) fn state(&self) -> &SessionState {
        &self.state
    }

    /// What the plans of one statement run with: its memory among other things. Plans hold the functions they need.
    pub(crate) fn statement(&self) -> Arc<TaskContext> {
        let runtime = RuntimeEnv { memory_pool: self.memory.statement(), ..RuntimeEnv::clone(&self.runtime) };
        let config = self.state.config().clone();
        let (scalar, higher, aggregate, window) =
            (HashMap::new(), HashMap::new(), HashMap::new(), HashMap::new());
        let session = self.state.session_id().to_owned();
        Arc::new(TaskContext::new(
            None,
            session,
            config,
            scalar,
            higher,
            aggregate,
            window,
            Arc::new(runtime),
        ))
    }

    /// The configuration.
    pub(crate) fn config(&self) -> &Arc<ConfigOptions> {
        self.state().config_options()
    }

    /// The types of casts.
    pub(crate) fn types(&self) -> Arc<dyn TypePlanner> {
        self.types.clone()
    }

    /// The schemas that tables show.
    pub(crate) fn shapes(&self) -> &ShapeCache {
        &self.shapes
    }

    /// The statements of texts that came more than once.
    pub(crate) fn texts(&self) -> &Texts {
        &self.texts
    }

    /// The plans of statements that came more than once.
    pub(crate) fn plans(&self) -> &PlanCache {
        &self.plans
    }

    /// Who may write next to crowded tables.
    pub(crate) fn turns(&self) -> &Turns {
        &self.turns
    }

    /// Checks a plan and coerces its types.
    ///
    /// # Errors
    /// Planning errors.
    pub(crate) fn analyse(&self, plan: LogicalPlan) -> Result<LogicalPlan> {
        Ok(self.state().analyzer().execute_and_check(plan, self.config(), |_, _| {})?)
    }

    /// Analyses, optimises and makes a plan executable. `NOW()` is `now_micros`.
    ///
    /// # Errors
    /// Planning errors.
    pub(crate) async fn physical_plan(
        &self,
        plan: LogicalPlan,
        now_micros: i64,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let now = DateTime::from_timestamp_micros(now_micros).unwrap_or_default();
        if let LogicalPlan::Explain(_) = plan {
            // EXPLAIN keeps the output of every rule, which only the state's own driver does.
            let mut state = self.state().clone();
            state.execution_props_mut().query_execution_start_time = Some(now);
            return Ok(state.create_physical_plan(&plan).await?);
        }
        let plan = self.analyse(plan)?;
        self.executable(&self.optimise(plan, now_micros)?).await
    }

    /// Optimises an analysed plan. `NOW()` is `now_micros`.
    ///
    /// # Errors
    /// Planning errors.
    pub(super) fn optimise(&self, plan: LogicalPlan, now_micros: i64) -> Result<LogicalPlan> {
        let now = DateTime::from_timestamp_micros(now_micros).unwrap_or_default();
        let optimised =
            self.state().optimizer().optimize(plan, &Optimizing::new(self.state(), now), |_, _| {});
        // Names were resolved before: what a rule misses now is not the statement's fault.
        optimised.map_err(|error| match error.find_root() {
            DataFusionError::SchemaError(..) => Error::new(
                ErrorCode::Unsupported,
                "a subquery of this statement cannot be joined to what is around it",
            )
            .with_hint("write it as a join"),
            _ => error.into(),
        })
    }

    /// Makes an optimised plan executable.
    ///
    /// # Errors
    /// Planning errors.
    pub(super) async fn executable(&self, plan: &LogicalPlan) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self.state().query_planner().create_physical_plan(plan, self.state()).await?)
    }
}

fn config(options: &QueryOptions, memory: usize) -> SessionConfig {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let partitions = if options.partitions == 0 { cores } else { options.partitions };
    // Operators that spill need a few batches in memory at least, and sorts some more in every partition for merging.
    let rows = (BATCH_ROWS * memory.min(FOR_WHOLE_BATCHES) / FOR_WHOLE_BATCHES).max(128);
    let mut config = SessionConfig::new()
        .with_target_partitions(partitions)
        .with_batch_size(rows)
        .with_sort_spill_reservation_bytes(MERGE_BYTES.min(memory / (8 * partitions)))
        // What is sorted in one piece is counted once for each batch that is made of it.
        .with_sort_in_place_threshold_bytes(SORTED_IN_ONE_PIECE.min(memory / 512))
        .with_information_schema(false);
    let options = config.options_mut();
    options.execution.time_zone = Some("UTC".into());
    options.execution.parquet.pushdown_filters = true;
    options.execution.parquet.reorder_filters = true;
    options.execution.parquet.enable_page_index = true;
    options.execution.parquet.bloom_filter_on_read = true;
    // DataFusion finds out more about what cannot be NULL for the logical plan than for the physical one, and would refuse.
    options.execution.skip_physical_aggregate_schema_check = true;
    options.sql_parser.collect_spans = true;
    options.explain.logical_plan_only = false;
    config
}
