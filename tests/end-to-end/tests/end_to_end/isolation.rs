//! What can be done inside a tenant's namespace, by whoever could make a pod there, and by the engine's own account: tried for
//! real. What is refused there is accepted in a namespace without the tenant's bounds, so it is these that refuse.

use std::collections::BTreeSet;

use end_to_end::cluster::{SYSTEM, Tenant, done, get, kubectl};
use serde_json::{Value, json};

/// A pod that keeps the strictest standard and is never scheduled; changed by `change`.
fn pod(name: &str, change: impl FnOnce(&mut Value)) -> Value {
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name },
        "spec": {
            "schedulerName": "nobody",
            "automountServiceAccountToken": false,
            "securityContext": { "runAsNonRoot": true, "runAsUser": 65532, "seccompProfile": { "type": "RuntimeDefault" } },
            "containers": [{
                "name": "c", "image": "localhost/none:1",
                "resources": { "requests": { "cpu": "1m", "memory": "1Mi" }, "limits": { "cpu": "1m", "memory": "1Mi" } },
                "securityContext": { "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] } },
            }],
        },
    });
    change(&mut pod["spec"]);
    pod
}

/// The object as the API server admitted it, or why it did not. Nothing is kept of it.
fn try_out(namespace: &str, object: &Value) -> Result<Value, String> {
    let args = ["create", "-n", namespace, "--dry-run=server", "-o", "json", "-f", "-"];
    let output = kubectl(&args, Some(&object.to_string()));
    if output.status.success() {
        Ok(serde_json::from_slice(&output.stdout).unwrap())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

fn pods(namespace: &str) -> Vec<Value> {
    let list: Value = serde_json::from_str(&done(&["get", "pods", "-n", namespace, "-o", "json"])).unwrap();
    list["items"].as_array().unwrap().clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_pod_but_the_operators_and_the_migration_holds_a_token() {
    let tenant = Tenant::ready("tokenless", &json!({ "tier": "pro" }));
    let (own, system) = (pods(&tenant.namespace()), pods(SYSTEM));
    assert!(!own.is_empty(), "the tenant has an engine");
    let mut with_token = BTreeSet::new();
    for pod in own.iter().chain(&system) {
        let component = pod["metadata"]["labels"]["app.kubernetes.io/component"].as_str().unwrap_or_default();
        let volumes = pod["spec"]["volumes"].to_string();
        let mounts: Vec<_> =
            pod["spec"]["containers"].as_array().unwrap().iter().map(|c| c["volumeMounts"].to_string()).collect();
        let holds =
            volumes.contains("serviceAccountToken") || mounts.concat().contains("/var/run/secrets/kubernetes.io");
        if holds {
            with_token.insert(component.to_owned());
        }
    }
    with_token.remove("migrate");
    // That the operator's is seen shows that others' would be.
    assert_eq!(with_token, BTreeSet::from(["operator".to_owned()]));
    for pod in &own {
        let spec = &pod["spec"];
        for open in ["hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace"] {
            assert!(spec[open].is_null() || spec[open] == false, "{open}: {spec}");
        }
        let inherited = &spec["securityContext"];
        for container in spec["containers"].as_array().unwrap() {
            let context = &container["securityContext"];
            assert_eq!(context["readOnlyRootFilesystem"], true, "{context}");
            assert_eq!(context["allowPrivilegeEscalation"], false, "{context}");
            assert_eq!(context["capabilities"], json!({ "drop": ["ALL"] }), "{context}");
            for field in ["runAsNonRoot", "seccompProfile"] {
                let said = if context[field].is_null() { &inherited[field] } else { &context[field] };
                assert!(*said == true || said["type"] == "RuntimeDefault", "{field}: {spec}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_that_could_leave_their_container_are_refused() {
    let tenant = Tenant::ready("as-admitted", &json!({ "tier": "pro" }));
    let namespace = tenant.namespace();
    try_out(&namespace, &pod("good", |_| ())).expect("a pod that keeps the standard is admitted");
    let container =
        |spec: &mut Value, field: &str, value: Value| spec["containers"][0]["securityContext"][field] = value;
    let cases = [
        (
            "privileged",
            pod("bad", |spec| {
                container(spec, "privileged", json!(true));
                container(spec, "allowPrivilegeEscalation", json!(true));
            }),
        ),
        ("hostPath", pod("bad", |spec| spec["volumes"] = json!([{ "name": "h", "hostPath": { "path": "/" } }]))),
        ("runAsUser=0", pod("bad", |spec| spec["securityContext"]["runAsUser"] = json!(0))),
        (
            "runAsNonRoot",
            pod("bad", |spec| spec["securityContext"] = json!({ "seccompProfile": { "type": "RuntimeDefault" } })),
        ),
        ("host namespaces", pod("bad", |spec| spec["hostNetwork"] = json!(true))),
        ("host namespaces", pod("bad", |spec| spec["hostPID"] = json!(true))),
        ("host namespaces", pod("bad", |spec| spec["hostIPC"] = json!(true))),
        (
            "hostPort",
            pod("bad", |spec| spec["containers"][0]["ports"] = json!([{ "containerPort": 80, "hostPort": 80 }])),
        ),
        (
            "SYS_ADMIN",
            pod("bad", |spec| {
                container(spec, "capabilities", json!({ "drop": ["ALL"], "add": ["SYS_ADMIN"] }));
            }),
        ),
        ("unrestricted capabilities", pod("bad", |spec| container(spec, "capabilities", json!({})))),
        ("allowPrivilegeEscalation", pod("bad", |spec| container(spec, "allowPrivilegeEscalation", json!(true)))),
        (
            "seccompProfile",
            pod("bad", |spec| spec["securityContext"]["seccompProfile"] = json!({ "type": "Unconfined" })),
        ),
    ];
    for (why, bad) in cases {
        let refused = try_out(&namespace, &bad).expect_err(&format!("{why}: admitted"));
        assert!(refused.contains(r#"violates PodSecurity "restricted"#) && refused.contains(why), "{why}: {refused}");
        // Where nothing enforces the standard, nothing refuses it.
        try_out("default", &bad).unwrap_or_else(|refused| panic!("{why} outside: {refused}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_holds_what_its_tier_gives_and_no_more() {
    let tenant = Tenant::ready("bounded", &json!({ "tier": "pro" }));
    let namespace = tenant.namespace();
    let limits = get("tier", "pro", None).unwrap()["spec"]["engine"]["limits"].clone();
    let amounts = |pod: &Value| pod["spec"]["containers"][0]["resources"].clone();
    let all_of_it = json!({ "requests": limits, "limits": limits });

    let bare = pod("bare", |spec| spec["containers"][0]["resources"] = Value::Null);
    let filled = amounts(&try_out(&namespace, &bare).expect("defaults are filled in"));
    assert_eq!(filled["limits"], limits, "who says nothing gets the tier's limits");
    assert!(filled["requests"]["cpu"].is_string() && filled["requests"]["memory"].is_string(), "{filled}");

    let huge = json!({ "requests": { "cpu": "1m", "memory": "1Mi" }, "limits": { "cpu": "64", "memory": "256Gi" } });
    let huge = pod("huge", |spec| spec["containers"][0]["resources"] = huge);
    let refused = try_out(&namespace, &huge).expect_err("more than the tier gives to a container");
    for kind in ["maximum cpu usage per Container", "maximum memory usage per Container"] {
        assert!(refused.contains(kind), "{refused}");
    }
    // Each container within its bound, all together beyond the namespace's.
    let many = pod("many", |spec| {
        let mut container = spec["containers"][0].clone();
        container["resources"] = all_of_it;
        spec["containers"] = (0..4)
            .map(|n| {
                container["name"] = json!(format!("c{n}"));
                container.clone()
            })
            .collect();
    });
    let refused = try_out(&namespace, &many).expect_err("more than the tier gives to the namespace");
    assert!(refused.contains("exceeded quota: engine") && refused.contains("limits.cpu"), "{refused}");

    let claim = json!({ "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": { "name": "disk" },
        "spec": { "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "1Gi" } } } });
    let service = |kind: &str| {
        json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": "way-in" },
        "spec": { "type": kind, "ports": [{ "port": 80 }] } })
    };
    for (object, what) in [
        (claim, "persistentvolumeclaims"),
        (service("NodePort"), "services.nodeports"),
        (service("LoadBalancer"), "services.loadbalancers"),
    ] {
        let refused = try_out(&namespace, &object).expect_err(&format!("{what}: admitted"));
        assert!(refused.contains("exceeded quota: engine") && refused.contains(what), "{refused}");
        try_out("default", &object).unwrap_or_else(|refused| panic!("{what} outside: {refused}"));
    }

    // The engine's replica and the two of a rolling update: the next pod is one too many.
    let mut made = 0;
    let refused = loop {
        let next = pod(&format!("pod-{made}"), |_| ()).to_string();
        let output = kubectl(&["create", "-n", &namespace, "-f", "-"], Some(&next));
        if !output.status.success() {
            break String::from_utf8_lossy(&output.stderr).into_owned();
        }
        made += 1;
        assert!(made <= 10, "nothing bounds the pods");
    };
    assert!(refused.contains("exceeded quota: engine") && refused.contains("pods=1"), "{refused}");
    assert_eq!(made, 2, "besides the engine's");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_accounts_of_a_tenants_namespace_may_do_nothing() {
    let tenant = Tenant::ready("rightless", &json!({ "tier": "pro" }));
    let namespace = tenant.namespace();
    let rights = |account: &str, namespace: &str| -> BTreeSet<String> {
        let list = done(&["auth", "can-i", "--list", "--no-headers", "-n", namespace, "--as", account]);
        list.lines()
            .filter(|line| !line.trim_start().starts_with('['))
            .map(|line| line.split_whitespace().next().unwrap().to_owned())
            .collect()
    };
    let everybodys = [
        "selfsubjectaccessreviews.authorization.k8s.io",
        "selfsubjectreviews.authentication.k8s.io",
        "selfsubjectrulesreviews.authorization.k8s.io",
    ];
    let everybodys = BTreeSet::from(everybodys.map(str::to_owned));
    for name in ["engine", "default"] {
        let account = format!("system:serviceaccount:{namespace}:{name}");
        for place in [&*namespace, SYSTEM, "kube-system", "default"] {
            assert_eq!(rights(&account, place), everybodys, "{account} in {place}");
        }
    }
    // That the operator's are seen shows that others' would be.
    let operator = rights(&format!("system:serviceaccount:{SYSTEM}:stellar-memory-operator"), &namespace);
    assert!(operator.contains("secrets") && operator.contains("deployments.apps"), "{operator:?}");
}
