//! An HTTP client as thin as can be: one task and one socket per connection, requests written as bytes, since it shares
//! the machine with what it measures.

use std::io;

use base64::Engine;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

/// One keep-alive connection.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    /// Header lines of every request.
    headers: String,
    buffer: Vec<u8>,
}

/// The header line of `user:password`.
pub fn basic(credentials: &str) -> String {
    format!("Authorization: Basic {}\r\n", base64::engine::general_purpose::STANDARD.encode(credentials))
}

impl Connection {
    /// Connects to `host:port`; `headers` are whole lines for every request.
    ///
    /// # Errors
    /// From the network.
    pub async fn open(address: &str, headers: &str) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let headers = format!("Host: {address}\r\n{headers}");
        Ok(Self { stream, headers, buffer: Vec::with_capacity(4096) })
    }

    /// Posts a JSON text and returns the body of the answer.
    ///
    /// # Errors
    /// From the network; the answer, if it is no success.
    pub async fn post(&mut self, path: &str, json: &str) -> io::Result<&[u8]> {
        let request = format!(
            "POST {path} HTTP/1.1\r\n{}Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{json}",
            self.headers,
            json.len()
        );
        self.stream.write_all(request.as_bytes()).await?;
        self.buffer.clear();
        let (body, end) = loop {
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if let Some(found) = response(&self.buffer) {
                break found;
            }
        };
        match self.buffer.starts_with(b"HTTP/1.1 20") {
            true => Ok(&self.buffer[body..end]),
            false => Err(io::Error::other(String::from_utf8_lossy(&self.buffer[..end]).into_owned())),
        }
    }

    /// Runs a statement on KalamDB.
    ///
    /// # Errors
    /// See [`Connection::post`].
    pub async fn sql(&mut self, sql: &str) -> io::Result<&[u8]> {
        self.post("/api/sql", &format!(r#"{{"sql":"{sql}"}}"#)).await
    }
}

/// Opens a stream of events: sends the request and reads until this much of the answer has come. The bytes after it, if
/// any, are returned as well. `receive_buffer` makes the system take no more than about so many bytes for it.
///
/// # Errors
/// From the network; the answer, if it is no success.
pub async fn open_stream(
    address: &str,
    request: &str,
    until: &str,
    receive_buffer: Option<u32>,
) -> io::Result<(TcpStream, Vec<u8>)> {
    let socket = TcpSocket::new_v4()?;
    if let Some(bytes) = receive_buffer {
        socket.set_recv_buffer_size(bytes)?;
    }
    let mut stream = socket.connect(address.parse().map_err(io::Error::other)?).await?;
    stream.set_nodelay(true)?;
    stream.write_all(request.as_bytes()).await?;
    let mut seen = Vec::new();
    loop {
        if let Some(at) = find(&seen, until.as_bytes()) {
            return Ok((stream, seen.split_off(at + until.len())));
        }
        if seen.len() > 12 && !seen.starts_with(b"HTTP/1.1 200") {
            return Err(io::Error::other(String::from_utf8_lossy(&seen).into_owned()));
        }
        if stream.read_buf(&mut seen).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// Where one text begins in another.
pub fn find(text: &[u8], part: &[u8]) -> Option<usize> {
    text.windows(part.len()).position(|window| window == part)
}

/// Where the body of a whole response begins and ends, if it is all there: by its length, or by the last chunk.
fn response(bytes: &[u8]) -> Option<(usize, usize)> {
    let body = find(bytes, b"\r\n\r\n")? + 4;
    let head = std::str::from_utf8(&bytes[..body]).ok()?.to_ascii_lowercase();
    if let Some(at) = head.find("content-length:") {
        let length: usize = head[at + 15..].lines().next()?.trim().parse().ok()?;
        return (bytes.len() >= body + length).then_some((body, body + length));
    }
    let bodyless = head.starts_with("http/1.1 204");
    (bodyless || bytes.ends_with(b"0\r\n\r\n")).then_some((body, bytes.len()))
}
