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

use crate::http::Shared;
use crate::os;
use crate::peer::Watched;

/// How long a connection may be silent between requests, and how long the head of a request may take.
const IDLE: Duration = Duration::from_secs(75);
/// How often an HTTP/2 client is asked whether it is still there.
const PING: Duration = Duration::from_secs(20);
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
    let builder = builder();
    let stop = app.shutdown.on_begin();
    tokio::pin!(stop);
    loop {
        let accepted = tokio::select! {
            () = &mut stop => break,
            accepted = accept(&listener, &slots) => accepted,
        };
        let Some((stream, slot)) = accepted else { continue };
        let service = TowerToHyperService::new(router.clone());
        let connection = builder.serve_connection(TokioIo::new(Watched::new(stream)), service).into_owned();
        let connection = open.watch(connection);
        let app = app.clone();
        tokio::spawn(async move {
            app.metrics.connections.up();
            if let Err(error) = connection.await {
                tracing::debug!(error, "a connection ended early");
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

fn builder() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(IDLE).max_buf_size(BUFFER);
    builder.http2().timer(TokioTimer::new()).keep_alive_interval(PING).keep_alive_timeout(PING);
    builder
}
