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

use super::{Api, ApiError};

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

pub(super) async fn observe(State(api): State<Api>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let route = request.extensions().get::<MatchedPath>().map_or("unmatched", MatchedPath::as_str).to_owned();
    let id = request.headers().get(REQUEST_ID_HEADER).cloned();
    let tenant = request.headers().get(TENANT_HEADER).cloned();
    let method = request.method().clone();
    let mut response = tokio::time::timeout(api.request_timeout, next.run(request)).await.unwrap_or_else(|_| {
        let detail = "the request took too long; whether it was carried out is not known";
        ApiError::new(ProblemType::GatewayTimeout, detail).into_response()
    });
    let status = response.status();
    let class = match status.as_u16() {
        ..200 => "1xx",
        200..300 => "2xx",
        300..400 => "3xx",
        400..500 => "4xx",
        500.. => "5xx",
    };
    let took = started.elapsed();
    api.metrics.seconds.get_or_create(&RouteLabels { route: route.clone() }).observe(took.as_secs_f64());
    let text = |value: &Option<HeaderValue>| value.as_ref().and_then(|value| value.to_str().ok().map(str::to_owned));
    tracing::debug!(
        %method,
        route,
        status = status.as_u16(),
        ms = took.as_millis() as u64,
        tenant = text(&tenant),
        request_id = text(&id),
        "answered a request"
    );
    if status.is_server_error() {
        tracing::warn!(%method, route, status = status.as_u16(), request_id = text(&id), "a request failed");
    }
    api.metrics.requests.get_or_create(&RequestLabels { route, status: class }).inc();
    if let Some(id) = id {
        response.headers_mut().insert(REQUEST_ID_HEADER, id);
    }
    response
}
