//! Letting go of what nobody needs: the low-water mark, and the segments before it.
//!
//! Crash safety: the mark is durable before a segment is touched, and segments go one at a time, oldest first, each
//! with the directory synced before the next. So what is left is always a gapless run of records.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use crate::Lsn;
use crate::durable;
use crate::error::{Error, IoContext};
use crate::mark::Mark;
use crate::segment::Segment;
use crate::shared::Shared;
use crate::spare::Spare;

impl Shared {
    /// Moves the low-water mark forward to `lsn` and lets go of what that frees.
    pub(crate) fn truncate_before(&self, lsn: Lsn) -> Result<(), Error> {
        let limit = self.progress.durable() + 1;
        if lsn > limit {
            return Err(Error::OutOfRange { lsn, limit });
        }
        let mut mark = self.mark.lock();
        if lsn > mark.low_water {
            let next = Mark { low_water: lsn, durable: self.synced_to(lsn - 1)?, ..*mark };
            next.write(&*self.disk, &self.dir)?;
            *mark = next;
        }
        drop(mark);
        self.collect()
    }

    /// Syncs if the policy left records up to `lsn` unsynced; returns how far the log is synced.
    fn synced_to(&self, lsn: Lsn) -> Result<Lsn, Error> {
        let mut tail = self.tail.lock();
        if tail.synced() < lsn {
            tail.sync(self)?;
        }
        Ok(tail.synced())
    }

    /// Recycles or removes the segments that neither recovery nor retention nor a reader needs.
    pub(crate) fn collect(&self) -> Result<(), Error> {
        // Held throughout: two collectors would let segments go out of order.
        let mark = self.mark.lock();
        let now = self.clock.now_micros();
        while let Some(segment) = self.segments.pop(mark.low_water, self.retain, now) {
            self.let_go(segment)?;
        }
        Ok(())
    }

    /// Removes what is before `lsn` for good, history that readers would like to have included.
    pub(crate) fn purge_before(&self, lsn: Lsn) -> Result<(), Error> {
        let mark = self.mark.lock();
        if lsn > mark.low_water {
            return Err(Error::OutOfRange { lsn, limit: mark.low_water });
        }
        while let Some(segment) = self.segments.pop_before(lsn) {
            self.disk.remove_file(&segment.path).at("remove", &segment.path)?;
            self.counters.removed.fetch_add(1, Relaxed);
            self.sync_dir()?;
        }
        // Under the lock of the mark, which whoever recycles a segment holds: none is on its way.
        self.remove_spares(self.queue.allow_used())
    }

    /// Removes files for good that were ready for use.
    pub(crate) fn remove_spares(&self, spares: Vec<Spare>) -> Result<(), Error> {
        for spare in &spares {
            self.disk.remove_file(&spare.path).at("remove", &spare.path)?;
        }
        if spares.is_empty() { Ok(()) } else { self.sync_dir() }
    }

    fn let_go(&self, segment: Arc<Segment>) -> Result<(), Error> {
        // Whoever still holds a payload of it keeps reading the removed file; only a file of our own is overwritten.
        let usable = segment.header.capacity == self.segment_capacity && segment.unshared();
        if usable && self.queue.wants_spare() {
            self.recycle(&segment)?;
            self.counters.recycled.fetch_add(1, Relaxed);
        } else {
            self.disk.remove_file(&segment.path).at("remove", &segment.path)?;
            self.counters.removed.fetch_add(1, Relaxed);
            self.sync_dir()?;
        }
        Ok(())
    }

    /// The new name is durable before the file is offered: its header must not be overwritten while a power cut could
    /// bring the old name back.
    fn recycle(&self, segment: &Segment) -> Result<(), Error> {
        let path = self.supply.new_path();
        self.disk.rename(&segment.path, &path).at("rename", &segment.path)?;
        self.sync_dir()?;
        let spare = Spare { path, file: Arc::clone(&segment.file), capacity: segment.header.capacity };
        match self.queue.offer(spare) {
            None => Ok(()),
            Some(unwanted) => durable::remove_file(&*self.disk, &unwanted.path),
        }
    }

    fn sync_dir(&self) -> Result<(), Error> {
        self.disk.sync_dir(&self.dir).at("sync directory", &self.dir).map_err(|error| self.fail(error))
    }
}
