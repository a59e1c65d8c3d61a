//! A tenant with an engine of its own: the namespace and its bounds, the login, the Deployment, and only when that
//! serves, the flip.

use std::time::Duration;

use crds::{ConditionType, Reason};
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{LimitRange, Namespace, ResourceQuota, Secret, Service, ServiceAccount},
    discovery::v1::{Endpoint, EndpointSlice},
    networking::v1::NetworkPolicy,
    policy::v1::PodDisruptionBudget,
    rbac::v1::RoleBinding,
};
use kube::{
    Api,
    api::{DeleteParams, ListParams, PostParams},
};
use tenancy::Placement;

use super::{
    Context, FIELD_MANAGER, Next,
    apply::{SOON, place},
    build::{self, Desired, ENGINE},
    dereference::{Found, NamespaceState},
    error::{Error, kubernetes},
    login,
    report::Report,
    rollout::Rollout,
    validate::ValidTenant,
};
use crate::database::TenantRow;

/// For the answer of DNS.
const LOOKUP: Duration = Duration::from_secs(2);

/// Brings the tenant's own engine up, and requests to it.
///
/// # Errors
/// [`Error`]; [`Error::NamespaceTaken`] when the namespace is somebody else's.
pub(super) async fn serve(
    tenant: &ValidTenant,
    desired: Desired,
    row: &TenantRow,
    found: &Found,
    context: &Context,
    report: &mut Report,
) -> Result<Next, Error> {
    let name = tenant.namespace();
    report.wanted = Some(Placement::Dedicated);
    match &found.namespace {
        NamespaceState::Foreign => return Err(Error::NamespaceTaken(name)),
        NamespaceState::Ours { terminating: true, .. } => {
            let message = format!("namespace {name} of its former engine is still going away");
            report.found(ConditionType::EngineReady, false, Reason::EngineRolling, &message);
            report.wait_for(Reason::Provisioning, message);
            return Ok(Next::After(SOON));
        }
        NamespaceState::Ours { .. } => {}
        NamespaceState::Absent => create(&desired.namespace, &name, context).await?,
    }
    report.namespace = Some(name.clone());
    bounds(&name, &desired, context).await?;
    context.secrets.watch(&tenant.name, &name);
    let login = login::ensure(tenant, desired.connections, row, context).await?;
    narrate_key(tenant, &name, context).await?;
    if row.placement == Placement::Pooled && !row.role_admitted {
        context.database.tenant_admit_role(tenant.id).await?;
    }
    let rollout = engine(&name, &desired, login.checksum(), context).await?;

    let there = row.placement == Placement::Dedicated && row.endpoint.as_deref() == Some(&*desired.endpoint);
    if row.placement == Placement::Pooled
        && rollout.is_complete()
        && let Some(message) = hidden(&name, &desired.endpoint, context).await?
    {
        report.found(ConditionType::EngineReady, false, Reason::EngineRolling, message);
        report.wait_for(Reason::Moving, message);
        return Ok(Next::After(SOON));
    }
    // An address that somebody changed is put right at once: no worse than one where nothing answers.
    if !there && (rollout.is_complete() || row.placement == Placement::Dedicated) {
        place(tenant, Placement::Dedicated, Some(&desired.endpoint), context, report).await?;
    }
    report_rollout(&rollout, report);
    if rollout.is_complete() && login.is_rotating() {
        // Every engine knows both passwords: now Postgres may change.
        login::rotate(tenant, login, desired.connections, context).await?;
        report.wait_for(Reason::Provisioning, "its engine's password was rotated");
        return Ok(Next::After(SOON));
    }
    Ok(if rollout.is_complete() { Next::Settled } else { Next::Watched })
}

/// Why requests would not find the engine yet, if so. Pods are ready before that, by up to a minute when the API server
/// has just come back; and DNS remembers that a name was not there for longer than a request waits.
async fn hidden(namespace: &str, endpoint: &str, context: &Context) -> Result<Option<&'static str>, Error> {
    if !is_published(namespace, context).await? {
        return Ok(Some("the address of its engine is not published yet; the shared engine serves meanwhile"));
    }
    if context.settings.wait_for_dns && !resolves(endpoint).await {
        return Ok(Some("the name of its engine does not resolve yet; the shared engine serves meanwhile"));
    }
    Ok(None)
}

async fn resolves(endpoint: &str) -> bool {
    matches!(tokio::time::timeout(LOOKUP, tokio::net::lookup_host(endpoint)).await, Ok(Ok(_)))
}

async fn is_published(namespace: &str, context: &Context) -> Result<bool, Error> {
    let slices = Api::<EndpointSlice>::namespaced(context.client.clone(), namespace)
        .list(&ListParams::default().labels(&format!("kubernetes.io/service-name={ENGINE}")))
        .await
        .map_err(kubernetes("list EndpointSlices", namespace))?;
    let mut endpoints = slices.items.iter().flat_map(|slice| &slice.endpoints);
    // Not told is ready, says the API.
    let ready =
        |endpoint: &Endpoint| endpoint.conditions.as_ref().is_none_or(|conditions| conditions.ready != Some(false));
    Ok(endpoints.any(ready))
}

fn report_rollout(rollout: &Rollout, report: &mut Report) {
    let moved = report.placement == Some(Placement::Dedicated);
    let progress = rollout.progress();
    match (rollout.is_complete(), rollout.is_available(), rollout.trouble()) {
        (true, ..) => report.found(ConditionType::EngineReady, true, Reason::EngineServing, progress),
        (false, available, Some(trouble)) => {
            let message = format!("{progress}: {trouble}");
            report.found(ConditionType::EngineReady, available && moved, Reason::EngineNotReady, &message);
            report.wait_for(Reason::EngineNotReady, message);
        }
        (false, available, None) => {
            let meanwhile = if moved { "" } else { "; the shared engine serves meanwhile" };
            let message = format!("{progress}{meanwhile}");
            report.found(ConditionType::EngineReady, available && moved, Reason::EngineRolling, &message);
            report.wait_for(if moved { Reason::Provisioning } else { Reason::Moving }, message);
        }
    }
}

/// Makes the namespace, and fails if somebody else was quicker: what is not ours is never adopted.
async fn create(namespace: &Namespace, name: &str, context: &Context) -> Result<(), Error> {
    let parameters = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
    let created = Api::<Namespace>::all(context.client.clone()).create(&parameters, namespace).await;
    created.map(drop).map_err(kubernetes("create namespace", name))
}

async fn bounds(name: &str, desired: &Desired, context: &Context) -> Result<(), Error> {
    let client = || context.client.clone();
    context.apply(&Api::<Namespace>::all(client()), &desired.namespace).await?;
    context.apply(&Api::<RoleBinding>::namespaced(client(), name), &desired.role_binding).await?;
    context.apply(&Api::<ServiceAccount>::namespaced(client(), name), &desired.service_account).await?;
    context.apply(&Api::<ResourceQuota>::namespaced(client(), name), &desired.quota).await?;
    context.apply(&Api::<LimitRange>::namespaced(client(), name), &desired.limit_range).await?;
    for policy in &desired.policies {
        context.apply(&Api::<NetworkPolicy>::namespaced(client(), name), policy).await?;
    }
    context.apply(&Api::<Service>::namespaced(client(), name), &desired.service).await.map(drop)
}

/// The key to the model that tells narratives. A tenant is served without it, too.
async fn narrate_key(tenant: &ValidTenant, namespace: &str, context: &Context) -> Result<(), Error> {
    let Some(path) = context.settings.engine_narrate.as_ref().and_then(|narrate| narrate.key_file.as_ref()) else {
        return Ok(());
    };
    match tokio::fs::read_to_string(path).await {
        Ok(key) => {
            let secrets = Api::<Secret>::namespaced(context.client.clone(), namespace);
            context.apply(&secrets, &build::narrate_secret(tenant, &key)).await.map(drop)
        }
        Err(error) => {
            tracing::warn!(%error, path = %path.display(), "cannot read the key for narratives; engines do without it");
            Ok(())
        }
    }
}

async fn engine(name: &str, desired: &Desired, checksum: &str, context: &Context) -> Result<Rollout, Error> {
    let client = || context.client.clone();
    let wanted = build::with_login(desired.deployment.clone(), checksum);
    let deployment = context.apply(&Api::<Deployment>::namespaced(client(), name), &wanted).await?;
    let budgets: Api<PodDisruptionBudget> = Api::namespaced(client(), name);
    if let Some(budget) = &desired.disruption_budget {
        context.apply(&budgets, budget).await?;
    } else {
        match budgets
            .delete(ENGINE, &DeleteParams::default())
            .await
            .map_err(kubernetes("delete PodDisruptionBudget", ENGINE))
        {
            Err(error) if !error.is_not_found() => return Err(error),
            _ => {}
        }
    }
    Ok(Rollout::of(&deployment))
}
