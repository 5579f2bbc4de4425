//! Live queries end to end through sessions, in one process.

mod altered;
mod connections;
mod exactness;
mod filters;
mod guarantees;
mod harness;
mod refusals;
mod resume;
mod snapshots;
mod streams;
