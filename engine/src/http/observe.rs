//! What every request has: a time limit, a request id in the log, a count and a duration in the metrics.

use std::time::Instant;

use axum::{
    extract::{MatchedPath, Request, State},
    http::HeaderValue,
    middleware::Next,
    response::{IntoResponse, Response},
};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, histogram::Histogram},
};
use tenancy::{ProblemType, REQUEST_ID_HEADER, TENANT_HEADER};
use tracing::{Instrument as _, field::Empty};

use super::{Api, ApiError, IMPORT, changes};

/// Labels of a request. Bounded: routes as registered, five classes of status.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct RequestLabels {
    /// The route's template, or `unmatched`.
    pub route: String,
    /// `2xx` and so on.
    pub status: &'static str,
}

/// Labels of a duration.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct RouteLabels {
    /// The route's template, or `unmatched`.
    pub route: String,
}

/// What requests are measured by.
#[derive(Clone)]
pub struct HttpMetrics {
    /// Requests by route and class of status.
    pub requests: Family<RequestLabels, Counter>,
    /// Seconds until the answer began, by route.
    pub seconds: Family<RouteLabels, Histogram, fn() -> Histogram>,
}

fn text(value: Option<&HeaderValue>) -> Option<&str> {
    value.and_then(|value| value.to_str().ok())
}

pub(super) async fn observe(State(api): State<Api>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let route = request.extensions().get::<MatchedPath>().map_or("unmatched", MatchedPath::as_str).to_owned();
    let id = request.headers().get(REQUEST_ID_HEADER).cloned();
    let tenant = request.headers().get(TENANT_HEADER).cloned();
    let method = request.method().clone();
    // What is written while the request is handled carries its id.
    let span = tracing::info_span!(
        "request",
        otel.kind = "server",
        otel.name = format!("{method} {route}"),
        otel.status_code = Empty,
        http.request.method = %method,
        http.route = route,
        http.response.status_code = Empty,
        stellar.tenant.id = text(tenant.as_ref()),
        request.id = text(id.as_ref()),
    );
    telemetry::continue_from(&span, request.headers());
    let limit = match &*route {
        // One that waits for news has that time besides.
        changes::ROUTE => api.request_timeout + changes::WAIT_MOST,
        route if route.ends_with(IMPORT) => api.import_timeout,
        _ => api.request_timeout,
    };
    let answer = tokio::time::timeout(limit, next.run(request).instrument(span.clone()));
    let mut response = answer.await.unwrap_or_else(|_| {
        span.in_scope(|| tracing::warn!(?limit, "a request took too long"));
        let detail = "the request took too long; whether it was carried out is not known";
        ApiError::new(ProblemType::GatewayTimeout, detail).into_response()
    });
    let status = response.status();
    span.record("http.response.status_code", status.as_u16());
    if status.is_server_error() {
        span.record("otel.status_code", "ERROR");
    }
    let class = match status.as_u16() {
        ..200 => "1xx",
        200..300 => "2xx",
        300..400 => "3xx",
        400..500 => "4xx",
        500.. => "5xx",
    };
    let took = started.elapsed();
    api.metrics.seconds.get_or_create(&RouteLabels { route: route.clone() }).observe(took.as_secs_f64());
    span.in_scope(|| tracing::debug!(status = status.as_u16(), ms = took.as_millis() as u64, "answered a request"));
    api.metrics.requests.get_or_create(&RequestLabels { route, status: class }).inc();
    if let Some(id) = id {
        response.headers_mut().insert(REQUEST_ID_HEADER, id);
    }
    response
}
