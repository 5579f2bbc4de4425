//! Removing the files of replaced segments once nobody reads them.

use std::path::Path;
use std::sync::Arc;

use kalamdb_wal::Disk;
use parking_lot::Mutex;

/// Removes files of one partition, until the partition's directory may be another's.
#[derive(Debug)]
pub struct Trash {
    disk: Arc<dyn Disk>,
    /// False once the directory is given up: a view can outlive its table, whose name and path can be taken anew.
    ours: Mutex<bool>,
}

impl Trash {
    /// For a partition on this disk.
    pub fn new(disk: Arc<dyn Disk>) -> Self {
        Self { disk, ours: Mutex::new(true) }
    }

    /// Removes a file that no manifest names. Best effort: what stays is an orphan, which the next load removes.
    pub(crate) fn remove(&self, path: &Path) {
        // Held over the removal: after `close` returned, nothing is removed.
        let ours = self.ours.lock();
        if *ours && let Err(error) = self.disk.remove_file(path) {
            tracing::warn!(file = %path.display(), %error, "cannot remove a replaced segment before a restart");
        }
    }

    /// Removes nothing from here on.
    pub(crate) fn close(&self) {
        *self.ours.lock() = false;
    }
}
