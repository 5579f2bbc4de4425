//! One subscriber: reads its socket, finds the numbers that were written, and notes how long each took.

use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::http::find;

/// What stands before a number, in the events of all servers alike.
const MARK: &[u8] = b"\"sent\":";

/// What all subscribers have got, and when a number was written: numbers are microseconds since the clock's start.
#[derive(Debug)]
pub struct Tally {
    clock: Instant,
    timed: AtomicBool,
    received: AtomicU64,
    sum: AtomicU64,
    latencies: Mutex<Vec<f64>>,
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            clock: Instant::now(),
            timed: AtomicBool::new(false),
            received: AtomicU64::new(0),
            sum: AtomicU64::new(0),
            latencies: Mutex::default(),
        }
    }
}

impl Tally {
    /// The time, as a number to be written.
    pub fn now(&self) -> u64 {
        u64::try_from(self.clock.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// Begins to count at zero, and to note latencies if `timed`.
    pub fn restart(&self, timed: bool) {
        self.received.store(0, Ordering::SeqCst);
        self.sum.store(0, Ordering::SeqCst);
        self.timed.store(timed, Ordering::SeqCst);
        self.lock().clear();
    }

    /// How many numbers came, over all subscribers.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::SeqCst)
    }

    /// Their sum, with overflow.
    pub fn sum(&self) -> u64 {
        self.sum.load(Ordering::SeqCst)
    }

    /// Milliseconds from the write to the arrival, of each event.
    pub fn latencies(&self) -> Vec<f64> {
        self.lock().clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<f64>> {
        self.latencies.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn note(&self, numbers: &[u64]) {
        if numbers.is_empty() {
            return;
        }
        let now = self.now();
        if self.timed.load(Ordering::Relaxed) {
            self.lock().extend(numbers.iter().map(|sent| now.saturating_sub(*sent) as f64 / 1_000.0));
        }
        let sum = numbers.iter().fold(0u64, |sum, n| sum.wrapping_add(*n));
        self.sum.fetch_add(sum, Ordering::SeqCst);
        self.received.fetch_add(numbers.len() as u64, Ordering::SeqCst);
    }
}

/// Reads a feed to its end. `rest` was read already.
///
/// # Errors
/// From the network.
pub async fn follow(mut stream: TcpStream, mut rest: Vec<u8>, tally: &Tally) -> io::Result<()> {
    loop {
        let numbers = take(&mut rest);
        tally.note(&numbers);
        if stream.read_buf(&mut rest).await? == 0 {
            return Ok(());
        }
    }
}

/// Takes the whole numbers out of a buffer and leaves what may be the beginning of another.
fn take(buffer: &mut Vec<u8>) -> Vec<u64> {
    let mut numbers = Vec::new();
    let mut done = 0;
    while let Some(at) = find(&buffer[done..], MARK) {
        let begin = done + at + MARK.len();
        let length = buffer[begin..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        if begin + length == buffer.len() {
            // There may be more digits to come.
            buffer.drain(..begin - MARK.len());
            return numbers;
        }
        let digits = std::str::from_utf8(&buffer[begin..begin + length]).ok();
        numbers.extend(digits.and_then(|digits| digits.parse::<u64>().ok()));
        done = begin + length;
    }
    let keep = (buffer.len() - done).min(MARK.len() - 1);
    buffer.drain(..buffer.len() - keep);
    numbers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_wherever_the_bytes_are_cut() {
        let text = b"id: 7\ndata: {\"rows\":[{\"sent\":123,\"b\":1}]}\n\n{\"sent\":4567}\n";
        for cut in 0..text.len() {
            let mut buffer = text[..cut].to_vec();
            let mut found = take(&mut buffer);
            buffer.extend_from_slice(&text[cut..]);
            found.extend(take(&mut buffer));
            assert_eq!(found, [123, 4567], "cut at {cut}");
        }
    }
}
