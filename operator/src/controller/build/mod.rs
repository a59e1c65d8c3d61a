//! From a checked Tenant to every object that it needs, at once and without asking anybody. One file a kind of
//! object; what belongs together (a label, a port, a name) is said here once.

mod access;
mod engine;
mod namespace;
mod narrate;
mod policy;
mod quota;

use std::collections::BTreeMap;

use crds::TENANT_LABEL;
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{LimitRange, Namespace, ResourceQuota, Service, ServiceAccount},
    networking::v1::NetworkPolicy,
    policy::v1::PodDisruptionBudget,
    rbac::v1::RoleBinding,
};
use kube::api::ObjectMeta;

use super::validate::{EnginePlan, ValidTenant};
use crate::settings::Settings;

/// What almost everything of a dedicated tenant is called.
pub const ENGINE: &str = "engine";
/// The Secret with the engine's database URL.
pub const ENGINE_DB_SECRET: &str = "engine-db";
/// Its key.
pub const ENGINE_DB_KEY: &str = "url";
/// The Secret with the key to the model that tells narratives.
pub const NARRATE_SECRET: &str = "engine-narrate";
/// Its key.
pub const NARRATE_KEY: &str = "api-key";
/// While the password is rotated: the URL with the new one, beside the other.
pub const ENGINE_DB_NEXT_KEY: &str = "url-next";
/// On the pods: changes with the Secret, so that a new password rolls them.
pub const LOGIN_ANNOTATION: &str = "stellar-memory.dev/database-login";
/// The engine's API.
pub const API_PORT: i32 = 8080;
/// The engine's health and metrics.
pub const HEALTH_PORT: i32 = 9090;
/// What a tenant's namespace lets the operator do with its Secrets; the chart makes it.
pub const SECRETS_CLUSTER_ROLE: &str = "stellar-memory-tenant-secrets";

/// Every object of a dedicated tenant, in the order in which they are applied.
pub struct Desired {
    /// First, since all else is in it.
    pub namespace: Namespace,
    /// Second, since the Secret cannot be read without it.
    pub role_binding: RoleBinding,
    /// An account that may do nothing.
    pub service_account: ServiceAccount,
    /// Bounds of the namespace.
    pub quota: ResourceQuota,
    /// Bounds of a container.
    pub limit_range: LimitRange,
    /// Nothing goes in or out, save what is listed.
    pub policies: Vec<NetworkPolicy>,
    /// How the gateway finds the engine.
    pub service: Service,
    /// The engine, all but the checksum of its login.
    pub deployment: Deployment,
    /// Only with several replicas.
    pub disruption_budget: Option<PodDisruptionBudget>,
    /// host:port by which the gateway reaches the engine.
    pub endpoint: String,
    /// Most connections of the engine's login.
    pub connections: i32,
}

/// All objects; `None` for a tenant that needs none.
pub fn run(tenant: &ValidTenant, settings: &Settings) -> Option<Desired> {
    let EnginePlan::Dedicated(size) = &tenant.engine else { return None };
    let namespace = tenant.namespace();
    Some(Desired {
        namespace: namespace::build(tenant),
        role_binding: access::role_binding(tenant, settings),
        service_account: access::service_account(tenant),
        quota: quota::quota(tenant, size),
        limit_range: quota::limit_range(tenant, size),
        policies: vec![policy::default_deny(tenant), policy::engine(tenant, settings)],
        service: engine::service(tenant),
        deployment: engine::deployment(tenant, size, settings),
        disruption_budget: (size.replicas > 1).then(|| engine::disruption_budget(tenant)),
        endpoint: format!("{ENGINE}.{namespace}.svc.{}:{API_PORT}", settings.cluster_domain),
        connections: i32::try_from(settings.engine_connections).unwrap_or(i32::MAX).saturating_mul(size.replicas + 1),
    })
}

/// Puts the checksum of the login on the pods.
pub fn with_login(mut deployment: Deployment, checksum: &str) -> Deployment {
    if let Some(spec) = &mut deployment.spec {
        let metadata = spec.template.metadata.get_or_insert_default();
        metadata.annotations.get_or_insert_default().insert(LOGIN_ANNOTATION.to_owned(), checksum.to_owned());
    }
    deployment
}

pub use narrate::secret as narrate_secret;

/// The labels of every object of a tenant.
pub fn labels(tenant: &str) -> BTreeMap<String, String> {
    strings([
        ("app.kubernetes.io/name", "stellar-memory"),
        ("app.kubernetes.io/component", "tenant"),
        ("app.kubernetes.io/part-of", "stellar-memory"),
        ("app.kubernetes.io/managed-by", super::FIELD_MANAGER),
        (TENANT_LABEL, tenant),
    ])
}

/// Labels that select a tenant's engine pods.
fn pod_labels(tenant: &str) -> BTreeMap<String, String> {
    strings([
        ("app.kubernetes.io/name", "stellar-memory"),
        ("app.kubernetes.io/component", "engine"),
        (TENANT_LABEL, tenant),
    ])
}

/// The metadata of an object in the tenant's namespace.
fn metadata(tenant: &ValidTenant, name: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some(tenant.namespace()),
        labels: Some(labels(&tenant.name)),
        owner_references: Some(vec![tenant.owner.clone()]),
        ..ObjectMeta::default()
    }
}

fn strings<const N: usize>(pairs: [(&str, &str); N]) -> BTreeMap<String, String> {
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

#[cfg(test)]
mod tests;
