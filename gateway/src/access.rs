//! Around every request: its id, the Host rule, web pages of other sites, compressed answers, what a panic becomes, one
//! line in the log, the metrics.

use std::{
    net::IpAddr,
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::body::Body;
use futures::FutureExt;
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, Version,
    header::{HOST, ORIGIN},
    uri::Authority,
};
use telemetry::TraceId;
use tenancy::{REQUEST_ID_HEADER, TenantId};
use tracing::{Instrument as _, Span, field::Empty};
use uuid::Uuid;

use crate::{
    encoding::Wanted,
    error::{Error, Failure},
    metrics::{Answered, NO_TIER},
    router::{self, Gateway, Trace},
};

/// The route of a request that has none.
const UNMATCHED: &str = "unmatched";

/// Answers one request, whatever happens to it.
pub async fn answer(gateway: &Gateway, mut request: Request<Body>, client: IpAddr) -> Response<Body> {
    let request_id = request_id(request.headers());
    let route = router::find(request.method(), request.uri().path());
    let name = route.as_ref().map_or(UNMATCHED, |route| route.template);
    let mut line = Line::begin(gateway, name_of(request.method()), name, &request_id);
    let (origin, wanted) = (request.headers().get(ORIGIN).cloned(), Wanted::of(&request));
    let mut response = if let Err(error) = check_host(&request) {
        error.into_response()
    } else if let Some(preflight) = preflight(gateway, &request, &mut line) {
        preflight
    } else {
        let span = line.span.clone();
        telemetry::continue_from(&span, request.headers());
        telemetry::pass_on(&span, request.headers_mut());
        let work = gateway.answer(route, request, client, &request_id, &mut line.trace).instrument(span);
        AssertUnwindSafe(work).catch_unwind().await.unwrap_or_else(|_| Error::Panicked.into_response())
    };
    response.headers_mut().insert(REQUEST_ID_HEADER, request_id.clone());
    let failure = response.extensions_mut().remove::<Failure>();
    gateway.cors.open(origin.as_ref(), response.headers_mut());
    line.end(response.status().as_u16(), failure.as_ref());
    wanted.compress(response)
}

/// The answer to a preflight of a path that exists.
fn preflight(gateway: &Gateway, request: &Request<Body>, line: &mut Line<'_>) -> Option<Response<Body>> {
    let path = request.uri().path();
    let response = gateway.cors.preflight(request, &router::allowed(path)?)?;
    line.trace.route = router::at(path).next();
    Some(response)
}

/// The client's own id if it is 1 to 128 visible ASCII characters, else a new one.
fn request_id(headers: &HeaderMap) -> HeaderValue {
    let usable =
        |value: &&HeaderValue| (1..=128).contains(&value.len()) && value.as_bytes().iter().all(u8::is_ascii_graphic);
    match headers.get(REQUEST_ID_HEADER).filter(usable) {
        Some(own) => own.clone(),
        // A UUID's text is always a valid value.
        None => HeaderValue::try_from(Uuid::new_v4().to_string()).unwrap_or(HeaderValue::from_static("unknown")),
    }
}

/// RFC 9112 §3.2: 400 for an HTTP/1.1 request without Host, with two, or with one that is no host.
fn check_host(request: &Request<Body>) -> Result<(), Error> {
    let mut hosts = request.headers().get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (_, Some(_)) => Err(Error::Host("sent twice")),
        (None, None) if request.version() == Version::HTTP_11 => Err(Error::Host("missing")),
        (None, None) => Ok(()),
        (Some(host), None) => {
            let authority = Authority::try_from(host.as_bytes()).map_err(|_| Error::Host("malformed"))?;
            if authority.as_str().contains('@') { Err(Error::Host("malformed")) } else { Ok(()) }
        }
    }
}

/// One line of the access log in the making. Dropped before its end, the client had gone.
struct Line<'a> {
    gateway: &'a Gateway,
    method: &'static str,
    request_id: &'a HeaderValue,
    begun: Instant,
    trace: Trace,
    span: Span,
    ended: bool,
}

impl<'a> Line<'a> {
    fn begin(gateway: &'a Gateway, method: &'static str, route: &'static str, request_id: &'a HeaderValue) -> Self {
        gateway.metrics.in_flight.inc();
        let (begun, trace) = (Instant::now(), Trace::default());
        Self { gateway, method, request_id, begun, trace, span: span(method, route), ended: false }
    }

    fn end(&mut self, status: u16, failure: Option<&Failure>) {
        self.ended = true;
        let Self { gateway, method, request_id, begun, trace, span, ended: _ } = self;
        let metrics = &gateway.metrics;
        let duration = begun.elapsed();
        let route = trace.route.map_or(UNMATCHED, |route| route.template);
        let tier: Arc<str> =
            trace.caller.as_ref().map_or_else(|| NO_TIER.into(), |caller| metrics.tier(&caller.tenant.tier));
        if let Some(failure) = failure {
            metrics.problem(failure.kind);
        }
        let tenant = trace.caller.as_ref().map(|caller| caller.tenant.id);
        let request_id = request_id.to_str().unwrap_or_default();
        span.record("http.response.status_code", status);
        span.record("stellar.tier", &*tier);
        if let Some(tenant) = tenant {
            span.record("stellar.tenant.id", tracing::field::display(tenant));
        }
        if status >= 500 {
            span.record("otel.status_code", "ERROR");
        }
        let trace = telemetry::trace_id(span);
        log(&Entry { method, route, status, tier: &tier, tenant, request_id, trace, duration, failure });
        metrics.in_flight.dec();
        metrics.answered(Answered { route, method, status, tier, duration });
    }
}

impl Drop for Line<'_> {
    fn drop(&mut self) {
        if !self.ended {
            // 499, as others call it: the client closed the connection before there was an answer.
            self.end(499, None);
        }
    }
}

/// What traces tell of a request: never a key, a query, a body or a tenant's name. A span's name is the one that it begins with.
fn span(method: &'static str, route: &'static str) -> Span {
    tracing::info_span!(
        "request",
        otel.kind = "server",
        otel.name = format!("{method} {route}"),
        otel.status_code = Empty,
        http.request.method = method,
        http.route = route,
        http.response.status_code = Empty,
        stellar.tier = Empty,
        stellar.tenant.id = Empty,
    )
}

struct Entry<'a> {
    method: &'static str,
    route: &'static str,
    status: u16,
    tier: &'a str,
    tenant: Option<TenantId>,
    request_id: &'a str,
    trace: Option<TraceId>,
    duration: Duration,
    failure: Option<&'a Failure>,
}

fn log(entry: &Entry<'_>) {
    let Entry { method, route, status, tier, tenant, request_id, trace, duration, failure } = entry;
    let trace_id = trace.map(tracing::field::display);
    let tenant = tenant.map(tracing::field::display);
    let duration_ms = duration.as_micros() as f64 / 1000.0;
    let error = failure.map(|failure| failure.log.as_str());
    if *status >= 500 {
        tracing::warn!(target: "access", method, route, status, tier, tenant, request_id, trace_id, duration_ms, error, "answered a request");
    } else {
        tracing::info!(target: "access", method, route, status, tier, tenant, request_id, trace_id, duration_ms, error, "answered a request");
    }
}

/// Methods are the client's text; metrics know only these.
fn name_of(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_hosts(version: Version, hosts: &[&'static str]) -> Request<Body> {
        let mut request = Request::new(Body::empty());
        *request.version_mut() = version;
        for host in hosts {
            request.headers_mut().append(HOST, HeaderValue::from_static(host));
        }
        request
    }

    #[test]
    fn exactly_one_host_is_wanted() {
        for host in ["example.org", "example.org:8080", "10.0.0.1", "[::1]:80"] {
            assert!(check_host(&with_hosts(Version::HTTP_11, &[host])).is_ok(), "{host}");
        }
        for hosts in [&[][..], &["a", "b"], &["a", "a"], &[""], &["a b"], &["a/b"], &["user@a"]] {
            assert!(check_host(&with_hosts(Version::HTTP_11, hosts)).is_err(), "{hosts:?}");
        }
        assert!(check_host(&with_hosts(Version::HTTP_10, &[])).is_ok());
        assert!(check_host(&with_hosts(Version::HTTP_2, &[])).is_ok());
    }

    #[test]
    fn a_usable_request_id_is_kept() {
        let id_of = |value: &[u8]| {
            let mut headers = HeaderMap::new();
            headers.insert(REQUEST_ID_HEADER, HeaderValue::from_bytes(value).expect("a value"));
            request_id(&headers)
        };
        assert_eq!(id_of(b"trace-7/a"), "trace-7/a");
        assert_eq!(id_of(&[b'x'; 128]).len(), 128);
        for bad in [&b""[..], b"a b", b"\xff", &[b'x'; 129]] {
            assert_eq!(id_of(bad).len(), 36, "{bad:?}");
        }
    }
}
