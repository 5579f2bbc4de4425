//! Server-sent events: the framing, and the body of a feed.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};

use bytes::{BufMut, Bytes, BytesMut};
use futures::Stream;
use kalamdb_sql::LiveEvent;
use serde_json::json;

use super::state::Shared;

/// Sent first: how long a browser waits before it reconnects, in milliseconds.
const RETRY: &[u8] = b"retry: 1000\n\n";

/// Events that are ready are sent together up to about this many bytes.
const FRAME: usize = 64 << 10;
/// Data of this size is not copied but sent as it is: all feeds that get it share its bytes.
const LARGE: usize = 16 << 10;

/// Why a feed ends although its queries go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The server stops.
    Shutdown,
    /// The token the feed was opened with is no longer good.
    TokenExpired,
}

impl Ending {
    fn reason(self) -> &'static str {
        match self {
            Self::Shutdown => "shutdown",
            Self::TokenExpired => "token_expired",
        }
    }
}

/// Appends an event as its lines. Data is one line: JSON text has no line breaks of its own.
fn frame(event: &LiveEvent, out: &mut BytesMut) {
    out.reserve(event.data.len() + 64);
    open(event, out);
    if event.event.is_some() {
        out.put_slice(&event.data);
        out.put_u8(b'\n');
    }
    out.put_u8(b'\n');
}

/// Everything of an event that comes before its data.
fn open(event: &LiveEvent, out: &mut BytesMut) {
    if let Some(id) = &event.id {
        line(b"id: ", id.as_bytes(), out);
    }
    if let Some(name) = event.event {
        line(b"event: ", name.as_bytes(), out);
        out.put_slice(b"data: ");
    }
}

fn line(field: &[u8], value: &[u8], out: &mut BytesMut) {
    out.put_slice(field);
    out.put_slice(value);
    out.put_u8(b'\n');
}

/// The body of a feed: its events as they come, then a last one if it is ended from outside. Dropping it ends the
/// subscriptions.
pub(crate) struct SseFeed<E> {
    app: Shared,
    events: Pin<Box<E>>,
    subscriptions: Vec<String>,
    ending: Pin<Box<dyn Future<Output = Ending> + Send>>,
    state: State,
    /// The rest of a large event: what was opened already goes before it.
    rest: VecDeque<Bytes>,
    /// Wraps around, so that one that is never without events is ended as well.
    calls: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    New,
    Running,
    Ended,
}

impl<E: Stream<Item = LiveEvent>> SseFeed<E> {
    /// A feed of these events for these subscriptions.
    pub(crate) fn new(
        app: Shared,
        events: E,
        subscriptions: Vec<String>,
        ending: impl Future<Output = Ending> + Send + 'static,
    ) -> Self {
        app.metrics.feeds.up();
        let (events, ending) = (Box::pin(events), Box::pin(ending));
        Self { app, events, subscriptions, ending, state: State::New, rest: VecDeque::new(), calls: 0 }
    }

    /// Takes the events that are ready.
    fn take(&mut self, context: &mut Context<'_>, out: &mut BytesMut) {
        let mut events = 0;
        while out.len() < FRAME && self.rest.is_empty() {
            match self.events.as_mut().poll_next(context) {
                Poll::Ready(Some(event)) if event.data.len() >= LARGE => {
                    open(&event, out);
                    self.rest.extend([event.data, Bytes::from_static(b"\n\n")]);
                    events += 1;
                }
                Poll::Ready(Some(event)) => {
                    frame(&event, out);
                    events += 1;
                }
                Poll::Ready(None) => {
                    self.state = State::Ended;
                    break;
                }
                Poll::Pending => break,
            }
        }
        self.app.metrics.events.fetch_add(events, Relaxed);
    }

    fn hand_over(&self, part: Bytes) -> Poll<Option<Result<Bytes, std::convert::Infallible>>> {
        self.app.metrics.feed_bytes.fetch_add(part.len() as u64, Relaxed);
        Poll::Ready(Some(Ok(part)))
    }

    fn close(&mut self, ending: Ending, out: &mut BytesMut) {
        for subscription in &self.subscriptions {
            let data = json!({"subscription": subscription, "reason": ending.reason()}).to_string();
            frame(&LiveEvent { id: None, event: Some("closed"), data: data.into() }, out);
        }
        out.put_slice(RETRY);
        self.state = State::Ended;
    }
}

impl<E: Stream<Item = LiveEvent>> Stream for SseFeed<E> {
    type Item = Result<Bytes, std::convert::Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if let Some(part) = this.rest.pop_front() {
            return this.hand_over(part);
        }
        let mut out = BytesMut::new();
        if this.state == State::New {
            out.put_slice(RETRY);
            this.state = State::Running;
        }
        if this.state == State::Running {
            this.take(context, &mut out);
        }
        // While there are events its turn comes at a later call, which follows at once.
        this.calls = this.calls.wrapping_add(1);
        if this.state == State::Running
            && (out.is_empty() || this.calls == 0)
            && this.rest.is_empty()
            && let Poll::Ready(ending) = this.ending.as_mut().poll(context)
        {
            this.close(ending, &mut out);
        }
        match (out.is_empty(), this.state) {
            (false, _) => this.hand_over(out.freeze()),
            (true, State::Ended) => Poll::Ready(None),
            (true, _) => Poll::Pending,
        }
    }
}

impl<E> Drop for SseFeed<E> {
    fn drop(&mut self) {
        self.app.metrics.feeds.down();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(id: Option<&str>, event: Option<&'static str>, data: &'static str) -> String {
        let mut out = BytesMut::new();
        frame(
            &LiveEvent { id: id.map(Into::into), event, data: Bytes::from_static(data.as_bytes()) },
            &mut out,
        );
        String::from_utf8(out.to_vec()).unwrap()
    }

    #[test]
    fn events_are_framed_as_browsers_read_them() {
        assert_eq!(framed(Some("7.1"), Some("insert"), "{}"), "id: 7.1\nevent: insert\ndata: {}\n\n");
        assert_eq!(framed(None, Some("ready"), "{\"seq\":1}"), "event: ready\ndata: {\"seq\":1}\n\n");
        assert_eq!(
            framed(Some("8"), None, ""),
            "id: 8\n\n",
            "an id alone moves the cursor and shows no event"
        );
    }
}
