//! A tier changes with one kubectl patch, and requests are answered all along.

use serde_json::{Value, json};

use end_to_end::{
    cluster::{POD, Tenant, apply, done, get, row, told},
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
async fn a_platform_team_adds_tiers_of_its_own_and_deletes_them_without_harm_to_their_tenants() {
    let tiers = [("tiny-shared", "pooled"), ("tiny-own", "dedicated")];
    for (tier, placement) in tiers {
        let tier = json!({
            "apiVersion": "stellar-memory.dev/v1alpha1", "kind": "Tier", "metadata": { "name": tier },
            "spec": { "placement": placement,
                "limits": { "maxMemories": 2, "maxAgents": 1, "maxApiKeys": 1, "requestsPerMinute": 100 } },
        });
        apply(&tier).unwrap();
    }
    let tenants = tiers.map(|(tier, _)| Tenant::apply(&format!("of-{tier}"), &json!({ "tier": tier })));
    for tenant in &tenants {
        tenant.wait_ready();
        let client = tenant.client();
        for status in [201, 201, 403] {
            assert_eq!(client.store("a small thing").await.unwrap().status, status, "{}", tenant.name);
        }
    }
    tenants_and_tiers_are_found_by_their_fields();

    // Deleting a tier in use harms nobody, and is told.
    for (tenant, (tier, placement)) in tenants.iter().zip(tiers) {
        done(&["delete", "tier", tier]);
        harness::eventually("the missing tier is told in the row and by an event", || async {
            let row = row(&tenant.name);
            let shown = (&*row.ready, &*row.reason) == ("False", "TierNotFound");
            (shown && told(&tenant.name, "Warning", "TierNotFound")).then_some(())
        })
        .await;
        let row = row(&tenant.name);
        assert_eq!((&*row.tier, &*row.placement), (tier, placement));
        let client = tenant.client();
        assert_eq!(client.recall("small").await.unwrap().status, 200, "{} is still served", tenant.name);
        assert_eq!(client.store("one more").await.unwrap().status, 403, "within the limits that it had");
        assert!(get("tier", tier, None).is_none());
    }
}

/// The tenants `of-tiny-shared` and `of-tiny-own`, and their tiers.
fn tenants_and_tiers_are_found_by_their_fields() {
    let found = |kind: &str, field: &str| done(&["get", kind, "--field-selector", field, "-o", "name"]);
    assert_eq!(found("tenants", "spec.tier=tiny-own"), "tenant.stellar-memory.dev/of-tiny-own\n");
    for (kind, field) in [("tenants", "status.placement"), ("tiers", "spec.placement")] {
        for (placement, its, not_its) in
            [("pooled", "tiny-shared", "tiny-own"), ("dedicated", "tiny-own", "tiny-shared")]
        {
            let found = found(kind, &format!("{field}={placement}"));
            assert!(found.contains(its) && !found.contains(not_its), "{kind}, {placement}: {found}");
        }
    }
}
