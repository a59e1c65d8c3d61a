//! `POST /narrate`

use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{
    Api, ApiError,
    body::JsonBody,
    params::Params,
    recall::{checked_query, recall_memories},
    tenant_request::TenantRequest,
};
use crate::{
    memory::{Invalid, Memory, in_order, narrative, storable},
    narrator::Told,
};

const DEFAULT_LIMIT: i64 = 10;
const MAX_LIMIT: i64 = 50;

/// What to tell about.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NarrateRequest)]
pub(super) struct Request {
    /// In any words.
    #[schema(min_length = 1, max_length = 1000, example = "the journey to Lisbon")]
    topic: String,
    /// The most memories that it is told from, 10 by default.
    #[schema(minimum = 1, maximum = 50)]
    limit: Option<i64>,
}

/// What is remembered about a topic.
#[derive(Serialize, ToSchema)]
#[expect(clippy::struct_field_names, reason = "as JSON has it")]
pub(super) struct Narrative {
    /// The text. By a model, `[n]` in it is the n-th of `memories`.
    narrative: String,
    /// The memories that it rests on.
    memories: Vec<Uuid>,
    /// The model that told it; null when it is composed of the memories themselves.
    #[schema(required = true)]
    model: Option<String>,
}

/// Tells what memories hold about a topic, in the order of time
///
/// By the model, if one is configured and answers, else in the memories' own words.
#[utoipa::path(post, path = "/api/v1/narrate", tag = "memories", operation_id = "narrate",
    request_body = Request,
    responses((status = 200, description = "The narrative", body = Narrative)),
    extensions(("x-problems" = json!(["index-limit-reached"]))),
)]
pub(super) async fn narrate(
    State(api): State<Api>,
    TenantRequest(caller): TenantRequest,
    params: Params,
    body: JsonBody,
) -> Result<Json<Narrative>, ApiError> {
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
    let topic = topic.trim();
    Ok(Json(match api.narrator.tell(topic, &memories).await {
        Some(Told { narrative, memories, model }) => Narrative { narrative, memories, model: Some(model) },
        None => Narrative {
            narrative: narrative(topic, &memories),
            memories: in_order(&memories).iter().map(|memory| memory.id).collect(),
            model: None,
        },
    }))
}
