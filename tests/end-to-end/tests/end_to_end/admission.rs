//! What the API server itself refuses, with a message that tells the cure.

use serde_json::{Value, json};

use end_to_end::cluster::{Tenant, apply, done, kubectl, object, row};

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_tenant_is_refused_with_the_cure() {
    let long = "x".repeat(49);
    let cases: &[(&str, Value, &str)] = &[
        ("bad", json!({ "tier": "team" }), "renamed to promax"),
        ("bad", json!({ "tier": "Free" }), "spec.tier"),
        ("bad", json!({ "tier": "" }), "spec.tier"),
        ("bad", json!({}), "spec.tier"),
        ("bad", json!({ "tier": "free", "userId": "acme" }), "spec.userId"),
        ("bad", json!({ "tier": "free", "userId": "00000000-0000-0000-0000-000000000000" }), "nil UUID"),
        ("bad", json!({ "tier": "free", "userId": "6F1D4B0E-8A52-4E0C-9D54-0B6A2F6F9F11" }), "spec.userId"),
        ("bad", json!({ "tier": "free", "displayName": "" }), "spec.displayName"),
        ("bad", json!({ "tier": "free", "displayName": "x".repeat(500) }), "spec.displayName"),
        ("bad", json!({ "tier": "free", "deletionPolicy": "Forget" }), "Retain"),
        ("bad", json!({ "tier": "free", "suspended": "yes" }), "suspended"),
        ("bad", json!({ "tier": "free", "limits": { "maxMemories": -2 } }), "maxMemories"),
        ("bad", json!({ "tier": "free", "limits": { "requestsPerMinute": 0 } }), "requestsPerMinute"),
        ("bad", json!({ "tier": "free", "teir": "pro" }), "teir"),
        (long.as_str(), json!({ "tier": "free" }), "48"),
        ("dotted.name", json!({ "tier": "free" }), "name"),
    ];
    for (name, spec, cure) in cases {
        let refused = apply(&object(name, spec)).expect_err(&format!("{spec} must be refused"));
        assert!(refused.contains(cure), "{spec}: {refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_that_is_served_stays_so_whatever_is_patched_into_it() {
    let tenant = Tenant::ready("patched", &json!({ "tier": "free" }));
    let client = tenant.client();
    assert_eq!(client.store("older than the patches").await.unwrap().status, 201);
    let generation = || tenant.object()["metadata"]["generation"].clone();
    let before = generation();
    for (spec, cure) in [
        (json!({ "tier": null }), "spec.tier"),
        (json!({ "tier": "team" }), "renamed to promax"),
        (json!({ "tier": ["free"] }), "spec.tier"),
        (json!({ "suspended": "no" }), "suspended"),
        (json!({ "displayName": 7 }), "displayName"),
        (json!({ "deletionPolicy": "Forget" }), "Retain"),
        (json!({ "limits": { "maxMemories": -2 } }), "maxMemories"),
        (json!({ "limits": { "requestsPerMinute": "many" } }), "requestsPerMinute"),
        (json!({ "limits": [] }), "limits"),
        (json!({ "rotation": -1 }), "rotation"),
        (json!({ "engine": { "replicas": 0 } }), "replicas"),
        (json!({ "engine": { "resources": { "requests": { "cpu": "lots" } } } }), "resources"),
    ] {
        let patch = json!({ "spec": spec }).to_string();
        let output = kubectl(&["patch", "tenant", &tenant.name, "--type", "merge", "-p", &patch], None);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(cure), "{spec}: {said}");
    }
    assert_eq!(generation(), before, "nothing of it was taken");
    assert_eq!(client.recall("older patches").await.unwrap().body[0]["content"], "older than the patches");
    assert_eq!(row(&tenant.name).ready, "True");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_identity_cannot_be_changed() {
    let tenant = Tenant::ready("immutable", &json!({ "tier": "free" }));
    let patch = json!({ "spec": { "userId": uuid::Uuid::new_v4().to_string() } }).to_string();
    let output = kubectl(&["patch", "tenant", &tenant.name, "--type", "merge", "-p", &patch], None);
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("cannot be added, changed or removed"), "{output:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_of_an_unknown_tier_says_which_there_are_and_heals() {
    let tenant = Tenant::apply("unknown-tier", &json!({ "tier": "gold" }));
    harness::eventually("the unknown tier is told", || async {
        let conditions = tenant.object()["status"]["conditions"].to_string();
        (conditions.contains("TierNotFound") && conditions.contains("promax")).then_some(())
    })
    .await;
    tenant.patch(&json!({ "tier": "free" }));
    done(&["wait", "--for=condition=Ready", "tenant/unknown-tier", "--timeout=120s"]);
}
