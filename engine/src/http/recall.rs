//! `GET /recall`

use std::collections::HashMap;

use axum::{Json, extract::State};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{Api, ApiError, params::Params, tenant_request::TenantRequest, view::MemoryView};
use crate::{
    memory::{Invalid, MAX_LABEL_CHARS, Memory},
    recall::{Hit, Query},
    store::Caller,
};

const DEFAULT_LIMIT: i64 = 5;
const MAX_LIMIT: i64 = 50;
const MAX_QUERY_CHARS: usize = 1000;
/// Some of what the index found may have been forgotten a moment ago.
const SPARE: usize = 10;

/// Recalls the memories that answer a query, the best first
///
/// A recall sees every store that was acknowledged before it.
#[utoipa::path(get, path = "/api/v1/recall", tag = "memories", operation_id = "recall", params(
    ("q" = String, Query, min_length = 1, max_length = 1000, description = "What to recall, in any words",
        example = "flying to lisbon"),
    ("limit" = Option<i64>, Query, minimum = 1, maximum = 50, description = "The most memories, 5 by default"),
    ("emotion" = Option<String>, Query, min_length = 1, max_length = 200, description = "A feeling to prefer"),
), responses(
    (status = 200, description = "Most relevant first", body = Vec<MemoryView>),
), extensions(("x-problems" = json!(["index-limit-reached"]))))]
pub(super) async fn recall(
    State(api): State<Api>,
    TenantRequest(caller): TenantRequest,
    mut params: Params,
) -> Result<Json<Vec<MemoryView>>, ApiError> {
    let text = params.text("q")?.ok_or_else(|| Invalid::new("q", "is missing: what shall be recalled?"))?;
    let limit = params.number("limit", 1, MAX_LIMIT)?.unwrap_or(DEFAULT_LIMIT);
    let emotion = params.text("emotion")?;
    params.nothing_else()?;
    let query = checked_query("q", &text, emotion.as_deref())?;
    let now = OffsetDateTime::now_utc();
    let found = recall_memories(&api, &caller, &query, now, limit as usize).await?;
    Ok(Json(found.into_iter().map(|(memory, relevance)| MemoryView::new(memory, Some(relevance), now)).collect()))
}

/// A query from a client's text, named `field` there.
pub(super) fn checked_query(field: &'static str, text: &str, emotion: Option<&str>) -> Result<Query, Invalid> {
    let length = text.chars().count();
    if !(1..=MAX_QUERY_CHARS).contains(&length) {
        return Err(Invalid::new(field, format!("must have 1 to {MAX_QUERY_CHARS} characters; it has {length}")));
    }
    if text.trim().is_empty() {
        return Err(Invalid::new(field, "must hold more than white space"));
    }
    if emotion.is_some_and(|emotion| !(1..=MAX_LABEL_CHARS).contains(&emotion.chars().count())) {
        return Err(Invalid::new("emotion", format!("must have 1 to {MAX_LABEL_CHARS} characters")));
    }
    Ok(Query::new(text, emotion))
}

/// Recalls: the best first, with relevance, each noted as recalled. Contents come from Postgres, from the transaction that
/// told how fresh the index must be.
pub(super) async fn recall_memories(
    api: &Api,
    caller: &Caller,
    query: &Query,
    now: OffsetDateTime,
    limit: usize,
) -> Result<Vec<(Memory, f32)>, ApiError> {
    let (mut tx, hits) = api.indexes.search(caller, query, now, limit + SPARE).await?;
    let ids: Vec<Uuid> = hits.iter().map(|hit| hit.id).collect();
    let rows = if ids.is_empty() { Vec::new() } else { tx.fetch(&ids).await? };
    tx.commit().await?;
    let mut rows: HashMap<Uuid, Memory> = rows.into_iter().map(|memory| (memory.id, memory)).collect();
    let there = |Hit { id, relevance }| rows.remove(&id).map(|memory| (memory, relevance));
    let found: Vec<(Memory, f32)> = hits.into_iter().filter_map(there).take(limit).collect();
    let noted: Vec<(Uuid, f32)> = found.iter().map(|(memory, relevance)| (memory.id, *relevance)).collect();
    api.activity.recalled(caller, &noted, now);
    Ok(found)
}
