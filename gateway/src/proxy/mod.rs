//! Passing a request on to the tenant's engine, over pooled keep-alive connections.
//!
//! What is sent again, and when:
//! - never sent (refused, or a kept connection that was closed before): any method, to the next address, within the
//!   retry budget;
//! - the engine does not serve the tenant (421): after asking Postgres where it is, once;
//! - sent and then broken off: only what may be repeated, which is what reads, and what carries an Idempotency-Key.
//!   A store without one gets one from the gateway, so that a rolling restart of an engine costs no store.

mod body;
mod headers;
mod rendezvous;
mod resolve;

use std::{
    collections::HashMap,
    error::Error as _,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::body::{Body, BodyDataStream};
use futures::{Stream, StreamExt as _, TryStreamExt as _, stream};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, request::Parts};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use tenancy::OPERATIONS_HEADER;
use time::OffsetDateTime;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;
use tower_http::timeout::TimeoutBody;
use uuid::Uuid;

use crate::{
    auth::Caller,
    config::Times,
    directory::{Directory, KeyHolder, Target, Tenant},
    encoding::{Decoders, decoded, decoded_whole},
    error::{Error, chain},
    metrics::Metrics,
    router::{Answer, Repeat, Route, number},
};
use body::Outgoing;
use resolve::Resolver;

const OPERATIONS: HeaderName = HeaderName::from_static(OPERATIONS_HEADER);
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// An address that refused is asked last for this long.
const SUSPECT_FOR: Duration = Duration::from_secs(2);
const SUSPECTS_MOST: usize = 4096;
/// Attempts that the engine broke off.
const LOST_MOST: u32 = 3;
/// Silence within an answer's body.
const BODY_IDLE: Duration = Duration::from_secs(30);
/// An engine whose followers hear nothing is asked whether it lives, and given up after as long again.
const FOLLOWER_PING: Duration = Duration::from_secs(5);
/// The caller of a download is looked at this often.
const DOWNLOAD_CHECK: Duration = Duration::from_secs(1);
/// Bytes of an answer that wait here for a client to read them; no smaller than the head of an answer.
const ANSWER_BUFFER_BYTES: usize = 64 * 1024;
const POOL_IDLE: Duration = Duration::from_secs(30);
const PAUSE_FIRST: Duration = Duration::from_millis(25);
const PAUSE_MOST: Duration = Duration::from_millis(400);

/// See the module.
pub struct Proxy {
    client: Client<HttpConnector, Body>,
    /// HTTP/2: the questions of all rooms share one connection to an engine.
    follower: Client<HttpConnector, Body>,
    resolver: Resolver,
    decoders: Decoders,
    pooled: Arc<str>,
    suspects: Mutex<HashMap<SocketAddr, Instant>>,
    directory: Arc<Directory>,
    metrics: Arc<Metrics>,
    times: Times,
}

/// A client's request on its way.
pub struct Passing<'a> {
    /// From whom.
    pub caller: Caller,
    /// What the route allows.
    pub route: &'static Route,
    /// The request as it came.
    pub parts: Parts,
    /// Its body.
    pub body: Body,
    /// The id that goes with it.
    pub request_id: &'a HeaderValue,
    /// Where is noted how much it carries, if somebody wants to know.
    pub carried: Option<Arc<Carried>>,
}

/// How much a request carries: known bit by bit.
#[derive(Default)]
pub struct Carried {
    bytes: AtomicU64,
    operations: AtomicU64,
}

impl Carried {
    /// Bytes of the body, decoded, that have come.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Operations that the engine found in it; 0 before it has answered.
    pub fn operations(&self) -> u64 {
        self.operations.load(Ordering::Relaxed)
    }
}

/// How an attempt failed.
enum Fault {
    /// No byte of the request was sent.
    NeverSent(&'static str),
    /// Nobody knows what the engine did.
    Lost(hyper_util::client::legacy::Error),
}

impl Proxy {
    /// A proxy that sends pooled tenants to `pooled`.
    pub fn new(pooled: Arc<str>, times: Times, directory: Arc<Directory>, metrics: Arc<Metrics>) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(times.connect_timeout));
        connector.set_nodelay(true);
        connector.set_keepalive(Some(POOL_IDLE));
        let client = Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(POOL_IDLE)
            .pool_max_idle_per_host(256)
            .http1_max_buf_size(ANSWER_BUFFER_BYTES)
            .build(connector.clone());
        let follower = Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .http2_only(true)
            .http2_keep_alive_interval(FOLLOWER_PING)
            .http2_keep_alive_timeout(FOLLOWER_PING)
            .http2_keep_alive_while_idle(true)
            .build(connector);
        let (resolver, suspects, decoders) = (Resolver::default(), Mutex::default(), Decoders::default());
        Self { client, follower, resolver, decoders, pooled, suspects, directory, metrics, times }
    }

    /// Keeps the pooled engine's addresses fresh until cancelled.
    pub async fn keep_fresh(&self, cancelled: CancellationToken) {
        self.resolver.keep_fresh(self.pooled.clone(), cancelled).await;
    }

    /// Passes a request on and returns the engine's answer.
    ///
    /// # Errors
    /// Whatever keeps the engine's answer from the client; the engine's own errors are answers.
    pub async fn pass(&self, passing: Passing<'_>) -> Result<Response<Body>, Error> {
        let Passing { mut caller, route, mut parts, body, request_id, carried } = passing;
        let started = Instant::now();
        let deadline = started + route.time.of(&self.times);
        let body = match route.body_limit {
            0 => Outgoing::Whole(bytes::Bytes::new()),
            limit => {
                let places = (&self.decoders, caller.tenant.id);
                let body = decoded(body, &mut parts.headers, limit, deadline, places).await?;
                let body = match &carried {
                    Some(carried) => counted(body, carried.clone()),
                    None => body,
                };
                body::take(body, &parts.headers, limit, deadline).await?
            }
        };
        headers::towards_engine(&mut parts.headers, &caller, request_id);
        let may_repeat = may_repeat(route, &mut parts.headers);
        let path = parts.uri.path_and_query().cloned();

        let mut looking_until = started + self.times.retry_budget;
        let mut refused = Vec::new();
        let (mut pause, mut lost, mut verified) = (PAUSE_FIRST, 0, false);
        loop {
            let engine = self.engine_of(&caller);
            let Some(address) = self.choose(&caller, &engine, &refused).await else {
                if Instant::now() + pause >= looking_until.min(deadline) {
                    return Err(Error::Unreachable(engine.to_string()));
                }
                sleep(pause.mul_f64(rand::random_range(0.75..1.25))).await;
                pause = (pause * 2).min(PAUSE_MOST);
                refused.clear();
                self.resolver.addresses_now(&engine).await;
                continue;
            };
            let request = build(&parts.method, address, path.as_ref(), &parts.headers, body.attempt())?;
            let client = if route.answer == Answer::Followed { &self.follower } else { &self.client };
            match timeout_at(deadline, client.request(request)).await {
                Err(_) if body.is_unfinished() => return Err(Error::BodyTooSlow),
                Err(_) => return Err(Error::Timeout),
                Ok(Ok(answer)) if answer.status() == StatusCode::MISDIRECTED_REQUEST => {
                    if verified || !body.is_repeatable() || !self.directory.verify(caller.tenant.id).await {
                        return Err(Error::NotServed);
                    }
                    verified = true;
                    self.metrics.retry("not-served-here");
                    caller.tenant = self.directory.find(caller.tenant.id).ok_or(Error::InvalidKey)?;
                    if caller.tenant.suspended {
                        return Err(Error::Suspended);
                    }
                    headers::identify(&mut parts.headers, &caller);
                    refused.clear();
                    looking_until = Instant::now() + self.times.retry_budget;
                }
                Ok(Ok(answer)) => {
                    if let Some(carried) = &carried {
                        carried.operations.store(number(answer.headers(), &OPERATIONS), Ordering::Relaxed);
                    }
                    return Ok(self.answer(answer, route, caller));
                }
                Ok(Err(error)) => {
                    if let Some(fault) = body.fault() {
                        return Err(fault);
                    }
                    match fault_of(error) {
                        Fault::NeverSent(reason) if body.is_repeatable() => {
                            self.suspect(address);
                            refused.push(address);
                            self.metrics.retry(reason);
                        }
                        Fault::NeverSent(_) => return Err(Error::Unreachable(engine.to_string())),
                        Fault::Lost(error) => {
                            lost += 1;
                            if !may_repeat || !body.is_repeatable() || lost > LOST_MOST {
                                return Err(Error::Lost(error));
                            }
                            tracing::debug!(error = chain(&error), %address, "the engine broke off; sending again");
                            self.metrics.retry("lost");
                            // A rolling restart breaks many at once; the next attempt finds who is left.
                            sleep(pause).await;
                        }
                    }
                }
            }
        }
    }

    fn engine_of(&self, caller: &Caller) -> Arc<str> {
        match &caller.tenant.target {
            Target::Pooled => self.pooled.clone(),
            Target::Dedicated(endpoint) => endpoint.clone(),
        }
    }

    /// The tenant's best address that has not refused this request; those that lately refused others come last.
    async fn choose(&self, caller: &Caller, engine: &Arc<str>, refused: &[SocketAddr]) -> Option<SocketAddr> {
        let addresses = self.resolver.addresses(engine).await;
        let mut left = rendezvous::ranked(caller.tenant.id, &addresses);
        left.retain(|address| !refused.contains(address));
        let suspects = self.suspects.lock().unwrap_or_else(PoisonError::into_inner);
        if !suspects.is_empty() {
            left.sort_by_key(|address| suspects.get(address).is_some_and(|since| since.elapsed() < SUSPECT_FOR));
        }
        left.first().copied()
    }

    fn answer(&self, answer: Response<Incoming>, route: &Route, caller: Caller) -> Response<Body> {
        let answer = towards_client(answer);
        if route.answer != Answer::Download {
            return answer;
        }
        let end = Box::pin(download_end(self.directory.clone(), caller));
        answer.map(|body| Body::from_stream(until(body.into_data_stream(), end)))
    }

    fn suspect(&self, address: SocketAddr) {
        let mut suspects = self.suspects.lock().unwrap_or_else(PoisonError::into_inner);
        suspects.retain(|_, since| since.elapsed() < SUSPECT_FOR);
        if suspects.len() < SUSPECTS_MOST {
            suspects.insert(address, Instant::now());
        }
    }
}

/// The parts of an answer until `end` comes, which breaks it off: what is not whole must not look whole.
fn until(
    parts: BodyDataStream,
    end: Pin<Box<impl Future<Output = ()> + Send>>,
) -> impl Stream<Item = Result<bytes::Bytes, axum::Error>> {
    stream::unfold(Some((parts, end)), |state| async {
        let (mut parts, mut end) = state?;
        tokio::select! {
            biased;
            () = end.as_mut() => Some((Err(axum::Error::new("the key of a download ended")), None)),
            part = parts.next() => Some((part?, Some((parts, end)))),
        }
    })
}

/// A body whose bytes are counted as they come.
fn counted(body: Body, carried: Arc<Carried>) -> Body {
    Body::from_stream(body.into_data_stream().inspect_ok(move |part| {
        carried.bytes.fetch_add(part.len() as u64, Ordering::Relaxed);
    }))
}

/// Comes when a download has to end: the key counts no more. It goes on while this gateway drains and while the tenant moves.
async fn download_end(directory: Arc<Directory>, caller: Caller) {
    let counts = || {
        let now = OffsetDateTime::now_utc();
        let counts = |(tenant, holder): (Arc<Tenant>, KeyHolder)| {
            !tenant.suspended && holder.expires_at.is_none_or(|end| end > now)
        };
        !directory.is_too_old() && directory.find_key(&caller.key_hash).is_some_and(counts)
    };
    while counts() {
        sleep(DOWNLOAD_CHECK).await;
    }
}

/// Only the engine's silence is measured: nobody waits for it while the client reads what came before.
fn towards_client(answer: Response<Incoming>) -> Response<Body> {
    let (mut parts, body) = answer.into_parts();
    headers::towards_client(&mut parts.headers);
    Response::from_parts(parts, Body::new(TimeoutBody::new(BODY_IDLE, body)))
}

/// Whether a request that may have taken effect can be sent again. A store gets a key that makes it so.
fn may_repeat(route: &Route, headers: &mut HeaderMap) -> bool {
    match route.repeat {
        Repeat::Always => true,
        Repeat::WithKey => {
            if !headers.contains_key(IDEMPOTENCY_KEY)
                && let Ok(key) = HeaderValue::try_from(Uuid::new_v4().to_string())
            {
                headers.insert(IDEMPOTENCY_KEY, key);
            }
            true
        }
    }
}

fn build(
    method: &Method,
    address: SocketAddr,
    path: Option<&http::uri::PathAndQuery>,
    headers: &HeaderMap,
    body: Body,
) -> Result<Request<Body>, Error> {
    let mut uri = Uri::builder().scheme("http").authority(address.to_string());
    uri = match path {
        Some(path) => uri.path_and_query(path.clone()),
        None => uri.path_and_query("/"),
    };
    let uri = uri.build().map_err(Error::Unforwardable)?;
    let mut request = Request::new(body);
    *request.method_mut() = method.clone();
    *request.uri_mut() = uri;
    request.headers_mut().clone_from(headers);
    Ok(request)
}

/// hyper's client says `canceled` exactly when it still holds the whole request.
fn fault_of(error: hyper_util::client::legacy::Error) -> Fault {
    if error.is_connect() {
        return Fault::NeverSent("unreachable");
    }
    match error.source().and_then(|source| source.downcast_ref::<hyper::Error>()) {
        Some(source) if source.is_canceled() => Fault::NeverSent("unsent"),
        _ => Fault::Lost(error),
    }
}

/// Reads a whole body, for a handler of this program.
pub(crate) async fn read_whole(
    body: Body,
    headers: &HeaderMap,
    limit: usize,
    deadline: Instant,
) -> Result<bytes::Bytes, Error> {
    let (mut headers, limit) = (headers.clone(), limit.min(body::KEPT));
    let body = decoded_whole(body, &mut headers, limit, deadline).await?;
    match body::take(body, &headers, limit, deadline).await? {
        Outgoing::Whole(bytes) => Ok(bytes),
        Outgoing::Streamed(_) => Err(Error::BodyTooLarge(limit)),
    }
}
