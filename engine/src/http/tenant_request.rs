//! Authentication's outcome as a value: a handler that needs a tenant takes a [`TenantRequest`].

use axum::{extract::FromRequestParts, http::request::Parts};
use tenancy::{AGENT_HEADER, CAPABILITY_HEADER, Capability, KEY_ID_HEADER, ProblemType, TENANT_HEADER};
use uuid::Uuid;

use super::ApiError;
use crate::store::Caller;

const MAX_AGENT_CHARS: usize = 64;

/// A request of a tenant, as the gateway vouches for it. Postgres checks the capability again.
pub(super) struct TenantRequest(pub(super) Caller);

impl<S: Send + Sync> FromRequestParts<S> for TenantRequest {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        let header = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok());
        let tenant = header(TENANT_HEADER).and_then(|text| text.parse().ok()).ok_or_else(|| {
            ApiError::new(ProblemType::InvalidRequest, "the request names no tenant: send it through the gateway")
        })?;
        let capability = header(CAPABILITY_HEADER).and_then(Capability::parse).ok_or_else(|| {
            ApiError::new(
                ProblemType::NotServedHere,
                "the request proves no right to the tenant: send it through the gateway",
            )
        })?;
        let agent = header(AGENT_HEADER).map(|agent| agent.chars().take(MAX_AGENT_CHARS).collect());
        let key = header(KEY_ID_HEADER).and_then(|text| Uuid::try_parse(text).ok());
        Ok(Self(Caller { tenant, capability, agent, key }))
    }
}
