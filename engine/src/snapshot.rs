//! Open snapshots: which commits some reader may still be looking back to.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::ids::Seq;
use crate::sync::Mutex;

/// The open snapshots of a database.
#[derive(Debug, Default)]
pub struct Registry {
    open: Mutex<BTreeMap<Seq, usize>>,
}

impl Registry {
    /// Opens a snapshot at what `now` says, as one step against [`Registry::horizon`].
    pub fn open(self: &Arc<Self>, now: impl FnOnce() -> Seq) -> Snapshot {
        let mut open = self.open.lock();
        let seq = now();
        *open.entry(seq).or_default() += 1;
        Snapshot { seq, registry: self.clone() }
    }

    /// Opens a snapshot at the [horizon](Registry::horizon), or at `limit` if that is older: while it lives, no mark
    /// after it is folded away.
    pub fn pin(self: &Arc<Self>, limit: Seq, visible: impl FnOnce() -> Seq) -> Snapshot {
        let mut open = self.open.lock();
        let seq = open.keys().next().map_or(limit, |oldest| limit.min(*oldest)).min(visible());
        *open.entry(seq).or_default() += 1;
        Snapshot { seq, registry: self.clone() }
    }

    /// The newest commit that every open snapshot, and every one opened from now on, sees.
    pub fn horizon(&self, visible: impl FnOnce() -> Seq) -> Seq {
        let open = self.open.lock();
        let visible = visible();
        open.keys().next().map_or(visible, |oldest| visible.min(*oldest))
    }
}

/// A point in the order of commits. While it lives, the versions visible at it are kept.
#[derive(Debug)]
pub struct Snapshot {
    seq: Seq,
    registry: Arc<Registry>,
}

impl Snapshot {
    /// The last commit it sees.
    pub fn seq(&self) -> Seq {
        self.seq
    }
}

impl Clone for Snapshot {
    fn clone(&self) -> Self {
        self.registry.open(|| self.seq)
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        let mut open = self.registry.open.lock();
        if let Some(count) = open.get_mut(&self.seq) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.seq);
            }
        }
    }
}
