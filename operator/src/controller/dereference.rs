//! Everything that a Tenant refers to or collides with, read before anything is decided.

use crds::{TENANT_LABEL, Tenant, TierSpec};
use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, ResourceExt, runtime::reflector::ObjectRef};

use super::{
    Context,
    error::{Error, kubernetes},
    validate::{identity, namespace_of},
};
use crate::database::TenantRow;

/// What there is.
pub struct Found {
    /// The Tier that the spec names.
    pub tier: Option<TierSpec>,
    /// The names of all Tiers, for a message.
    pub tiers: Vec<String>,
    /// The tenant in the database.
    pub row: Option<TenantRow>,
    /// The namespace of the tenant's name.
    pub namespace: NamespaceState,
}

/// Whether a namespace of the tenant's name is there, and whose.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NamespaceState {
    /// There is none.
    Absent,
    /// Made for this very object.
    Ours {
        /// Its UID.
        uid: String,
        /// It is being deleted.
        terminating: bool,
    },
    /// Made by or for somebody else: never touched.
    Foreign,
}

/// Reads all of it.
///
/// # Errors
/// [`Error`] when Postgres or the API server cannot be asked.
pub async fn run(tenant: &Tenant, context: &Context) -> Result<Found, Error> {
    let tier = context.tiers.get(&ObjectRef::new(&tenant.spec.tier)).map(|tier| tier.spec.clone());
    let mut tiers: Vec<String> = context.tiers.state().iter().map(|tier| tier.name_any()).collect();
    tiers.sort();
    let (row, namespace) =
        tokio::try_join!(async { Ok(context.database.tenant(identity(tenant)?).await?) }, namespace(tenant, context))?;
    Ok(Found { tier, tiers, row, namespace })
}

/// The state of the namespace of the tenant's name.
///
/// # Errors
/// [`Error::Kubernetes`].
pub async fn namespace(tenant: &Tenant, context: &Context) -> Result<NamespaceState, Error> {
    let name = namespace_of(&tenant.name_any());
    let found = Api::<Namespace>::all(context.client.clone())
        .get_metadata_opt(&name)
        .await
        .map_err(kubernetes("read namespace", &name))?;
    let Some(found) = found else { return Ok(NamespaceState::Absent) };
    let labelled = found.labels().get(TENANT_LABEL).is_some_and(|label| *label == tenant.name_any());
    let owned = found.owner_references().iter().any(|owner| Some(&owner.uid) == tenant.metadata.uid.as_ref());
    // The owner's UID decides. The label may have been taken off by hand, which is drift and comes back.
    if owned || (labelled && found.owner_references().is_empty()) {
        let uid = found.uid().unwrap_or_default();
        Ok(NamespaceState::Ours { uid, terminating: found.metadata.deletion_timestamp.is_some() })
    } else {
        Ok(NamespaceState::Foreign)
    }
}
