//! Who a Tenant is, written down before anything is done in its name: the finalizer, then `status.userId`.

use crds::{FINALIZER, Phase, Tenant};
use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams},
};
use serde_json::json;
use uuid::Uuid;

use super::{
    Context, FIELD_MANAGER, Pass,
    error::{Error, kubernetes},
    validate,
};

/// Whether our finalizer holds the Tenant.
pub(super) fn is_held(tenant: &Tenant) -> bool {
    tenant.finalizers().iter().any(|finalizer| finalizer == FINALIZER)
}

/// Returns the finalizers that are not ours: as long as there are some, the Tenant stays when ours is gone.
pub(super) fn others(tenant: &Tenant) -> Vec<String> {
    tenant.finalizers().iter().filter(|finalizer| *finalizer != FINALIZER).cloned().collect()
}

/// Sets the finalizer and writes the identity to the status, if they are not there.
///
/// # Errors
/// [`Error::InvalidSpec`] when the spec gives no identity; then nothing is written and nothing holds the Tenant.
pub(super) async fn claim(tenant: &Tenant, context: &Context) -> Result<(), Error> {
    let id = validate::identity(tenant)?.to_string();
    let name = tenant.name_any();
    let api: Api<Tenant> = Api::all(context.client.clone());
    if !is_held(tenant) {
        let mut finalizers = tenant.finalizers().to_vec();
        finalizers.push(FINALIZER.to_owned());
        set_finalizers(tenant, finalizers, &api).await?;
    }
    if tenant.status.as_ref().and_then(|status| status.user_id.as_deref()) != Some(&*id) {
        let phase = tenant.status.as_ref().and_then(|status| status.phase).unwrap_or(Phase::Pending);
        let patch = json!({ "status": { "userId": id, "phase": phase } });
        api.patch_status(&name, &parameters(), &Patch::Merge(patch))
            .await
            .map_err(kubernetes("write the status of Tenant", &name))?;
    }
    Ok(())
}

/// Takes the finalizer off: the Tenant goes.
///
/// # Errors
/// [`Error::Kubernetes`].
pub(super) async fn release(tenant: &Tenant, context: &Context) -> Result<(), Error> {
    let api: Api<Tenant> = Api::all(context.client.clone());
    let left = others(tenant);
    let held_by = left.join(", ");
    match set_finalizers(tenant, left, &api).await {
        Err(error) if error.is_not_found() => {}
        other => other?,
    }
    if held_by.is_empty() {
        tracing::info!(tenant = tenant.name_any(), "the Tenant is gone");
    } else {
        tracing::info!(tenant = tenant.name_any(), held_by, "cleaned up; the Tenant stays until others let it go");
    }
    Ok(())
}

/// What the tenant's rows and role look like now; nothing if it has none.
///
/// # Errors
/// [`Error::Database`].
pub(super) async fn fingerprint(tenant: &Tenant, context: &Context) -> Result<Option<(Uuid, String)>, Error> {
    let id = validate::identity(tenant)?.uuid();
    let swept = context.database.sweep(Pass { from: id, to: id }, 1).await?;
    Ok(swept.into_iter().next().map(|swept| (swept.id, swept.fingerprint)))
}

/// The whole list, only if nobody else has changed the object since it was read.
async fn set_finalizers(tenant: &Tenant, finalizers: Vec<String>, api: &Api<Tenant>) -> Result<(), Error> {
    let name = tenant.name_any();
    let version = &tenant.metadata.resource_version;
    let patch = json!({ "metadata": { "finalizers": finalizers, "resourceVersion": version } });
    let patched = api.patch_metadata(&name, &parameters(), &Patch::Merge(patch)).await;
    patched.map(drop).map_err(kubernetes("write the finalizer of Tenant", name))
}

fn parameters() -> PatchParams {
    PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() }
}
