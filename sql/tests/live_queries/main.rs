//! Live queries end to end through sessions, in one process.

mod connections;
mod exactness;
mod filters;
mod harness;
mod refusals;
mod resume;
