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
use sync::Rooms;
use tenancy::{
    AGENT_HEADER, CAPABILITY_HEADER, Capability, INTERNAL_PREFIX, ProblemType, REQUEST_ID_HEADER, TENANT_HEADER,
    TenantId,
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    Api, ApiError,
    local_sync::{self, AGENT, LocalRooms, ROOM},
};
use crate::store::Caller;

/// What each request acts as.
#[derive(Clone)]
pub struct LocalCaller {
    tenant: HeaderValue,
    capability: HeaderValue,
    any_host: bool,
    caller: Caller,
}

impl LocalCaller {
    /// `any_host`: also answer to names that are not this machine's own.
    pub fn new(tenant: TenantId, proof: &Capability, any_host: bool) -> Self {
        let value = |text: &str| HeaderValue::from_str(text).unwrap_or_else(|_| unreachable!("hex digits and hyphens"));
        let mut capability = value(&proof.expose());
        capability.set_sensitive(true);
        let caller = Caller { tenant, capability: proof.clone(), agent: Some(AGENT.to_owned()), key: None };
        Self { tenant: value(&tenant.to_string()), capability, any_host, caller }
    }

    /// The rooms of whoever is on this machine; `leaving` ends its sockets.
    pub fn rooms(&self, api: Api, leaving: CancellationToken) -> Rooms<LocalRooms> {
        let service = LocalRooms::new(api, self.caller.clone());
        Rooms::new(service, sync::SyncMetrics::default(), sync::Times::default(), leaving)
    }
}

/// The API for whoever is on this machine, and what the gateway has elsewhere: `/health`, sockets and event streams.
pub fn local_router(api: Router, caller: LocalCaller, rooms: Rooms<LocalRooms>) -> Router {
    let version = env!("CARGO_PKG_VERSION");
    let health = get(move || async move { Json(json!({ "status": "ok", "version": version, "room": ROOM })) });
    let live = Router::new()
        .route("/api/v1/sync", get(local_sync::socket))
        .route("/api/v1/events", get(local_sync::events))
        .with_state(rooms);
    Router::new()
        .route("/health", health)
        .merge(live)
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
    // Browsers let every page open a socket and tell whose page it is; here no key would stop it.
    // An image or a script of a page tells no origin, only that it is of another site.
    let mut origins = request.headers().get_all(header::ORIGIN).iter().peekable();
    let site = request.headers().get("sec-fetch-site");
    let hidden = origins.peek().is_none() && site.is_some_and(|site| site == "cross-site");
    if hidden || origins.any(|origin| !origin.to_str().is_ok_and(|origin| is_of_this_machine(origin, host))) {
        let detail = "local mode takes no requests of other sites' pages";
        return ApiError::new(ProblemType::OriginNotAllowed, detail).into_response();
    }
    let headers = request.headers_mut();
    let internal: Vec<HeaderName> =
        headers.keys().filter(|name| name.as_str().starts_with(INTERNAL_PREFIX)).cloned().collect();
    for name in internal {
        headers.remove(name);
    }
    headers.insert(TENANT_HEADER, caller.tenant);
    headers.insert(CAPABILITY_HEADER, caller.capability);
    headers.insert(AGENT_HEADER, HeaderValue::from_static(AGENT));
    if !headers.contains_key(REQUEST_ID_HEADER)
        && let Ok(id) = HeaderValue::from_str(&Uuid::new_v4().to_string())
    {
        headers.insert(REQUEST_ID_HEADER, id);
    }
    next.run(request).await
}

/// Whether a page comes from this machine, or from the very host that is asked.
fn is_of_this_machine(origin: &str, host: Option<&str>) -> bool {
    let authority = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
    authority.is_some_and(|authority| is_loopback(authority) || host == Some(authority))
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

    #[test]
    fn only_this_machines_pages_are_answered() {
        for origin in ["http://localhost:3000", "http://127.0.0.1", "https://localhost", "http://box:8080"] {
            assert!(is_of_this_machine(origin, Some("box:8080")), "{origin}");
        }
        for origin in ["null", "", "http://box", "https://example.com", "http://localhost.example.com", "localhost"] {
            assert!(!is_of_this_machine(origin, Some("box:8080")), "{origin}");
        }
    }
}
