//! `DELETE /forget/{id}`

use axum::{
    Json,
    extract::{Path, State},
};
use serde_json::{Value, json};
use tenancy::ProblemType;
use uuid::Uuid;

use super::{Api, ApiError, params::Params, tenant_request::TenantRequest};
use crate::store::Access;

/// `removed: true` once the memory is gone for good. What is no id answers as an unknown id, and so does another tenant's.
pub(super) async fn forget(
    State(api): State<Api>,
    TenantRequest(caller): TenantRequest,
    Path(id): Path<String>,
    params: Params,
) -> Result<Json<Value>, ApiError> {
    params.nothing_else()?;
    let unknown = || ApiError::new(ProblemType::NotFound, "there is no memory of that id");
    let id = Uuid::try_parse(&id).map_err(|_| unknown())?;
    let mut tx = api.store.begin(&caller, Access::Write).await?;
    let removed = tx.forget(id).await?;
    tx.commit().await?;
    if !removed {
        return Err(unknown());
    }
    api.activity.seen(&caller);
    Ok(Json(json!({ "removed": true })))
}
