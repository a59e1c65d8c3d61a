//! What a tenant uses, and by which agents.

use axum::body::Body;
use http::{Response, StatusCode};
use serde::Serialize;
use sqlx::FromRow;
use time::OffsetDateTime;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{
    database::in_time,
    page::{AgentAfter, cut, page_of},
};
use crate::{
    auth::Caller,
    error::Error,
    router::{Gateway, json},
};

/// How much of something is used.
#[derive(Serialize, ToSchema)]
pub(crate) struct Used {
    /// How many there are.
    #[schema(example = 2, minimum = 0)]
    used: i64,
    /// How many there may be; -1: no limit.
    #[schema(example = 5, minimum = -1)]
    limit: i64,
}

/// A tenant's tier, limits and use.
#[derive(Serialize, ToSchema)]
pub(crate) struct Usage<'a> {
    /// The tenant's id.
    tenant: Uuid,
    /// Its tier.
    #[schema(example = "pro")]
    tier: &'a str,
    /// Memories stored.
    memories: Used,
    /// Agents with live keys.
    agents: Used,
    /// Live keys.
    api_keys: Used,
    /// Requests a minute, over all gateways.
    #[schema(example = 300, minimum = 1)]
    requests_per_minute: u32,
    /// Sync sockets open at one time; -1: no limit.
    #[schema(example = 10, minimum = -1)]
    max_sockets: i64,
    /// Operations a second that one socket sends.
    #[schema(example = 50, minimum = 1)]
    socket_messages_per_second: u32,
}

#[derive(FromRow)]
struct UsageRow {
    memory_count: i32,
    memory_limit: i32,
    max_agents: i32,
    max_api_keys: i32,
    agents: i64,
    api_keys: i64,
}

/// An agent that has live keys.
#[derive(FromRow, Serialize, ToSchema)]
#[expect(clippy::struct_field_names, reason = "as JSON has it")]
pub(crate) struct Agent {
    /// Its name.
    #[schema(example = "planner")]
    agent: String,
    /// How many live keys it has.
    #[schema(example = 1, minimum = 1)]
    api_keys: i64,
    /// When one of them was used last, to about half a minute. Null: never.
    #[serde(with = "time::serde::rfc3339::option")]
    #[schema(required = true)]
    last_used_at: Option<OffsetDateTime>,
}

/// A page of a tenant's agents, by name.
#[derive(Serialize, ToSchema)]
pub(crate) struct AgentPage {
    /// Of all agents, how many there are and may be.
    agents: Used,
    items: Vec<Agent>,
    /// Where the next page begins; absent on the last one.
    #[schema(value_type = String, required = false)]
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

/// Tells tier, limits and use.
#[utoipa::path(get, path = "/api/v1/auth/usage", tag = "keys", operation_id = "usage", responses(
    (status = 200, description = "As Postgres counts it now", body = Usage),
))]
pub(crate) async fn usage(gateway: &Gateway, caller: &Caller) -> Result<Response<Body>, Error> {
    let id = caller.tenant.id.uuid();
    let UsageRow { memory_count, memory_limit, max_agents, max_api_keys, agents, api_keys } =
        row(gateway, caller).await?;
    let usage = Usage {
        tenant: id,
        tier: &caller.tenant.tier,
        memories: Used { used: memory_count.into(), limit: memory_limit.into() },
        agents: Used { used: agents, limit: max_agents.into() },
        api_keys: Used { used: api_keys, limit: max_api_keys.into() },
        requests_per_minute: caller.tenant.requests_per_minute,
        max_sockets: caller.tenant.max_sockets.map_or(-1, i64::from),
        socket_messages_per_second: caller.tenant.socket_messages_per_second,
    };
    Ok(json(StatusCode::OK, &usage))
}

async fn row(gateway: &Gateway, caller: &Caller) -> Result<UsageRow, Error> {
    let query = sqlx::query_as::<_, UsageRow>(
        "SELECT g.memory_count, g.memory_limit, u.max_agents, u.max_api_keys, k.agents, k.api_keys \
         FROM stellar.users u JOIN stellar.usage g ON g.user_id = u.id, \
         LATERAL (SELECT count(*) AS api_keys, count(DISTINCT agent) AS agents FROM stellar.api_keys k \
             WHERE k.user_id = u.id AND k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > now())) k \
         WHERE u.id = $1 AND u.retired_at IS NULL",
    );
    let query = query.bind(caller.tenant.id.uuid()).persistent(false);
    let row = async { query.fetch_optional(&mut *gateway.pool.acquire().await?).await };
    in_time("reading a tenant's usage", row).await?.ok_or(Error::InvalidKey)
}

/// Lists the agents that have live keys.
#[utoipa::path(get, path = "/api/v1/auth/agents", tag = "keys", operation_id = "agents", params(
    ("limit" = Option<i64>, Query, minimum = 1, maximum = 100, description = "Agents of a page, 50 by default"),
    ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
), responses(
    (status = 200, description = "A page of agents", body = AgentPage),
))]
pub(crate) async fn agents(gateway: &Gateway, caller: &Caller, query: Option<&str>) -> Result<Response<Body>, Error> {
    let (limit, after) = page_of::<AgentAfter>(query.unwrap_or_default())?;
    let of_all = row(gateway, caller).await?;
    let query = sqlx::query_as::<_, Agent>(
        "SELECT agent, count(*) AS api_keys, max(last_used_at) AS last_used_at FROM stellar.api_keys \
         WHERE user_id = $1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now()) \
         AND ($2::text IS NULL OR agent COLLATE \"C\" > $2) \
         GROUP BY agent ORDER BY agent COLLATE \"C\" LIMIT $3",
    );
    let query = query.bind(caller.tenant.id.uuid()).bind(after.map(|after| after.0)).bind(limit + 1).persistent(false);
    let rows = async { query.fetch_all(&mut *gateway.pool.acquire().await?).await };
    let mut items = in_time("listing agents", rows).await?;
    let next_cursor = cut(&mut items, limit).map(|last| last.agent.clone());
    let agents = Used { used: of_all.agents, limit: of_all.max_agents.into() };
    Ok(json(StatusCode::OK, &AgentPage { agents, items, next_cursor }))
}
