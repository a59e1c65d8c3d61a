//! Everything that a Tenant refers to or collides with, read before anything is decided.

use crds::{Tenant, TierSpec};
use k8s_openapi::{api::core::v1::Namespace, apimachinery::pkg::apis::meta::v1::ObjectMeta};
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
    Ok(found.map_or(NamespaceState::Absent, |found| whose(&found.metadata, tenant)))
}

/// The owner's UID decides: it is this very object's, and the API server never gives it twice. A label proves nothing, for
/// it says a name that a former Tenant had too, and whoever makes a namespace may put it there. It may also have been taken
/// off by hand, which is drift and comes back.
fn whose(found: &ObjectMeta, tenant: &Tenant) -> NamespaceState {
    let owned = found.owner_references.iter().flatten().any(|owner| Some(&owner.uid) == tenant.metadata.uid.as_ref());
    if !owned {
        return NamespaceState::Foreign;
    }
    NamespaceState::Ours { uid: found.uid.clone().unwrap_or_default(), terminating: found.deletion_timestamp.is_some() }
}

#[cfg(test)]
mod tests {
    use crds::TENANT_LABEL;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

    use super::*;
    use crate::controller::sample::{self, UID};

    const OTHER: &str = "0e0c9d54-8a52-4e0c-9d54-0b6a2f6f9f11";

    fn acme() -> Tenant {
        let mut tenant = sample::tenant("pro");
        tenant.spec.user_id = Some(OTHER.to_owned());
        tenant
    }

    fn namespace(label: Option<&str>, owners: &[(&str, &str)]) -> ObjectMeta {
        let owner = |(name, uid): &(&str, &str)| OwnerReference {
            api_version: "stellar-memory.dev/v1alpha1".to_owned(),
            kind: "Tenant".to_owned(),
            name: (*name).to_owned(),
            uid: (*uid).to_owned(),
            ..OwnerReference::default()
        };
        ObjectMeta {
            uid: Some("of-the-namespace".to_owned()),
            labels: label.map(|label| [(TENANT_LABEL.to_owned(), label.to_owned())].into()),
            owner_references: (!owners.is_empty()).then(|| owners.iter().map(owner).collect()),
            ..ObjectMeta::default()
        }
    }

    #[test]
    fn a_namespace_is_ours_by_the_uid_of_its_owner_alone() {
        // What is there, whether it is ours, and whether one who trusts the label, or the owner's name, would think so.
        let cases = [
            (namespace(Some("acme"), &[("acme", UID)]), true, true, true),
            (namespace(None, &[("acme", UID)]), true, false, true),
            (namespace(Some("globex"), &[("acme", UID)]), true, false, true),
            (namespace(Some("acme"), &[("globex", OTHER), ("acme", UID)]), true, true, true),
            (namespace(None, &[]), false, false, false),
            (namespace(Some("acme"), &[]), false, true, false),
            (namespace(Some("acme"), &[("globex", OTHER)]), false, true, false),
            (namespace(Some("acme"), &[("acme", OTHER)]), false, true, true),
            (namespace(Some("acme"), &[("acme", "")]), false, true, true),
            (namespace(Some("acme"), &[("acme", "of-the-namespace")]), false, true, true),
        ];
        let acme = acme();
        let mut fooled = (0, 0);
        for (found, ours, by_label, by_name) in cases {
            assert_eq!(whose(&found, &acme) != NamespaceState::Foreign, ours, "{found:?}");
            let labels = found.labels.unwrap_or_default();
            let owners = found.owner_references.unwrap_or_default();
            assert_eq!(labels.get(TENANT_LABEL).is_some_and(|label| label == "acme"), by_label);
            assert_eq!(owners.iter().any(|owner| owner.name == "acme"), by_name);
            fooled.0 += u32::from(by_label && !ours);
            fooled.1 += u32::from(by_name && !ours);
        }
        assert_eq!(fooled, (5, 3), "each weaker rule lets some of these attacks through");
    }

    #[test]
    fn a_tenant_without_a_uid_owns_nothing() {
        let mut acme = acme();
        acme.metadata.uid = None;
        assert_eq!(whose(&namespace(Some("acme"), &[("acme", "")]), &acme), NamespaceState::Foreign);
    }
}
