//! Bounds of a tenant's namespace. A rolling update runs one pod more than the replicas while the pod before it
//! may still be ending: both fit, or an update would wait for itself.

use std::collections::BTreeMap;

use crds::QuantityKind;
use k8s_openapi::{
    api::core::v1::{LimitRange, LimitRangeItem, LimitRangeSpec, ResourceQuota, ResourceQuotaSpec},
    apimachinery::pkg::api::resource::Quantity,
};

use super::{ENGINE, metadata};
use crate::controller::validate::{Resources, ValidEngine, ValidTenant};

const PODS_BEYOND_REPLICAS: u32 = 2;

pub(super) fn quota(tenant: &ValidTenant, size: &ValidEngine) -> ResourceQuota {
    let pods = u32::try_from(size.replicas).unwrap_or(1) + PODS_BEYOND_REPLICAS;
    let mut hard = BTreeMap::new();
    for (kind, resources) in [("requests", size.requests), ("limits", size.limits)] {
        let Resources { cpu, memory } = resources;
        hard.insert(format!("{kind}.cpu"), Quantity(cpu.times(pods).canonical(QuantityKind::Cpu)));
        hard.insert(format!("{kind}.memory"), Quantity(memory.times(pods).canonical(QuantityKind::Memory)));
    }
    hard.insert("pods".to_owned(), Quantity(pods.to_string()));
    for nothing in ["persistentvolumeclaims", "services.loadbalancers", "services.nodeports"] {
        hard.insert(nothing.to_owned(), Quantity("0".to_owned()));
    }
    ResourceQuota {
        metadata: metadata(tenant, ENGINE),
        spec: Some(ResourceQuotaSpec { hard: Some(hard), ..ResourceQuotaSpec::default() }),
        ..ResourceQuota::default()
    }
}

pub(super) fn limit_range(tenant: &ValidTenant, size: &ValidEngine) -> LimitRange {
    LimitRange {
        metadata: metadata(tenant, ENGINE),
        spec: Some(LimitRangeSpec {
            limits: vec![LimitRangeItem {
                type_: "Container".to_owned(),
                default: Some(amounts(size.limits)),
                default_request: Some(amounts(size.requests)),
                max: Some(amounts(size.limits)),
                ..LimitRangeItem::default()
            }],
        }),
    }
}

/// CPU and memory as Kubernetes writes them.
pub(super) fn amounts(resources: Resources) -> BTreeMap<String, Quantity> {
    BTreeMap::from([
        ("cpu".to_owned(), Quantity(resources.cpu.canonical(QuantityKind::Cpu))),
        ("memory".to_owned(), Quantity(resources.memory.canonical(QuantityKind::Memory))),
    ])
}
