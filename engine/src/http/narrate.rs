//! `POST /narrate`

use axum::{Json, extract::State};
use serde::Deserialize;
use serde_json::{Value, json};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{
    Api, ApiError,
    body::JsonBody,
    params::Params,
    recall::{checked_query, recall_memories},
    tenant_request::TenantRequest,
};
use crate::memory::{Invalid, Memory, narrative, storable};

const DEFAULT_LIMIT: i64 = 10;
const MAX_LIMIT: i64 = 50;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    topic: String,
    limit: Option<i64>,
}

/// What the recalled memories tell about a topic, in the order of time.
pub(super) async fn narrate(
    State(api): State<Api>,
    TenantRequest(caller): TenantRequest,
    params: Params,
    body: JsonBody,
) -> Result<Json<Value>, ApiError> {
    params.nothing_else()?;
    let Request { topic, limit } = body.read()?;
    storable("topic", &topic)?;
    let limit = limit.unwrap_or(DEFAULT_LIMIT);
    if !(1..=MAX_LIMIT).contains(&limit) {
        return Err(Invalid::new("limit", format!("must be a number from 1 to {MAX_LIMIT}")).into());
    }
    let query = checked_query("topic", &topic, None)?;
    let found = recall_memories(&api, &caller, &query, OffsetDateTime::now_utc(), limit as usize).await?;
    let memories: Vec<Memory> = found.into_iter().map(|(memory, _)| memory).collect();
    let ids: Vec<Uuid> = memories.iter().map(|memory| memory.id).collect();
    Ok(Json(json!({ "narrative": narrative(topic.trim(), &memories), "memories": ids })))
}
