//! `GET` and `PATCH /memories/{id}`

use axum::{
    Json,
    extract::{FromRequestParts, Path, State},
    http::{HeaderMap, request::Parts},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use tenancy::{Problem, ProblemType};
use time::OffsetDateTime;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{
    Api, ApiError, body::JsonBody, error::problem_response, idempotency, params::Params, tenant_request::TenantRequest,
    view::MemoryView,
};
use crate::{
    memory::PatchDraft,
    store::{Access, Caller, Reason, What, Write},
};

/// The id in a path: what is none answers as an unknown one, and so does another tenant's.
pub(super) struct MemoryId(Option<Uuid>);

impl<S: Send + Sync> FromRequestParts<S> for MemoryId {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Self::Rejection> {
        let path = Path::<String>::from_request_parts(parts, state).await;
        Ok(Self(path.ok().and_then(|Path(id)| Uuid::try_parse(&id).ok())))
    }
}

impl MemoryId {
    /// The id, if it is one at all.
    pub(super) fn known(self) -> Result<Uuid, ApiError> {
        self.0.ok_or_else(Self::unknown)
    }

    /// The answer for an id that the tenant has no memory of.
    pub(super) fn unknown() -> ApiError {
        ApiError::new(ProblemType::NotFound, "there is no memory of that id")
    }
}

/// Tells one memory, as it is now.
#[utoipa::path(get, path = "/api/v1/memories/{id}", tag = "memories", operation_id = "memory",
    params(("id" = Uuid, Path, description = "The memory")),
    responses((status = 200, description = "The memory", body = MemoryView)),
    extensions(("x-problems" = json!(["not-found"]))),
)]
pub(super) async fn memory(
    State(api): State<Api>,
    TenantRequest(caller): TenantRequest,
    id: MemoryId,
    params: Params,
) -> Result<Json<MemoryView>, ApiError> {
    params.nothing_else()?;
    let view = read(&api, &caller, id.known()?).await?.ok_or_else(MemoryId::unknown)?;
    api.activity.seen(&caller);
    Ok(Json(view))
}

/// A memory after it was written.
#[derive(Serialize, ToSchema)]
#[schema(as = UpdatedMemory)]
pub(super) struct Updated {
    #[serde(flatten)]
    memory: MemoryView,
    /// The number of the change.
    #[schema(value_type = i64, example = 42)]
    seq: Option<i64>,
}

/// Changes content, importance or metadata of a memory
///
/// Answers the memory as it is now and the number of the change, once the change is durable. When a later write of the memory
/// stands against it: 409, with the memory as it is. With an Idempotency-Key a retry changes nothing more.
#[utoipa::path(patch, path = "/api/v1/memories/{id}", tag = "memories", operation_id = "update",
    params(("id" = Uuid, Path, description = "The memory")),
    request_body = PatchDraft,
    responses((status = 200, description = "The change is durable", body = Updated)),
    extensions(("x-problems" = json!(["not-found", "conflict"]))),
)]
pub(super) async fn update(
    State(api): State<Api>,
    TenantRequest(caller): TenantRequest,
    id: MemoryId,
    headers: HeaderMap,
    params: Params,
    body: JsonBody,
) -> Result<Response, ApiError> {
    params.nothing_else()?;
    let patch = body.read::<PatchDraft>()?.check()?;
    let id = id.known()?;
    let once = idempotency::key(&headers)?;
    let once = once.map(|key| key.once(&[format!("update {id} ").as_bytes(), &body.0].concat()));
    let written = api.coalescer.write_one(caller.clone(), Write { what: What::Update { id, patch }, once }).await?;
    if written.reason == Some(Reason::Removed) {
        return Err(MemoryId::unknown());
    }
    api.activity.seen(&caller);
    let memory = read(&api, &caller, id).await?;
    let mut response = match (memory, written.applied()) {
        (Some(memory), true) => Json(Updated { memory, seq: written.seq }).into_response(),
        (Some(memory), false) => {
            let detail = "the memory was written later than this change: look at `memory` and decide anew";
            let memory = serde_json::to_value(memory).unwrap_or_default();
            problem_response(
                &Problem::new(ProblemType::Conflict, detail).with("reason", "newer").with("memory", memory),
            )
        }
        (None, true) => {
            let detail = "the change `seq` was made, and the memory was forgotten since";
            problem_response(&Problem::new(ProblemType::NotFound, detail).with("seq", written.seq))
        }
        (None, false) => MemoryId::unknown().into_response(),
    };
    if written.replayed {
        idempotency::mark_replayed(response.headers_mut());
    }
    Ok(response)
}

async fn read(api: &Api, caller: &Caller, id: Uuid) -> Result<Option<MemoryView>, ApiError> {
    let now = OffsetDateTime::now_utc();
    let mut tx = api.store.begin(caller, Access::Read).await?;
    let memory = tx.fetch(&[id]).await?.pop();
    tx.commit().await?;
    Ok(memory.map(|memory| MemoryView::new(memory, None, now)))
}
