//! Notes the commit the binary is built from, for `kalamdb version`.

use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=../.git/logs/HEAD");
    println!("cargo::rerun-if-env-changed=KALAMDB_COMMIT");
    let commit = std::env::var("KALAMDB_COMMIT").ok().or_else(commit_of_checkout);
    println!("cargo::rustc-env=KALAMDB_COMMIT={}", commit.as_deref().unwrap_or("unknown"));
}

fn commit_of_checkout() -> Option<String> {
    let output = Command::new("git").args(["rev-parse", "--short=12", "HEAD"]).output().ok()?;
    let commit = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| commit.trim().to_owned())
}
