//! Makes the world what `build` says, in an order that keeps every request answered: identity, key, then the
//! engine; a new placement serves before the old one goes. Every step may be repeated, and a crash between two
//! leaves nothing that the next run does not mend.

use std::time::Duration;

use crds::{ConditionType, Reason};
use tenancy::Placement;

use super::{
    Context, Next,
    build::Desired,
    dedicated,
    dereference::Found,
    error::Error,
    key, pooled,
    report::Report,
    validate::{EnginePlan, ValidTenant},
};
use crate::database::TenantRow;

/// Brings everything to what was built.
///
/// # Errors
/// [`Error`] of the first step that fails; `report` says what was reached.
pub async fn run(
    tenant: &ValidTenant,
    desired: Option<Desired>,
    found: &Found,
    context: &Context,
    report: &mut Report,
) -> Result<Next, Error> {
    report.suspended = tenant.suspended;
    let row = identity(tenant, context, report).await?;
    key::ensure(tenant, context, report).await?;
    report.placement = Some(row.placement);
    match (&tenant.engine, desired) {
        (EnginePlan::Dedicated(_), Some(desired)) => {
            Box::pin(dedicated::serve(tenant, desired, &row, found, context, report)).await
        }
        (EnginePlan::AsItIs { missing, available }, _) => {
            Err(Error::TierNotFound { tier: missing.clone(), available: available.clone(), served: true })
        }
        _ => pooled::serve(tenant, &row, found, context, report).await,
    }
}

/// The tenant's rows and role in Postgres.
async fn identity(tenant: &ValidTenant, context: &Context, report: &mut Report) -> Result<TenantRow, Error> {
    let generation = tenant.generation();
    let capability = context.master_key.capability(tenant.id, generation).hash();
    let database = &context.database;
    database
        .tenant_apply(tenant.id, &tenant.name, &tenant.tier, tenant.suspended, tenant.limits, (generation, capability))
        .await?;
    database.role_ensure(tenant.id).await?;
    let gone = || Error::InvalidSpec("its row went away while it was being written".to_owned());
    let row = database.tenant(tenant.id).await?.ok_or_else(gone)?;
    report.tier = Some(row.tier.clone());
    report.usage = Some((row.memories.into(), row.limits.max_memories.into()));
    report.found(ConditionType::DatabaseReady, true, Reason::Provisioned, "identity, role and limits are in Postgres");
    Ok(row)
}

/// Sends requests to `placement`, if they do not go there yet.
///
/// # Errors
/// [`Error::Database`].
pub(super) async fn place(
    tenant: &ValidTenant,
    placement: Placement,
    endpoint: Option<&str>,
    context: &Context,
    report: &mut Report,
) -> Result<(), Error> {
    let drain = context.settings.drain;
    if context.database.tenant_place(tenant.id, placement, endpoint, drain).await? {
        tracing::info!(tenant = tenant.name, %placement, "requests go to the new placement");
    }
    report.placement = Some(placement);
    Ok(())
}

/// How soon to look again while something that is not watched is under way.
pub(super) const SOON: Duration = Duration::from_secs(2);
