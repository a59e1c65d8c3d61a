//! `GET /stats`

use axum::{Json, extract::State};
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::{Api, ApiError, params::Params, tenant_request::TenantRequest};
use crate::{memory::Zone, store::Access};

/// How many memories there are, in which zones, and how many there may be (-1: no limit).
pub(super) async fn stats(
    State(api): State<Api>,
    TenantRequest(caller): TenantRequest,
    params: Params,
) -> Result<Json<Value>, ApiError> {
    params.nothing_else()?;
    let mut tx = api.store.begin(&caller, Access::Read).await?;
    let usage = tx.usage();
    let counts = tx.zone_counts(OffsetDateTime::now_utc()).await?;
    tx.commit().await?;
    api.activity.seen(&caller);
    let zones: Vec<Value> = Zone::ALL
        .iter()
        .zip(counts)
        .map(|(zone, count)| {
            json!({ "zone": zone.number(), "name": zone.name(), "count": count, "capacity": zone.capacity() })
        })
        .collect();
    Ok(Json(json!({
        "total_memories": usage.memory_count,
        "zones": zones,
        "quota": { "used": usage.memory_count, "limit": usage.memory_limit },
        "change_seq": usage.change_seq,
    })))
}
