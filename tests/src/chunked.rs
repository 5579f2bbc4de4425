//! The body of an HTTP/1.1 answer, chunked or until the end of the connection.

use std::io::{self, BufRead, Read};

/// Reads a body.
pub(crate) struct BodyReader<R> {
    inner: R,
    /// Bytes left of the current chunk; `None` if the body is not chunked.
    left: Option<usize>,
    ended: bool,
}

impl<R: BufRead> BodyReader<R> {
    /// A reader that stands before the body's first byte.
    pub(crate) fn new(inner: R, chunked: bool) -> Self {
        Self { inner, left: chunked.then_some(0), ended: false }
    }

    /// Reads the head of the next chunk; the one before is read.
    fn next_chunk(&mut self) -> io::Result<usize> {
        let mut line = String::new();
        while line.trim().is_empty() {
            line.clear();
            if self.inner.read_line(&mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        usize::from_str_radix(line.trim(), 16).map_err(|_| io::Error::other(format!("not a chunk: {line:?}")))
    }
}

impl<R: BufRead> Read for BodyReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(mut left) = self.left else { return self.inner.read(buffer) };
        if self.ended || buffer.is_empty() {
            return Ok(0);
        }
        if left == 0 {
            left = self.next_chunk()?;
            self.ended = left == 0;
        }
        let wanted = left.min(buffer.len());
        let read = self.inner.read(&mut buffer[..wanted])?;
        self.left = Some(left - read);
        if read == 0 && left > 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(read) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_joined_and_a_cut_is_noticed() {
        let read = |bytes: &[u8]| {
            let mut text = String::new();
            BodyReader::new(bytes, true).read_to_string(&mut text).map(|_| text)
        };
        assert_eq!(read(b"4\r\nabcd\r\nA\r\n0123456789\r\n0\r\n\r\n").unwrap(), "abcd0123456789");
        assert!(read(b"4\r\nabcd\r\n").is_err());
        assert!(read(b"4\r\nab").is_err());
    }
}
