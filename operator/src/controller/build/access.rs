//! Who may do what in a tenant's namespace: the operator may handle its Secrets, the engine may do nothing.

use k8s_openapi::api::{
    core::v1::ServiceAccount,
    rbac::v1::{RoleBinding, RoleRef, Subject},
};

use super::{ENGINE, SECRETS_CLUSTER_ROLE, metadata};
use crate::{controller::validate::ValidTenant, settings::Settings};

pub(super) fn role_binding(tenant: &ValidTenant, settings: &Settings) -> RoleBinding {
    RoleBinding {
        metadata: metadata(tenant, "stellar-operator"),
        role_ref: RoleRef {
            api_group: "rbac.authorization.k8s.io".to_owned(),
            kind: "ClusterRole".to_owned(),
            name: SECRETS_CLUSTER_ROLE.to_owned(),
        },
        subjects: Some(vec![Subject {
            kind: "ServiceAccount".to_owned(),
            name: settings.service_account.clone(),
            namespace: Some(settings.namespace.clone()),
            ..Subject::default()
        }]),
    }
}

pub(super) fn service_account(tenant: &ValidTenant) -> ServiceAccount {
    ServiceAccount {
        metadata: metadata(tenant, ENGINE),
        automount_service_account_token: Some(false),
        ..ServiceAccount::default()
    }
}
