//! `GET /audit`

use axum::{Json, extract::State};
use serde::Serialize;
use time::OffsetDateTime;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{Api, ApiError, cursor::Cursor, params::Params, tenant_request::TenantRequest};
use crate::store::{Access, AuditAfter, AuditEntry};

const DEFAULT_LIMIT: i64 = 100;
const MAX_LIMIT: i64 = 500;

/// Tells who did what, newest first
///
/// Memories stored, updated and forgotten: 30 days, and at most 50,000 entries or ten for each memory that the tier allows,
/// whichever is more. Keys made, rotated and revoked, changes of tier and placement: 90 days, and at most 10,000 entries.
#[utoipa::path(get, path = "/api/v1/audit", tag = "changes", operation_id = "audit", params(
    ("limit" = Option<i64>, Query, minimum = 1, maximum = 500, description = "Entries of a page, 100 by default"),
    ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
), responses(
    (status = 200, description = "A page of entries", body = AuditPage),
))]
pub(super) async fn audit(
    State(api): State<Api>,
    TenantRequest(caller): TenantRequest,
    mut params: Params,
) -> Result<Json<AuditPage>, ApiError> {
    let limit = params.number("limit", 1, MAX_LIMIT)?.unwrap_or(DEFAULT_LIMIT);
    let after = params.text("cursor")?.map(|text| AuditAfter::decode(&text)).transpose()?;
    params.nothing_else()?;
    let mut tx = api.store.begin(&caller, Access::Read).await?;
    let (entries, next) = tx.audit(after.unwrap_or_else(AuditAfter::start), limit as usize).await?;
    tx.commit().await?;
    let items = entries.into_iter().map(AuditView::from).collect();
    Ok(Json(AuditPage { items, next_cursor: next.map(AuditAfter::encode) }))
}

/// A page of the audit.
#[derive(Serialize, ToSchema)]
pub(super) struct AuditPage {
    items: Vec<AuditView>,
    /// Where the next page begins; null on the last one.
    #[schema(required = true)]
    next_cursor: Option<String>,
}

/// Something that was done.
#[derive(Serialize, ToSchema)]
#[schema(as = AuditEntry)]
pub(super) struct AuditView {
    #[serde(with = "time::serde::rfc3339")]
    at: OffsetDateTime,
    /// What was done.
    #[schema(example = "store")]
    what: String,
    /// Who did it. Null: the platform.
    #[schema(required = true)]
    agent: Option<String>,
    /// With which key. Null: with none.
    #[schema(required = true)]
    key_id: Option<Uuid>,
    /// To which memory.
    #[schema(value_type = Uuid, required = false)]
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_id: Option<Uuid>,
    /// More, as the kind of entry has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Object, required = false)]
    detail: Option<serde_json::Value>,
}

impl From<AuditEntry> for AuditView {
    fn from(entry: AuditEntry) -> Self {
        let AuditEntry { at, what, agent, key, memory, detail, place: _ } = entry;
        Self { at, what, agent, key_id: key, memory_id: memory, detail }
    }
}
