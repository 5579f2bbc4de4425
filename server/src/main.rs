//! The `kalamdb` binary; everything is in the library so that tests and tools can reach it.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    kalamdb_server::run(std::env::args_os())
}
