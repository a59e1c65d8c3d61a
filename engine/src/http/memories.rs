//! `GET /memories`

use axum::{Json, extract::State};
use time::OffsetDateTime;

use super::{
    Api, ApiError,
    cursor::Cursor,
    params::Params,
    tenant_request::TenantRequest,
    view::{MemoryView, Page},
};
use crate::{
    memory::{Invalid, Zone},
    store::{Access, ListAfter, MemoryPage},
};

const DEFAULT_LIMIT: i64 = 50;
/// Memories of a page: of the longest texts (10,000 characters, 16 KiB of metadata) these are 35 MB.
const MAX_LIMIT: i64 = 500;
/// Beyond it, a cursor is the way: an offset reads all that it passes over.
const MAX_OFFSET: i64 = 10_000;

/// Lists memories by falling score, of one zone or all.
#[utoipa::path(get, path = "/api/v1/memories", tag = "memories", operation_id = "memories", params(
    ("zone" = Option<i64>, Query, minimum = 0, maximum = 4, description = "0 core, 1 inner, 2 outer, 3 belt, 4 cloud"),
    ("limit" = Option<i64>, Query, minimum = 1, maximum = 500, description = "Memories of a page, 50 by default"),
    ("offset" = Option<i64>, Query, minimum = 0, maximum = 10_000,
        description = "How many to pass over; not together with `cursor`, which is the faster way"),
    ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
), responses(
    (status = 200, description = "A page, with `total`", body = Page),
))]
pub(super) async fn memories(
    State(api): State<Api>,
    TenantRequest(caller): TenantRequest,
    mut params: Params,
) -> Result<Json<Page>, ApiError> {
    let zone = params.number("zone", 0, 4)?.and_then(Zone::from_number);
    let limit = params.number("limit", 1, MAX_LIMIT)?.unwrap_or(DEFAULT_LIMIT);
    let offset = params.number("offset", 0, MAX_OFFSET)?;
    let after = params.text("cursor")?.map(|text| ListAfter::decode(&text)).transpose()?;
    params.nothing_else()?;
    if offset.is_some() && after.is_some() {
        return Err(Invalid::new("offset", "cannot be combined with `cursor`").into());
    }
    let now = OffsetDateTime::now_utc();
    let mut tx = api.store.begin(&caller, Access::Read).await?;
    let total = match zone {
        None => i64::from(tx.usage().memory_count),
        Some(zone) => tx.zone_counts(now).await?[usize::from(zone.number())],
    };
    // One more than asked for tells whether there is a next page.
    tx.prefer_index_order().await?;
    let mut items = tx.list(MemoryPage { zone, after, offset: offset.unwrap_or(0), limit: limit + 1 }, now).await?;
    tx.commit().await?;
    api.activity.seen(&caller);
    let more = items.len() as i64 > limit;
    items.truncate(limit as usize);
    let next_cursor = items.last().filter(|_| more).map(|last| ListAfter { score: last.score, id: last.id }.encode());
    let items = items.into_iter().map(|memory| MemoryView::new(memory, None, now)).collect();
    Ok(Json(Page { total: Some(total), items, next_cursor }))
}
