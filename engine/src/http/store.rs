//! `POST /store`

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode},
    response::{IntoResponse, Response},
};
use sha2::{Digest, Sha256};

use super::{Api, ApiError, body::JsonBody, params::Params, tenant_request::TenantRequest};
use crate::{
    memory::{Draft, Invalid},
    store::Operation,
};

const IDEMPOTENCY_KEY: &str = "idempotency-key";
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
const MAX_KEY_CHARS: usize = 255;

/// 201 with id, zone and score once the memory is durable. With an Idempotency-Key a retry gets the first answer.
pub(super) async fn store(
    State(api): State<Api>,
    TenantRequest(caller): TenantRequest,
    headers: HeaderMap,
    params: Params,
    body: JsonBody,
) -> Result<Response, ApiError> {
    params.nothing_else()?;
    let memory = body.read::<Draft>()?.check()?;
    let operation = operation(&headers, &body)?;
    let stored = api.coalescer.store(caller.clone(), memory, operation).await?;
    api.activity.seen(&caller);
    let mut response = (StatusCode::CREATED, Json(stored)).into_response();
    if stored.replayed {
        response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    }
    Ok(response)
}

fn operation(headers: &HeaderMap, body: &JsonBody) -> Result<Option<Operation>, Invalid> {
    let mut given = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(key) = given.next() else { return Ok(None) };
    let id = key.to_str().ok().filter(|id| (1..=MAX_KEY_CHARS).contains(&id.len()) && given.next().is_none());
    let id =
        id.ok_or_else(|| Invalid::new("Idempotency-Key", "must be one header of 1 to 255 visible ASCII characters"))?;
    Ok(Some(Operation { id: id.to_owned(), request_hash: Sha256::digest(&body.0).into() }))
}
