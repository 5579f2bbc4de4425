//! A connection's bounded queue, and its place in the feed.
//!
//! A connection is in one of three modes. While it is *catching up* it reads commits itself and the evaluator's are not
//! for it. While it is *joining* the evaluator's commits after a finish line gather here, and the connection still reads
//! those up to the line itself. Once it is *live* all its events come from here. A queue that gets too long is dropped,
//! and the connection catches up again from its own cursor: nothing is lost, no writer and no other reader waits.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::task::{Poll, Waker};

use kalamdb_engine::Seq;
use parking_lot::Mutex;

use crate::live::cursor::Cursor;
use crate::live::event::Outgoing;

/// A queue that held more than this gives its memory back when it is empty.
const KEPT_CAPACITY: usize = 16;

/// See the module.
#[derive(Debug)]
pub(crate) struct Outbox {
    limit: usize,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    mode: Mode,
    queue: VecDeque<Outgoing>,
    bytes: usize,
    cursor: Cursor,
    signal: bool,
    /// True if the connection must not go on from its cursor.
    begin_again: bool,
    /// True if a stream that the connection listens to has more rows.
    streams: bool,
    waker: Option<Waker>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    CatchingUp,
    /// Commits up to the line are read by the connection, those after it gather in the queue.
    Joining(Seq),
    /// The line as well: an evaluator that was slow to deliver may still come with a commit before it.
    Live(Seq),
}

/// What a live connection does next.
#[derive(Debug)]
pub(crate) enum Next {
    /// Sends this event.
    Event(Outgoing),
    /// Looks at what happened to its subscriptions and streams.
    Signal,
    /// Catches up from its cursor.
    FellBack,
}

impl Outbox {
    /// The queue of a connection that is catching up from `cursor`; it holds at most about `limit` bytes.
    pub(crate) fn new(limit: usize, cursor: Cursor) -> Self {
        let state = State {
            mode: Mode::CatchingUp,
            queue: VecDeque::new(),
            bytes: 0,
            cursor,
            signal: false,
            begin_again: false,
            streams: false,
            waker: None,
        };
        Self { limit, state: Mutex::new(state) }
    }

    /// How far the connection's events were delivered.
    pub(crate) fn cursor(&self) -> Cursor {
        self.state.lock().cursor
    }

    /// Records that delivery got this far.
    pub(crate) fn set_cursor(&self, cursor: Cursor) {
        self.state.lock().cursor = cursor;
    }

    /// True if the connection reads commits itself, and the evaluator's are not for it.
    pub(crate) fn is_catching_up(&self) -> bool {
        self.state.lock().mode == Mode::CatchingUp
    }

    /// Begins to gather the evaluator's commits after `line`.
    pub(crate) fn join(&self, line: Seq) {
        let mut state = self.state.lock();
        state.clear();
        state.mode = Mode::Joining(line);
    }

    /// The connection has read everything up to its line. False if the queue ran over meanwhile.
    pub(crate) fn go_live(&self) -> bool {
        let mut state = self.state.lock();
        let Mode::Joining(line) = state.mode else { return false };
        state.mode = Mode::Live(line);
        if state.cursor.complete() < line {
            state.cursor = Cursor::after(line);
        }
        true
    }

    /// Drops the queue; the connection catches up by itself.
    pub(crate) fn fall_back(&self) {
        self.state.lock().fall_back();
    }

    /// Takes over the events that commit `seq` has for this connection. Everything before it, up to and including
    /// commit `previous`, was handed over before. False if the evaluator's commits are no longer for this connection.
    pub(crate) fn push(&self, seq: Seq, previous: Seq, events: impl Iterator<Item = Outgoing>) -> bool {
        let mut state = self.state.lock();
        match state.mode {
            Mode::CatchingUp => return false,
            Mode::Joining(line) | Mode::Live(line) if seq <= line => return true,
            Mode::Joining(_) => {}
            Mode::Live(_) => state.advance(previous),
        }
        let was_empty = state.queue.is_empty();
        for event in events {
            state.bytes += event.cost();
            state.queue.push_back(event);
        }
        // One commit is always taken: its bytes are shared with all the others that get it.
        if state.bytes > self.limit && !was_empty {
            state.fall_back();
            return false;
        }
        state.wake();
        true
    }

    /// Tells the connection that something happened to one of its subscriptions or to all of them.
    pub(crate) fn signal(&self) {
        let mut state = self.state.lock();
        state.signal = true;
        state.wake();
    }

    /// Drops the queue, and tells the connection to begin again with a snapshot instead of going on from its cursor.
    pub(crate) fn begin_again(&self) {
        let mut state = self.state.lock();
        (state.begin_again, state.signal) = (true, true);
        state.fall_back();
    }

    /// True once after a [`Outbox::begin_again`].
    pub(crate) fn take_begin_again(&self) -> bool {
        std::mem::take(&mut self.state.lock().begin_again)
    }

    /// True once after a [`Outbox::signal`].
    pub(crate) fn take_signal(&self) -> bool {
        std::mem::take(&mut self.state.lock().signal)
    }

    /// Tells the connection that one of its streams has more rows.
    pub(crate) fn streams_grew(&self) {
        let mut state = self.state.lock();
        state.streams = true;
        state.wake();
    }

    /// True once after a [`Outbox::streams_grew`].
    pub(crate) fn take_streams(&self) -> bool {
        std::mem::take(&mut self.state.lock().streams)
    }

    /// Waits for a signal and leaves it there.
    pub(crate) async fn signalled(&self) {
        self.until(|state| state.signal).await;
    }

    /// Waits for a signal or for rows of a stream, and leaves them there.
    pub(crate) async fn woken(&self) {
        self.until(|state| state.signal || state.streams).await;
    }

    async fn until(&self, condition: impl Fn(&State) -> bool) {
        poll_fn(|context| {
            let mut state = self.state.lock();
            if condition(&state) {
                return Poll::Ready(());
            }
            state.waker = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Waits for what a live connection does next. The caller sets the cursor once an event is on its way.
    pub(crate) async fn next(&self) -> Next {
        poll_fn(|context| {
            let mut state = self.state.lock();
            if state.signal {
                return Poll::Ready(Next::Signal);
            }
            if state.mode == Mode::CatchingUp {
                return Poll::Ready(Next::FellBack);
            }
            match state.pop() {
                Some(event) => Poll::Ready(Next::Event(event)),
                None if state.streams => Poll::Ready(Next::Signal),
                None => {
                    state.waker = Some(context.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }

    /// The cursor of a connection that has nothing waiting, given that the evaluator has handed over every commit up to
    /// `delivered` before this call.
    pub(crate) fn idle_cursor(&self, delivered: Seq) -> Cursor {
        self.place(delivered).0
    }

    /// The same, and whether events come from the queue.
    pub(crate) fn place(&self, delivered: Seq) -> (Cursor, bool) {
        let mut state = self.state.lock();
        let live = matches!(state.mode, Mode::Live(_));
        if live {
            state.advance(delivered);
        }
        (state.cursor, live)
    }
}

impl State {
    /// With nothing in the queue, everything the evaluator handed over is delivered.
    fn advance(&mut self, delivered: Seq) {
        if self.queue.is_empty() && self.cursor.complete() < delivered {
            self.cursor = Cursor::after(delivered);
        }
    }

    fn pop(&mut self) -> Option<Outgoing> {
        let event = self.queue.pop_front()?;
        self.bytes -= event.cost();
        // In one step with the pop: an event that left the queue must be covered by the cursor.
        if let Some(cursor) = event.cursor {
            self.cursor = cursor;
        }
        if self.queue.is_empty() && self.queue.capacity() > KEPT_CAPACITY {
            self.queue = VecDeque::new();
        }
        Some(event)
    }

    fn fall_back(&mut self) {
        self.clear();
        self.mode = Mode::CatchingUp;
        self.wake();
    }

    fn clear(&mut self) {
        self.queue = VecDeque::new();
        self.bytes = 0;
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(seq: Seq, index: usize, count: usize) -> Outgoing {
        Outgoing::of_subscription(0, "insert", vec![0; 100])
            .with_cursor(Some(Cursor::after_event(seq, index, count)))
    }

    fn live(limit: usize, line: Seq) -> Outbox {
        let outbox = Outbox::new(limit, Cursor::after(line));
        outbox.join(line);
        assert!(outbox.go_live());
        outbox
    }

    async fn pop(outbox: &Outbox) -> String {
        match outbox.next().await {
            Next::Event(event) => event.cursor.unwrap().to_string(),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn a_queue_that_runs_over_falls_back_to_what_was_delivered() {
        let outbox = live(500, 1);
        outbox.push(2, 1, [event(2, 0, 2), event(2, 1, 2)].into_iter());
        assert_eq!(pop(&outbox).await, "2.1");
        for seq in 3..9 {
            outbox.push(seq, seq - 1, std::iter::once(event(seq, 0, 1)));
        }
        assert!(matches!(outbox.next().await, Next::FellBack));
        assert_eq!(outbox.cursor().to_string(), "2.1");
        assert!(!outbox.place(9).1);
    }

    #[tokio::test]
    async fn a_commit_larger_than_the_queue_is_taken_when_nothing_else_waits() {
        let outbox = live(10, 1);
        outbox.push(2, 1, std::iter::once(event(2, 0, 1)));
        assert_eq!(pop(&outbox).await, "2");
    }

    #[tokio::test]
    async fn commits_up_to_the_line_are_not_taken_twice() {
        let outbox = Outbox::new(1_000, Cursor::after(3));
        outbox.push(4, 3, std::iter::once(event(4, 0, 1)));
        outbox.join(5);
        outbox.push(5, 4, std::iter::once(event(5, 0, 1)));
        outbox.push(6, 5, std::iter::once(event(6, 0, 1)));
        assert_eq!(outbox.cursor(), Cursor::after(3));
        assert!(outbox.go_live());
        assert_eq!(outbox.cursor(), Cursor::after(5));
        assert_eq!(pop(&outbox).await, "6");
    }

    #[test]
    fn an_idle_cursor_moves_only_when_nothing_waits_and_never_while_joining() {
        let outbox = live(1_000, 3);
        assert_eq!(outbox.idle_cursor(9), Cursor::after(9));
        assert_eq!(outbox.idle_cursor(7), Cursor::after(9));
        outbox.push(12, 11, std::iter::once(event(12, 0, 1)));
        assert_eq!(outbox.idle_cursor(12), Cursor::after(11));
        let joining = Outbox::new(1_000, Cursor::after(3));
        joining.join(8);
        assert_eq!(joining.idle_cursor(9), Cursor::after(3));
    }

    #[test]
    fn a_queue_that_ran_over_while_joining_does_not_go_live() {
        let outbox = Outbox::new(200, Cursor::after(3));
        outbox.join(3);
        for seq in 4..9 {
            outbox.push(seq, seq - 1, std::iter::once(event(seq, 0, 1)));
        }
        assert!(!outbox.go_live());
        assert_eq!(outbox.cursor(), Cursor::after(3));
    }
}
