//! What every handler can reach.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kalamdb_sql::{ErrorCode, Instance};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::error::{ApiError, ApiResult};
use super::metrics::Metrics;
use super::tokens::Tokens;
use crate::config::Config;
use crate::shutdown::Shutdown;

/// How long a request waits for its turn when the server is busy.
const PATIENCE: Duration = Duration::from_secs(5);

/// The state of one server.
pub(crate) struct App {
    /// The database.
    pub(crate) instance: Arc<Instance>,
    /// The settings.
    pub(crate) config: Config,
    /// Tokens made and revoked.
    pub(crate) tokens: Tokens,
    /// Counters.
    pub(crate) metrics: Metrics,
    /// The way down.
    pub(crate) shutdown: Shutdown,
    /// When the server started.
    pub(crate) started: Instant,
    /// The threads that run statements.
    pub(crate) queries: Handle,
    turns: Arc<Semaphore>,
}

/// The state as handlers take it.
pub(crate) type Shared = Arc<App>;

impl App {
    /// The state of a server over an open database.
    pub(crate) fn new(
        instance: Arc<Instance>,
        config: Config,
        tokens: Tokens,
        shutdown: Shutdown,
        queries: Handle,
    ) -> Shared {
        let turns = Arc::new(Semaphore::new(config.limits.statements));
        let metrics = Metrics::default();
        Arc::new(Self {
            instance,
            config,
            tokens,
            metrics,
            shutdown,
            started: Instant::now(),
            queries,
            turns,
        })
    }

    /// Waits for the right to run statements; given back when dropped.
    ///
    /// # Errors
    /// `OVERLOADED` if it does not come soon, `SHUTTING_DOWN` if it never will.
    pub(crate) async fn turn(&self) -> ApiResult<OwnedSemaphorePermit> {
        if let Ok(permit) = Arc::clone(&self.turns).try_acquire_owned() {
            return Ok(permit);
        }
        tokio::select! {
            permit = Arc::clone(&self.turns).acquire_owned() => permit.map_err(|_| ApiError::shutting_down()),
            () = tokio::time::sleep(PATIENCE) => {
                Err(ApiError::new(ErrorCode::Overloaded, "too many statements are running; try again"))
            }
            () = self.shutdown.on_expiry() => Err(ApiError::shutting_down()),
        }
    }

    /// Seconds since 1970 by the database's clock.
    pub(crate) fn now_seconds(&self) -> u64 {
        u64::try_from(self.instance.clock().now_micros() / 1_000_000).unwrap_or(0)
    }
}
