//! The outermost layer: what a person or a program outside the process meets.
//!
//! - [`config`]: settings from a file, the environment and flags, each with its source;
//! - `http`: the HTTP and SSE interface over [`kalamdb_sql::Session`], and nothing below it;
//! - `serve`: starting, listening and stopping;
//! - `cli`: the command line, and the client commands that talk to a server over HTTP like anybody else.

#![cfg_attr(not(test), warn(clippy::unwrap_used))]

pub mod config;
pub mod units;

mod again;
mod bootstrap;
mod cli;
mod http;
mod listener;
mod logging;
mod os;
mod peer;
mod private_file;
mod serve;
mod shutdown;
mod stores;

use std::ffi::OsString;
use std::process::ExitCode;

/// Runs the command that the arguments name (the first is the program) and returns the process's exit code.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    cli::run(args)
}
