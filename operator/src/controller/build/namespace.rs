//! The namespace of a dedicated tenant, under the strictest Pod Security standard.

use k8s_openapi::api::core::v1::Namespace;
use kube::api::ObjectMeta;

use super::{labels, strings};
use crate::controller::validate::ValidTenant;

pub(super) fn build(tenant: &ValidTenant) -> Namespace {
    let mut labels = labels(&tenant.name);
    labels.extend(strings([
        ("pod-security.kubernetes.io/enforce", "restricted"),
        ("pod-security.kubernetes.io/audit", "restricted"),
        ("pod-security.kubernetes.io/warn", "restricted"),
    ]));
    Namespace {
        metadata: ObjectMeta {
            name: Some(tenant.namespace()),
            labels: Some(labels),
            owner_references: Some(vec![tenant.owner.clone()]),
            ..ObjectMeta::default()
        },
        ..Namespace::default()
    }
}
