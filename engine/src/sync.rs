//! The concurrency primitives that the order of commits, the snapshots and the marks are written with.
//!
//! The model checker (`tests/model_check.rs`) compiles the same sources against its own version of this module.

pub(crate) use std::sync::atomic::{AtomicU64, Ordering};

pub(crate) use parking_lot::{Mutex, MutexGuard, RwLock};
pub(crate) use tokio::sync::oneshot;
