//! The end of the log: encodes groups, writes and syncs them, goes on to the next segment.
//!
//! One group is one `write` and one `fdatasync`. The order that makes it safe: frames, sync, publish. At a roll: the
//! old segment is synced, the new one's header is synced under its spare name, the name is changed, the directory is
//! synced, and only then is a frame written to it. So wherever a next segment exists, everything before it is durable.
//!
//! A write or sync that fails stops the log for good. It is never tried again: after a failed sync the system may
//! count the lost pages as clean, and a second one would report a success that means nothing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::Lsn;
use crate::error::{Error, IoContext};
use crate::frame::{self, TERMINATOR};
use crate::header::{SEGMENT_HEADER, SegmentHeader};
use crate::names;
use crate::options::SyncPolicy;
use crate::queue::Entry;
use crate::segment::Segment;
use crate::shared::Shared;
use crate::spare::Spare;

/// A buffer that grew larger than this for a large record is given back.
const BUFFER_KEPT: usize = 4 << 20;

#[derive(Debug)]
pub(crate) struct Tail {
    segment: Arc<Segment>,
    /// Where the next frame goes.
    offset: u64,
    /// The next record.
    next: Lsn,
    /// Everything up to here survives a power cut.
    synced: Lsn,
    synced_at: i64,
    buffer: Vec<u8>,
    /// What is being written; empty in between.
    group: Vec<Entry>,
    /// The last position that the segment remembers.
    noted: u64,
}

impl Tail {
    /// Goes on at `offset` of a segment in which everything up to `next - 1` is synced.
    pub(crate) fn new(segment: Arc<Segment>, offset: u64, next: Lsn, now: i64) -> Self {
        let (buffer, group) = (Vec::new(), Vec::new());
        Self { segment, offset, next, synced: next - 1, synced_at: now, buffer, group, noted: offset }
    }

    /// Everything up to here survives a power cut.
    pub(crate) fn synced(&self) -> Lsn {
        self.synced
    }

    /// Takes all that is queued as one group, writes it and does with it what the policy says. Returns how many entries
    /// there were. On an error the log has been poisoned.
    pub(crate) fn commit(&mut self, log: &Shared) -> Result<usize, Error> {
        let mut group = std::mem::take(&mut self.group);
        if !log.queue.take(&mut group) {
            return Ok(0);
        }
        let entries = group.len();
        let done = self.unless_failed(log, |tail| tail.commit_group(log, &mut group));
        group.clear();
        self.group = group;
        done.map(|()| entries)
    }

    /// Syncs what has been written. On an error the log has been poisoned.
    pub(crate) fn sync(&mut self, log: &Shared) -> Result<(), Error> {
        self.unless_failed(log, |tail| tail.sync_written(log))
    }

    /// How long the writer may sleep before something has to be synced; `None` if there is nothing to sync.
    pub(crate) fn patience(&self, log: &Shared) -> Option<Duration> {
        let SyncPolicy::Interval(interval) = log.policy else { return None };
        (self.synced + 1 < self.next).then(|| interval.saturating_sub(self.since_sync(log)))
    }

    fn unless_failed(
        &mut self,
        log: &Shared,
        act: impl FnOnce(&mut Self) -> Result<(), Error>,
    ) -> Result<(), Error> {
        if let Some(error) = log.failed.get() {
            return Err(error.clone());
        }
        act(self).map_err(|error| log.fail(error))
    }

    fn commit_group(&mut self, log: &Shared, group: &mut Vec<Entry>) -> Result<(), Error> {
        let (mut records, mut bytes) = (0, 0);
        for entry in group.drain(..) {
            match entry {
                Entry::Record(record) => {
                    records += 1;
                    bytes += record.payload().len() as u64;
                    let at = self.offset + self.buffer.len() as u64;
                    self.segment.note(&mut self.noted, self.next, at);
                    frame::encode(
                        &mut self.buffer,
                        self.segment.header.salt,
                        self.next,
                        self.synced,
                        &record,
                    );
                    self.next += 1;
                }
                Entry::Roll(spare) => {
                    self.write()?;
                    self.sync_written(log)?;
                    self.publish(log);
                    self.roll(log, spare)?;
                }
            }
        }
        self.write()?;
        if self.sync_is_due(log) {
            self.sync_written(log)?;
        }
        log.counters.group(records, bytes);
        self.publish(log);
        Ok(())
    }

    /// Hands the encoded frames, and the zeros that end the log, to the system in one write.
    fn write(&mut self) -> Result<(), Error> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let frames = self.buffer.len();
        self.buffer.resize(frames + TERMINATOR, 0);
        self.segment.file.write_all_at(&self.buffer, self.offset).at("write", self.segment.path())?;
        self.offset += frames as u64;
        self.buffer.clear();
        self.buffer.shrink_to(BUFFER_KEPT);
        Ok(())
    }

    fn sync_is_due(&self, log: &Shared) -> bool {
        match log.policy {
            SyncPolicy::Always => true,
            SyncPolicy::Interval(interval) => self.since_sync(log) >= interval,
            SyncPolicy::Never => false,
        }
    }

    /// A clock that jumped back counts as a long time: one sync too many rather than none for years.
    fn since_sync(&self, log: &Shared) -> Duration {
        let passed = log.clock.now_micros().saturating_sub(self.synced_at);
        u64::try_from(passed).map_or(Duration::MAX, Duration::from_micros)
    }

    fn sync_written(&mut self, log: &Shared) -> Result<(), Error> {
        if self.synced + 1 == self.next {
            return Ok(());
        }
        let begun = Instant::now();
        self.segment.file.sync_data().at("sync", self.segment.path())?;
        log.counters.sync(begun.elapsed());
        self.synced = self.next - 1;
        if matches!(log.policy, SyncPolicy::Interval(_)) {
            self.synced_at = log.clock.now_micros();
        }
        Ok(())
    }

    fn publish(&self, log: &Shared) {
        self.segment.publish(self.offset);
        log.publish(self.next - 1);
    }

    fn roll(&mut self, log: &Shared, spare: Spare) -> Result<(), Error> {
        let now = log.clock.now_micros();
        let segment = Arc::new(begin_segment(log, self.segment.header.log, self.next, now, spare)?);
        // Listed before the old one may be let go, so that the list always ends with the segment being written.
        log.segments.push(Arc::clone(&segment));
        self.segment.seal(self.next - 1, now);
        self.segment = segment;
        self.offset = SEGMENT_HEADER as u64;
        self.noted = self.offset;
        log.counters.rolls.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Ok(())
    }
}

fn begin_segment(
    log: &Shared,
    id: crate::header::LogId,
    first: Lsn,
    now: i64,
    spare: Spare,
) -> Result<Segment, Error> {
    let header = SegmentHeader::new(id, first, spare.capacity, now);
    install(&*log.disk, &log.dir, header, spare)
}

/// Turns a spare into the segment that `header` describes. Durable when it returns.
pub(crate) fn install(
    disk: &dyn crate::disk::Disk,
    dir: &std::path::Path,
    header: SegmentHeader,
    spare: Spare,
) -> Result<Segment, Error> {
    let mut block = vec![0; SEGMENT_HEADER + TERMINATOR];
    let fields = header.encode();
    block[..fields.len()].copy_from_slice(&fields);
    spare.file.write_all_at(&block, 0).at("write", &spare.path)?;
    spare.file.sync_data().at("sync", &spare.path)?;
    let path = dir.join(names::segment(header.first));
    crate::durable::rename(disk, &spare.path, &path)?;
    Ok(Segment::new(header, path, spare.file))
}
