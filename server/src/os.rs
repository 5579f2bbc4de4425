//! What the server asks of the operating system directly. Elsewhere than on Linux these do nothing, or know nothing.

use std::time::Duration;

use tokio::net::TcpStream;

/// Bytes of one connection that the system holds before the peer has room for them. Without a bound it is megabytes for
/// every client that stalls.
const UNSENT: i32 = 128 << 10;
/// How often, in milliseconds, a peer that does not answer, or has no room, is asked again. The system's own pause grows
/// to two minutes, and as long a peer that vanishes while it has no room would stay unnoticed.
const ASK_AGAIN: i32 = 1_000;

/// What the system knows of the other end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Peer {
    /// True if something was sent, data or the question whether there is room, that it has yet to confirm.
    pub(crate) owes: bool,
    /// How long ago it confirmed anything.
    pub(crate) heard: Duration,
}

/// Sets up a connection that was accepted. None of it is needed for correctness, so that failures are ignored.
#[cfg_attr(not(target_os = "linux"), expect(unused_variables, reason = "Linux has these options"))]
pub(crate) fn prepare(stream: &TcpStream) {
    // An answer or an event is worth sending at once, however small.
    drop(stream.set_nodelay(true));
    #[cfg(target_os = "linux")]
    {
        linux::set_tcp_option(stream, libc::TCP_NOTSENT_LOWAT, UNSENT);
        linux::set_tcp_option(stream, linux::TCP_RTO_MAX_MS, ASK_AGAIN);
    }
}

/// What is known of the peer now.
#[cfg(target_os = "linux")]
pub(crate) fn peer(stream: &TcpStream) -> Option<Peer> {
    let info = linux::tcp_info(stream)?;
    Some(Peer {
        owes: info.tcpi_unacked > 0 || info.tcpi_probes > 0,
        heard: Duration::from_millis(u64::from(info.tcpi_last_ack_recv)),
    })
}

/// What is known of the peer now.
#[cfg(not(target_os = "linux"))]
pub(crate) fn peer(_stream: &TcpStream) -> Option<Peer> {
    None
}

/// Raises the limit on open descriptors to what the process may have at most: every feed is one. Returns the limit.
#[cfg(target_os = "linux")]
pub(crate) fn raise_descriptor_limit() -> Option<u64> {
    linux::raise_descriptor_limit()
}

/// Raises the limit on open descriptors to what the process may have at most: every feed is one. Returns the limit.
#[cfg(not(target_os = "linux"))]
pub(crate) fn raise_descriptor_limit() -> Option<u64> {
    None
}

/// Does without huge pages. They make the pages around everything small resident that lives long, which for thousands of
/// idle feeds is half as much memory again; queries were not measurably faster with them.
pub(crate) fn forgo_huge_pages() {
    #[cfg(target_os = "linux")]
    linux::forgo_huge_pages();
}

#[cfg(target_os = "linux")]
mod linux {
    use std::mem::MaybeUninit;
    use std::os::fd::AsRawFd;

    use tokio::net::TcpStream;

    /// Linux 6.15 and newer; older ones refuse it. Not yet in `libc`.
    pub(super) const TCP_RTO_MAX_MS: i32 = 44;

    #[expect(unsafe_code, reason = "the standard library does not have these options")]
    pub(super) fn set_tcp_option(stream: &TcpStream, option: i32, value: i32) {
        // SAFETY: the descriptor is open as long as `stream` is borrowed, and the pointer and the length are those of
        // `value`, which lives until the call returns.
        unsafe {
            libc::setsockopt(
                stream.as_raw_fd(),
                libc::IPPROTO_TCP,
                option,
                (&raw const value).cast(),
                size_of::<i32>() as libc::socklen_t,
            );
        }
    }

    #[expect(unsafe_code, reason = "the standard library does not have this option")]
    pub(super) fn tcp_info(stream: &TcpStream) -> Option<libc::tcp_info> {
        let mut info = MaybeUninit::<libc::tcp_info>::zeroed();
        let mut length = size_of::<libc::tcp_info>() as libc::socklen_t;
        // SAFETY: the descriptor is open as long as `stream` is borrowed; the system writes at most `length` bytes, the
        // size of `info`.
        let done = unsafe {
            libc::getsockopt(
                stream.as_raw_fd(),
                libc::IPPROTO_TCP,
                libc::TCP_INFO,
                info.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        // SAFETY: all fields are integers, for which the zeros it began with are values.
        (done == 0).then(|| unsafe { info.assume_init() })
    }

    #[expect(unsafe_code, reason = "the standard library does not have this call")]
    pub(super) fn forgo_huge_pages() {
        // SAFETY: it takes numbers only. Where it is not known it fails, and everything is as before.
        unsafe {
            libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0);
        }
    }

    #[expect(unsafe_code, reason = "the standard library does not have limits")]
    pub(super) fn raise_descriptor_limit() -> Option<u64> {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: the pointer is to a value that lives until the call returns.
        if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
            return None;
        }
        let before = limit.rlim_cur;
        limit.rlim_cur = limit.rlim_max;
        // SAFETY: as above.
        let raised = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } == 0;
        Some(if raised { limit.rlim_max } else { before })
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn a_peer_that_is_alive_owes_nothing_although_its_program_does_not_read() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let _stalled = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut stream, _) = listener.accept().await.unwrap();
        prepare(&stream);
        let filled = async { while stream.write_all(&[0; 64 << 10]).await.is_ok() {} };
        assert!(
            tokio::time::timeout(Duration::from_millis(300), filled).await.is_err(),
            "it is full some time"
        );
        let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
        while peer(&stream).unwrap().owes {
            assert!(tokio::time::Instant::now() < deadline, "its system confirms what it got");
            tokio::task::yield_now().await;
        }
    }

    #[test]
    fn the_limit_on_descriptors_can_be_raised_to_what_is_allowed() {
        let limit = raise_descriptor_limit().unwrap();
        assert!(limit > 0);
        assert_eq!(raise_descriptor_limit(), Some(limit));
    }
}
