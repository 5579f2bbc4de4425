//! Connections: HTTP/1.1 and HTTP/2 on one port, as many as the limit, until the shutdown begins.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::again::Again;
use crate::http::Shared;
use crate::os;
use crate::peer::Watched;

/// How long a connection may be silent between requests, and how long the head of a request may take.
const IDLE: Duration = Duration::from_secs(75);
/// How often an HTTP/2 client is asked whether it is still there.
const PING: Duration = Duration::from_secs(20);
/// How HTTP/2 begins, and no method of HTTP/1.
const PREFACE: &[u8; 3] = b"PRI";
/// Pause after an accept that failed because the process or the machine has no more descriptors.
const PAUSE: Duration = Duration::from_millis(100);
/// What is held for a client that does not take it, beyond the event that did not fit any more; also the longest head
/// of a request, in bytes.
const BUFFER: usize = 64 << 10;

/// Opens the listening socket.
///
/// # Errors
/// A message that names the address and what to do.
pub(crate) async fn bind(address: &str) -> Result<(TcpListener, SocketAddr), String> {
    let listener = TcpListener::bind(address).await.map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => {
            format!("cannot listen on {address}: another program does; choose another address with --listen")
        }
        _ => format!("cannot listen on {address}: {error}"),
    })?;
    let local = listener.local_addr().map_err(|error| format!("cannot listen on {address}: {error}"))?;
    Ok((listener, local))
}

/// Accepts connections until the shutdown begins, and gives back those that are still open.
pub(crate) async fn serve(listener: TcpListener, app: Shared, router: Router) -> GracefulShutdown {
    let open = GracefulShutdown::new();
    let slots = Arc::new(Semaphore::new(app.config.limits.connections));
    let builders = Builders::new();
    let stop = app.shutdown.on_begin();
    tokio::pin!(stop);
    loop {
        let accepted = tokio::select! {
            () = &mut stop => break,
            accepted = accept(&listener, &slots) => accepted,
        };
        let Some((stream, slot)) = accepted else { continue };
        let service = TowerToHyperService::new(router.clone());
        let (builders, watcher, app) = (builders.clone(), open.watcher(), app.clone());
        tokio::spawn(async move {
            app.metrics.connections.up();
            let speaks = tokio::select! {
                speaks = timeout(IDLE, speaks_http2(&stream)) => speaks,
                // It has asked for nothing yet.
                () = app.shutdown.on_begin() => Ok(Err(io::ErrorKind::ConnectionAborted.into())),
            };
            if let Ok(Ok(http2)) = speaks {
                let stream = TokioIo::new(Watched::new(stream));
                let connection = builders.of(http2).serve_connection(stream, service).into_owned();
                if let Err(error) = Again::new(watcher.watch(connection)).await {
                    tracing::debug!(error, "a connection ended early");
                }
            }
            app.metrics.connections.down();
            drop(slot);
        });
    }
    open
}

/// The next connection, once there is a slot for it.
async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> Option<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let slot = Arc::clone(slots).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, _)) => {
            os::prepare(&stream);
            Some((stream, slot))
        }
        Err(error) => {
            tracing::warn!(%error, "a connection could not be accepted");
            tokio::time::sleep(PAUSE).await;
            None
        }
    }
}

/// True if a client begins with HTTP/2, without having asked first. What it sent stays to be read: the library's own way to
/// find out reads it, and makes every connection's buffer twice as large.
async fn speaks_http2(stream: &TcpStream) -> io::Result<bool> {
    let mut begin = [0; PREFACE.len()];
    loop {
        let read = stream.peek(&mut begin).await?;
        if read == 0 || begin[..read] != PREFACE[..read] {
            return Ok(false);
        }
        if read == PREFACE.len() {
            return Ok(true);
        }
        // The rest is on its way.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// What serves connections, by protocol.
#[derive(Clone)]
struct Builders {
    http1: Arc<auto::Builder<TokioExecutor>>,
    http2: Arc<auto::Builder<TokioExecutor>>,
}

impl Builders {
    fn new() -> Self {
        let mut http1 = auto::Builder::new(TokioExecutor::new()).http1_only();
        http1.http1().timer(TokioTimer::new()).header_read_timeout(IDLE).max_buf_size(BUFFER);
        let mut http2 = auto::Builder::new(TokioExecutor::new()).http2_only();
        http2.http2().timer(TokioTimer::new()).keep_alive_interval(PING).keep_alive_timeout(PING);
        Self { http1: Arc::new(http1), http2: Arc::new(http2) }
    }

    fn of(&self, http2: bool) -> &auto::Builder<TokioExecutor> {
        if http2 { &self.http2 } else { &self.http1 }
    }
}
