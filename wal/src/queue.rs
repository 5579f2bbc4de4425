//! The commit queue: it numbers records in the order of the calls, decides which segment each one goes to, and holds
//! them until the writer takes them all at once.
//!
//! A record is accepted only when its place on disk is already allocated. So the disk being full is an answer to
//! `append`, given before the record has a number, and never something the writer runs into later.
//!
//! Three parties meet here, each with its own condition: appenders (`room`), the writer (`work`) and the allocator
//! (`supply`).

use std::time::Duration;

use super::Lsn;
use super::error::Error;
use super::frame::{TERMINATOR, stored_len};
use super::header::SEGMENT_HEADER;
use super::record::Record;
use super::spare::Spare;
use super::sync::{Condvar, Mutex};

/// What the writer does next.
#[derive(Debug)]
pub(crate) enum Entry {
    /// Write this record.
    Record(Record),
    /// The records from here on go to this segment.
    Roll(Spare),
}

/// What came of a push.
#[derive(Debug)]
pub(crate) enum Push {
    /// The record has this number.
    Taken(Lsn),
    /// The writer has to take something first.
    Full,
    /// A segment of at least this many bytes is needed first.
    NoSpace(u64),
}

/// What the writer waited for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// There is something to take.
    Queued,
    /// Nothing came within the time given.
    Idle,
    /// Nothing will come any more.
    Ended,
}

#[derive(Debug)]
pub(crate) struct Queue {
    limit: usize,
    spares: usize,
    state: Mutex<State>,
    room: Condvar,
    work: Condvar,
    supply: Condvar,
}

#[derive(Debug)]
struct State {
    entries: Vec<Entry>,
    /// Bytes and number of the records among `entries`.
    bytes: usize,
    records: usize,
    last: Lsn,
    /// Bytes left in the segment that the newest record goes to.
    room: u64,
    ready: Vec<Spare>,
    /// No segment that held records before may be used again: see [`Queue::end_segment`].
    fresh_only: bool,
    /// The largest segment somebody is waiting for; 0 if nobody is.
    wanted: u64,
    /// How many such wishes have been answered, and whether the last answer was no.
    answered: u64,
    refused: Option<Error>,
    blocked: usize,
    writer_idle: bool,
    ended: Option<Error>,
}

impl Queue {
    /// A queue behind the record `last`, with `room` bytes left in the current segment.
    pub(crate) fn new(limit: usize, spares: usize, last: Lsn, room: u64, ready: Vec<Spare>) -> Self {
        let state = State {
            entries: Vec::new(),
            bytes: 0,
            records: 0,
            last,
            room,
            ready,
            fresh_only: false,
            wanted: 0,
            answered: 0,
            refused: None,
            blocked: 0,
            writer_idle: false,
            ended: None,
        };
        let (room, work, supply) = (Condvar::new(), Condvar::new(), Condvar::new());
        Self { limit, spares, state: Mutex::new(state), room, work, supply }
    }

    /// The newest numbered record.
    pub(crate) fn last(&self) -> Lsn {
        self.state.lock().last
    }

    /// Records and bytes that wait for the writer.
    pub(crate) fn depth(&self) -> (usize, usize) {
        let state = self.state.lock();
        (state.records, state.bytes)
    }

    /// Segments that are ready to be used.
    pub(crate) fn ready(&self) -> usize {
        self.state.lock().ready.len()
    }

    /// Takes the record in, or says what is missing. Takes it out of the `Option` only if it is `Taken`.
    pub(crate) fn try_push(&self, record: &mut Option<Record>) -> Result<Push, Error> {
        let mut state = self.state.lock();
        let push = state.push(record, self.limit)?;
        self.feed(&state);
        Ok(push)
    }

    /// Takes the record in, waiting for the writer and the allocator as long as need be.
    pub(crate) fn push(&self, record: Record) -> Result<Lsn, Error> {
        self.push_and(record, Self::wake_writer)
    }

    /// The same, and lets the writer sleep: the caller must see to it that the record is written, by
    /// [`Queue::announce`] at the latest.
    pub(crate) fn push_quietly(&self, record: Record) -> Result<Lsn, Error> {
        self.push_and(record, |_, _| {})
    }

    fn push_and(&self, record: Record, then: impl FnOnce(&Self, &State)) -> Result<Lsn, Error> {
        let mut record = Some(record);
        let mut state = self.state.lock();
        let mut asked = None;
        loop {
            let push = state.push(&mut record, self.limit)?;
            match push {
                Push::Taken(lsn) => {
                    then(self, &state);
                    self.feed(&state);
                    return Ok(lsn);
                }
                // Those who have not announced theirs yet may be behind us.
                Push::Full => self.wake_writer(&state),
                Push::NoSpace(capacity) => self.ask(&mut state, capacity, &mut asked)?,
            }
            state.blocked += 1;
            state = self.room.wait(state);
            state.blocked -= 1;
        }
    }

    /// Wakes the writer if it sleeps while there is something for it.
    pub(crate) fn announce(&self) {
        self.wake_writer(&self.state.lock());
    }

    /// True if one record is queued and the writer sleeps: whoever queued it may as well write it.
    pub(crate) fn is_alone(&self) -> bool {
        let state = self.state.lock();
        state.records == 1 && state.writer_idle
    }

    fn wake_writer(&self, state: &State) {
        if state.writer_idle && !state.entries.is_empty() {
            self.work.notify_one();
        }
    }

    /// Wakes the allocator if there are too few segments.
    fn feed(&self, state: &State) {
        if state.hungry(self.spares) {
            self.supply.notify_one();
        }
    }

    /// Wishes for a segment, once per answer; a refusal that came after the wish is the caller's answer.
    fn ask(&self, state: &mut State, capacity: u64, asked: &mut Option<u64>) -> Result<(), Error> {
        if asked.is_some_and(|at| state.answered == at) {
            return Ok(());
        }
        if asked.is_some()
            && let Some(error) = &state.refused
        {
            return Err(error.clone());
        }
        *asked = Some(state.answered);
        state.wanted = state.wanted.max(capacity);
        self.supply.notify_one();
        Ok(())
    }

    /// Waits for something to be queued, at most for `patience`.
    pub(crate) fn wait(&self, patience: Option<Duration>) -> Work {
        let mut state = self.state.lock();
        let mut waited = false;
        while state.entries.is_empty() {
            if state.ended.is_some() {
                return Work::Ended;
            }
            if waited && patience.is_some() {
                return Work::Idle;
            }
            state.writer_idle = true;
            state = match patience {
                None => self.work.wait(state),
                Some(time) => self.work.wait_for(state, time),
            };
            state.writer_idle = false;
            waited = true;
        }
        Work::Queued
    }

    /// Moves everything queued into `group`, which is empty; false if there is nothing.
    pub(crate) fn take(&self, group: &mut Vec<Entry>) -> bool {
        let mut state = self.state.lock();
        std::mem::swap(&mut state.entries, group);
        state.bytes = 0;
        state.records = 0;
        if state.blocked > 0 {
            self.room.notify_all();
        }
        !group.is_empty()
    }

    /// Waits until a segment should be made and returns how large it must be at least (0: any size, nobody is waiting
    /// yet); `None` when no more will be needed.
    pub(crate) fn next_wish(&self) -> Option<u64> {
        let mut state = self.state.lock();
        loop {
            if state.ended.is_some() {
                return None;
            }
            if state.hungry(self.spares) {
                return Some(std::mem::take(&mut state.wanted));
            }
            state = self.supply.wait(state);
        }
    }

    /// True if nothing has to be made for this wish (any more).
    pub(crate) fn satisfied(&self, wish: u64) -> bool {
        let state = self.state.lock();
        match wish {
            0 => state.ready.len() >= self.spares,
            wish => state.ready.iter().any(|spare| spare.capacity >= wish),
        }
    }

    /// The answer to a wish: a segment, why there is none, or that there is one already.
    pub(crate) fn answer(&self, wish: u64, made: Option<Result<Spare, Error>>) {
        let mut state = self.state.lock();
        match made {
            Some(Ok(spare)) => {
                state.ready.push(spare);
                state.refused = None;
            }
            Some(Err(error)) => state.refused = Some(error),
            None => {}
        }
        if wish > 0 {
            state.answered += 1;
        }
        self.room.notify_all();
    }

    /// True if one more segment would be kept.
    pub(crate) fn wants_spare(&self) -> bool {
        let state = self.state.lock();
        state.ready.len() <= self.spares && state.ended.is_none() && !state.fresh_only
    }

    /// Offers a segment that nobody asked for; gives it back if there are enough.
    pub(crate) fn offer(&self, spare: Spare) -> Option<Spare> {
        let mut state = self.state.lock();
        if state.ready.len() > self.spares || state.ended.is_some() || state.fresh_only {
            return Some(spare);
        }
        state.ready.push(spare);
        state.refused = None;
        self.room.notify_all();
        None
    }

    /// Records from here on go to another segment, and until [`Queue::allow_used`] to new files only. Returns the files that
    /// were ready, which may be used ones.
    pub(crate) fn end_segment(&self) -> Vec<Spare> {
        let mut state = self.state.lock();
        state.room = 0;
        state.fresh_only = true;
        std::mem::take(&mut state.ready)
    }

    /// Used segments may become new ones again. Returns the files that are ready now.
    pub(crate) fn allow_used(&self) -> Vec<Spare> {
        let mut state = self.state.lock();
        state.fresh_only = false;
        std::mem::take(&mut state.ready)
    }

    /// No record is taken any more. What is queued stays queued, unless the log has failed.
    pub(crate) fn end(&self, error: Error, discard: bool) {
        let mut state = self.state.lock();
        state.ended.get_or_insert(error);
        if discard {
            state.entries.clear();
        }
        self.work.notify_all();
        self.room.notify_all();
        self.supply.notify_all();
    }
}

impl State {
    fn push(&mut self, record: &mut Option<Record>, limit: usize) -> Result<Push, Error> {
        if let Some(error) = &self.ended {
            return Err(error.clone());
        }
        let need = record.as_ref().map_or(0, |r| stored_len(r.payload().len()));
        // One record may be larger than the whole queue; it then has the queue to itself.
        if self.records > 0 && self.bytes + need > limit {
            return Ok(Push::Full);
        }
        if self.room < (need + TERMINATOR) as u64 {
            let capacity = (SEGMENT_HEADER + need + TERMINATOR) as u64;
            let Some(at) = self.ready.iter().position(|spare| spare.capacity >= capacity) else {
                return Ok(Push::NoSpace(capacity));
            };
            let spare = self.ready.remove(at);
            self.room = spare.capacity - SEGMENT_HEADER as u64;
            self.entries.push(Entry::Roll(spare));
        }
        self.room -= need as u64;
        self.bytes += need;
        self.records += 1;
        self.last += 1;
        self.entries.extend(record.take().map(Entry::Record));
        Ok(Push::Taken(self.last))
    }

    /// True if a segment should be made. After a refusal only for somebody who waits: a full disk is not hammered.
    fn hungry(&self, spares: usize) -> bool {
        self.wanted > 0 || (self.ready.len() < spares && self.refused.is_none())
    }
}
