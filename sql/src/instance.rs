//! [`Instance`]: one running database with everything its sessions share.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use kalamdb_engine::{Clock, Config, Database, UserId};

use crate::auth::{Authenticator, Identity, Role};
use crate::error::Result;
use crate::jobs::{self, Jobs};
use crate::live::LiveQueryManager;
use crate::opaque::Opaque;
use crate::query::{QueryEngine, QueryOptions, SpillOptions};
use crate::running::Running;
use crate::session::Session;
use crate::users::{self, Directory};

/// The directory below the data directory that queries spill to.
const SPILL_DIR: &str = "tmp";

/// What an instance is opened with.
#[derive(Debug, Clone)]
pub struct Options {
    /// The engine's part: directory, disk, clock, randomness, log.
    pub engine: Config,
    /// Bytes that all running statements together may hold; beyond it they spill or fail.
    pub memory_limit: usize,
    /// Bytes that one statement may hold, if `memory_limit` is not less.
    pub statement_memory: usize,
    /// Bytes that statements may spill to disk, all together.
    pub spill_limit: u64,
    /// How long one statement may run, its results included.
    pub statement_timeout: Duration,
    /// Partitions a query is cut into; 0 for as many as there are cores.
    pub query_partitions: usize,
    /// Live queries.
    pub live: LiveOptions,
    /// Settings as `system.settings` shows them: name, value and where it was set. Never secrets.
    pub settings: Vec<Setting>,
}

/// One row of `system.settings`.
#[derive(Debug, Clone)]
pub struct Setting {
    /// Name.
    pub name: String,
    /// Value.
    pub value: String,
    /// Where it was set: `default`, a file, the environment, a flag.
    pub source: String,
}

/// How live queries are served.
#[derive(Debug, Clone)]
pub struct LiveOptions {
    /// Bytes of events that may wait for one connection before it reads the log by itself.
    pub queue_bytes: usize,
    /// How often a feed without events says that it is alive.
    pub heartbeat: Duration,
}

impl Default for LiveOptions {
    fn default() -> Self {
        Self { queue_bytes: 256 << 10, heartbeat: Duration::from_secs(15) }
    }
}

impl Options {
    /// The defaults for a data directory.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            engine: Config::new(dir),
            memory_limit: 1 << 30,
            statement_memory: 512 << 20,
            spill_limit: 16 << 30,
            statement_timeout: Duration::from_secs(60),
            query_partitions: 0,
            live: LiveOptions::default(),
            settings: Vec::new(),
        }
    }
}

/// One running database. Created once per process and shared.
#[derive(Debug)]
pub struct Instance {
    database: Arc<Database>,
    queries: Opaque<QueryEngine>,
    live: Opaque<LiveQueryManager>,
    users: Directory,
    authenticator: Authenticator,
    running: Running,
    jobs: Jobs,
    locations: tokio::sync::Mutex<()>,
    statement_timeout: Duration,
    settings: Vec<Setting>,
}

impl Instance {
    /// Opens the database, recovering what a crash left. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// What the engine says of the directory: in use, damaged (with file and offset), of a newer version.
    pub async fn open(options: Options) -> Result<Arc<Self>> {
        let (disk, dir) = (options.engine.disk.clone(), options.engine.dir.join(SPILL_DIR));
        let database = Database::open(options.engine).await?;
        // Only now is it certain that no other process spills there.
        let queries = QueryEngine::new(&QueryOptions {
            memory_limit: options.memory_limit,
            statement_memory: options.statement_memory,
            spill: SpillOptions { disk, dir, limit: options.spill_limit },
            partitions: options.query_partitions,
        })?;
        let users = Directory::load(&database).await?;
        jobs::fail_interrupted(&database, database.clock().now_micros()).await?;
        let live = LiveQueryManager::start(database.clone(), options.live);
        let instance = Arc::new(Self {
            database,
            queries: Opaque::new(queries),
            live: Opaque::new(live),
            users,
            authenticator: Authenticator::new(),
            running: Running::default(),
            jobs: Jobs::default(),
            locations: tokio::sync::Mutex::default(),
            statement_timeout: options.statement_timeout,
            settings: options.settings,
        });
        jobs::keep_for_a_while(&instance);
        jobs::note_compactions(&instance);
        Ok(instance)
    }

    /// Ends all feeds with `closed` and closes the engine. Statements that still run fail.
    ///
    /// # Errors
    /// What the log says, if it failed.
    pub async fn close(&self) -> Result<()> {
        self.live.shut_down();
        self.jobs.cancel_all(&self.database);
        Ok(self.database.close().await?)
    }

    /// Creates user `root` of role `system` if there is no user at all, with the password that `password` gives; it is
    /// not called otherwise. True if the user was created.
    ///
    /// # Errors
    /// What storing it says; a password that cannot be used.
    pub async fn ensure_root(&self, password: &(dyn Fn() -> String + Sync)) -> Result<bool> {
        if !self.users.is_empty() {
            return Ok(false);
        }
        users::create_first(self, password()).await
    }

    /// Checks a login by user id or username.
    ///
    /// # Errors
    /// [`crate::ErrorCode::Unauthenticated`], the same for every reason; [`crate::ErrorCode::RateLimited`] for a user
    /// whose logins failed ten times within a minute.
    pub async fn login(&self, login: &str, password: &str) -> Result<Identity> {
        let find = |login: &str| self.users.account(login);
        let accepted = self.authenticator.login(self.clock(), login, password, find).await?;
        if accepted.checked {
            users::note_login(self, &accepted.identity).await;
        }
        Ok(accepted.identity)
    }

    /// The identity of a verified token: its role, never above the stored one; a user that is not stored is a `user`.
    ///
    /// # Errors
    /// [`crate::ErrorCode::InvalidParameter`] for a user id or role that cannot be.
    pub async fn identify(&self, user_id: &str, claimed_role: Option<&str>) -> Result<Identity> {
        let stored = self.users.find(user_id).filter(|user| user.user_id.as_str() == user_id);
        let stored = stored.map_or(Role::User, |user| user.role);
        let claimed = claimed_role.map(str::parse::<Role>).transpose()?.unwrap_or(stored);
        Ok(Identity { user: UserId::new(user_id)?, role: claimed.min(stored) })
    }

    /// A session for one request.
    pub fn session(self: &Arc<Self>, identity: Identity) -> Session {
        Session::new(self.clone(), identity)
    }

    /// A random text of `bytes` random bytes, fit for URLs and headers.
    pub fn random_token(&self, bytes: usize) -> String {
        let mut random = vec![0; bytes];
        self.database.random_bytes(&mut random);
        URL_SAFE_NO_PAD.encode(random)
    }

    /// The time.
    pub fn clock(&self) -> &dyn Clock {
        self.database.clock()
    }

    /// The engine.
    pub fn database(&self) -> &Arc<Database> {
        &self.database
    }

    pub(crate) fn queries(&self) -> &QueryEngine {
        &self.queries
    }

    pub(crate) fn live(&self) -> &LiveQueryManager {
        &self.live
    }

    pub(crate) fn users(&self) -> &Directory {
        &self.users
    }

    pub(crate) fn running(&self) -> &Running {
        &self.running
    }

    /// Held by a statement that changes storage locations or makes a table that refers to one.
    pub(crate) fn locations(&self) -> &tokio::sync::Mutex<()> {
        &self.locations
    }

    pub(crate) fn jobs(&self) -> &Jobs {
        &self.jobs
    }

    pub(crate) fn statement_timeout(&self) -> Duration {
        self.statement_timeout
    }

    pub(crate) fn settings(&self) -> &[Setting] {
        &self.settings
    }
}
