//! A tenant that the shared engine serves. One that had an engine of its own is served by the shared one first,
//! then its former engine drains, and only then goes.

use crds::{ConditionType, Reason};
use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Api,
    api::{DeleteParams, Preconditions},
};
use tenancy::Placement;

use super::{
    Context, Next,
    apply::{SOON, place},
    dereference::{Found, NamespaceState},
    error::{Error, kubernetes},
    report::Report,
    validate::ValidTenant,
};
use crate::database::TenantRow;

/// Brings requests to the shared engine, and what is left of the tenant's own engine down.
///
/// # Errors
/// [`Error`].
pub(super) async fn serve(
    tenant: &ValidTenant,
    row: &TenantRow,
    found: &Found,
    context: &Context,
    report: &mut Report,
) -> Result<Next, Error> {
    report.wanted = Some(Placement::Pooled);
    if row.placement == Placement::Dedicated {
        place(tenant, Placement::Pooled, None, context, report).await?;
    }
    report.found(ConditionType::EngineReady, true, Reason::PooledEngine, "the shared engine serves this tenant");
    let drain = if row.placement == Placement::Dedicated { Some(context.settings.drain) } else { row.role_drain };
    if let Some(left) = drain {
        report.namespace = Some(tenant.namespace());
        report.wait_for(Reason::Moving, "the shared engine serves; its former engine drains");
        return Ok(Next::After(left.saturating_add(std::time::Duration::from_millis(500))));
    }
    if row.role_admitted {
        context.database.tenant_dismiss_role(tenant.id).await?;
    }
    context.secrets.forget(&tenant.name);
    let gone = remove_namespace(&tenant.namespace(), &found.namespace, context).await?;
    if row.login_connections.is_some() {
        context.database.role_nologin(tenant.id).await?;
    }
    if gone {
        return Ok(Next::Settled);
    }
    report.namespace = Some(tenant.namespace());
    report.wait_for(Reason::Moving, "the shared engine serves; the namespace of its former engine goes away");
    Ok(Next::After(SOON))
}

/// Deletes the namespace if it is the tenant's. Returns whether it is gone.
///
/// # Errors
/// [`Error::Kubernetes`].
pub(super) async fn remove_namespace(name: &str, state: &NamespaceState, context: &Context) -> Result<bool, Error> {
    let uid = match state {
        NamespaceState::Absent | NamespaceState::Foreign => return Ok(true),
        NamespaceState::Ours { terminating: true, .. } => return Ok(false),
        NamespaceState::Ours { uid, terminating: false } => uid.clone(),
    };
    let only_this = Preconditions { uid: Some(uid), resource_version: None };
    let parameters = DeleteParams { preconditions: Some(only_this), ..DeleteParams::default() };
    let deleted = Api::<Namespace>::all(context.client.clone()).delete(name, &parameters).await;
    match deleted.map_err(kubernetes("delete namespace", name)) {
        Ok(_) => Ok(false),
        Err(error) if error.is_not_found() => Ok(true),
        Err(error) => Err(error),
    }
}
