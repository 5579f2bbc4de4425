//! The command line.

mod check;
mod client;
mod error;
mod feed;
mod import;
mod live;
mod packed;
mod shell;
mod sql;
mod table;
mod version;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::config::{self, Flags, LogFormat};
use crate::serve;

/// A realtime SQL database in one binary.
///
/// Without a command, the server is started.
#[derive(Parser)]
#[command(name = "kalamdb", version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: ServeArgs,
}

#[derive(Subcommand)]
enum Command {
    /// Run the server.
    Serve(ServeArgs),
    /// Run SQL on a server: one-shot with -c, -f or standard input, otherwise a shell.
    Sql(sql::SqlArgs),
    /// Stream a file of rows into a table of a server.
    Import(import::ImportArgs),
    /// Verify the files of a data directory while no server uses it.
    Check(check::OfflineArgs),
    /// Rebuild what can be rebuilt in a data directory while no server uses it.
    Repair(check::OfflineArgs),
    /// Show the version, the commit and the file formats.
    Version,
}

/// How to run the server. Every setting can also come from a file or the environment: see docs/operations.md.
#[derive(Args, Default)]
struct ServeArgs {
    /// Directory that holds everything [default: ./data]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Address to listen on; port 0 takes a free one [default: 127.0.0.1:8080]
    #[arg(long, value_name = "HOST:PORT")]
    listen: Option<String>,
    /// TOML file with settings
    #[arg(long, value_name = "FILE", env = "KALAMDB_CONFIG")]
    config: Option<PathBuf>,
    /// How logs are written [default: pretty]
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<LogFormat>,
    /// What is logged: error, warn, info, debug, trace, or a filter [default: info]
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
    /// Any other setting, for example --set live.heartbeat=5s; repeat it for several
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = setting)]
    set: Vec<(String, String)>,
    /// Show every setting with its value and source, and stop
    #[arg(long)]
    print_config: bool,
}

fn setting(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE")?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

/// Runs the command that the arguments name.
pub(crate) fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = Cli::parse_from(args);
    match cli.command {
        None => serve(cli.serve),
        Some(Command::Serve(args)) => serve(args),
        Some(Command::Sql(args)) => error::shown(sql::run(args)),
        Some(Command::Import(args)) => error::shown(import::run(args)),
        Some(Command::Check(args)) => check::check(&args),
        Some(Command::Repair(args)) => check::repair(&args),
        Some(Command::Version) => error::shown(version::run()),
    }
}

fn serve(args: ServeArgs) -> ExitCode {
    let print_config = args.print_config;
    match config::load(&flags(args), std::env::vars_os()) {
        Err(error) => {
            eprintln!("kalamdb: {error}");
            ExitCode::FAILURE
        }
        Ok(loaded) if print_config => error::shown(error::print(&loaded.show())),
        Ok(loaded) => serve::run(loaded),
    }
}

fn flags(args: ServeArgs) -> Flags {
    let mut settings = Vec::new();
    let mut add = |name: &str, value: Option<String>, flag: &str| {
        settings.extend(value.map(|value| (name.to_owned(), value, flag.to_owned())));
    };
    add("data", args.data.map(|path| path.to_string_lossy().into_owned()), "--data");
    add("listen", args.listen, "--listen");
    let format = args.log_format.map(|format| match format {
        LogFormat::Pretty => "pretty",
        LogFormat::Json => "json",
    });
    add("log_format", format.map(Into::into), "--log-format");
    add("log_level", args.log_level, "--log-level");
    for (name, value) in args.set {
        add(&name, Some(value), "--set");
    }
    Flags { file: args.config, settings }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn no_command_means_serve_and_flags_work_either_way() {
        let parse = |args: &[&str]| Cli::try_parse_from(args).unwrap();
        assert!(parse(&["kalamdb"]).command.is_none());
        let bare = flags(parse(&["kalamdb", "--listen", "h:1", "--set", "live.heartbeat = 1s"]).serve);
        let Some(Command::Serve(args)) =
            parse(&["kalamdb", "serve", "--listen", "h:1", "--set", "live.heartbeat=1s"]).command
        else {
            panic!("not serve");
        };
        let expected = [("listen", "h:1", "--listen"), ("live.heartbeat", "1s", "--set")];
        let expected = expected.map(|(a, b, c)| (a.to_owned(), b.to_owned(), c.to_owned()));
        assert_eq!(bare.settings, expected);
        assert_eq!(flags(args).settings, expected);
        assert!(Cli::try_parse_from(["kalamdb", "--set", "nonsense"]).is_err());
    }
}
