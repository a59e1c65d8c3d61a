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
    memory::{Edge, Invalid},
    store::{Access, TimeAfter},
};

const DEFAULT_LIMIT: i64 = 100;
/// Memories of a page: of the longest texts (10,000 characters, 16 KiB of metadata) these are 35 MB.
const MAX_LIMIT: i64 = 500;

/// Lists memories in the order in which they happened, from `start` to `end`, both included
///
/// Each is an RFC 3339 time with any offset, or a date: all of that day in UTC is then included.
#[utoipa::path(get, path = "/api/v1/timeline", tag = "memories", operation_id = "timeline", params(
    ("start" = Option<String>, Query, description = "RFC 3339, or a date", example = "2026-03-01T09:30:00Z"),
    ("end" = Option<String>, Query, description = "RFC 3339, or a date", example = "2026-03-31"),
    ("limit" = Option<i64>, Query, minimum = 1, maximum = 500, description = "Memories of a page, 100 by default"),
    ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
), responses(
    (status = 200, description = "A page, without `total`", body = Page),
))]
pub(super) async fn timeline(
    State(api): State<Api>,
    TenantRequest(caller): TenantRequest,
    mut params: Params,
) -> Result<Json<Page>, ApiError> {
    let (start, end) = (params.moment("start", Edge::Start)?, params.moment("end", Edge::End)?);
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
