//! Three tiers, from kubectl to recall.

use serde_json::{Value, json};

use end_to_end::cluster::{Tenant, condition, done, get, row};

#[tokio::test(flavor = "multi_thread")]
async fn every_tier_becomes_ready_and_remembers_and_only_paying_ones_have_a_pod() {
    let tiers = [("free", "pooled"), ("pro", "dedicated"), ("promax", "dedicated")];
    let tenants: Vec<_> =
        tiers.iter().map(|(tier, _)| Tenant::apply(&format!("tier-{tier}"), &json!({ "tier": tier }))).collect();
    for (tenant, (tier, placement)) in tenants.iter().zip(tiers) {
        tenant.wait_ready();
        let object = tenant.object();
        let status = &object["status"];
        assert_eq!(
            (&status["tier"], &status["placement"], &status["phase"]),
            (&json!(tier), &json!(placement), &json!("Ready"))
        );
        for kind in ["Ready", "DatabaseReady", "EngineReady", "KeyReady"] {
            assert_eq!(condition(&object, kind), Some("True"), "{kind}: {status}");
        }
        let pods: Value =
            serde_json::from_str(&done(&["get", "pods", "-n", &tenant.namespace(), "-o", "json"])).unwrap();
        let pods = pods["items"].as_array().unwrap();
        assert_eq!(pods.len(), usize::from(placement == "dedicated"), "pods of {tier}");
        assert_eq!(get("namespace", &tenant.namespace(), None).is_some(), placement == "dedicated");
        let client = tenant.client();
        let stored = client.store(&format!("the {tier} tenant keeps a blue lantern")).await.unwrap();
        assert_eq!(stored.status, 201, "{tier}: {}", stored.text);
        let recalled = client.recall("blue lanterns").await.unwrap();
        assert_eq!(recalled.body[0]["id"], stored.body["id"], "{tier}: {}", recalled.text);
    }
    // No key sees another tenant's lantern.
    for tenant in &tenants {
        let recalled = tenant.client().recall("lantern").await.unwrap();
        assert_eq!(recalled.body.as_array().map(Vec::len), Some(1), "{}: {}", tenant.name, recalled.text);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dedicated_pod_runs_with_nothing_that_it_does_not_need() {
    let tenant = Tenant::ready("hardened", &json!({ "tier": "pro" }));
    let namespace = get("namespace", &tenant.namespace(), None).unwrap();
    assert_eq!(namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"], "restricted");
    for (kind, name) in [
        ("resourcequota", "engine"),
        ("limitrange", "engine"),
        ("networkpolicy", "default-deny"),
        ("networkpolicy", "engine"),
    ] {
        assert!(get(kind, name, Some(&tenant.namespace())).is_some(), "{kind}/{name}");
    }
    let pods: Value = serde_json::from_str(&done(&["get", "pods", "-n", &tenant.namespace(), "-o", "json"])).unwrap();
    let pod = &pods["items"][0]["spec"];
    assert_eq!(pod["automountServiceAccountToken"], false);
    assert_eq!(pod["containers"][0]["securityContext"]["readOnlyRootFilesystem"], true);
    assert_eq!(pod["containers"][0]["securityContext"]["capabilities"]["drop"], json!(["ALL"]));
    assert!(!pod.to_string().contains("postgres://"), "the URL is in a Secret, not in the pod's spec");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_memory_after_the_thousandth_of_a_free_tenant_is_refused_and_the_thousand_are_intact() {
    let tenant = Tenant::ready("thousand", &json!({ "tier": "free" }));
    let client = tenant.client();
    for start in (0..1000).step_by(50) {
        let stores = (start..start + 50).map(|n| {
            let client = client.clone();
            async move { client.store(&format!("fact number {n}")).await.unwrap() }
        });
        for answer in futures::future::join_all(stores).await {
            assert_eq!(answer.status, 201, "{}", answer.text);
        }
    }
    let refused = client.store("the memory too many").await.unwrap();
    assert_eq!((refused.status, refused.problem()), (403, Some("memory-quota-reached")), "{}", refused.text);
    assert_eq!((&refused.body["used"], &refused.body["limit"]), (&json!(1000), &json!(1000)), "{}", refused.text);
    assert_eq!(refused.body["next_tier"], "pro");
    assert_eq!(client.get("/stats").await.unwrap().body["total_memories"], 1000);
    let last = client.recall("fact number 999").await.unwrap();
    assert_eq!(last.body[0]["content"], "fact number 999", "{}", last.text);
    assert_eq!(client.recall("too many").await.unwrap().body, json!([]));
    harness::eventually_within(std::time::Duration::from_secs(90), "kubectl shows the usage", || async {
        (tenant.object()["status"]["usage"]["memories"] == 1000).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_tenant_is_refused_and_served_again() {
    let tenant = Tenant::ready("pausing", &json!({ "tier": "free" }));
    let client = tenant.client();
    assert_eq!(client.store("kept through the pause").await.unwrap().status, 201);
    for (suspended, status) in [(true, 403), (false, 200)] {
        tenant.patch(&json!({ "suspended": suspended }));
        harness::eventually("the suspension is felt", || async {
            (client.recall("pause").await.unwrap().status == status).then_some(())
        })
        .await;
    }
    assert_eq!(client.recall("pause").await.unwrap().body[0]["content"], "kept through the pause");
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_tells_the_story_at_a_glance() {
    let tenant = Tenant::ready("glance", &json!({ "tier": "free" }));
    let table = done(&["get", "tnt", &tenant.name]);
    for column in ["TIER", "PLACEMENT", "READY", "MEMORIES", "AGE"] {
        assert!(table.contains(column), "{table}");
    }
    let row = row(&tenant.name);
    assert_eq!((&*row.name, &*row.tier, &*row.placement), (&*tenant.name, "free", "pooled"));
    assert_eq!((&*row.ready, &*row.memories, &*row.phase, &*row.reason), ("True", "0", "Ready", "Serving"));
    assert_eq!(row.user_id, tenant.user_id());
    let (a_tenant, a_tier) = ("tenant.stellar-memory.dev/glance\n", "tier.stellar-memory.dev/free\n");
    let all = done(&["get", "stellar", "-o", "name"]);
    assert!(all.contains(a_tenant) && all.contains(a_tier), "the category lists both kinds: {all}");
    for (short, one) in [("tnt", a_tenant), ("stier", a_tier)] {
        assert!(done(&["get", short, "-o", "name"]).contains(one), "{short}");
    }
    assert!(done(&["explain", "tenant.spec.deletionPolicy"]).contains("Retain"));
}
