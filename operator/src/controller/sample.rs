//! A Tenant for tests, with nothing in its spec but a tier.

use crds::{DeletionPolicy, Tenant, TenantSpec};

/// The UID of [`tenant`].
pub(super) const UID: &str = "6f1d4b0e-8a52-4e0c-9d54-0b6a2f6f9f11";

/// The Tenant `acme`.
pub(super) fn tenant(tier: &str) -> Tenant {
    let spec = TenantSpec {
        tier: tier.to_owned(),
        user_id: None,
        display_name: None,
        suspended: false,
        deletion_policy: DeletionPolicy::Retain,
        limits: None,
        engine: None,
        rotation: 0,
    };
    let mut tenant = Tenant::new("acme", spec);
    tenant.metadata.uid = Some(UID.to_owned());
    tenant
}
