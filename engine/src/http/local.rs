//! What local mode puts in front of the API: each request acts as the local tenant, whatever it says of itself.

use axum::{
    Json, Router,
    extract::{Request, State},
    http::{HeaderName, HeaderValue, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::json;
use tenancy::{
    AGENT_HEADER, CAPABILITY_HEADER, Capability, INTERNAL_PREFIX, ProblemType, REQUEST_ID_HEADER, TENANT_HEADER,
    TenantId,
};
use uuid::Uuid;

use super::ApiError;

const AGENT: HeaderValue = HeaderValue::from_static("local");

/// What each request acts as.
#[derive(Clone)]
pub struct LocalCaller {
    tenant: HeaderValue,
    capability: HeaderValue,
    any_host: bool,
}

impl LocalCaller {
    /// `any_host`: also answer to names that are not this machine's own.
    pub fn new(tenant: TenantId, capability: &Capability, any_host: bool) -> Self {
        let value = |text: &str| HeaderValue::from_str(text).unwrap_or_else(|_| unreachable!("hex digits and hyphens"));
        let mut capability = value(&capability.expose());
        capability.set_sensitive(true);
        Self { tenant: value(&tenant.to_string()), capability, any_host }
    }
}

/// The API for whoever is on this machine, and `/health`, which the gateway has elsewhere.
pub fn local_router(api: Router, caller: LocalCaller) -> Router {
    let health = get(|| async { Json(json!({ "status": "ok", "version": env!("CARGO_PKG_VERSION") })) });
    Router::new()
        .route("/health", health)
        .fallback_service(api)
        .layer(middleware::from_fn_with_state(caller, act_as_local))
}

async fn act_as_local(State(caller): State<LocalCaller>, mut request: Request, next: Next) -> Response {
    // A page of any web site may send requests to this machine under a name of its own that resolves to 127.0.0.1.
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    if !caller.any_host && !host.is_some_and(is_loopback) {
        let detail = "local mode answers only to localhost, 127.0.0.1 and [::1] as the host";
        return ApiError::new(ProblemType::InvalidRequest, detail).into_response();
    }
    let headers = request.headers_mut();
    let internal: Vec<HeaderName> =
        headers.keys().filter(|name| name.as_str().starts_with(INTERNAL_PREFIX)).cloned().collect();
    for name in internal {
        headers.remove(name);
    }
    headers.insert(TENANT_HEADER, caller.tenant);
    headers.insert(CAPABILITY_HEADER, caller.capability);
    headers.insert(AGENT_HEADER, AGENT);
    if !headers.contains_key(REQUEST_ID_HEADER)
        && let Ok(id) = HeaderValue::from_str(&Uuid::new_v4().to_string())
    {
        headers.insert(REQUEST_ID_HEADER, id);
    }
    next.run(request).await
}

fn is_loopback(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    matches!(name, "127.0.0.1" | "[::1]") || name.eq_ignore_ascii_case("localhost")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machines_names_are_answered_to() {
        for host in ["localhost", "LOCALHOST:8080", "127.0.0.1:8080", "[::1]:8080", "[::1]"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["", "example.com", "localhost.example.com", "127.0.0.1.example.com:80", "::1"] {
            assert!(!is_loopback(host), "{host}");
        }
    }
}
