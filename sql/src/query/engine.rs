//! [`QueryEngine`]: what all statements of an instance share for planning and running.

use std::path::PathBuf;
use std::sync::Arc;

use chrono::DateTime;
use datafusion::config::ConfigOptions;
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::{FairSpillPool, TrackConsumersPool};
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::execution::{FunctionRegistry, SessionState, SessionStateBuilder, TaskContext};
use datafusion::logical_expr::planner::TypePlanner;
use datafusion::logical_expr::{AggregateUDF, LogicalPlan};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::prelude::SessionConfig;

use super::cache::PlanCache;
use super::not_in::ExactNotIn;
use super::optimizing::Optimizing;
use super::types::EngineTypes;
use super::yielding::YieldingJoins;
use crate::dialect::Texts;
use crate::dml::Turns;
use crate::error::{Error, Result};
use crate::functions::{CheckedAvg, CheckedOperators, CheckedTexts, ExactSum, RightSubqueries};
use crate::provider::ShapeCache;

/// The consumers of memory that an error about it names.
const NAMED_CONSUMERS: usize = 5;

/// How queries are run.
#[derive(Debug, Clone)]
pub(crate) struct QueryOptions {
    /// Bytes that all running queries together may hold.
    pub(crate) memory_limit: usize,
    /// Where queries spill to.
    pub(crate) spill_dir: PathBuf,
    /// Partitions a plan is cut into; 0 for as many as there are cores.
    pub(crate) partitions: usize,
}

/// Functions, rules, configuration and memory of an instance's queries.
pub(crate) struct QueryEngine {
    state: SessionState,
    task: Arc<TaskContext>,
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
    /// If the spill directory cannot be used.
    pub(crate) fn new(options: &QueryOptions) -> Result<Self> {
        std::fs::create_dir_all(&options.spill_dir)
            .map_err(|e| Error::internal(format!("create {}: {e}", options.spill_dir.display())))?;
        let pool = FairSpillPool::new(options.memory_limit);
        let named = std::num::NonZeroUsize::new(NAMED_CONSUMERS).unwrap_or(std::num::NonZeroUsize::MIN);
        let disk = DiskManagerBuilder::default()
            .with_mode(DiskManagerMode::Directories(vec![options.spill_dir.clone()]));
        let runtime = RuntimeEnvBuilder::new()
            .with_memory_pool(Arc::new(TrackConsumersPool::new(pool, named)))
            .with_disk_manager_builder(disk)
            .build_arc()?;
        let types = Arc::new(EngineTypes);
        let mut state = SessionStateBuilder::new()
            .with_session_id("kalamdb".into())
            .with_config(config(options))
            .with_runtime_env(runtime)
            .with_default_features()
            .with_type_planner(types.clone())
            .with_analyzer_rule(Arc::new(ExactNotIn))
            .with_physical_optimizer_rule(Arc::new(YieldingJoins))
            .build();
        state.register_function_rewrite(Arc::new(CheckedOperators))?;
        state.register_function_rewrite(Arc::new(CheckedTexts))?;
        state.register_function_rewrite(Arc::new(RightSubqueries))?;
        state.register_udaf(Arc::new(AggregateUDF::from(ExactSum::default())))?;
        state.register_udaf(Arc::new(AggregateUDF::from(CheckedAvg::default())))?;
        let task = state.task_ctx();
        Ok(Self {
            state,
            task,
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

    /// What plans run with.
    pub(crate) fn task(&self) -> Arc<TaskContext> {
        self.task.clone()
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
        Ok(self.state().optimizer().optimize(plan, &Optimizing::new(self.state(), now), |_, _| {})?)
    }

    /// Makes an optimised plan executable.
    ///
    /// # Errors
    /// Planning errors.
    pub(super) async fn executable(&self, plan: &LogicalPlan) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self.state().query_planner().create_physical_plan(plan, self.state()).await?)
    }
}

fn config(options: &QueryOptions) -> SessionConfig {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let partitions = if options.partitions == 0 { cores } else { options.partitions };
    let mut config = SessionConfig::new().with_target_partitions(partitions).with_information_schema(false);
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
