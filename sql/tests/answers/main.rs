//! Proof that answers are right, wherever the rows are: sqllogictest files, TPC-H, random statements beside an oracle, and
//! every type with its edges.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

#[path = "../rows/harness.rs"]
#[allow(dead_code, reason = "other tests use the rest of it")]
mod harness;
mod states;

mod files;
mod random;
mod types;
