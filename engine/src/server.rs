//! HTTP serving with the bounds that `axum::serve` does not set: time limits for headers and for answers that nobody reads, a
//! limit of connections, and an end that is both graceful and bounded.

use std::{io, pin::Pin, sync::Arc, time::Duration};

use axum::Router;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
};
use tokio_io_timeout::TimeoutWriter;
use tokio_util::sync::CancellationToken;

const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
const MAX_HEADERS: usize = 64;
const MAX_BUFFER: usize = 64 * 1024;
const MAX_STREAMS: u32 = 100_000;
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// Bytes that wait in the kernel for a client that does not read: enough for full speed, and few for thousands of them.
#[cfg(target_os = "linux")]
const UNSENT_BYTES: u32 = 128 * 1024;
/// A full table of file descriptors empties again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Bounds of a server.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Connections at one time; 0 counts as 1.
    pub max_clients: usize,
    /// A client must take something of its answer within this time.
    pub write_timeout: Duration,
    /// How long requests that run may go on at the end.
    pub drain: Duration,
}

/// Serves until cancelled, then lets requests that run end.
///
/// # Errors
/// When the system takes the listener away.
pub async fn serve(listener: TcpListener, router: Router, bounds: Bounds, cancel: CancellationToken) -> io::Result<()> {
    let Bounds { max_clients, write_timeout, drain } = bounds;
    let places = Arc::new(Semaphore::new(max_clients.clamp(1, Semaphore::MAX_PERMITS)));
    let graceful = GracefulShutdown::new();
    let mut connections = JoinSet::new();
    // HTTP/2 is for the gateway's rooms, which wait for news by the thousand over one connection.
    let mut http = auto::Builder::new(TokioExecutor::new());
    http.http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_BUFFER);
    http.http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_BUFFER as u32)
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE);
    loop {
        let place = tokio::select! {
            place = places.clone().acquire_owned() => place.map_err(io::Error::other)?,
            () = cancel.cancelled() => break,
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = cancel.cancelled() => break,
        };
        while connections.try_join_next().is_some() {}
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let io = TokioIo::new(bounded(stream, write_timeout));
        let connection = http.serve_connection_with_upgrades(io, TowerToHyperService::new(router.clone()));
        let connection = graceful.watch(connection.into_owned());
        connections.spawn(async move {
            // A client that sends rubbish or hangs up is no event of ours.
            if let Err(error) = connection.await {
                tracing::trace!(%error, "a connection ended with an error");
            }
            drop(place);
        });
    }
    drop(listener);
    if tokio::time::timeout(drain, graceful.shutdown()).await.is_err() {
        tracing::warn!(open = connections.len(), "connections are cut off: they did not end within the drain time");
        connections.shutdown().await;
    }
    Ok(())
}

/// A connection on which a write that brings no byte further within `write_timeout` fails.
fn bounded(stream: TcpStream, write_timeout: Duration) -> Pin<Box<TimeoutWriter<TcpStream>>> {
    // Without these, small answers wait for the client's acknowledgement, and the kernel keeps megabytes of an answer that
    // nobody reads; a failure only costs that.
    let _ = stream.set_nodelay(true);
    #[cfg(target_os = "linux")]
    {
        let socket = socket2::SockRef::from(&stream);
        let _ = socket.set_tcp_notsent_lowat(UNSENT_BYTES);
        let _ = socket.set_tcp_user_timeout(Some(write_timeout));
    }
    let mut stream = TimeoutWriter::new(stream);
    stream.set_timeout(Some(write_timeout));
    Box::pin(stream)
}
