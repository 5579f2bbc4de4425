//! Subscribers: their sockets are read by one thread, which finds the numbers that were written and notes how long each
//! took.
//!
//! Subscribers share the machine with the server, so what they cost hides what the server costs, of a fast server more
//! than of a slow one. That is why there are no tasks here, only sockets and a buffer.

use std::io::{self, ErrorKind, Read};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use memchr::memmem::Finder;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token, Waker};

/// What stands before a number, in the events of all servers alike.
const MARK: &[u8] = b"\"sent\":";
/// Stands for no subscriber.
const WAKE: Token = Token(usize::MAX);
/// How much is read at a time.
const BUFFER: usize = 64 << 10;

/// What all subscribers have got, and when a number was written: numbers are microseconds since the clock's start.
#[derive(Debug)]
pub struct Tally {
    clock: Instant,
    timed: AtomicBool,
    received: AtomicU64,
    sum: AtomicU64,
    arrivals: Mutex<Vec<Arrival>>,
}

/// A number that came.
#[derive(Debug, Clone, Copy)]
pub struct Arrival {
    /// The number: when it was written.
    pub sent: u64,
    /// When it came.
    pub came: u64,
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            clock: Instant::now(),
            timed: AtomicBool::new(false),
            received: AtomicU64::new(0),
            sum: AtomicU64::new(0),
            arrivals: Mutex::default(),
        }
    }
}

impl Tally {
    /// The time, as a number to be written.
    pub fn now(&self) -> u64 {
        u64::try_from(self.clock.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// Begins to count at zero, and to note arrivals if `timed`.
    pub fn restart(&self, timed: bool) {
        self.received.store(0, Ordering::SeqCst);
        self.sum.store(0, Ordering::SeqCst);
        self.timed.store(timed, Ordering::SeqCst);
        lock(&self.arrivals).clear();
    }

    /// How many numbers came, over all subscribers.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::SeqCst)
    }

    /// Their sum, with overflow.
    pub fn sum(&self) -> u64 {
        self.sum.load(Ordering::SeqCst)
    }

    /// Every number that came since, at each subscriber.
    pub fn arrivals(&self) -> Vec<Arrival> {
        lock(&self.arrivals).clone()
    }

    /// Milliseconds from the write to the arrival, of each event.
    pub fn latencies(&self) -> Vec<f64> {
        self.arrivals().iter().map(|a| a.came.saturating_sub(a.sent) as f64 / 1_000.0).collect()
    }

    fn note(&self, sent: u64) {
        if self.timed.load(Ordering::Relaxed) {
            lock(&self.arrivals).push(Arrival { sent, came: self.now() });
        }
        self.sum.fetch_add(sent, Ordering::Relaxed);
        self.received.fetch_add(1, Ordering::SeqCst);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The thread that reads for subscribers. Dropping it disconnects them.
#[derive(Debug)]
pub struct Readers {
    shared: Arc<Shared>,
    thread: Option<std::thread::JoinHandle<io::Result<()>>>,
    count: usize,
}

#[derive(Debug)]
struct Shared {
    tally: Arc<Tally>,
    /// Subscribers that the thread does not know yet.
    new: Mutex<Vec<Subscriber>>,
    over: AtomicBool,
    waker: Waker,
}

#[derive(Debug)]
struct Subscriber {
    stream: TcpStream,
    /// The beginning of what may become a mark and a number.
    rest: Vec<u8>,
}

impl Readers {
    /// Starts the thread.
    ///
    /// # Errors
    /// From the system.
    pub fn start(tally: &Arc<Tally>) -> io::Result<Self> {
        let poll = Poll::new()?;
        let waker = Waker::new(poll.registry(), WAKE)?;
        let (over, new) = (AtomicBool::new(false), Mutex::default());
        let shared = Arc::new(Shared { tally: tally.clone(), new, over, waker });
        let thread = std::thread::Builder::new().name("subscribers".into()).spawn({
            let shared = shared.clone();
            move || run(poll, &shared)
        })?;
        Ok(Self { shared, thread: Some(thread), count: 0 })
    }

    /// Reads for another subscriber. `rest` was read already.
    ///
    /// # Errors
    /// From the system.
    pub fn add(&mut self, stream: tokio::net::TcpStream, rest: Vec<u8>) -> io::Result<()> {
        let stream = TcpStream::from_std(stream.into_std()?);
        lock(&self.shared.new).push(Subscriber { stream, rest });
        self.count += 1;
        self.shared.waker.wake()
    }

    /// How many subscribers were added.
    pub fn len(&self) -> usize {
        self.count
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::SeqCst);
        if self.shared.waker.wake().is_ok()
            && let Some(Ok(Err(error))) = self.thread.take().map(std::thread::JoinHandle::join)
        {
            eprintln!("subscribers: {error}");
        }
    }
}

fn run(mut poll: Poll, shared: &Shared) -> io::Result<()> {
    let (mut events, mut buffer) = (Events::with_capacity(1024), vec![0; BUFFER]);
    let mut all: Vec<Option<Subscriber>> = Vec::new();
    loop {
        match poll.poll(&mut events, None) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            other => other?,
        }
        if shared.over.load(Ordering::SeqCst) {
            return Ok(());
        }
        for event in &events {
            let Some(place) = all.get_mut(event.token().0) else { continue };
            if let Some(subscriber) = place
                && !subscriber.read(&mut buffer, &shared.tally)?
            {
                *place = None;
            }
        }
        for mut subscriber in lock(&shared.new).drain(..) {
            poll.registry().register(&mut subscriber.stream, Token(all.len()), Interest::READABLE)?;
            // What came before it was registered is not announced.
            let goes_on = subscriber.read(&mut buffer, &shared.tally)?;
            all.push(goes_on.then_some(subscriber));
        }
    }
}

impl Subscriber {
    /// Reads what there is; false at the end.
    fn read(&mut self, buffer: &mut [u8], tally: &Tally) -> io::Result<bool> {
        loop {
            let read = match self.stream.read(buffer) {
                Ok(0) => return Ok(false),
                Ok(read) => read,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            self.take(&buffer[..read], |number| tally.note(number));
            if read < buffer.len() {
                return Ok(true);
            }
        }
    }

    /// Takes the whole numbers out of what came, and keeps what may be the beginning of another.
    fn take(&mut self, bytes: &[u8], mut note: impl FnMut(u64)) {
        let joined;
        let bytes = if self.rest.is_empty() {
            bytes
        } else {
            joined = [std::mem::take(&mut self.rest).as_slice(), bytes].concat();
            &joined
        };
        let finder = Finder::new(MARK);
        let mut done = 0;
        while let Some(at) = finder.find(&bytes[done..]) {
            let begin = done + at + MARK.len();
            let length = bytes[begin..].iter().take_while(|byte| byte.is_ascii_digit()).count();
            if begin + length == bytes.len() {
                // There may be more digits to come.
                self.rest = bytes[begin - MARK.len()..].to_vec();
                return;
            }
            let digits = std::str::from_utf8(&bytes[begin..begin + length]).ok();
            if let Some(number) = digits.and_then(|digits| digits.parse().ok()) {
                note(number);
            }
            done = begin + length;
        }
        let tail = &bytes[bytes.len() - (bytes.len() - done).min(MARK.len() - 1)..];
        // Mostly the end of an event, of which no mark begins.
        if tail.contains(&b'"') {
            self.rest = tail.to_vec();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_wherever_the_bytes_are_cut() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let text = b"id: 7\ndata: {\"rows\":[{\"sent\":123,\"b\":1}]}\n\n{\"sent\":4567}\n";
        for cut in 0..text.len() {
            let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let mut subscriber = Subscriber { stream, rest: Vec::new() };
            let mut found = Vec::new();
            subscriber.take(&text[..cut], |number| found.push(number));
            subscriber.take(&text[cut..], |number| found.push(number));
            assert_eq!(found, [123, 4567], "cut at {cut}");
        }
    }
}
