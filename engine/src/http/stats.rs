//! `GET /stats`

use axum::{Json, extract::State};
use serde::Serialize;
use time::OffsetDateTime;
use utoipa::ToSchema;

use super::{Api, ApiError, params::Params, tenant_request::TenantRequest};
use crate::{memory::Zone, store::Access};

/// How many memories there are, and where.
#[derive(Serialize, ToSchema)]
pub(super) struct Stats {
    /// All of them.
    total_memories: i32,
    /// From the core outward.
    zones: Vec<ZoneStats>,
    quota: Quota,
    /// The number of the last change. Changes are numbered 1, 2, 3, … without a gap.
    change_seq: i64,
}

/// A zone, and how full it is.
#[derive(Serialize, ToSchema)]
#[schema(as = ZoneCount)]
pub(super) struct ZoneStats {
    #[schema(minimum = 0, maximum = 4)]
    zone: u8,
    #[schema(example = "core")]
    name: &'static str,
    count: i64,
    /// How many places it has. Null: no limit.
    #[schema(required = true)]
    capacity: Option<usize>,
}

/// How many memories there are and may be.
#[derive(Serialize, ToSchema)]
pub(super) struct Quota {
    used: i32,
    /// -1: no limit.
    #[schema(minimum = -1)]
    limit: i32,
}

/// Tells how many memories there are, in which zones, and how many there may be.
#[utoipa::path(get, path = "/api/v1/stats", tag = "memories", operation_id = "stats", responses(
    (status = 200, description = "As it is now", body = Stats),
))]
pub(super) async fn stats(
    State(api): State<Api>,
    TenantRequest(caller): TenantRequest,
    params: Params,
) -> Result<Json<Stats>, ApiError> {
    params.nothing_else()?;
    let mut tx = api.store.begin(&caller, Access::Read).await?;
    let usage = tx.usage();
    let counts = tx.zone_counts(OffsetDateTime::now_utc()).await?;
    tx.commit().await?;
    api.activity.seen(&caller);
    let zones = Zone::ALL
        .iter()
        .zip(counts)
        .map(|(zone, count)| ZoneStats { zone: zone.number(), name: zone.name(), count, capacity: zone.capacity() })
        .collect();
    Ok(Json(Stats {
        total_memories: usage.memory_count,
        zones,
        quota: Quota { used: usage.memory_count, limit: usage.memory_limit },
        change_seq: usage.change_seq,
    }))
}
