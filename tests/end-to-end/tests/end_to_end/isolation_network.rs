//! Who may talk to whom: the policies that the installation and the operator made, worked out for every pair of pods and
//! compared with a table; and one forbidden connection tried, which tells whether this cluster enforces policies at all.

use end_to_end::{
    cluster::{POD, SYSTEM, Tenant, done, get, kubectl},
    network::{Network, Pod},
};
use harness::eventually_within;
use serde_json::{Map, Value, json};

const PORTS: [(&str, u16); 5] = [("TCP", 8080), ("TCP", 9090), ("TCP", 5432), ("TCP", 53), ("UDP", 53)];

/// From, to, port. What is not here is refused, except between pods that are not of the product. `tenant` is the engine of a
/// dedicated tenant, `intruder` any other pod in such a tenant's namespace, `outside` a pod elsewhere, as DNS is. Metrics (9090)
/// are open in the cluster, save those of tenants' engines, which are for the namespaces that the values name: none.
const ALLOWED: [(&str, &str, u16); 16] = [
    ("gateway", "engine", 8080),
    ("gateway", "tenant", 8080),
    ("gateway", "postgres", 5432),
    ("engine", "postgres", 5432),
    ("tenant", "postgres", 5432),
    ("operator", "postgres", 5432),
    ("migrate", "postgres", 5432),
    ("gateway", "outside", 53),
    ("engine", "outside", 53),
    ("tenant", "outside", 53),
    ("operator", "outside", 53),
    ("migrate", "outside", 53),
    ("outside", "gateway", 8080),
    ("outside", "gateway", 9090),
    ("outside", "operator", 9090),
    ("outside", "engine", 9090),
];

fn list(kind: &str) -> Vec<Value> {
    let list: Value = serde_json::from_str(&done(&["get", kind, "-A", "-o", "json"])).unwrap();
    list["items"].as_array().unwrap().clone()
}

fn synthetic(namespace: &str, name: &str, labels: Value) -> Pod {
    Pod {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        labels,
        ports: Vec::new(),
        address: [192, 0, 2, 1].into(),
    }
}

fn role(pod: &Pod) -> &str {
    let component = pod.labels["app.kubernetes.io/component"].as_str().unwrap_or_default();
    let parts = ["gateway", "engine", "operator", "postgres", "migrate"];
    match (pod.namespace.strip_prefix("stellar-tenant-"), component) {
        (Some(_), "engine") => "tenant",
        (Some(_), _) => "intruder",
        (None, _) if pod.namespace == SYSTEM => parts.into_iter().find(|part| *part == component).unwrap_or("outside"),
        (None, _) => "outside",
    }
}

/// Every pair for which policies and table differ.
fn differences(network: &Network, pods: &[Pod]) -> Vec<String> {
    let mut found = Vec::new();
    for from in pods {
        for to in pods.iter().filter(|to| (&to.namespace, &to.name) != (&from.namespace, &from.name)) {
            for (protocol, port) in PORTS {
                let edge = (role(from), role(to), port);
                let expected = edge.0 == "outside" && edge.1 == "outside" || ALLOWED.contains(&edge);
                // Only names are asked by UDP.
                let expected = expected && (protocol == "TCP" || port == 53);
                if network.allows(from, to, protocol, port) != expected {
                    let said = if expected { "must be open" } else { "must be closed" };
                    found.push(format!(
                        "{}/{} to {}/{} {protocol} {port} {said}",
                        from.namespace, from.name, to.namespace, to.name
                    ));
                }
            }
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_let_through_what_the_table_says_and_every_one_of_them_matters() {
    let tenants = ["net-a", "net-b"].map(|name| Tenant::ready(name, &json!({ "tier": "pro" })));
    // Other tests make and delete tenants meanwhile.
    let mut ours = vec![SYSTEM.to_owned()];
    ours.extend(tenants.iter().map(Tenant::namespace));
    let of_ours = |object: &Value| {
        object["metadata"]["namespace"].as_str().is_some_and(|name| ours.iter().any(|own| own == name))
    };
    let namespaces: Map<String, Value> = list("namespaces")
        .into_iter()
        .map(|object| (object["metadata"]["name"].as_str().unwrap().to_owned(), object["metadata"]["labels"].clone()))
        .collect();
    let policies: Vec<_> = list("networkpolicies").into_iter().filter(of_ours).collect();
    let counted = |object: &Value| of_ours(object) || object["metadata"]["namespace"] == "kube-system";
    let running =
        |object: &Value| object["status"]["phase"] == "Running" && object["metadata"]["deletionTimestamp"].is_null();
    let mut pods: Vec<Pod> =
        list("pods").iter().filter(|object| counted(object) && running(object)).map(Pod::of).collect();
    pods.push(synthetic("default", "stranger", json!({})));
    pods.extend(tenants.iter().map(|tenant| synthetic(&tenant.namespace(), "intruder", json!({ "app": "shell" }))));
    let migrate =
        policies.iter().find(|policy| policy["metadata"]["name"] == "stellar-memory-migrate").expect("the chart's");
    pods.push(synthetic(SYSTEM, "migrate", migrate["spec"]["podSelector"]["matchLabels"].clone()));
    for needed in ["gateway", "engine", "operator", "postgres", "migrate", "tenant", "intruder", "outside"] {
        assert!(pods.iter().any(|pod| role(pod) == needed), "there is no {needed}");
    }

    let whole = Network { policies, namespaces };
    assert_eq!(differences(&whole, &pods), Vec::<String>::new());
    // The seeded faults: one policy less, and an engine that lets in whatever is in the namespace of the gateway.
    for (index, policy) in whole.policies.iter().enumerate() {
        let mut fewer = whole.clone();
        fewer.policies.remove(index);
        let name = &policy["metadata"];
        assert_ne!(
            differences(&fewer, &pods),
            Vec::<String>::new(),
            "{}/{} matters to nobody",
            name["namespace"],
            name["name"]
        );
    }
    let mut wider = whole.clone();
    let engine = wider.policies.iter_mut().find(|policy| {
        policy["metadata"]["name"] == "engine" && policy["metadata"]["namespace"] == tenants[0].namespace()
    });
    engine.unwrap()["spec"]["ingress"][0].as_object_mut().unwrap().remove("from");
    assert_ne!(differences(&wider, &pods), Vec::<String>::new(), "an engine that is open to all");
    println!("{} pods, {} policies", pods.len(), whole.policies.len());
}

/// What a pod that may send nothing at all (Postgres) hears from an address, and whether it was connected.
fn call(address: &str, port: u16, text: &str) -> (bool, String) {
    let port = port.to_string();
    let netcat =
        ["exec", "-i", "-n", SYSTEM, "stellar-memory-postgres-0", "--", "busybox", "nc", "-w", "3", address, &port];
    let output = kubectl(&netcat, Some(text));
    (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forbidden_connection_tells_whether_policies_are_enforced() {
    let tenant = Tenant::ready("forbidden", &json!({ "tier": "pro" }));
    // The tool is there and connects where it may, to its own Postgres, which ends what speaks version 0 of its protocol.
    let (connected, heard) = call("127.0.0.1", 5432, "\0\0\0\u{8}\0\0\0\0");
    assert!(connected && heard.contains("FATAL"), "busybox nc works in the pod of Postgres: {heard}");
    let engine = eventually_within(POD, "the engine has an address", || async {
        let pods: Value =
            serde_json::from_str(&done(&["get", "pods", "-n", &tenant.namespace(), "-o", "json"])).unwrap();
        pods["items"][0]["status"]["podIP"].as_str().map(str::to_owned)
    })
    .await;
    // A server may take the end of what was sent for the end of the caller, and say nothing: then it is asked again.
    let ask = |path: &'static str| {
        let text = format!("GET {path} HTTP/1.1\r\nHost: engine\r\nConnection: close\r\n\r\n");
        let engine = engine.clone();
        async move {
            eventually_within(POD, "an answer, or no connection", || async {
                let (connected, heard) = call(&engine, 8080, &text);
                (!connected || !heard.is_empty()).then_some((connected, heard))
            })
            .await
        }
    };
    // Where nothing enforces policies, the capability alone stands before the engine's data.
    let (connected, heard) = ask("/api/v1/recall?q=x").await;
    if connected {
        println!("this cluster has no engine for network policies: evaluated only");
        assert!(heard.starts_with("HTTP/1.1 4"), "an engine without a capability: {heard}");
    } else {
        println!("this cluster enforces network policies");
        assert_eq!(ask("/").await, (false, String::new()), "Postgres may not call an engine");
    }
    // What must work does, whoever enforces what: in by the gateway, out to Postgres.
    assert_eq!(tenant.client().store("let through").await.unwrap().status, 201);
    assert!(get("networkpolicy", "default-deny", Some(&tenant.namespace())).is_some());
}
