//! What the optimizer may know while it works on one statement.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use datafusion::common::alias::AliasGenerator;
use datafusion::common::config::ConfigOptions;
use datafusion::execution::{FunctionRegistry, SessionState};
use datafusion::optimizer::OptimizerConfig;

/// The engine's configuration and functions, and the statement's time.
///
/// DataFusion's own `OptimizerContext` has no functions, and rules that need one (that of `DISTINCT ON`) panic without.
pub(super) struct Optimizing<'a> {
    state: &'a SessionState,
    now: DateTime<Utc>,
    aliases: Arc<AliasGenerator>,
}

impl<'a> Optimizing<'a> {
    /// For a statement whose `NOW()` is `now`.
    pub(super) fn new(state: &'a SessionState, now: DateTime<Utc>) -> Self {
        Self { state, now, aliases: Arc::new(AliasGenerator::new()) }
    }
}

impl OptimizerConfig for Optimizing<'_> {
    fn query_execution_start_time(&self) -> Option<DateTime<Utc>> {
        Some(self.now)
    }

    fn alias_generator(&self) -> &Arc<AliasGenerator> {
        &self.aliases
    }

    fn options(&self) -> Arc<ConfigOptions> {
        self.state.config_options().clone()
    }

    fn function_registry(&self) -> Option<&dyn FunctionRegistry> {
        Some(self.state)
    }
}
