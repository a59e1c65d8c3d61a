//! Network policies of a tenant's namespace: nothing by default; in from the gateway, out to DNS and Postgres (and to
//! the collector of traces and the model that tells narratives, if there are such).

use std::{collections::BTreeMap, net::IpAddr};

use k8s_openapi::{
    api::networking::v1::{
        IPBlock, NetworkPolicy, NetworkPolicyEgressRule, NetworkPolicyIngressRule, NetworkPolicyPeer,
        NetworkPolicyPort, NetworkPolicySpec,
    },
    apimachinery::pkg::{apis::meta::v1::LabelSelector, util::intstr::IntOrString},
};

use super::{API_PORT, ENGINE, HEALTH_PORT, metadata, pod_labels, strings};
use crate::{controller::validate::ValidTenant, settings::Settings};

/// Where node-local DNS caches listen.
const NODE_LOCAL_DNS: &str = "169.254.0.0/16";

pub(super) fn default_deny(tenant: &ValidTenant) -> NetworkPolicy {
    NetworkPolicy {
        metadata: metadata(tenant, "default-deny"),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(LabelSelector::default()),
            policy_types: Some(both()),
            ..NetworkPolicySpec::default()
        }),
    }
}

pub(super) fn engine(tenant: &ValidTenant, settings: &Settings) -> NetworkPolicy {
    let gateway = NetworkPolicyPeer {
        namespace_selector: Some(namespace_named(&settings.namespace)),
        pod_selector: Some(selector(settings.gateway_labels.clone())),
        ..NetworkPolicyPeer::default()
    };
    let mut ingress = vec![NetworkPolicyIngressRule { from: Some(vec![gateway]), ports: Some(vec![tcp(API_PORT)]) }];
    if !settings.metrics_namespaces.is_empty() {
        let from = settings.metrics_namespaces.iter().map(|name| namespace_peer(name)).collect();
        ingress.push(NetworkPolicyIngressRule { from: Some(from), ports: Some(vec![tcp(HEALTH_PORT)]) });
    }
    let (host, port) = settings.engine_database();
    let mut egress = vec![dns(), towards(&host, port, settings)];
    egress.extend(settings.engine_traces.iter().map(|(host, port)| towards(host, *port, settings)));
    let narrate = settings.engine_narrate.iter().map(|narrate| &narrate.address);
    egress.extend(narrate.map(|(host, port)| towards(host, *port, settings)));
    NetworkPolicy {
        metadata: metadata(tenant, ENGINE),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(selector(pod_labels(&tenant.name))),
            policy_types: Some(both()),
            ingress: Some(ingress),
            egress: Some(egress),
        }),
    }
}

fn dns() -> NetworkPolicyEgressRule {
    let any_pod =
        NetworkPolicyPeer { namespace_selector: Some(LabelSelector::default()), ..NetworkPolicyPeer::default() };
    NetworkPolicyEgressRule {
        to: Some(vec![any_pod, block(NODE_LOCAL_DNS)]),
        ports: Some(vec![port("UDP", 53), port("TCP", 53)]),
    }
}

/// As narrow as the address allows: an IP, a namespace, or (a policy cannot name a host) the port alone.
fn towards(host: &str, port: u16, settings: &Settings) -> NetworkPolicyEgressRule {
    let to = match host.parse::<IpAddr>() {
        Ok(IpAddr::V4(address)) => Some(vec![block(&format!("{address}/32"))]),
        Ok(IpAddr::V6(address)) => Some(vec![block(&format!("{address}/128"))]),
        Err(_) => service_namespace(host, &settings.cluster_domain).map(|name| vec![namespace_peer(name)]),
    };
    NetworkPolicyEgressRule { to, ports: Some(vec![tcp(i32::from(port))]) }
}

fn service_namespace<'a>(host: &'a str, domain: &str) -> Option<&'a str> {
    let service = host.strip_suffix(domain).map_or(host, |rest| rest.trim_end_matches('.'));
    service.strip_suffix(".svc")?.rsplit('.').next()
}

fn both() -> Vec<String> {
    vec!["Ingress".to_owned(), "Egress".to_owned()]
}

fn selector(labels: BTreeMap<String, String>) -> LabelSelector {
    LabelSelector { match_labels: Some(labels), ..LabelSelector::default() }
}

fn namespace_named(name: &str) -> LabelSelector {
    selector(strings([("kubernetes.io/metadata.name", name)]))
}

fn namespace_peer(name: &str) -> NetworkPolicyPeer {
    NetworkPolicyPeer { namespace_selector: Some(namespace_named(name)), ..NetworkPolicyPeer::default() }
}

fn block(cidr: &str) -> NetworkPolicyPeer {
    let ip_block = IPBlock { cidr: cidr.to_owned(), except: None };
    NetworkPolicyPeer { ip_block: Some(ip_block), ..NetworkPolicyPeer::default() }
}

fn tcp(number: i32) -> NetworkPolicyPort {
    port("TCP", number)
}

fn port(protocol: &str, number: i32) -> NetworkPolicyPort {
    NetworkPolicyPort {
        protocol: Some(protocol.to_owned()),
        port: Some(IntOrString::Int(number)),
        ..NetworkPolicyPort::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_names_its_namespace() {
        assert_eq!(service_namespace("pg.data.svc.cluster.local", "cluster.local"), Some("data"));
        assert_eq!(service_namespace("pg.data.svc", "cluster.local"), Some("data"));
        assert_eq!(service_namespace("db.example.com", "cluster.local"), None);
    }
}
