//! Serving connections: HTTP/1.1 and HTTP/2 without TLS, bounded in number and time, drained at the end.

mod activity;
mod stream;

use std::{
    any::Any,
    collections::HashMap,
    convert::Infallible,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use axum::body::Body;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Version, header::CONNECTION};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::conn::auto,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    client_address::{client_address, grouped, is_trusted},
    config::{ClientLimits, Times},
    metrics::Metrics,
};
use activity::{Activity, Answering, Asking, Judgement, StreamExecutor};
use stream::ClientStream;

/// Bytes of a request's head.
const HEAD_MOST: usize = 64 * 1024;
const HTTP2_STREAMS: u32 = 128;

/// What answers requests.
pub trait Handler: Send + Sync + 'static {
    /// Answers one request; `client` is the address that it counts for.
    fn answer(&self, request: Request<Body>, client: IpAddr) -> impl Future<Output = Response<Body>> + Send;
}

/// How a server serves.
#[derive(Clone)]
pub struct Rules {
    /// Bounds on connections.
    pub limits: ClientLimits,
    /// Bounds on time.
    pub times: Times,
    /// Where connections are counted; `None` on the health port.
    pub metrics: Option<Arc<Metrics>>,
}

/// The two steps of an end.
#[derive(Clone, Default)]
pub struct Ending {
    /// Answers ask clients to come back on another connection.
    pub leaving: CancellationToken,
    /// No connection is accepted any more; those at rest close, those in use finish.
    pub stop: CancellationToken,
}

/// Serves until `ending.stop`, and then at most `drain_timeout` more. Returns how many connections were cut off.
pub async fn serve<H: Handler>(listener: TcpListener, handler: Arc<H>, rules: Rules, ending: Ending) -> usize {
    let server = Arc::new(Server {
        handler,
        builder: builder(&rules.times),
        peers: Mutex::default(),
        room: Arc::new(Semaphore::new(rules.limits.max_connections.clamp(1, Semaphore::MAX_PERMITS))),
        rules,
        ending,
    });
    let mut connections = JoinSet::new();
    let accepting = async {
        loop {
            // Over the bound, clients wait in the kernel's queue until a place is free.
            let Ok(room) = server.room.clone().acquire_owned().await else { return };
            let (stream, peer) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    // A connection that broke before we took it, or no file descriptor left: wait for one.
                    tracing::debug!(%error, "cannot accept a connection");
                    sleep(Duration::from_millis(20)).await;
                    continue;
                }
            };
            while connections.try_join_next().is_some() {}
            let Some(place) = server.clone().admit(peer.ip()) else { continue };
            let server = server.clone();
            connections.spawn(async move {
                let held = Held(Arc::new((room, place)));
                server.converse(stream, peer, &held).await;
            });
        }
    };
    server.ending.stop.run_until_cancelled(accepting).await;
    drop(listener);
    let drained = async { while connections.join_next().await.is_some() {} };
    // What is left after that time is cut off below.
    let _ = timeout(server.rules.times.drain_timeout, drained).await;
    let cut_off = connections.len();
    connections.shutdown().await;
    cut_off
}

fn builder(times: &Times) -> auto::Builder<StreamExecutor> {
    let mut builder = auto::Builder::new(StreamExecutor);
    builder
        .http1()
        .timer(TokioTimer::new())
        // Between requests too; `Activity` cuts off a half-sent head much earlier.
        .header_read_timeout(times.keep_alive.max(times.header_timeout) + Duration::from_secs(5))
        // Also of answers that a client does not read: those to the requests behind them wait. (`pipeline_flush` would take
        // that bound away.)
        .max_buf_size(HEAD_MOST);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(HTTP2_STREAMS)
        .max_header_list_size(HEAD_MOST as u32)
        .max_send_buf_size(HEAD_MOST)
        .keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(20));
    builder
}

struct Server<H> {
    handler: Arc<H>,
    builder: auto::Builder<StreamExecutor>,
    rules: Rules,
    room: Arc<Semaphore>,
    peers: Mutex<HashMap<IpAddr, usize>>,
    ending: Ending,
}

impl<H: Handler> Server<H> {
    /// A place for a connection of this peer, if it has one left. A trusted proxy brings many clients.
    fn admit(self: Arc<Self>, peer: IpAddr) -> Option<Place<H>> {
        let most = if is_trusted(peer, &self.rules.limits.trusted_proxies) {
            usize::MAX
        } else {
            self.rules.limits.max_connections_per_client
        };
        let peer = grouped(peer);
        {
            let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
            let open = peers.entry(peer).or_default();
            if *open >= most {
                if let Some(metrics) = &self.rules.metrics {
                    metrics.connection_refused("client-limit");
                }
                return None;
            }
            *open += 1;
        }
        if let Some(metrics) = &self.rules.metrics {
            metrics.connections.inc();
        }
        Some(Place { server: self, peer })
    }

    async fn converse(&self, stream: TcpStream, peer: SocketAddr, held: &Held) {
        let Times { header_timeout, keep_alive, write_timeout, .. } = self.rules.times;
        let activity = Activity::new();
        let io = TokioIo::new(ClientStream::new(stream, activity.clone(), write_timeout));
        let service = service_fn(|mut request: Request<Incoming>| {
            request.extensions_mut().insert(held.clone());
            let in_flight = activity.request(request.version() == Version::HTTP_2);
            let client = client_address(peer.ip(), request.headers(), &self.rules.limits.trusted_proxies);
            let (handler, leaving) = (self.handler.clone(), self.ending.leaving.clone());
            let (activity, read) = (activity.clone(), activity.clone());
            async move {
                let version = request.version();
                let mut response =
                    handler.answer(request.map(|body| Body::new(Asking::new(body, activity))), client).await;
                // After a body that nobody read this connection may end: the client is told before it sends another request.
                let ends = leaving.is_cancelled() || read.is_unread();
                if ends && version <= Version::HTTP_11 && response.status() != StatusCode::SWITCHING_PROTOCOLS {
                    ask_to_close(response.headers_mut());
                }
                Ok::<_, Infallible>(response.map(|body| Answering::new(body, in_flight)))
            }
        });
        let mut connection = std::pin::pin!(self.builder.serve_connection_with_upgrades(io, service));
        let shortest = header_timeout.min(keep_alive).min(write_timeout);
        let mut glances = interval((shortest / 4).max(Duration::from_millis(10)));
        glances.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut closing = None;
        loop {
            tokio::select! {
                ended = connection.as_mut() => {
                    if let Err(error) = ended {
                        tracing::debug!(error = &*error, "a client's connection ended badly");
                    }
                    return;
                }
                () = self.ending.stop.cancelled(), if closing.is_none() => {
                    closing = Some(Instant::now());
                    connection.as_mut().graceful_shutdown();
                }
                _ = glances.tick() => {
                    for _ in 0..activity.end_unread(write_timeout) {
                        self.cut_off("write-timeout");
                    }
                    match activity.judge(header_timeout, keep_alive) {
                        Judgement::Idle if closing.is_none() => {
                            closing = Some(Instant::now());
                            connection.as_mut().graceful_shutdown();
                        }
                        // The end of its last answer is not read.
                        Judgement::Idle if closing.is_some_and(|since: Instant| {
                            since.elapsed().min(activity.untaken()) >= write_timeout
                        }) => return self.cut_off("write-timeout"),
                        Judgement::Stalled => return self.cut_off("header-timeout"),
                        Judgement::Keep | Judgement::Idle => {}
                    }
                }
            }
        }
    }

    fn cut_off(&self, reason: &'static str) {
        if let Some(metrics) = &self.rules.metrics {
            metrics.connection_refused(reason);
        }
    }
}

fn ask_to_close(headers: &mut HeaderMap) {
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
}

/// A connection's share of what is bounded, in a request's extensions: whoever keeps it keeps the connection counted after it
/// became something else.
#[derive(Clone)]
pub struct Held(#[expect(dead_code, reason = "only held")] Arc<dyn Any + Send + Sync>);

/// A connection's place among those of its peer.
struct Place<H> {
    server: Arc<Server<H>>,
    peer: IpAddr,
}

impl<H> Drop for Place<H> {
    fn drop(&mut self) {
        let mut peers = self.server.peers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = peers.get_mut(&self.peer) {
            *open -= 1;
            if *open == 0 {
                peers.remove(&self.peer);
            }
        }
        if let Some(metrics) = &self.server.rules.metrics {
            metrics.connections.dec();
        }
    }
}
