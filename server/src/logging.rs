//! Structured logs on standard error, and the few lines that are meant for the person who started the server.

use tracing_subscriber::EnvFilter;

use crate::config::{Config, LogFormat};

/// Installs the subscriber of the process.
///
/// # Errors
/// A message that names the setting, if `log_level` cannot be read.
pub(crate) fn install(config: &Config) -> Result<(), String> {
    let filter = EnvFilter::try_new(&config.log_level).map_err(|error| format!("log_level: {error}"))?;
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let installed = match config.log_format {
        LogFormat::Json => subscriber.json().flatten_event(true).with_ansi(false).try_init(),
        LogFormat::Pretty => subscriber.with_ansi(console::colors_enabled_stderr()).try_init(),
    };
    std::panic::set_hook(Box::new(log_panic));
    // A second server in one process (tests) keeps the first one's subscriber.
    installed.or(Ok(()))
}

/// A panic is one event in the log like any other, not lines of its own form.
fn log_panic(panic: &std::panic::PanicHookInfo<'_>) {
    let reason = panic.payload_as_str().unwrap_or("a panic without a message");
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    let backtrace = std::backtrace::Backtrace::capture();
    if backtrace.status() == std::backtrace::BacktraceStatus::Captured {
        tracing::error!(reason, place, %backtrace, "panic");
    } else {
        tracing::error!(reason, place, "panic");
    }
}

/// Tells the person who started the server something, whatever the log level is.
pub(crate) fn announce(format: LogFormat, message: &str) {
    match format {
        LogFormat::Pretty => eprintln!("{message}"),
        LogFormat::Json => eprintln!("{}", serde_json::json!({"level": "INFO", "message": message})),
    }
}
