//! A client of live feeds, on a bare socket: so that a test decides when it reads and when it is cut off.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use flate2::read::GzDecoder;
use serde_json::{Value, json};

use crate::PATIENCE;
use crate::chunked::BodyReader;
use crate::client::{Client, Refusal, encode};
use crate::sse::{self, Event};

/// What to subscribe to.
#[derive(Debug, Clone, Default)]
pub struct LiveRequest {
    subscriptions: Vec<Value>,
    last_event_id: Option<String>,
    /// Added to the address.
    token: Option<String>,
    post: bool,
}

/// An open feed.
#[derive(Debug)]
pub struct Live {
    socket: TcpStream,
    /// The rest of the connection, until somebody reads it.
    unread: Option<BufReader<TcpStream>>,
    events: Option<Receiver<Event>>,
    last_id: Option<String>,
    headers: Vec<String>,
}

impl LiveRequest {
    /// One query, with the id that the server gives.
    pub fn new(sql: &str) -> Self {
        let mut request = Self::default();
        request.subscriptions.push(json!({"sql": sql}));
        request
    }

    /// Adds a query with an id.
    #[must_use]
    pub fn and(mut self, id: &str, sql: &str) -> Self {
        self.subscriptions.push(json!({"id": id, "sql": sql}));
        self
    }

    /// Sets a member of the last query: `last_rows`, `snapshot` or (not in an address) `params`.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.subscriptions.last_mut().expect("a query comes first")[name] = value.into();
        self
    }

    /// Goes on after this event.
    #[must_use]
    pub fn after(mut self, last_event_id: &str) -> Self {
        self.last_event_id = Some(last_event_id.into());
        self
    }

    /// Shows a token in the address.
    #[must_use]
    pub fn token(mut self, token: &str) -> Self {
        self.token = Some(token.into());
        self
    }

    /// Sends the request as JSON instead of in the address.
    #[must_use]
    pub fn post(mut self) -> Self {
        self.post = true;
        self
    }

    /// Opens the feed and reads it.
    pub fn open(&self, client: &Client) -> Live {
        let mut live = self.open_unread(client);
        live.read_on();
        live
    }

    /// Opens the feed and reads nothing but the headers.
    pub fn open_unread(&self, client: &Client) -> Live {
        match self.try_open(client) {
            Ok(live) => live,
            Err(refusal) => panic!("{self:?}: {}", refusal.answer),
        }
    }

    /// Opens the feed, which must be refused.
    pub fn refused(&self, client: &Client) -> Refusal {
        match self.try_open(client) {
            Ok(_) => panic!("{self:?} was accepted"),
            Err(refusal) => refusal,
        }
    }

    fn try_open(&self, client: &Client) -> Result<Live, Refusal> {
        let address = client.url().strip_prefix("http://").expect("an http address");
        let mut socket = TcpStream::connect(address).unwrap();
        socket.write_all(&self.head_and_body(client, address)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut reader = BufReader::new(socket.try_clone().unwrap());
        let headers = head(&mut reader);
        socket.set_read_timeout(None).unwrap();
        let status: u16 =
            headers[0].split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        if status != 200 {
            return Err(refusal(status, &headers, reader));
        }
        Ok(Live { socket, unread: Some(reader), events: None, last_id: self.last_event_id.clone(), headers })
    }

    fn head_and_body(&self, client: &Client, address: &str) -> Vec<u8> {
        let token = self.token.as_ref().map(|token| format!("token={}", encode(token)));
        let (method, query, body) = if self.post {
            ("POST", token.unwrap_or_default(), json!({"subscriptions": self.subscriptions}).to_string())
        } else {
            ("GET", self.query().into_iter().chain(token).collect::<Vec<_>>().join("&"), String::new())
        };
        let mut text =
            format!("{method} /api/live?{query} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n");
        text.push_str("Accept: text/event-stream\r\nAccept-Encoding: gzip\r\n");
        if let Some(value) = client.authorization() {
            text.push_str(&format!("Authorization: {value}\r\n"));
        }
        if let Some(id) = &self.last_event_id {
            text.push_str(&format!("Last-Event-ID: {id}\r\n"));
        }
        if self.post {
            text.push_str(&format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len()));
        }
        format!("{text}\r\n{body}").into_bytes()
    }

    fn query(&self) -> Vec<String> {
        let mut pairs = Vec::new();
        for subscription in self.subscriptions.iter().filter_map(Value::as_object) {
            for (name, value) in subscription {
                let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                pairs.push(format!("{name}={}", encode(&value)));
            }
        }
        pairs
    }
}

fn head(reader: &mut impl BufRead) -> Vec<String> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        let read = reader.read_line(&mut line).expect("the head of an answer");
        assert!(read > 0, "the connection ended within the head: {lines:?}");
        if line.trim().is_empty() {
            return lines;
        }
        lines.push(line.trim_end().to_owned());
    }
}

fn is_chunked(headers: &[String]) -> bool {
    headers.iter().any(|line| line.eq_ignore_ascii_case("transfer-encoding: chunked"))
}

fn refusal(status: u16, headers: &[String], reader: impl BufRead) -> Refusal {
    let mut text = String::new();
    let body = BodyReader::new(reader, is_chunked(headers));
    let zipped = headers.iter().any(|line| line.eq_ignore_ascii_case("content-encoding: gzip"));
    let mut body: Box<dyn Read> = if zipped { Box::new(GzDecoder::new(body)) } else { Box::new(body) };
    body.read_to_string(&mut text).expect("the body of an error");
    let answer: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text:?}"));
    let code = answer["error"]["code"].as_str().unwrap_or_else(|| panic!("no code: {answer}")).to_owned();
    Refusal { status, code, answer }
}

impl Live {
    /// Opens a feed of one query with id `q1`, and gives back the rows of its snapshot.
    pub fn follow(client: &Client, sql: &str) -> (Self, Vec<Value>) {
        let mut live = LiveRequest::new(sql).open(client);
        live.expect("ready");
        let rows = live.snapshot();
        (live, rows)
    }

    /// Begins to read, or goes on reading, in a thread of its own.
    pub fn read_on(&mut self) {
        let reader = self.unread.take().expect("it is not read yet");
        let body = BodyReader::new(reader, is_chunked(&self.headers));
        let (sender, receiver) = channel();
        std::thread::spawn(move || sse::read(body, |event| sender.send(event).is_ok()));
        self.events = Some(receiver);
    }

    /// A header of the answer; empty if there is none.
    pub fn header(&self, name: &str) -> &str {
        let pairs = self.headers.iter().filter_map(|line| line.split_once(':'));
        let found = pairs.into_iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map_or("", |(_, value)| value.trim())
    }

    /// The id of the last block that the test has taken: with it a client goes on.
    ///
    /// # Panics
    /// If there was none.
    pub fn last_id(&self) -> String {
        self.last_id.clone().expect("an event with an id was taken")
    }

    /// The next block of any kind within this time; `None` if there is none or the feed has ended.
    pub fn poll(&mut self, patience: Duration) -> Option<Event> {
        self.take(patience).ok()
    }

    fn take(&mut self, patience: Duration) -> Result<Event, RecvTimeoutError> {
        let event = self.events.as_ref().expect("the feed is read").recv_timeout(patience)?;
        if event.id.is_some() {
            self.last_id.clone_from(&event.id);
        }
        Ok(event)
    }

    /// The next event that says something: no heartbeat, no block that only moves the id. `None` at the end.
    ///
    /// # Panics
    /// If there is none before the deadline.
    pub fn next_event(&mut self) -> Option<Event> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.take(deadline.saturating_duration_since(Instant::now())) {
                Ok(event) if event.name.is_empty() || event.name == "heartbeat" => {}
                Ok(event) => return Some(event),
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) => panic!("no event within {PATIENCE:?}"),
            }
        }
    }

    /// The next event that says something, which must have this name.
    pub fn expect(&mut self, name: &str) -> Event {
        let event = self.next_event().unwrap_or_else(|| panic!("the feed ended before {name}"));
        assert_eq!(event.name, name, "{event:?}");
        event
    }

    /// All batches of the snapshot that comes next, as rows.
    pub fn snapshot(&mut self) -> Vec<Value> {
        let mut rows = Vec::new();
        loop {
            let event = self.expect("snapshot");
            assert_eq!(event.data["first"].as_bool(), Some(rows.is_empty()), "{:?}", event.data["seq"]);
            assert!(event.rows().len() <= 1000);
            rows.extend_from_slice(event.rows());
            if event.data["last"] == true {
                return rows;
            }
        }
    }

    /// Everything that says something, up to and including the first event of which this is true.
    pub fn wait_for(&mut self, mut is_last: impl FnMut(&Event) -> bool) -> Vec<Event> {
        let mut seen = Vec::new();
        loop {
            let Some(event) = self.next_event() else { panic!("the feed ended after {seen:?}") };
            let last = is_last(&event);
            seen.push(event);
            if last {
                return seen;
            }
        }
    }

    /// Everything that says something, up to the end of the feed.
    pub fn rest(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.next_event()).collect()
    }

    /// Cuts the connection.
    pub fn disconnect(self) {}
}

impl Drop for Live {
    fn drop(&mut self) {
        // It may be closed already.
        drop(self.socket.shutdown(Shutdown::Both));
    }
}
