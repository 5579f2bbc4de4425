//! The binary under test: the one beside the running test, built first if it is missing or older than its sources.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::SystemTime;

/// Path of the `kalamdb` binary of the profile that the running test was built with, or of the one that the environment
/// variable `KALAMDB_BINARY` names.
///
/// # Panics
/// If it cannot be built.
pub fn kalamdb() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        if let Some(path) = std::env::var_os("KALAMDB_BINARY") {
            return path.into();
        }
        let directory = profile_directory();
        let path = directory.join(format!("kalamdb{}", std::env::consts::EXE_SUFFIX));
        if !is_fresh(&path, &directory.join("kalamdb.d")) {
            build(&directory);
        }
        path
    })
}

/// `target/debug`, where a test `target/debug/deps/walk-0123` runs.
fn profile_directory() -> PathBuf {
    let test = std::env::current_exe().expect("a running program has a path");
    test.ancestors().nth(2).expect("tests run in a directory of the target directory").to_owned()
}

/// True if the binary is newer than every source file that Cargo says it was built from.
fn is_fresh(binary: &Path, sources: &Path) -> bool {
    let built = |path: &Path| path.metadata().and_then(|meta| meta.modified()).ok();
    let (Some(binary), Ok(sources)) = (built(binary), std::fs::read_to_string(sources)) else { return false };
    let older = |source: PathBuf| built(&source).is_some_and(|changed: SystemTime| changed <= binary);
    dependencies(&sources).all(older)
}

/// The right side of a makefile rule; a space within a name is escaped.
fn dependencies(rule: &str) -> impl Iterator<Item = PathBuf> + '_ {
    const SPACE: &str = "\u{0}";
    let names = rule.split_once(": ").map_or("", |(_, names)| names).replace("\\ ", SPACE);
    let names: Vec<PathBuf> = names.split_whitespace().map(|name| name.replace(SPACE, " ").into()).collect();
    names.into_iter()
}

/// Builds as `cargo test --workspace` does: another selection of packages would have other features, and Cargo would
/// compile half of the tree a second time. The test named here is the one for which Cargo builds the binary.
fn build(directory: &Path) {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let mut command = Command::new(cargo);
    command.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    command.args(["test", "--workspace", "--no-run", "--test", "binary"]);
    // What Cargo tells the running test about its package would make build scripts of dependencies run again.
    let about_this_test = |name: &OsString| {
        let name = name.to_string_lossy();
        name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")
    };
    std::env::vars_os().map(|(name, _)| name).filter(about_this_test).for_each(|name| {
        command.env_remove(name);
    });
    match directory.file_name().and_then(|name| name.to_str()) {
        None | Some("debug") => {}
        Some(profile) => drop(command.args(["--profile", profile])),
    }
    let built = command.status().expect("cargo runs");
    assert!(built.success(), "the kalamdb binary cannot be built");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_with_spaces_in_their_names_are_found() {
        let rule = "/t/debug/kalamdb: /w/my\\ code/main.rs /w/lib.rs\n";
        assert_eq!(
            dependencies(rule).collect::<Vec<_>>(),
            [Path::new("/w/my code/main.rs"), Path::new("/w/lib.rs")]
        );
    }
}
