//! The rights of the chart are enough for a whole life of tenants, and none of them is idle: read off the API server's own log.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use harness::eventually_within;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use crate::{
    api::{Api, TENANTS, settled},
    kubelet::Kubelet,
    program::Operator,
    stage::{SYSTEM, stage},
};

const PATIENCE: Duration = Duration::from_mins(1);
const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";

/// A right that no line of the log shows, and why it is needed.
const UNSEEN: [(&str, &str); 2] = [
    ("bind rbac.authorization.k8s.io/clusterroles", "asked for by the API server when the role binding is made"),
    ("patch events.k8s.io/events", "an event that repeats within six minutes is counted up"),
];

async fn until(api: &Api, what: &str, name: &str, done: impl Fn(&Value) -> bool) {
    let (path, done) = (format!("{TENANTS}/{name}"), &done);
    eventually_within(PATIENCE, &format!("{name}: {what}"), || async {
        api.get(&path).await.filter(|tenant| settled(tenant) && done(tenant)).map(drop)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rights_of_the_chart_are_enough_and_none_is_idle() {
    let stage = stage().await;
    // What was refused before may have been meant to be (a takeover), or because the API server had just started.
    let began = Timestamp::now();
    let api = Api::admin().await;
    let _kubelet = Kubelet::start(&api);
    let operator = Operator::start(&stage.start());

    let path = format!("{TENANTS}/life");
    let namespace = "/api/v1/namespaces/stellar-tenant-life";
    api.tenant("life", &json!({ "tier": "free", "deletionPolicy": "Delete" })).await;
    until(&api, "pooled", "life", |tenant| tenant["status"]["placement"] == "pooled").await;
    api.patch(&path, &json!({ "spec": { "tier": "pro", "engine": { "replicas": 2 } } })).await.unwrap();
    until(&api, "dedicated", "life", |tenant| tenant["status"]["placement"] == "dedicated").await;
    api.patch(&path, &json!({ "spec": { "tier": "promax", "engine": null } })).await.unwrap();
    until(&api, "promax", "life", |tenant| tenant["status"]["tier"] == "promax").await;

    for object in [
        format!("/api/v1/namespaces/{SYSTEM}/secrets/life-api-key"),
        format!("{namespace}/secrets/engine-db"),
        format!("{namespace}/services/engine"),
        "/apis/networking.k8s.io/v1/namespaces/stellar-tenant-life/networkpolicies/default-deny".to_owned(),
        "/apis/apps/v1/namespaces/stellar-tenant-life/deployments/engine".to_owned(),
        format!("{RBAC}/namespaces/stellar-tenant-life/rolebindings/stellar-operator"),
    ] {
        let before = api.get(&object).await.expect(&object)["metadata"]["uid"].clone();
        api.delete(&object).await;
        let what = format!("{object} comes back");
        eventually_within(Duration::from_secs(10), &what, || async {
            api.get(&object).await.filter(|object| object["metadata"]["uid"] != before).map(drop)
        })
        .await;
    }
    until(&api, "repaired", "life", |_| true).await;

    api.patch(&path, &json!({ "spec": { "tier": "free" } })).await.unwrap();
    until(&api, "pooled again", "life", |tenant| tenant["status"]["placement"] == "pooled").await;
    api.gone(namespace).await;
    api.delete(&path).await;
    api.gone(&path).await;

    api.tenant("kept", &json!({ "tier": "pro", "deletionPolicy": "Retain" })).await;
    until(&api, "dedicated", "kept", |tenant| tenant["status"]["placement"] == "dedicated").await;
    api.delete(&format!("{TENANTS}/kept")).await;
    api.gone(&format!("{TENANTS}/kept")).await;
    assert!(operator.terminate().await, "SIGTERM ends it with code 0");

    stage.upgrade();
    let cluster_roles = ["stellar-memory-operator", "stellar-memory-tenant-secrets"];
    compare(&api, "operator", &cluster_roles, began).await;
    compare(&api, "migrate", &["stellar-memory-migrate"], began).await;
}

/// Grants of the part's roles against what its service account did, and what was refused to it since the test began.
async fn compare(api: &Api, part: &str, cluster_roles: &[&str], began: Timestamp) {
    let mut granted = BTreeSet::new();
    for role in cluster_roles {
        rules(&api.get(&format!("{RBAC}/clusterroles/{role}")).await.unwrap(), &mut granted);
    }
    rules(&api.get(&format!("{RBAC}/namespaces/{SYSTEM}/roles/stellar-memory-{part}")).await.unwrap(), &mut granted);
    let node = std::env::var("NODE_DIR").expect("NODE_DIR is set: `. DIR/env`");
    let log = std::fs::read_to_string(format!("{node}/logs/audit.log"))
        .expect("the control plane writes an audit log: `node up DIR --control-plane-only --audit`");
    let (used, refused) = used(&log, &format!("system:serviceaccount:{SYSTEM}:stellar-memory-{part}"), began);
    assert_eq!(refused, BTreeMap::new(), "the API server refused these to {part}");
    let unseen: BTreeSet<String> = UNSEEN.iter().map(|(right, _)| (*right).to_owned()).collect();
    let idle: Vec<_> = granted.difference(&used).filter(|right| !unseen.contains(*right)).collect();
    assert!(idle.is_empty(), "{part} has these rights and never used them: {idle:#?}");
}

/// `verb group/resource` of every rule.
fn rules(role: &Value, granted: &mut BTreeSet<String>) {
    let texts = |list: &Value| -> Vec<String> {
        list.as_array().into_iter().flatten().map(|text| text.as_str().unwrap().to_owned()).collect()
    };
    for rule in role["rules"].as_array().unwrap() {
        for group in texts(&rule["apiGroups"]) {
            for resource in texts(&rule["resources"]) {
                granted.extend(texts(&rule["verbs"]).iter().map(|verb| format!("{verb} {group}/{resource}")));
            }
        }
    }
}

/// What a user did by the audit log, ever, and what was refused to it since.
fn used(log: &str, user: &str, since: Timestamp) -> (BTreeSet<String>, BTreeMap<String, usize>) {
    let (mut used, mut refused) = (BTreeSet::new(), BTreeMap::new());
    for line in log.lines() {
        let Ok(entry) = serde_json::from_str::<Value>(line) else { continue };
        // What is tried with the operator's account to see it refused (`access`) keeps nothing, and so can be told apart.
        let tried = entry["requestURI"].as_str().is_some_and(|uri| uri.contains("dryRun=All"));
        if entry["user"]["username"] != user || tried {
            continue;
        }
        let (verb, object) = (entry["verb"].as_str().unwrap(), &entry["objectRef"]);
        let text = |field: &str| object[field].as_str().unwrap_or_default();
        let mut resource = format!("{}/{}", text("apiGroup"), text("resource"));
        if object["subresource"].is_string() {
            resource = format!("{resource}/{}", text("subresource"));
        }
        let code = entry["responseStatus"]["code"].as_u64().unwrap_or_default();
        if code == 403 {
            // A new role binding takes a moment to hold, and one that was taken away is given again; it is tried again then.
            let passing = text("resource") == "secrets" && text("namespace").starts_with("stellar-tenant-");
            let received: Timestamp = entry["requestReceivedTimestamp"].as_str().unwrap().parse().unwrap();
            if !passing && received >= since {
                *refused.entry(format!("{verb} {resource} {}", text("name"))).or_default() += 1;
            }
            continue;
        }
        used.insert(format!("{verb} {resource}"));
        // Apply is a patch, and a creation when nothing is there: then it needs both rights.
        if verb == "patch" && code == 201 {
            used.insert(format!("create {resource}"));
        }
    }
    (used, refused)
}

#[test]
fn a_refusal_counts_from_the_beginning_and_is_no_use_of_a_right() {
    let line = |second: u8, resource: &str, namespace: &str, code: u16| {
        json!({
            "requestReceivedTimestamp": format!("2026-01-01T00:00:{second:02}.000000Z"), "verb": "get", "requestURI": "/",
            "user": { "username": "it" }, "responseStatus": { "code": code },
            "objectRef": { "resource": resource, "name": "one", "namespace": namespace, "apiGroup": "apps" },
        })
        .to_string()
    };
    let log = [
        line(1, "deployments", "a", 403),
        line(2, "services", "a", 200),
        line(3, "deployments", "a", 403),
        line(4, "secrets", "stellar-tenant-a", 403),
        line(5, "secrets", "a", 403),
    ];
    let (used, refused) = used(&log.join("\n"), "it", "2026-01-01T00:00:02Z".parse().unwrap());
    assert_eq!(used, BTreeSet::from(["get apps/services".to_owned()]));
    let expected = ["get apps/deployments one", "get apps/secrets one"].map(|what| (what.to_owned(), 1));
    assert_eq!(refused, BTreeMap::from(expected));
}
