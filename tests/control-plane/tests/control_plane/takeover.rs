//! Takeover of a namespace or a Secret by its name, its label or its owner, the wounds of other operators (Capsule
//! CVE-2024-39690, CVE-2025-55205, CVE-2026-30963): what is somebody else's is never adopted, written or deleted, and the
//! conditions say so. The API server refuses most of it before; that layer is taken away where the operator's own is tested.
//! What the operator goes by, the owner's UID, cannot be taken out of it here. It is given away instead, as only an
//! administrator could: then a namespace is adopted, or lost, and the looks of these tests see it.

use std::time::Duration;

use harness::{eventually, eventually_within};
use serde_json::{Value, json};

use crate::{
    api::{Api, TENANTS, condition, settled},
    kubelet::Kubelet,
    program::Operator,
    stage::{SYSTEM, decode, rights, run, stage},
};

const PATIENCE: Duration = Duration::from_mins(1);
const BINDING: &str =
    "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings/stellar-memory-namespaces";
const NAMESPACES: &str = "/api/v1/namespaces";
const LABEL: &str = "stellar-memory.dev/tenant";

fn path(tenant: &str) -> String {
    format!("{TENANTS}/{tenant}")
}

fn home(tenant: &str) -> String {
    format!("{NAMESPACES}/stellar-tenant-{tenant}")
}

fn key(tenant: &str) -> String {
    format!("{NAMESPACES}/{SYSTEM}/secrets/{tenant}-api-key")
}

/// A namespace with these labels and owners, which are Tenants: name and uid.
fn namespace(name: &str, label: Option<&str>, owners: &[(&str, &Value)]) -> Value {
    let owner = |(name, uid): &(&str, &Value)| json!({ "apiVersion": "stellar-memory.dev/v1alpha1", "kind": "Tenant", "name": name, "uid": uid });
    let owners: Vec<_> = owners.iter().map(owner).collect();
    let labels = label.map_or_else(|| json!({}), |label| json!({ LABEL: label }));
    json!({ "apiVersion": "v1", "kind": "Namespace",
        "metadata": { "name": name, "labels": labels, "ownerReferences": owners } })
}

async fn until(api: &Api, tenant: &str, what: &str, done: impl Fn(&Value) -> bool) -> Value {
    let (path, done) = (path(tenant), &done);
    eventually_within(PATIENCE, &format!("{tenant}: {what}"), || async {
        api.get(&path).await.filter(|tenant| tenant["status"].is_object() && done(tenant))
    })
    .await
}

async fn is_dedicated(api: &Api, tenant: &str) -> Value {
    until(api, tenant, "dedicated", |tenant| settled(tenant) && tenant["status"]["placement"] == "dedicated").await
}

/// The reason of a part's condition, once the part is said not to be ready at this generation.
async fn refused(api: &Api, tenant: &str, part: &str, reason: &str) -> Value {
    let found = until(api, tenant, reason, |tenant| {
        condition(tenant, part, "reason") == Some(reason)
            && tenant["status"]["observedGeneration"] == tenant["metadata"]["generation"]
    })
    .await;
    for (kind, status) in [(part, "False"), ("Ready", "False"), ("Stalled", "True")] {
        assert_eq!(condition(&found, kind, "status"), Some(status), "{kind}: {found}");
        assert_eq!(condition(&found, kind, "reason"), Some(reason), "{kind}: {found}");
    }
    found
}

/// Takes the API server's own refusal away, for it stands before the operator's.
async fn without_policy(api: &Api) {
    api.delete(BINDING).await;
    let probe = namespace("stellar-tenant-probe", None, &[]);
    eventually("the policy is gone", || async {
        api.create(&format!("{NAMESPACES}?dryRun=All"), &probe).await.ok().map(drop)
    })
    .await;
}

/// Gives it back.
async fn with_policy(api: &Api) {
    run("kubectl", &["apply", "-f", "-"], Some(&rights()));
    let probe = namespace("stellar-tenant-probe", None, &[]);
    eventually("the policy is in force", || async {
        api.create(&format!("{NAMESPACES}?dryRun=All"), &probe).await.err().map(drop)
    })
    .await;
}

/// What there is in a namespace that somebody could have put there: everything but what Kubernetes itself makes.
async fn contents(api: &Api, namespace: &str) -> Vec<String> {
    let mut found = Vec::new();
    for list in [
        format!("{NAMESPACES}/{namespace}/secrets"),
        format!("{NAMESPACES}/{namespace}/services"),
        format!("{NAMESPACES}/{namespace}/serviceaccounts"),
        format!("{NAMESPACES}/{namespace}/resourcequotas"),
        format!("/apis/apps/v1/namespaces/{namespace}/deployments"),
        format!("/apis/networking.k8s.io/v1/namespaces/{namespace}/networkpolicies"),
        format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/rolebindings"),
    ] {
        let items = api.get(&list).await.unwrap()["items"].clone();
        let names = items.as_array().unwrap().iter().map(|item| item["metadata"]["name"].as_str().unwrap().to_owned());
        found.extend(names.filter(|name| name != "default").map(|name| format!("{list}/{name}")));
    }
    found
}

/// What has become of a namespace since: fields that are not as they were, and what was put into it.
async fn touched(api: &Api, tenant: &str, before: &Value) -> Vec<String> {
    let Some(found) = api.get(&home(tenant)).await else { return vec!["deleted".to_owned()] };
    // The version changes with every write, whoever writes.
    let fields = ["uid", "resourceVersion", "labels", "ownerReferences", "deletionTimestamp"];
    let changed = fields.into_iter().filter(|field| found["metadata"][*field] != before[*field]).map(str::to_owned);
    let mut touched: Vec<_> = changed.collect();
    touched.extend(contents(api, &format!("stellar-tenant-{tenant}")).await);
    touched
}

/// Whether a Tenant's namespace is the very one that it was, and is to stay.
async fn stands(api: &Api, tenant: &str, uid: &Value) -> bool {
    let found = api.get(&home(tenant)).await;
    found.is_some_and(|found| found["metadata"]["uid"] == *uid && found["metadata"]["deletionTimestamp"].is_null())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_server_keeps_the_namespaces_of_tenants_for_the_operator() {
    let stage = stage().await;
    let api = Api::admin().await;
    let kubelet = Kubelet::start(&api);
    let operator = Operator::start(&stage.start());
    for tenant in ["reserved-a", "reserved-b"] {
        api.tenant(tenant, &json!({ "tier": "pro", "deletionPolicy": "Delete" })).await;
    }
    let a = is_dedicated(&api, "reserved-a").await;
    is_dedicated(&api, "reserved-b").await;
    assert!(operator.terminate().await, "SIGTERM ends it with code 0");
    drop(kubelet);
    let uid = &a["metadata"]["uid"];
    let made = |namespace: Value| (NAMESPACES.to_owned(), namespace);
    let changed = |metadata: Value| (home("reserved-b"), json!({ "metadata": metadata }));
    let owner =
        json!([{ "apiVersion": "stellar-memory.dev/v1alpha1", "kind": "Tenant", "name": "reserved-a", "uid": uid }]);
    // As an administrator of the cluster: who may make and label namespaces is not asked here.
    let attacks = [
        made(namespace("stellar-tenant-soon", None, &[])),
        made(namespace("stellar-tenant-soon", Some("soon"), &[])),
        made(namespace("stellar-tenant-soon", Some("soon"), &[("reserved-a", uid)])),
        made(namespace("elsewhere", Some("reserved-a"), &[])),
        changed(json!({ "labels": { LABEL: "reserved-a" } })),
        changed(json!({ "ownerReferences": owner })),
        changed(json!({ "ownerReferences": null })),
        (format!("{NAMESPACES}/default"), json!({ "metadata": { "labels": { LABEL: "reserved-a" } } })),
    ];
    let harmless = [
        made(namespace("elsewhere", None, &[("reserved-a", uid)])),
        changed(json!({ "labels": { "team": "payments" } })),
        changed(json!({ "labels": { LABEL: null } })),
        changed(json!({ "annotations": { "note": "mine" } })),
    ];
    let tried = async |(path, body): &(String, Value)| {
        let path_of_try = format!("{path}?dryRun=All");
        let answer =
            if path == NAMESPACES { api.create(&path_of_try, body).await } else { api.patch(&path_of_try, body).await };
        answer.map(drop).map_err(|status| status.message)
    };
    for attack in &attacks {
        let refused = tried(attack).await.expect_err(&format!("accepted: {attack:?}"));
        assert!(refused.contains("stellar-memory-namespaces") && refused.contains("the operator"), "{refused}");
    }
    for change in &harmless {
        assert_eq!(tried(change).await, Ok(()), "{change:?}");
    }
    // The seeded fault: without the policy nothing refuses any of it.
    without_policy(&api).await;
    for attack in &attacks {
        assert_eq!(tried(attack).await, Ok(()), "{attack:?}");
    }
    with_policy(&api).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_of_somebody_else_is_never_adopted_written_or_deleted() {
    let stage = stage().await;
    let api = Api::admin().await;
    without_policy(&api).await;
    let _kubelet = Kubelet::start(&api);
    // One is its Tenant's by the one thing that counts, whoever made it. No operator makes its own meanwhile.
    api.tenant("entitled", &json!({ "tier": "pro", "deletionPolicy": "Delete" })).await;
    let entitled = api.get(&path("entitled")).await.unwrap()["metadata"]["uid"].clone();
    let rightful = namespace("stellar-tenant-entitled", None, &[("entitled", &entitled)]);
    let rightful = api.create(NAMESPACES, &rightful).await.unwrap()["metadata"].clone();
    let operator = Operator::start(&stage.start());
    api.tenant("bystander", &json!({ "tier": "free", "deletionPolicy": "Delete" })).await;
    let bystander = until(&api, "bystander", "pooled", settled).await["metadata"]["uid"].clone();
    // Made before the Tenant: the label that it has, and whether another Tenant owns it.
    let cases = [
        ("taken-plain", None, false),
        ("taken-label", Some("taken-label"), false),
        ("taken-other", Some("bystander"), false),
        ("taken-owner", Some("taken-owner"), true),
    ];
    let mut before = Vec::new();
    for (name, label, owned) in cases {
        let owners = [("bystander", &bystander)];
        let made = namespace(&format!("stellar-tenant-{name}"), label, if owned { &owners } else { &[] });
        let made = api.create(NAMESPACES, &made).await.unwrap();
        before.push((name, made["metadata"].clone()));
        api.tenant(name, &json!({ "tier": "pro", "deletionPolicy": "Delete" })).await;
    }
    let untouched = async |when: &str| {
        for (name, before) in &before {
            assert_eq!(touched(&api, name, before).await, Vec::<String>::new(), "{name} {when}");
        }
    };
    for (name, ..) in cases {
        let found = refused(&api, name, "EngineReady", "NamespaceTaken").await;
        let message = condition(&found, "EngineReady", "message").unwrap();
        assert!(
            message.contains(&format!("stellar-tenant-{name} exists and was not made for this Tenant")),
            "{message}"
        );
        assert_eq!(found["status"]["placement"], "pooled", "the shared engine serves meanwhile");
    }
    untouched("while it is in the way").await;
    // The same look sees an adoption: of that very namespace, written and filled.
    is_dedicated(&api, "entitled").await;
    let adopted = touched(&api, "entitled", &rightful).await;
    for (what, seen) in [("uid", false), ("resourceVersion", true), ("labels", true)] {
        assert_eq!(adopted.iter().any(|touched| touched == what), seen, "{what}: {adopted:?}");
    }
    assert!(adopted.iter().any(|touched| touched.ends_with("/deployments/engine")), "{adopted:?}");
    for name in cases.iter().map(|(name, ..)| *name).chain(["entitled"]) {
        api.patch(&path(name), &json!({ "spec": { "tier": "free" } })).await.unwrap();
        until(&api, name, "pooled", settled).await;
    }
    untouched("when none is needed").await;
    assert_eq!(touched(&api, "entitled", &rightful).await, ["deleted"], "the one that was adopted");
    for (name, ..) in cases {
        api.delete(&path(name)).await;
        api.gone(&path(name)).await;
    }
    untouched("after the Tenant").await;
    assert!(operator.terminate().await, "SIGTERM ends it with code 0");
    for (name, ..) in cases {
        api.delete(&home(name)).await;
    }
    with_policy(&api).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_that_is_given_to_another_tenant_stays_its_own_tenants() {
    let stage = stage().await;
    let api = Api::admin().await;
    without_policy(&api).await;
    let _kubelet = Kubelet::start(&api);
    let operator = Operator::start(&stage.start());
    for tenant in ["thief", "victim", "robbed"] {
        api.tenant(tenant, &json!({ "tier": "pro", "deletionPolicy": "Delete" })).await;
    }
    let thief = is_dedicated(&api, "thief").await["metadata"]["uid"].clone();
    let owner = is_dedicated(&api, "victim").await["metadata"]["uid"].clone();
    is_dedicated(&api, "robbed").await;
    let uid = async |tenant: &str| api.get(&home(tenant)).await.unwrap()["metadata"]["uid"].clone();
    let (before, lost) = (uid("victim").await, uid("robbed").await);
    let forged = namespace("", Some("thief"), &[("victim", &owner), ("thief", &thief)]);
    let metadata = &forged["metadata"];
    let change =
        json!({ "metadata": { "labels": metadata["labels"], "ownerReferences": metadata["ownerReferences"] } });
    api.patch(&home("victim"), &change).await.unwrap();
    let label = format!("/metadata/labels/{}", LABEL.replace('/', "~1"));
    let back = async || {
        api.get(&home("victim")).await.filter(|found| found.pointer(&label) == Some(&json!("victim"))).map(drop)
    };
    eventually("the label is the victim's again", back).await;
    // What counts is the owner's uid: a namespace that has the thief's alone is taken away, label or not. Again and again,
    // for the operator may be about to write its own.
    let handed_over = namespace("", None, &[("thief", &thief)])["metadata"]["ownerReferences"].clone();
    let handed_over = json!({ "metadata": { "ownerReferences": handed_over } });
    eventually_within(PATIENCE, "robbed: NamespaceTaken", || async {
        api.patch(&home("robbed"), &handed_over).await.unwrap();
        let robbed = api.get(&path("robbed")).await?;
        (condition(&robbed, "EngineReady", "reason") == Some("NamespaceTaken")).then_some(())
    })
    .await;
    assert!(stands(&api, "robbed", &lost).await, "as long as the thief is there");
    // Twice, for a thief may leave at the very moment: with the label still its own.
    api.patch(&home("victim"), &change).await.unwrap();
    api.delete(&path("thief")).await;
    api.gone(&path("thief")).await;
    api.gone(&home("thief")).await;
    eventually_within(PATIENCE, "what has the thief's uid alone goes with the thief, and this is seen", || async {
        (!stands(&api, "robbed", &lost).await).then_some(())
    })
    .await;
    eventually("the label is the victim's again", back).await;
    assert!(stands(&api, "victim", &before).await, "what has the victim's uid too is the victim's");
    is_dedicated(&api, "victim").await;
    assert!(operator.terminate().await, "SIGTERM ends it with code 0");
    with_policy(&api).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_that_is_made_again_takes_nothing_of_the_former() {
    let stage = stage().await;
    let api = Api::admin().await;
    let _kubelet = Kubelet::start(&api);
    let operator = Operator::start(&stage.start());
    let spec = json!({ "tier": "pro", "deletionPolicy": "Delete" });
    api.tenant("again", &spec).await;
    let former = is_dedicated(&api, "again").await;
    let text = async |path: &str, field: &str| api.get(path).await.map(|found| decode(&found["data"][field]));
    let login = format!("{}/secrets/engine-db", home("again"));
    let before = (text(&key("again"), "api-key").await.unwrap(), text(&login, "url").await.unwrap());
    // Its end is forced while no operator looks, and its namespace cannot go.
    assert!(operator.terminate().await, "SIGTERM ends it with code 0");
    let hold = json!({ "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": { "name": "hold", "finalizers": ["stellar-memory.dev/test"] } });
    api.create(&format!("{}/configmaps", home("again")), &hold).await.unwrap();
    api.delete(&path("again")).await;
    api.patch(&path("again"), &json!({ "metadata": { "finalizers": [] } })).await.unwrap();
    api.gone(&path("again")).await;
    api.tenant("again", &spec).await;
    eventually_within(PATIENCE, "the namespace of the former terminates", || async {
        let home = api.get(&home("again")).await.expect("it is held");
        home["metadata"]["deletionTimestamp"].is_string().then_some(())
    })
    .await;
    api.gone("/apis/rbac.authorization.k8s.io/v1/namespaces/stellar-tenant-again/rolebindings/stellar-operator").await;

    let _operator = Operator::start(&stage.start());
    let heir = refused(&api, "again", "EngineReady", "NamespaceTaken").await;
    assert_ne!(heir["status"]["userId"], former["status"]["userId"], "a name is no identity");
    let held = api.get(&home("again")).await.unwrap();
    assert_eq!(held["metadata"]["ownerReferences"][0]["uid"], former["metadata"]["uid"]);
    assert_eq!(contents(&api, "stellar-tenant-again").await, Vec::<String>::new(), "nothing is put into it");
    let release = json!({ "metadata": { "finalizers": [] } });
    api.patch(&format!("{}/configmaps/hold", home("again")), &release).await.unwrap();
    // The operator sees it go: nobody waits for the minute after which it would look again.
    is_dedicated(&api, "again").await;
    let made = api.get(&home("again")).await.unwrap();
    assert_eq!(made["metadata"]["ownerReferences"][0]["uid"], heir["metadata"]["uid"]);
    assert_ne!(contents(&api, "stellar-tenant-again").await, Vec::<String>::new(), "it is seen when something is");
    let after = (text(&key("again"), "api-key").await.unwrap(), text(&login, "url").await.unwrap());
    assert_ne!(before.0, after.0, "a key of the former opens nothing");
    assert_ne!(before.1, after.1, "nor does its login");
}
