//! `GET /timeline`

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
    memory::Invalid,
    store::{Access, TimeAfter},
};

const DEFAULT_LIMIT: i64 = 100;
const MAX_LIMIT: i64 = 500;

/// Memories in the order in which they happened, from `start` to `end`, both included.
pub(super) async fn timeline(
    State(api): State<Api>,
    TenantRequest(caller): TenantRequest,
    mut params: Params,
) -> Result<Json<Page>, ApiError> {
    let (start, end) = (params.instant("start")?, params.instant("end")?);
    let limit = params.number("limit", 1, MAX_LIMIT)?.unwrap_or(DEFAULT_LIMIT);
    let after = params.text("cursor")?.map(|text| TimeAfter::decode(&text)).transpose()?;
    params.nothing_else()?;
    if let (Some(start), Some(end)) = (start, end)
        && end < start
    {
        return Err(Invalid::new("end", "must not be before `start`").into());
    }
    let mut tx = api.store.begin(&caller, Access::Read).await?;
    tx.prefer_index_order().await?;
    let mut items = tx.timeline(start, end, after, limit + 1).await?;
    tx.commit().await?;
    let more = items.len() as i64 > limit;
    items.truncate(limit as usize);
    let next_cursor =
        items.last().filter(|_| more).map(|last| TimeAfter { at: last.occurred_at, id: last.id }.encode());
    let now = OffsetDateTime::now_utc();
    let items = items.into_iter().map(|memory| MemoryView::new(memory, None, now)).collect();
    Ok(Json(Page { total: None, items, next_cursor }))
}
