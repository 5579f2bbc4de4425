//! The streams of one connection: what it has heard of each.

use kalamdb_engine::{Evicted, Listener};

use crate::live::entry::Entry;
use crate::live::event::Outgoing;
use crate::live::stream::{self, Source};

/// Inserts of one stream that are taken at a time.
const INSERTS: usize = 64;
/// Bytes of events after which the client gets its turn.
const BYTES: usize = 64 << 10;

/// One stream that a connection listens to.
struct Listening {
    /// The subscription, by place in the request.
    index: usize,
    listener: Listener,
    /// How many inserts it has heard.
    heard: u64,
}

/// See the module.
#[derive(Default)]
pub(crate) struct Listenings {
    all: Vec<Listening>,
    /// The one to begin with.
    next: usize,
    /// True if something may be waiting although nobody said so.
    more: bool,
}

/// What was taken from the streams.
#[derive(Default)]
pub(crate) struct Taken {
    pub(crate) events: Vec<Outgoing>,
    /// Subscriptions that were too slow for their stream.
    pub(crate) lost: Vec<usize>,
}

impl Listenings {
    /// Listens to the streams of all subscriptions of a connection.
    pub(crate) fn of(entry: &Entry) -> Self {
        let listen = |(index, source): (usize, &Source)| {
            let (listener, heard) = source.stream.listen();
            Listening { index, listener, heard }
        };
        let sources = entry.subscriptions.iter().enumerate();
        let sources = sources.filter_map(|(index, s)| Some((index, s.stream.as_ref()?)));
        Self { all: sources.map(listen).collect(), next: 0, more: false }
    }

    /// A subscription has seen everything up to this insert: its snapshot shows it.
    pub(crate) fn heard(&mut self, index: usize, number: u64) {
        if let Some(listening) = self.all.iter_mut().find(|listening| listening.index == index) {
            listening.heard = number;
            self.more = true;
        }
    }

    /// Stops listening for a subscription that is over.
    pub(crate) fn stop(&mut self, index: usize) {
        self.all.retain(|listening| listening.index != index);
    }

    /// Takes what has come, about as much as one turn of the client is worth; of every stream in turn.
    pub(crate) fn take(&mut self, entry: &Entry) -> Taken {
        let mut taken = Taken::default();
        if !entry.outbox.take_streams() && !self.more {
            return taken;
        }
        self.more = false;
        let count = self.all.len();
        for turn in 0..count {
            let listening = &mut self.all[(self.next + turn) % count];
            match listening.take(entry, &mut taken.events) {
                Ok(more) => self.more |= more,
                Err(Evicted) => taken.lost.push(listening.index),
            }
            let bytes: usize = taken.events.iter().map(Outgoing::cost).sum();
            if bytes > BYTES && turn + 1 < count {
                self.next = (self.next + turn + 1) % count;
                self.more = true;
                break;
            }
        }
        taken
    }
}

impl Listening {
    /// True if there may be more.
    fn take(&mut self, entry: &Entry, events: &mut Vec<Outgoing>) -> Result<bool, Evicted> {
        let subscription = &entry.subscriptions[self.index];
        let Some(source) = &subscription.stream else { return Ok(false) };
        let inserts = self.listener.stream().after(self.heard, INSERTS)?;
        for insert in &inserts {
            for event in stream::events(&subscription.query, insert).iter() {
                events.push(Outgoing::of_ready(event, self.index as u32));
            }
            self.heard = insert.number;
            source.delivered(insert.number, insert.seq);
        }
        Ok(inserts.len() == INSERTS)
    }
}
