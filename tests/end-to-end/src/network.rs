//! Who may talk to whom by the NetworkPolicies of a cluster, worked out as the API's documentation says: a pod that no policy
//! selects for a direction is open in it; one that is selected is open to what some rule of those policies lets through. A
//! connection needs the sender's egress and the receiver's ingress.
//! <https://kubernetes.io/docs/reference/kubernetes-api/policy-resources/network-policy-v1/>

use std::net::Ipv4Addr;

use serde_json::{Map, Value};

/// A pod, as far as policies see it.
#[derive(Clone, Debug)]
pub struct Pod {
    pub namespace: String,
    pub name: String,
    pub labels: Value,
    /// Of its containers: name and number, by which a policy may name a port.
    pub ports: Vec<(String, u16)>,
    pub address: Ipv4Addr,
}

impl Pod {
    /// From the API's object; an address that is not there yet is none that a block has.
    pub fn of(object: &Value) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let containers = object["spec"]["containers"].as_array().into_iter().flatten();
        let ports = containers.flat_map(|container| container["ports"].as_array().into_iter().flatten());
        Self {
            namespace: text(&object["metadata"]["namespace"]),
            name: text(&object["metadata"]["name"]),
            labels: object["metadata"]["labels"].clone(),
            ports: ports.map(|port| (text(&port["name"]), number(&port["containerPort"]))).collect(),
            address: object["status"]["podIP"].as_str().and_then(|ip| ip.parse().ok()).unwrap_or(Ipv4Addr::UNSPECIFIED),
        }
    }
}

/// The policies of a cluster, and the labels of its namespaces.
#[derive(Clone, Debug)]
pub struct Network {
    pub policies: Vec<Value>,
    /// Name to labels.
    pub namespaces: Map<String, Value>,
}

#[derive(Clone, Copy)]
enum Direction {
    Ingress,
    Egress,
}

impl Network {
    /// Whether a connection from one pod to a port of another is let through.
    pub fn allows(&self, from: &Pod, to: &Pod, protocol: &str, port: u16) -> bool {
        self.open(Direction::Egress, from, to, to, (protocol, port))
            && self.open(Direction::Ingress, to, from, to, (protocol, port))
    }

    /// `this` is the pod whose policies are asked, `peer` the other end, `receiver` the one of both that has the port.
    fn open(&self, direction: Direction, this: &Pod, peer: &Pod, receiver: &Pod, port: (&str, u16)) -> bool {
        let (kind, rules, ends) = match direction {
            Direction::Ingress => ("Ingress", "ingress", "from"),
            Direction::Egress => ("Egress", "egress", "to"),
        };
        let mut selecting =
            self.policies.iter().filter(|policy| selects(policy, this) && speaks_of(policy, kind)).peekable();
        let open_by_default = selecting.peek().is_none();
        open_by_default
            || selecting.any(|policy| {
                let rules = policy["spec"][rules].as_array();
                rules.into_iter().flatten().any(|rule| {
                    let namespace = policy["metadata"]["namespace"].as_str().unwrap_or_default();
                    listed(&rule[ends], |end| self.is_peer(end, namespace, peer))
                        && listed(&rule["ports"], |named| is_port(named, receiver, port))
                })
            })
    }

    fn is_peer(&self, end: &Value, namespace_of_policy: &str, peer: &Pod) -> bool {
        if end["ipBlock"].is_object() {
            let within = |cidr: &Value| in_block(peer.address, cidr.as_str().unwrap_or_default());
            let except = end["ipBlock"]["except"].as_array().into_iter().flatten().any(within);
            return within(&end["ipBlock"]["cidr"]) && !except;
        }
        let namespace = match &end["namespaceSelector"] {
            Value::Null => peer.namespace == namespace_of_policy,
            selector => matches(selector, self.namespaces.get(&peer.namespace).unwrap_or(&Value::Null)),
        };
        namespace && (end["podSelector"].is_null() || matches(&end["podSelector"], &peer.labels))
    }
}

fn selects(policy: &Value, pod: &Pod) -> bool {
    policy["metadata"]["namespace"] == *pod.namespace && matches(&policy["spec"]["podSelector"], &pod.labels)
}

/// What is not said: ingress always, egress if there are rules for it.
fn speaks_of(policy: &Value, kind: &str) -> bool {
    match policy["spec"]["policyTypes"].as_array().filter(|types| !types.is_empty()) {
        Some(types) => types.iter().any(|said| said == kind),
        None => kind == "Ingress" || policy["spec"]["egress"].as_array().is_some_and(|rules| !rules.is_empty()),
    }
}

/// A list of peers or ports that is missing or empty is no bound at all.
fn listed(list: &Value, matches: impl Fn(&Value) -> bool) -> bool {
    list.as_array().is_none_or(|list| list.is_empty() || list.iter().any(matches))
}

fn is_port(named: &Value, receiver: &Pod, (protocol, port): (&str, u16)) -> bool {
    if named["protocol"].as_str().unwrap_or("TCP") != protocol {
        return false;
    }
    match &named["port"] {
        Value::Null => true,
        Value::String(name) => receiver.ports.iter().any(|(known, number)| known == name && *number == port),
        first => (number(first)..=number(&named["endPort"]).max(number(first))).contains(&port),
    }
}

fn number(value: &Value) -> u16 {
    value.as_u64().and_then(|value| value.try_into().ok()).unwrap_or_default()
}

/// A label selector; an empty one matches everything.
fn matches(selector: &Value, labels: &Value) -> bool {
    let exact = selector["matchLabels"].as_object().into_iter().flatten().all(|(key, value)| labels[key] == *value);
    let expressions = selector["matchExpressions"].as_array().into_iter().flatten().all(|expression| {
        let label = &labels[expression["key"].as_str().unwrap_or_default()];
        let among = expression["values"].as_array().is_some_and(|values| values.contains(label));
        match expression["operator"].as_str().unwrap_or_default() {
            "In" => among,
            "NotIn" => !among,
            "Exists" => label.is_string(),
            "DoesNotExist" => !label.is_string(),
            other => panic!("{other} is no operator of a selector"),
        }
    });
    exact && expressions
}

fn in_block(address: Ipv4Addr, cidr: &str) -> bool {
    let Some((network, bits)) = cidr.split_once('/') else { return false };
    let (Ok(network), Ok(bits)) = (network.parse::<Ipv4Addr>(), bits.parse::<u32>()) else { return false };
    let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
    address.to_bits() & mask == network.to_bits() & mask
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(namespace: &str, app: &str, address: [u8; 4]) -> Pod {
        Pod {
            namespace: namespace.to_owned(),
            name: app.to_owned(),
            labels: json!({ "app": app }),
            ports: vec![("http".to_owned(), 8080)],
            address: address.into(),
        }
    }

    fn network(specs: &[Value]) -> Network {
        let policy = |spec: &Value| json!({ "metadata": { "namespace": "a" }, "spec": spec });
        let namespaces = json!({ "a": { "team": "red" }, "b": { "team": "blue", "open": "" } });
        Network { policies: specs.iter().map(policy).collect(), namespaces: namespaces.as_object().unwrap().clone() }
    }

    /// Whether web of namespace `b`, and db beside it, reach web of `a` at 8080.
    fn reach(specs: &[Value]) -> (bool, bool) {
        let (web, foreign, beside) =
            (pod("a", "web", [10, 0, 0, 1]), pod("b", "web", [10, 0, 1, 9]), pod("a", "db", [10, 0, 0, 2]));
        let network = network(specs);
        (network.allows(&foreign, &web, "TCP", 8080), network.allows(&beside, &web, "TCP", 8080))
    }

    fn ingress(rule: &Value) -> (bool, bool) {
        reach(&[json!({ "podSelector": {}, "ingress": [rule] })])
    }

    #[test]
    fn whom_no_policy_selects_is_open_and_whom_one_selects_is_not() {
        assert_eq!(reach(&[]), (true, true));
        assert_eq!(reach(&[json!({ "podSelector": {}, "policyTypes": ["Ingress"] })]), (false, false));
        assert_eq!(
            reach(&[json!({ "podSelector": { "matchLabels": { "app": "web" } }, "ingress": [] })]),
            (false, false)
        );
        assert_eq!(reach(&[json!({ "podSelector": { "matchLabels": { "app": "other" } } })]), (true, true));
        let elsewhere = Network {
            policies: vec![json!({ "metadata": { "namespace": "b" }, "spec": { "podSelector": {} } })],
            ..network(&[])
        };
        assert!(elsewhere.allows(&pod("b", "web", [10, 0, 1, 9]), &pod("a", "web", [10, 0, 0, 1]), "TCP", 8080));
    }

    #[test]
    fn a_type_that_is_not_named_is_ingress_and_egress_only_with_rules() {
        // web of `b` is not bound by `a`; db beside is, when egress is spoken of.
        assert_eq!(
            reach(&[json!({ "podSelector": { "matchLabels": { "app": "db" } }, "policyTypes": ["Egress"] })]),
            (true, false)
        );
        assert_eq!(reach(&[json!({ "podSelector": { "matchLabels": { "app": "db" } } })]), (true, true));
        let named =
            json!({ "podSelector": { "matchLabels": { "app": "db" } }, "egress": [{ "ports": [{ "port": 53 }] }] });
        assert_eq!(reach(&[named]), (true, false));
    }

    #[test]
    fn peers_are_of_the_own_namespace_unless_a_selector_says_which() {
        assert_eq!(ingress(&json!({})), (true, true), "a rule without bounds");
        assert_eq!(ingress(&json!({ "from": [{ "podSelector": {} }] })), (false, true));
        assert_eq!(ingress(&json!({ "from": [{ "namespaceSelector": {} }] })), (true, true));
        assert_eq!(
            ingress(&json!({ "from": [{ "namespaceSelector": { "matchLabels": { "team": "blue" } } }] })),
            (true, false)
        );
        let both = json!({ "from": [{ "namespaceSelector": {}, "podSelector": { "matchLabels": { "app": "db" } } }] });
        assert_eq!(ingress(&both), (false, true), "in one entry both must hold");
        let either =
            json!({ "from": [{ "namespaceSelector": { "matchLabels": { "team": "blue" } } }, { "podSelector": {} }] });
        assert_eq!(ingress(&either), (true, true), "of two entries one suffices");
    }

    #[test]
    fn expressions_of_selectors_match_as_written() {
        for (operator, values, expected) in [
            ("Exists", json!(null), (true, false)),
            ("DoesNotExist", json!(null), (false, true)),
            ("In", json!([""]), (true, false)),
            ("NotIn", json!([""]), (false, true)),
        ] {
            let expression = json!({ "key": "open", "operator": operator, "values": values });
            let rule = json!({ "from": [{ "namespaceSelector": { "matchExpressions": [expression] } }] });
            assert_eq!(ingress(&rule), expected, "{operator}");
        }
    }

    #[test]
    fn blocks_are_by_address_and_without_their_exceptions() {
        assert_eq!(ingress(&json!({ "from": [{ "ipBlock": { "cidr": "10.0.1.0/24" } }] })), (true, false));
        assert_eq!(
            ingress(&json!({ "from": [{ "ipBlock": { "cidr": "0.0.0.0/0", "except": ["10.0.1.8/29"] } }] })),
            (false, true)
        );
        assert_eq!(ingress(&json!({ "from": [{ "ipBlock": { "cidr": "10.0.0.2/32" } }] })), (false, true));
    }

    #[test]
    fn ports_are_by_number_name_range_and_protocol() {
        for (port, expected) in [
            (json!({ "port": 8080 }), true),
            (json!({ "port": "http" }), true),
            (json!({ "port": "metrics" }), false),
            (json!({ "port": 80 }), false),
            (json!({ "port": 8000, "endPort": 8080 }), true),
            (json!({ "port": 8000, "endPort": 8079 }), false),
            (json!({ "port": 8080, "protocol": "UDP" }), false),
            (json!({ "protocol": "TCP" }), true),
        ] {
            assert_eq!(ingress(&json!({ "ports": [port] })), (expected, expected), "{port}");
        }
    }

    #[test]
    fn policies_add_up() {
        let deny = json!({ "podSelector": {}, "policyTypes": ["Ingress", "Egress"] });
        let opened = json!({ "podSelector": { "matchLabels": { "app": "web" } }, "ingress": [{ "from": [{ "namespaceSelector": {} }] }] });
        assert_eq!(reach(&[deny.clone(), opened.clone()]), (true, false), "the one beside may not send");
        let sends = json!({ "podSelector": { "matchLabels": { "app": "db" } }, "policyTypes": ["Egress"], "egress": [{ "ports": [{ "port": 8080 }] }] });
        assert_eq!(reach(&[deny, opened, sends]), (true, true));
    }
}
