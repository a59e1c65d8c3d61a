//! `POST /store`

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use tenancy::{Problem, ProblemType};
use utoipa::ToSchema;
use uuid::Uuid;

use super::{
    Api, ApiError, body::JsonBody, error::problem_response, idempotency, params::Params, tenant_request::TenantRequest,
};
use crate::{
    memory::Draft,
    store::{What, Write, Written},
};

/// A memory that was stored.
#[derive(Serialize, ToSchema)]
pub(super) struct Stored {
    /// The new memory.
    id: Uuid,
    /// From 0 (core) to 4 (cloud).
    #[schema(value_type = u8, minimum = 0, maximum = 4, example = 2)]
    zone: Option<u8>,
    #[schema(value_type = f64, example = 0.425)]
    score: Option<f64>,
    /// The number of the change.
    #[schema(value_type = i64, example = 42)]
    seq: Option<i64>,
}

/// Stores a memory
///
/// 201 with id, zone, score and the number of the change once the memory is durable. With an Idempotency-Key a retry gets
/// the first answer. Under an `id` whose memory was removed at `at` or later: 409.
#[utoipa::path(post, path = "/api/v1/store", tag = "memories", operation_id = "store",
    request_body = Draft,
    responses((status = 201, description = "It is durable", body = Stored)),
    extensions(("x-problems" = json!(["memory-quota-reached", "conflict"]))),
)]
pub(super) async fn store(
    State(api): State<Api>,
    TenantRequest(caller): TenantRequest,
    headers: HeaderMap,
    params: Params,
    body: JsonBody,
) -> Result<Response, ApiError> {
    params.nothing_else()?;
    let memory = body.read::<Draft>()?.check()?;
    let once = idempotency::key(&headers)?.map(|key| key.once(&body.0));
    let write = Write { what: What::Store(Box::new(memory)), once };
    let Written { id, zone, score, seq, reason, replayed } = api.coalescer.write_one(caller.clone(), write).await?;
    api.activity.seen(&caller);
    let mut response = if reason.is_none() {
        (StatusCode::CREATED, Json(Stored { id, zone, score, seq })).into_response()
    } else {
        let detail = "the memory of that id was removed, and not before `at`: leave `at` out to store it anew";
        problem_response(&Problem::new(ProblemType::Conflict, detail).with("reason", "removed"))
    };
    if replayed {
        idempotency::mark_replayed(response.headers_mut());
    }
    Ok(response)
}
