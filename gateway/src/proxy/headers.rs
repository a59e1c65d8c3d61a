//! Header hygiene: what crosses the gateway, in each direction.
//!
//! Towards the engine: nothing that a client could use to pass for the gateway, no credential, no hop-by-hop header.
//! Towards the client: nothing of the inside.

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{
        ACCEPT_ENCODING, AUTHORIZATION, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, COOKIE, EXPECT, HOST, ORIGIN,
        PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, SERVER, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
    },
};
use tenancy::{AGENT_HEADER, CAPABILITY_HEADER, INTERNAL_PREFIX, KEY_ID_HEADER, REQUEST_ID_HEADER, TENANT_HEADER};

use crate::auth::{API_KEY_HEADER, Caller};

/// RFC 9110 §7.6.1, and those of older practice.
const HOP_BY_HOP: [HeaderName; 9] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// Makes a client's headers into those for the engine. The body's length is set anew by whoever sends it; codings are
/// between client and gateway alone, and so is the web page that a request comes from.
pub fn towards_engine(headers: &mut HeaderMap, caller: &Caller, request_id: &HeaderValue) {
    strip_hop_by_hop(headers);
    strip_internal(headers);
    for name in [HOST, CONTENT_LENGTH, CONTENT_ENCODING, ACCEPT_ENCODING, EXPECT, ORIGIN, AUTHORIZATION, COOKIE] {
        headers.remove(name);
    }
    headers.remove(API_KEY_HEADER);
    identify(headers, caller);
    headers.insert(REQUEST_ID_HEADER, request_id.clone());
}

/// Says for whom the request is. Again after the tenant was reloaded: its capability may be another.
pub fn identify(headers: &mut HeaderMap, caller: &Caller) {
    let Caller { tenant, agent, key_id, key_hash: _ } = caller;
    headers.insert(CAPABILITY_HEADER, tenant.capability.clone());
    // UUIDs, and an agent's name by its check in Postgres, are visible ASCII.
    for (name, value) in
        [(TENANT_HEADER, tenant.id.to_string()), (AGENT_HEADER, agent.to_string()), (KEY_ID_HEADER, key_id.to_string())]
    {
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(name, value);
        }
    }
}

/// Makes an engine's headers into those for the client.
pub fn towards_client(headers: &mut HeaderMap) {
    strip_hop_by_hop(headers);
    strip_internal(headers);
    headers.remove(SERVER);
    headers.remove(REQUEST_ID_HEADER);
}

fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
}

fn strip_internal(headers: &mut HeaderMap) {
    let internal: Vec<HeaderName> =
        headers.keys().filter(|name| name.as_str().starts_with(INTERNAL_PREFIX)).cloned().collect();
    for name in internal {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::{Target, Tenant};
    use std::sync::Arc;
    use tenancy::{ApiKey, LOCAL_TENANT, MasterKey};
    use uuid::Uuid;

    fn sensitive(text: &str) -> HeaderValue {
        let mut value = HeaderValue::from_str(text).expect("hex digits");
        value.set_sensitive(true);
        value
    }

    fn caller() -> Caller {
        let capability = MasterKey::generate().capability(LOCAL_TENANT, 1).expose();
        let tenant = Tenant {
            id: LOCAL_TENANT,
            tier: "free".into(),
            target: Target::Pooled,
            suspended: false,
            requests_per_minute: 60,
            max_sockets: Some(5),
            socket_messages_per_second: 10,
            capability: sensitive(&capability),
            capability_generation: 1,
            rates: Arc::default(),
        };
        Caller {
            tenant: Arc::new(tenant),
            agent: "main".into(),
            key_id: Uuid::from_u128(7),
            key_hash: ApiKey::generate().hash(),
        }
    }

    fn map(headers: &[(&'static str, &'static str)]) -> HeaderMap {
        headers.iter().map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v))).collect()
    }

    #[test]
    fn no_credential_and_no_forged_identity_reaches_the_engine() {
        let mut headers = map(&[
            ("x-api-key", "sk"),
            ("authorization", "Bearer sk"),
            ("cookie", "a=b"),
            ("x-stellar-tenant", "forged"),
            ("x-stellar-agent", "forged"),
            ("x-stellar-anything", "forged"),
            ("host", "example.org"),
            ("content-length", "5"),
            ("content-encoding", "gzip"),
            ("accept-encoding", "br"),
            ("origin", "https://app.example.org"),
            ("expect", "100-continue"),
            ("connection", "close, X-Private"),
            ("x-private", "1"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "websocket"),
            ("content-type", "application/json"),
            ("accept", "*/*"),
            ("idempotency-key", "k"),
            ("x-request-id", "the client's"),
        ]);
        headers.append("x-stellar-tenant", HeaderValue::from_static("forged twice"));
        let caller = caller();
        towards_engine(&mut headers, &caller, &HeaderValue::from_static("checked"));

        let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        let expected = [
            "accept",
            "content-type",
            "idempotency-key",
            "x-request-id",
            "x-stellar-agent",
            "x-stellar-capability",
            "x-stellar-key-id",
            "x-stellar-tenant",
        ];
        assert_eq!(names, expected);
        assert_eq!(headers["x-stellar-tenant"], LOCAL_TENANT.to_string());
        assert_eq!(headers.get_all("x-stellar-tenant").iter().count(), 1);
        assert_eq!(headers["x-request-id"], "checked");
        assert!(headers["x-stellar-capability"].is_sensitive());
    }

    #[test]
    fn nothing_of_the_inside_reaches_the_client() {
        let mut headers = map(&[
            ("server", "engine"),
            ("x-stellar-replica", "10.0.0.1"),
            ("connection", "keep-alive"),
            ("keep-alive", "timeout=5"),
            ("content-type", "application/json"),
            ("content-length", "2"),
        ]);
        towards_client(&mut headers);
        let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["content-length", "content-type"]);
    }
}
