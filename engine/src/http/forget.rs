//! `DELETE /forget/{id}`

use axum::{
    Json,
    extract::State,
    http::HeaderMap,
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::ToSchema;

use super::{Api, ApiError, idempotency, memory::MemoryId, params::Params, tenant_request::TenantRequest};
use crate::store::{What, Write};

/// A memory that is gone.
#[derive(Serialize, ToSchema)]
pub(super) struct Removed {
    /// True.
    removed: bool,
    /// The number of the change.
    #[schema(value_type = i64, example = 42)]
    seq: Option<i64>,
}

/// Forgets a memory
///
/// `removed: true` and the number of the change once the memory is gone for good. What is no id answers as an unknown id,
/// and so does another tenant's. With an Idempotency-Key a retry gets the first answer.
#[utoipa::path(delete, path = "/api/v1/forget/{id}", tag = "memories", operation_id = "forget",
    params(("id" = Uuid, Path, description = "The memory")),
    responses((status = 200, description = "It is gone", body = Removed)),
    extensions(("x-problems" = json!(["not-found", "conflict"]))),
)]
pub(super) async fn forget(
    State(api): State<Api>,
    TenantRequest(caller): TenantRequest,
    id: MemoryId,
    headers: HeaderMap,
    params: Params,
) -> Result<Response, ApiError> {
    params.nothing_else()?;
    let id = id.known()?;
    let once = idempotency::key(&headers)?.map(|key| key.once(format!("forget {id}").as_bytes()));
    let written = api.coalescer.write_one(caller.clone(), Write { what: What::Remove { id, at: None }, once }).await?;
    if !written.applied() {
        return Err(MemoryId::unknown());
    }
    api.activity.seen(&caller);
    let mut response = Json(Removed { removed: true, seq: written.seq }).into_response();
    if written.replayed {
        idempotency::mark_replayed(response.headers_mut());
    }
    Ok(response)
}
