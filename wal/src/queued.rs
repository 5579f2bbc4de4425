//! A record between its number and its way to the disk.

use crate::Lsn;
use crate::shared::Shared;

/// A record that has its number and that the writer may not have been told of yet: it is when this is dropped.
#[derive(Debug)]
#[must_use]
pub struct Queued<'a> {
    log: &'a Shared,
    lsn: Lsn,
    announced: bool,
}

impl<'a> Queued<'a> {
    pub(crate) fn new(log: &'a Shared, lsn: Lsn) -> Self {
        Self { log, lsn, announced: false }
    }

    pub(crate) fn announced(log: &'a Shared, lsn: Lsn) -> Self {
        Self { log, lsn, announced: true }
    }

    /// The record's number.
    pub fn lsn(&self) -> Lsn {
        self.lsn
    }

    /// Lets the record be written. If nobody else has one to write and syncs are quick, this thread does it, and the
    /// observer is called here: that saves waking the writer and being woken by it. The record may be durable when this
    /// returns and may not; [waiting](crate::Log::until_durable) tells, also whether it ever will be.
    pub fn write(mut self) {
        if !self.announced {
            self.announced = true;
            self.log.write_or_announce();
        }
    }
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        if !self.announced {
            self.log.queue.announce();
        }
    }
}
