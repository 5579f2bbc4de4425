//! A connection that notices when its peer has vanished.
//!
//! A cable that was pulled, a laptop that sleeps, a network that drops everything: nobody tells the server. What it sends
//! then is never confirmed. The system of a client that is alive confirms whatever it gets, and answers when it is asked
//! whether there is room again, however long its program does not read. That is the difference between one that is dead
//! and one that is slow, and the only thing that counts here: a slow client is waited for, a dead one is cut off.
//!
//! It is looked for only while something is on its way, so that a silent connection costs nothing; that something is on
//! its way now and then is what heartbeats are for.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep};

use crate::os::{self, Peer};

/// How often a peer that owes a confirmation is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// A peer that confirmed nothing at so many looks, one after another, is gone.
const LOOKS: u32 = 4;

/// Something that knows whether its peer confirms what it gets.
pub(crate) trait Observed {
    /// What is known now; `None` if nothing ever is.
    fn peer(&self) -> Option<Peer>;
}

impl Observed for TcpStream {
    fn peer(&self) -> Option<Peer> {
        os::peer(self)
    }
}

/// See the module. Once the peer is found gone, everything fails with [`io::ErrorKind::TimedOut`].
#[derive(Debug)]
pub(crate) struct Watched<S> {
    stream: S,
    look: Duration,
    /// True if the last write found no room.
    blocked: bool,
    watch: Option<Box<Watch>>,
}

#[derive(Debug)]
struct Watch {
    next: Pin<Box<Sleep>>,
    /// Looks, one after another, at which it owed something and had confirmed nothing since the one before.
    silent: u32,
}

impl<S: Observed> Watched<S> {
    /// Watches the peer of a connection.
    pub(crate) fn new(stream: S) -> Self {
        Self::looking_every(stream, LOOK)
    }

    fn looking_every(stream: S, look: Duration) -> Self {
        Self { stream, look, blocked: false, watch: None }
    }

    /// Something is on its way.
    fn sent(&mut self, blocked: bool, context: &mut Context<'_>) -> io::Result<()> {
        self.blocked = blocked;
        if self.watch.is_none() {
            self.watch = Some(Box::new(Watch { next: Box::pin(sleep(self.look)), silent: 0 }));
        }
        self.check(context)
    }

    /// Looks, if it is time.
    fn check(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        while let Some(watch) = &mut self.watch {
            if watch.next.as_mut().poll(context).is_pending() {
                break;
            }
            let owes = self.stream.peer().map(|peer| (peer.owes, peer.heard < self.look));
            match owes {
                // Everything arrived. If more waits for room, it is looked at again.
                Some((false, _)) if self.blocked => watch.silent = 0,
                Some((false, _)) | None => self.watch = None,
                Some((true, true)) => watch.silent = 0,
                Some((true, false)) => watch.silent += 1,
            }
            let Some(watch) = &mut self.watch else { break };
            if watch.silent >= LOOKS {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "the peer does not answer any more"));
            }
            watch.next.as_mut().reset(Instant::now() + self.look);
        }
        Ok(())
    }
}

impl<S: AsyncRead + Observed + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Observed + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.sent(written.is_pending(), context)?;
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, parts);
        self.sent(written.is_pending(), context)?;
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    const QUICK: Duration = Duration::from_millis(5);

    /// A stream whose peer does as it is told.
    struct Told(DuplexStream, Arc<Mutex<Vec<Peer>>>);

    impl Observed for Told {
        /// The next of the list; the last one for good.
        fn peer(&self) -> Option<Peer> {
            let mut list = self.1.lock().unwrap();
            if list.len() > 1 { Some(list.remove(0)) } else { list.first().copied() }
        }
    }

    impl AsyncRead for Told {
        fn poll_read(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_read(context, buffer)
        }
    }

    impl AsyncWrite for Told {
        fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, b: &[u8]) -> Poll<io::Result<usize>> {
            Pin::new(&mut self.0).poll_write(cx, b)
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_flush(cx)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_shutdown(cx)
        }
    }

    fn silent() -> Peer {
        Peer { owes: true, heard: Duration::from_secs(60) }
    }

    fn alive() -> Peer {
        Peer { owes: true, heard: Duration::ZERO }
    }

    fn quiet() -> Peer {
        Peer { owes: false, heard: Duration::from_secs(60) }
    }

    /// A watched stream to which a little was written, and the other end.
    async fn written(peers: Vec<Peer>) -> (Watched<Told>, DuplexStream, Arc<Mutex<Vec<Peer>>>) {
        let (near, far) = duplex(1024);
        let peers = Arc::new(Mutex::new(peers));
        let mut watched = Watched::looking_every(Told(near, peers.clone()), QUICK);
        watched.write_all(b"hello").await.unwrap();
        (watched, far, peers)
    }

    #[tokio::test]
    async fn one_that_confirms_nothing_is_cut_off_while_the_server_waits_for_it() {
        let (mut watched, _far, _) = written(vec![silent()]).await;
        let read = watched.read(&mut [0; 8]).await;
        assert_eq!(read.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn one_that_has_no_room_but_confirms_now_and_then_is_waited_for() {
        let mut looks = Vec::new();
        for _ in 0..5 {
            // The answer to a question comes at the third look.
            looks.extend([silent(), silent(), silent(), alive(), quiet()]);
        }
        looks.push(quiet());
        let (mut watched, mut far, peers) = written(looks).await;
        let filled = async {
            loop {
                if let Err(error) = watched.write_all(&[0; 4096]).await {
                    return error;
                }
            }
        };
        let looked = async {
            while peers.lock().unwrap().len() > 1 {
                tokio::time::sleep(QUICK).await;
            }
        };
        tokio::select! {
            error = filled => panic!("{error}"),
            () = looked => {}
        }
        let mut buffer = [0; 5];
        far.read_exact(&mut buffer).await.unwrap();
        assert_eq!(&buffer, b"hello");
    }

    #[tokio::test]
    async fn one_that_has_everything_is_not_looked_at_any_more() {
        let (mut watched, _far, peers) = written(vec![alive(), quiet(), silent()]).await;
        let waited = tokio::time::timeout(QUICK * 20, watched.read(&mut [0; 8])).await;
        assert!(waited.is_err(), "nothing came, and nothing failed");
        assert_eq!(*peers.lock().unwrap(), [silent()], "two looks");
        assert!(watched.watch.is_none());
    }
}
