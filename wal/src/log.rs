//! The log's handle.

use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

use crate::disk::Disk;
use crate::durable;
use crate::error::{Error, IoContext};
use crate::frame::TERMINATOR;
use crate::header::{SEGMENT_HEADER, SegmentHeader};
use crate::mark::Mark;
use crate::metrics::{Counters, Metrics};
use crate::options::{Mode, Options};
use crate::progress::Progress;
use crate::queue::{Push, Queue};
use crate::queued::Queued;
use crate::reader::Reader;
use crate::record::Record;
use crate::recovery::{Recovered, Recovery, Replay, Verdict, recover};
use crate::segments::Segments;
use crate::shared::{FailOnPanic, LockGuard, Shared};
use crate::spare::Spare;
use crate::supply::Supply;
use crate::survey::Survey;
use crate::sync::Mutex;
use crate::writer::{Tail, install};
use crate::{Lsn, MAX_RECORD, MIN_SEGMENT, names};

/// The largest payload, in bytes, that the writer need not be told of at once.
const QUIET_RECORD: usize = 16 << 10;

/// An append log in a directory of its own.
///
/// Cheap to share behind an `Arc`; every method takes `&self`. Dropping it closes it, best effort; call
/// [`close`](Log::close) to know.
#[derive(Debug)]
pub struct Log {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Log {
    /// Opens the log in `dir`, creating both if need be, and calls `replay` for every record from the low-water mark
    /// on, in order. All that is replayed is durable when this returns, and so are the directory and its name.
    ///
    ///
    /// # Errors
    /// [`Error::Corrupt`] if anything that had been durable is damaged: then nothing has been changed on disk, but
    /// `replay` may have been called for records before the damage, so what it built must be thrown away.
    /// [`Error::Locked`] if the log is open elsewhere; [`Error::NewerFormat`]; [`Error::StorageFull`] and [`Error::Io`]
    /// from the disk; and whatever `replay` returns.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        options: Options,
        replay: &mut Replay<'_>,
    ) -> Result<(Self, Recovered), Error> {
        if !disk.exists(dir).at("look for", dir)? {
            durable::create_dir(&*disk, dir)?;
        }
        let lock = take_lock(&*disk, dir)?;
        let survey = Survey::new(&*disk, dir)?;
        let newest = survey.segments.last().map(|s| s.header.capacity);
        let number = survey.spares.last().map_or(0, |(number, _)| *number);
        let supply =
            Supply::new(Arc::clone(&disk), dir.to_owned(), options.segment_capacity(), number, newest);
        let recovery = match survey.mark {
            Some(mark) if !survey.segments.is_empty() => {
                recover(&*disk, dir, mark, &survey, options.mode, replay)?
            }
            found => create(&*disk, dir, found, &options, &supply)?,
        };
        let spares = adopt_spares(&*disk, &survey, &options)?;
        let shared = Arc::new(assemble(disk, dir, options, supply, &recovery, spares, lock));
        let recovered = Recovered {
            verdict: recovery.verdict,
            first: shared.segments.first(),
            low_water: recovery.mark.low_water,
            next: recovery.next,
        };
        tracing::info!(dir = %dir.display(), ?recovered, "the log is open");
        let log = Self { shared, threads: Mutex::new(Vec::new()) };
        log.start_threads()?;
        Ok((log, recovered))
    }

    /// Enqueues one record and returns its number at once; the order of the numbers is the order of the calls. The
    /// record is not durable yet: see [`wait_durable`](Log::wait_durable).
    ///
    /// Blocks while the queue is full, and while the next segment is being allocated if none is ready.
    ///
    /// # Errors
    /// [`Error::StorageFull`] if the disk has no room for it: the record has no number then, nothing of it will ever be
    /// read, records enqueued before are not touched, and a later call succeeds when there is space again.
    /// [`Error::TooLarge`]; [`Error::Poisoned`] after a failed write or sync; [`Error::Closed`].
    pub fn append(&self, record: Record) -> Result<Lsn, Error> {
        check_size(&record)?;
        match self.shared.mode {
            Mode::Threads => self.shared.queue.push(record),
            Mode::Inline => self.append_inline(record),
        }
    }

    /// The same for a caller that will wait for the record as soon as it has done something else, which must not be
    /// waiting for the log: it can then [write](Queued::write) a small record itself.
    ///
    /// # Errors
    /// As [`append`](Log::append).
    pub fn enqueue(&self, record: Record) -> Result<Queued<'_>, Error> {
        check_size(&record)?;
        // A large one is better written while the caller does its something.
        if self.shared.mode == Mode::Inline || record.payload().len() > QUIET_RECORD {
            return Ok(Queued::announced(&self.shared, self.append(record)?));
        }
        Ok(Queued::new(&self.shared, self.shared.queue.push_quietly(record)?))
    }

    fn append_inline(&self, record: Record) -> Result<Lsn, Error> {
        let mut record = Some(record);
        let mut collected = false;
        loop {
            match self.shared.queue.try_push(&mut record)? {
                Push::Taken(lsn) => return Ok(lsn),
                Push::Full => self.shared.drive()?,
                Push::NoSpace(_) if !collected => {
                    collected = true;
                    self.shared.collect()?;
                }
                Push::NoSpace(capacity) => {
                    let made = self.shared.supply.make(capacity)?;
                    self.shared.queue.answer(capacity, Some(Ok(made)));
                }
            }
        }
    }

    /// The newest durable record, in the sense of the log's [`SyncPolicy`](crate::SyncPolicy); 0 before the first.
    pub fn durable(&self) -> Lsn {
        self.shared.progress.durable()
    }

    /// Blocks until the record is durable.
    ///
    /// # Errors
    /// [`Error::Poisoned`] if it never will be: it may or may not be there when the log is opened again.
    /// [`Error::Closed`] for a number that was never given.
    pub fn wait_durable(&self, lsn: Lsn) -> Result<(), Error> {
        if self.shared.mode == Mode::Inline {
            self.shared.drive()?;
        }
        self.shared.progress.wait_blocking(lsn)
    }

    /// Waits until the record is durable. May be dropped at any time.
    ///
    /// # Errors
    /// As [`wait_durable`](Log::wait_durable).
    pub async fn until_durable(&self, lsn: Lsn) -> Result<(), Error> {
        if self.shared.mode == Mode::Inline {
            self.shared.drive()?;
        }
        self.shared.progress.wait(lsn).await
    }

    /// Makes everything enqueued before the call survive a power cut, whatever the policy, and returns the newest
    /// such record.
    ///
    /// # Errors
    /// [`Error::Poisoned`] if the sync failed, now or earlier.
    pub fn sync(&self) -> Result<Lsn, Error> {
        self.wait_durable(self.last())?;
        let mut tail = self.shared.tail.lock();
        tail.sync(&self.shared)?;
        Ok(tail.synced())
    }

    /// A reader that begins at `from` and follows the log. While it lives, what it has not read yet is retained.
    ///
    /// # Errors
    /// [`Error::Expired`] if `from` is no longer retained; [`Error::OutOfRange`] if it is more than one beyond
    /// [`last`](Log::last); [`Error::Io`].
    pub fn reader(&self, from: Lsn) -> Result<Reader, Error> {
        let limit = self.last() + 1;
        if from > limit {
            return Err(Error::OutOfRange { lsn: from, limit });
        }
        Reader::new(Arc::clone(&self.shared), from.max(1))
    }

    /// Moves the low-water mark to `lsn`: replay will begin there, and what is before it is kept for readers only, as
    /// long as [`Retain`](crate::Retain) says. The mark is durable when this returns. A smaller number than before
    /// does not move it back.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] beyond the durable point plus one; [`Error::StorageFull`] and [`Error::Io`], with the mark
    /// where it was; [`Error::Poisoned`].
    pub fn truncate_before(&self, lsn: Lsn) -> Result<(), Error> {
        self.shared.truncate_before(lsn)
    }

    /// Lets the next record begin a segment of its own, in a file that never held another record, so that
    /// [`purge_before`](Log::purge_before) can remove all records before it. Until then no file is recycled.
    ///
    /// # Errors
    /// [`Error::Io`]: some files that were ready for use may still be there.
    pub fn end_segment(&self) -> Result<(), Error> {
        let used = self.shared.queue.end_segment();
        self.shared.remove_spares(used)
    }

    /// Removes every segment with no record from `lsn` on, and every file ready for use that may have been one, although
    /// readers stand there or [`Retain`](crate::Retain) would keep them: readers of such records find them
    /// [expired](Error::Expired). The low-water mark must have reached `lsn`. What is left is still a gapless run of records
    /// if a crash comes between; call it again then.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] if recovery needs records before `lsn`; [`Error::Io`].
    pub fn purge_before(&self, lsn: Lsn) -> Result<(), Error> {
        self.shared.purge_before(lsn)
    }

    /// The oldest retained record.
    pub fn first(&self) -> Lsn {
        self.shared.segments.first()
    }

    /// Where replay would begin if the log were opened now.
    pub fn low_water(&self) -> Lsn {
        self.shared.mark.lock().low_water
    }

    /// The newest record that has a number, durable or not.
    pub fn last(&self) -> Lsn {
        self.shared.queue.last()
    }

    /// A reading of the counters.
    pub fn metrics(&self) -> Metrics {
        self.shared.metrics()
    }

    /// Writes and syncs what is queued, notes how far the log is durable, and lets go of the directory. Later calls to
    /// [`append`](Log::append) return [`Error::Closed`]; readers end after the last record. Closing twice is fine.
    ///
    /// # Errors
    /// [`Error::Poisoned`] if the log had failed; [`Error::Io`] and [`Error::StorageFull`] if the note cannot be
    /// written (the records are durable then).
    pub fn close(&self) -> Result<(), Error> {
        let mut threads = self.threads.lock();
        self.shared.queue.end(Error::Closed, false);
        for thread in threads.drain(..) {
            // A thread that panicked has poisoned the log, and that is reported below.
            let _ = thread.join();
        }
        let closed = self.shared.seal();
        self.shared.progress.end(Error::Closed);
        *self.shared.lock.lock() = None;
        closed
    }

    fn start_threads(&self) -> Result<(), Error> {
        if self.shared.mode == Mode::Inline {
            return Ok(());
        }
        self.start("log writer", Shared::write_until_ended)?;
        self.start("log allocator", Shared::supply_until_ended)
    }

    fn start(&self, name: &str, run: fn(&Shared)) -> Result<(), Error> {
        let guard = FailOnPanic(Arc::clone(&self.shared));
        let started = std::thread::Builder::new().name(name.into()).spawn(move || run(&guard.0));
        self.threads.lock().push(started.at("start a thread for", &self.shared.dir)?);
        Ok(())
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            tracing::warn!(%error, "the log was not closed cleanly");
        }
    }
}

impl Shared {
    /// Writes what is left, syncs it, and notes how far the log is durable, so that no damage to its tail can be taken
    /// for a torn write.
    fn seal(&self) -> Result<(), Error> {
        if self.lock.lock().is_none() {
            return Ok(());
        }
        if let Some(error) = self.failed.get() {
            return Err(error.clone());
        }
        self.drive()?;
        let mut tail = self.tail.lock();
        tail.sync(self)?;
        let mut mark = self.mark.lock();
        if mark.durable < tail.synced() {
            mark.durable = tail.synced();
            mark.write(&*self.disk, &self.dir)?;
        }
        Ok(())
    }
}

fn check_size(record: &Record) -> Result<(), Error> {
    let bytes = record.payload().len();
    if bytes > MAX_RECORD { Err(Error::TooLarge { bytes, limit: MAX_RECORD }) } else { Ok(()) }
}

fn take_lock(disk: &dyn Disk, dir: &Path) -> Result<LockGuard, Error> {
    let path = dir.join(names::LOCK);
    match disk.lock(&path) {
        Ok(guard) => Ok(LockGuard(guard)),
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Err(Error::Locked { path }),
        Err(error) => Err(Error::io("lock", &path, error)),
    }
}

/// Makes the mark, if there is none, and the first segment.
fn create(
    disk: &dyn Disk,
    dir: &Path,
    found: Option<Mark>,
    options: &Options,
    supply: &Supply,
) -> Result<Recovery, Error> {
    let now = options.clock.now_micros();
    let mark = match found {
        Some(mark) => mark,
        None => {
            durable::sync_ancestors(disk, dir)?;
            let mark = Mark::fresh(options.entropy, now);
            mark.write(disk, dir)?;
            mark
        }
    };
    let spare = supply.make(MIN_SEGMENT)?;
    let header = SegmentHeader::new(mark.log, 1, spare.capacity, now);
    let segment = install(disk, dir, header, spare)?;
    let offset = SEGMENT_HEADER as u64;
    Ok(Recovery { mark, segments: vec![Arc::new(segment)], offset, next: 1, verdict: Verdict::Clean })
}

/// Takes over the spares of an earlier run if they are of today's size; removes the others.
fn adopt_spares(disk: &dyn Disk, survey: &Survey, options: &Options) -> Result<Vec<Spare>, Error> {
    let mut spares = Vec::new();
    for (_, path) in &survey.spares {
        let file = disk.open(path).at("open", path)?;
        let capacity = file.len().at("measure", path)?;
        if capacity == options.segment_capacity() && spares.len() <= options.spares {
            spares.push(Spare { path: path.clone(), file, capacity });
        } else {
            disk.remove_file(path).at("remove", path)?;
        }
    }
    Ok(spares)
}

fn assemble(
    disk: Arc<dyn Disk>,
    dir: &Path,
    options: Options,
    supply: Supply,
    recovery: &Recovery,
    spares: Vec<Spare>,
    lock: LockGuard,
) -> Shared {
    let newest = Arc::clone(&recovery.segments[recovery.segments.len() - 1]);
    let last = recovery.next - 1;
    let room = newest.header.capacity - recovery.offset;
    debug_assert!(newest.header.capacity >= (SEGMENT_HEADER + TERMINATOR) as u64);
    Shared {
        disk,
        dir: dir.to_owned(),
        policy: options.sync,
        retain: options.retain,
        mode: options.mode,
        helpers: std::thread::available_parallelism().is_ok_and(|processors| processors.get() > 1),
        segment_capacity: options.segment_capacity(),
        queue: Queue::new(options.queue_bytes, options.spares, last, room, spares),
        progress: Progress::new(last),
        segments: Segments::new(recovery.segments.iter().cloned()),
        supply,
        tail: Mutex::new(Tail::new(newest, recovery.offset, recovery.next, options.clock.now_micros())),
        mark: Mutex::new(recovery.mark),
        counters: Counters::default(),
        clock: options.clock,
        observer: options.observer,
        failed: OnceLock::new(),
        lock: Mutex::new(Some(lock)),
    }
}
