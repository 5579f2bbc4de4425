//! Segment files that are allocated ahead of their use.

use std::path::PathBuf;
use std::sync::Arc;

use super::disk::DiskFile;

/// An allocated file with no records in it; what it holds is zeros, or an old segment that no salt will match.
#[derive(Debug, Clone)]
pub(crate) struct Spare {
    pub(crate) path: PathBuf,
    pub(crate) file: Arc<dyn DiskFile>,
    /// Its length in bytes.
    pub(crate) capacity: u64,
}
