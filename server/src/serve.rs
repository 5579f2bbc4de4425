//! The life of a server: bind, open, serve, drain, close.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use hyper_util::server::graceful::GracefulShutdown;
use kalamdb_sql::{Instance, Options, Setting};
use tokio::runtime::{Handle, Runtime};

use crate::config::{Config, Loaded, Shown};
use crate::http::{self, App, Shared};
use crate::logging::announce;
use crate::shutdown::{self, Shutdown};
use crate::{bootstrap, listener, logging, os, stores};

/// Time for closing the database after the last statement.
const CLOSING: Duration = Duration::from_secs(30);

/// Runs a server until it is told to stop.
pub(crate) fn run(loaded: Loaded) -> ExitCode {
    if let Err(message) = logging::install(&loaded.config) {
        eprintln!("kalamdb: {message}");
        return ExitCode::FAILURE;
    }
    os::forgo_huge_pages();
    let (runtime, queries) =
        match (runtime("kalamdb-http", None), runtime("kalamdb-query", Some(query_threads()))) {
            (Ok(runtime), Ok(queries)) => (runtime, queries),
            (Err(error), _) | (_, Err(error)) => {
                eprintln!("kalamdb: cannot start threads: {error}");
                return ExitCode::FAILURE;
            }
        };
    let outcome = runtime.block_on(serve(loaded, queries.handle().clone()));
    // Whatever still keeps a thread busy (a statement that was cut short) must not keep the process.
    queries.shutdown_background();
    runtime.shutdown_timeout(Duration::from_millis(500));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("kalamdb: {message}");
            ExitCode::FAILURE
        }
    }
}

fn runtime(name: &str, threads: Option<usize>) -> std::io::Result<Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if let Some(threads) = threads {
        builder.worker_threads(threads);
    }
    builder.thread_name(name).enable_all().build()
}

/// More threads than cores: a query that keeps its threads busy for long leaves others to be scheduled by the system.
fn query_threads() -> usize {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    (cores * 4).clamp(8, 128)
}

async fn serve(loaded: Loaded, queries: Handle) -> Result<(), String> {
    let options = options(&loaded);
    let config = loaded.config;
    let format = config.log_format;
    // The address is taken first: a mistake there should not cost the time of opening.
    let (listener, address) = listener::bind(&config.listen).await?;
    let data = config.data.clone();
    let instance = Instance::open(options).await.map_err(|error| error.to_string())?;
    let chosen = std::env::var(bootstrap::PASSWORD_VARIABLE).ok().filter(|password| !password.is_empty());
    bootstrap::root(&instance, &data, chosen, format).await?;
    let tokens = bootstrap::tokens(&instance, &config)?;
    let grace = config.shutdown_grace.0;
    raise_descriptor_limit(config.limits.connections);
    let app = App::new(instance, config, tokens, Shutdown::new(), queries);
    announce(
        format,
        &format!("kalamdb {} listens on http://{address}, data in {}", version(), data.display()),
    );
    tokio::spawn(stop_when_signalled(app.shutdown.clone()));
    let open = listener::serve(listener, app.clone(), http::router(app.clone())).await;
    drain(&app, open, grace).await;
    close(&app).await?;
    announce(format, "kalamdb has stopped");
    Ok(())
}

/// A connection is a descriptor, and what the system grants at first is often not many.
fn raise_descriptor_limit(connections: usize) {
    match os::raise_descriptor_limit() {
        Some(limit) if limit < connections as u64 => tracing::warn!(
            limit,
            connections,
            "the system allows fewer open files than limits.connections: raise it (ulimit -n, LimitNOFILE)"
        ),
        _ => {}
    }
}

fn version() -> &'static str {
    env!("CARGO_PKG_VERSION")
}

fn options(loaded: &Loaded) -> Options {
    let config: &Config = &loaded.config;
    let mut options = Options::new(&config.data);
    options.memory_limit = config.limits.memory.bytes();
    options.statement_memory = config.limits.statement_memory.bytes();
    options.spill_limit = config.limits.spill.0;
    options.statement_timeout = config.limits.statement_timeout.0;
    options.live.heartbeat = config.live.heartbeat.0;
    options.live.queue_bytes = config.live.queue.bytes();
    config.storage.apply(&mut options.engine);
    options.engine.stores = stores::configured(&config.credentials);
    options.engine.retain.age = config.live.retention.0;
    options.engine.retain.bytes = config.live.retention_bytes.0;
    let setting = |Shown { name, value, source }| Setting { name, value, source };
    options.settings = loaded.settings().into_iter().map(setting).collect();
    options
}

async fn stop_when_signalled(shutdown: Shutdown) {
    match shutdown::signalled().await {
        Ok(signal) => tracing::info!(signal, "stopping"),
        Err(error) => {
            tracing::error!(%error, "signals cannot be received; the server can only be killed");
            return;
        }
    }
    shutdown.begin();
    // Who signals twice does not want to wait.
    if shutdown::signalled().await.is_ok() {
        tracing::warn!("stopping at once");
        shutdown.expire();
    }
}

/// Lets statements finish, then cuts the rest short; in either case within the grace time.
async fn drain(app: &Shared, open: GracefulShutdown, grace: Duration) {
    let started = Instant::now();
    let (statements, answers) = shutdown::split_grace(grace);
    let drained = open.shutdown();
    tokio::pin!(drained);
    tokio::select! {
        () = &mut drained => return,
        () = tokio::time::sleep(statements) => app.shutdown.expire(),
        () = app.shutdown.on_expiry() => {}
    }
    if tokio::time::timeout(answers, drained).await.is_err() {
        tracing::warn!(after = ?started.elapsed(), "connections were cut off");
    }
}

async fn close(app: &Shared) -> Result<(), String> {
    match tokio::time::timeout(CLOSING, app.instance.close()).await {
        Ok(closed) => closed.map_err(|error| format!("closing failed: {error}")),
        Err(_) => Err("closing took too long; nothing is lost, the next start recovers".into()),
    }
}
