//! The end of a Tenant. Needs less than its making: works with a spec that is invalid, a tier that is gone and
//! objects that were never made. Service ends first, then what served it goes, then the rows (if they are to go),
//! then the finalizer.

use crds::{ConditionType, DeletionPolicy, Reason, Tenant};
use kube::ResourceExt;
use tenancy::TenantId;

use super::{
    Context, Next,
    apply::SOON,
    dereference,
    error::Error,
    key,
    pooled::remove_namespace,
    report::Report,
    validate::{identity, namespace_of},
};

const ROWS_A_BATCH: i32 = 2_000;
const BATCHES_A_RUN: u32 = 20;

/// Removes what the deletion policy says. [`Next::Settled`] when nothing is left to do.
///
/// # Errors
/// [`Error`]; every step may be repeated.
pub async fn run(tenant: &Tenant, context: &Context, report: &mut Report) -> Result<Next, Error> {
    let name = tenant.name_any();
    report.wait_for(Reason::Deleting, "ending service and removing what was made");
    report.found(ConditionType::EngineReady, false, Reason::Deleting, "the Tenant is being deleted");
    report.found(ConditionType::KeyReady, false, Reason::Deleting, "the Tenant is being deleted");
    context.secrets.forget(&name);

    let state = dereference::namespace(tenant, context).await?;
    // Without a valid identity nothing was ever written under one.
    let id = identity(tenant).ok();
    if let Some(id) = id
        && context.database.tenant_owned(id, &name).await?
    {
        context.database.tenant_retire(id, &name).await?;
    }
    let namespace_gone = remove_namespace(&namespace_of(&name), &state, context).await?;
    key::remove(&name, context).await?;
    if !namespace_gone {
        report.namespace = Some(namespace_of(&name));
        report.wait_for(Reason::Deleting, format!("namespace {} goes away", namespace_of(&name)));
        return Ok(Next::After(SOON));
    }
    match id {
        Some(id) => database(tenant, id, context, report).await,
        None => Ok(Next::Settled),
    }
}

async fn database(tenant: &Tenant, id: TenantId, context: &Context, report: &mut Report) -> Result<Next, Error> {
    let name = tenant.name_any();
    let database = &context.database;
    // An identity that was refused because it is another Tenant's is that one's to remove.
    if !database.tenant_owned(id, &name).await? {
        return Ok(Next::Settled);
    }
    database.role_drop(id).await?;
    if tenant.spec.deletion_policy == DeletionPolicy::Retain {
        return Ok(Next::Settled);
    }
    for _ in 0..BATCHES_A_RUN {
        if database.tenant_erase(id, &name, ROWS_A_BATCH).await? {
            return Ok(Next::Settled);
        }
    }
    report.wait_for(Reason::Deleting, "erasing memories");
    Ok(Next::After(std::time::Duration::ZERO))
}
