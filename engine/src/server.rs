//! HTTP serving with the bounds that `axum::serve` does not set: a time limit for headers, a limit of connections, and an
//! end that is both graceful and bounded.

use std::{io, sync::Arc, time::Duration};

use axum::Router;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
    service::TowerToHyperService,
};
use tokio::{net::TcpListener, sync::Semaphore, task::JoinSet};
use tokio_util::sync::CancellationToken;

const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
const MAX_HEADERS: usize = 64;
const MAX_BUFFER: usize = 64 * 1024;
const MAX_STREAMS: u32 = 100_000;
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// A full table of file descriptors empties again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves at least one connection at a time and at most `max_clients` until cancelled, then lets requests that run end, for at
/// most `drain`.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    max_clients: usize,
    drain: Duration,
    cancel: CancellationToken,
) -> io::Result<()> {
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
        let _ = stream.set_nodelay(true);
        let connection =
            http.serve_connection_with_upgrades(TokioIo::new(stream), TowerToHyperService::new(router.clone()));
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
