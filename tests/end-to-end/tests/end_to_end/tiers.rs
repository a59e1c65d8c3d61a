//! A tier changes with one kubectl patch, and requests are answered all along.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use serde_json::{Value, json};

use end_to_end::cluster::{POD, Tenant, done, get};

#[tokio::test(flavor = "multi_thread")]
async fn free_to_pro_and_back_without_one_failed_request_and_with_the_same_memories() {
    let tenant = Tenant::ready("upgrading", &json!({ "tier": "free" }));
    let client = tenant.client();
    let first = client.store("written before the upgrade").await.unwrap();
    assert_eq!(first.status, 201, "{}", first.text);

    let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let load: Vec<_> = (0..2)
        .map(|worker| {
            let (client, stop, answered) = (client.clone(), stop.clone(), answered.clone());
            tokio::spawn(async move {
                let mut n = 0;
                while !stop.load(Ordering::Relaxed) {
                    // The free tier has 1,000 places: most requests recall.
                    if n % 100 == 0 {
                        let stored = client.store(&format!("worker {worker} note {n}")).await.unwrap();
                        assert_eq!(stored.status, 201, "{}", stored.text);
                    }
                    let recalled = client.recall("written before upgrade").await.unwrap();
                    assert_eq!(recalled.status, 200, "{}", recalled.text);
                    assert_eq!(recalled.body[0]["content"], "written before the upgrade", "{}", recalled.text);
                    n += 1;
                    answered.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
                }
            })
        })
        .collect();

    tenant.patch(&json!({ "tier": "pro" }));
    tenant.placed("dedicated").await;
    let pods: Value = serde_json::from_str(&done(&["get", "pods", "-n", &tenant.namespace(), "-o", "json"])).unwrap();
    let statuses = pods["items"][0]["status"]["conditions"].as_array().unwrap();
    assert!(statuses.iter().any(|c| c["type"] == "Ready" && c["status"] == "True"), "the dedicated pod is ready");
    let since = answered.load(Ordering::Relaxed);
    harness::eventually("requests are answered by the dedicated engine", || async {
        (answered.load(Ordering::Relaxed) > since + 20).then_some(())
    })
    .await;

    tenant.patch(&json!({ "tier": "free" }));
    tenant.placed("pooled").await;
    harness::eventually_within(POD, "the engine's namespace is gone after the drain", || async {
        get("namespace", &tenant.namespace(), None).is_none().then_some(())
    })
    .await;

    stop.store(true, Ordering::Relaxed);
    for worker in load {
        worker.await.unwrap();
    }
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
