//! A tier changes with one kubectl patch, and requests are answered all along.

use serde_json::{Value, json};

use end_to_end::{
    cluster::{POD, Tenant, done, get},
    load::Load,
};

#[tokio::test(flavor = "multi_thread")]
async fn free_to_pro_and_back_without_one_failed_request_and_with_the_same_memories() {
    let tenant = Tenant::ready("upgrading", &json!({ "tier": "free" }));
    let client = tenant.client();
    let first = client.store("written before the upgrade").await.unwrap();
    assert_eq!(first.status, 201, "{}", first.text);

    let load = Load::begin(&client, "written before the upgrade");
    tenant.patch(&json!({ "tier": "pro" }));
    tenant.placed("dedicated").await;
    let pods: Value = serde_json::from_str(&done(&["get", "pods", "-n", &tenant.namespace(), "-o", "json"])).unwrap();
    let statuses = pods["items"][0]["status"]["conditions"].as_array().unwrap();
    assert!(statuses.iter().any(|c| c["type"] == "Ready" && c["status"] == "True"), "the dedicated pod is ready");
    load.goes_on().await;

    tenant.patch(&json!({ "tier": "free" }));
    tenant.placed("pooled").await;
    harness::eventually_within(POD, "the engine's namespace is gone after the drain", || async {
        get("namespace", &tenant.namespace(), None).is_none().then_some(())
    })
    .await;

    println!("{} requests were answered during two moves, none failed", load.end().await);
    assert_eq!(client.recall("written before upgrade").await.unwrap().body[0]["id"], first.body["id"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_platform_team_adds_a_tier_of_its_own() {
    let tier = json!({
        "apiVersion": "stellar-memory.dev/v1alpha1", "kind": "Tier", "metadata": { "name": "tiny" },
        "spec": { "placement": "pooled",
            "limits": { "maxMemories": 2, "maxAgents": 1, "maxApiKeys": 1, "requestsPerMinute": 100 } },
    });
    end_to_end::cluster::apply(&tier).unwrap();
    let tenant = Tenant::ready("of-a-tiny-tier", &json!({ "tier": "tiny" }));
    let client = tenant.client();
    for status in [201, 201, 403] {
        assert_eq!(client.store("a small thing").await.unwrap().status, status);
    }
    // Deleting a tier in use harms nobody, and is told.
    done(&["delete", "tier", "tiny"]);
    harness::eventually("the missing tier is reported", || async {
        tenant.object()["status"]["conditions"].to_string().contains("TierNotFound").then_some(())
    })
    .await;
    assert_eq!(client.recall("small").await.unwrap().status, 200, "still served");
    assert!(get("tier", "tiny", None).is_none());
}
